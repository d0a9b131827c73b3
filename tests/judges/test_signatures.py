"""cosign verifies what llmstack signs, and llmstack what cosign signs."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmstack.carried_image.image import open_image
from llmstack.signing.attachments import Attachment, attach
from llmstack.signing.check import statement_of
from llmstack.signing.keys import load_private_key
from llmstack.signing.signer import Signer
from llmstack.signing.statement import MODEL_PREDICATE
from tests.judges.conftest import Judge
from tests.support.carried import carry
from tests.support.cli import run_llmstack
from tests.support.registry import Registry
from tests.support.serving import repository
from tests.support.signing import new_key, write_key

pytestmark = [pytest.mark.judges, pytest.mark.xdist_group("judges")]

FILES = {"config.json": b"{}", "model.safetensors": bytes(100_000), ".gitattributes": b"*.bin"}
OFFLINE = ["--insecure-ignore-tlog=true", "--allow-http-registry"]


def test_cosign_and_llmstack_verify_each_other(judge: Judge, registry: Registry, tmp_path: Path) -> None:
    space = registry.namespace()
    store = repository(space)
    carry(store, "org--model", FILES)
    image = f"{space}/models:org--model"
    ours, theirs = write_key(tmp_path, new_key(), "ours"), write_key(tmp_path, new_key(), "theirs")
    assert "org/model" not in judge.run(
        "cosign", "verify", "--key", tmp_path / "ours.pub", *OFFLINE, image, check=False
    )

    assert run_llmstack("sign", "org/model", "--from", space, "--key", ours).code == 0
    judge.run("cosign", "verify", "--key", tmp_path / "ours.pub", *OFFLINE, image)

    opened = open_image(store, "org--model")
    judge = Judge({"COSIGN_PASSWORD": ""})
    judge.run("cosign", "import-key-pair", "--key", theirs, "--output-key-prefix", tmp_path / "cosign")
    signing = ["--yes", "--use-signing-config=false", "--tlog-upload=false", "--allow-http-registry"]
    judge.run("cosign", "sign", "--key", tmp_path / "cosign.key", *signing, f"{space}/models@{opened.digest}")
    for name in ("ours", "theirs"):
        judge.run("cosign", "verify", "--key", tmp_path / f"{name}.pub", *OFFLINE, image)

    # cosign signs the digest only.
    trusted = ["verify", "org/model", "--from", space, "--trust", tmp_path / "theirs.pub"]
    refused = run_llmstack(*trusted)
    assert (refused.code, "its files: no valid signature" in refused.stderr) == (5, True), refused.stderr
    signer = Signer(load_private_key(theirs, bytes))
    bundle = signer.sign_model(statement_of(opened.index)).to_bytes()
    attach(store, opened.raw_manifest, Attachment(MODEL_PREDICATE, bundle))
    run = run_llmstack(*trusted)
    assert run.code == 0, run.stderr
