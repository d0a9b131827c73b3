"""Signatures of llmstack for the program model_signing, and its signatures for llmstack; the schemas of the format."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from llmstack.carried_image.image import open_image
from llmstack.errors import IntegrityError
from llmstack.oci.layout import Layout
from llmstack.signing.attachments import Attachment, attach, attached_bundles
from llmstack.signing.check import check_image
from llmstack.signing.signer import Signer
from llmstack.signing.statement import IMAGE_PREDICATE, MODEL_PREDICATE
from llmstack.signing.trust import load_trust
from tests.support.carried import carry
from tests.support.cli import run_llmstack
from tests.support.signing import CURVES, Authority, model_signing, new_key, sign_tag, trust_in, write_key

FILES = {
    ".gitattributes": b"*.bin filter=lfs\n",
    "config.json": b"{}",
    "model.safetensors": bytes(100_000),
    "sub dir/\u00e9\U0001f600.txt": b"text",
    "sub-dir/b.txt": b"text",
}
SCHEMAS = Path(__file__).parent / "schemas"


@pytest.fixture
def space(tmp_path):
    carry(Layout(tmp_path / "carried/models"), "org--model", FILES)
    return tmp_path / "carried"


def extract(space, *arguments):
    out = space.parent / "out"
    run = run_llmstack("extract", "org/model", out, "--from", f"oci:{space}", "--bundle", *arguments)
    assert run.code == 0, run.stderr
    return out


@pytest.mark.parametrize("curve", CURVES)
def test_model_signing_verifies_a_bundle_of_each_curve(space, tmp_path, curve):
    key = write_key(tmp_path, new_key(curve))
    run = run_llmstack("sign", "org/model", "--from", f"oci:{space}", "--key", key, "--json")
    assert run.code == 0, run.stderr
    assert (run.json["repo_id"], run.json["files"], len(run.json["signatures"])) == ("org/model", 4, 2)
    out = extract(space, "--trust", tmp_path / "signer.pub")
    verify = ["verify", "key", out, "--signature", out / "model.sig", "--public_key", tmp_path / "signer.pub"]
    assert model_signing(*verify).returncode == 0
    if curve == "P-256":
        (out / "config.json").write_bytes(b"[]")
        assert model_signing(*verify).returncode == 1


def test_model_signing_verifies_a_certificate(space, tmp_path):
    key, root = new_key("P-384"), Authority.root()
    issuer = root.subordinate()
    (tmp_path / "chain.pem").write_bytes(issuer.issue(key).public_bytes(Encoding.PEM) + issuer.pem)
    (tmp_path / "ca.pem").write_bytes(root.pem)
    signing = ["--key", write_key(tmp_path, key), "--certificate", tmp_path / "chain.pem"]
    assert run_llmstack("sign", "org/model", "--from", f"oci:{space}", *signing).code == 0
    out = extract(space, "--trust", tmp_path / "ca.pem")
    done = model_signing(
        "verify", "certificate", out, "--signature", out / "model.sig", "--certificate_chain", tmp_path / "ca.pem"
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("certified", [False, True])
def test_signatures_of_model_signing_are_verified(space, tmp_path, certified):
    key, root = new_key(), Authority.root()
    path, folder = write_key(tmp_path, key), tmp_path / "folder"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (tmp_path / "cert.pem").write_bytes(root.issue(key).public_bytes(Encoding.PEM))
    (tmp_path / "ca.pem").write_bytes(root.pem)
    certificate = ["--signing_certificate", tmp_path / "cert.pem", "--certificate_chain", tmp_path / "ca.pem"]
    method = ["certificate", folder, *certificate] if certified else ["key", folder]
    done = model_signing("sign", *method, "--private_key", path, "--signature", tmp_path / "their.sig")
    assert done.returncode == 0, done.stdout + done.stderr
    store = Layout(space / "models")
    image = open_image(store, "org--model")
    trust = load_trust(tmp_path / ("ca.pem" if certified else "signer.pub"))
    ours = Signer(key, (root.issue(key).public_bytes(Encoding.DER),) if certified else ())
    attach(store, image.raw_manifest, Attachment(IMAGE_PREDICATE, ours.sign_image(image.digest).to_bytes()))
    with pytest.raises(IntegrityError, match="its files: not signed"):
        check_image(image, trust)
    theirs = (tmp_path / "their.sig").read_bytes()
    attach(store, image.raw_manifest, Attachment(MODEL_PREDICATE, theirs))
    assert check_image(image, trust).model_bundle == theirs


def test_bundles_follow_the_schemas(space, tmp_path):
    """The schemas are those of ossf/model-signing-spec, schemas/v1.0, without descriptions."""
    key = new_key()
    image = sign_tag(Layout(space / "models"), "org--model", Signer(key))
    assert check_image(image, trust_in(tmp_path, key))
    schemas = {path.name.partition(".")[0]: json.loads(path.read_text()) for path in SCHEMAS.iterdir()}
    known = Registry().with_resources((each["$id"], Resource.from_contents(each)) for each in schemas.values())
    predicates = set()
    for data in attached_bundles(Layout(space / "models"), image.digest):
        bundle = json.loads(data)
        Draft202012Validator(schemas["bundle"], registry=known).validate(bundle)
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        predicates.add(statement["predicateType"])
        if statement["predicateType"] == MODEL_PREDICATE:
            Draft202012Validator(schemas["statement"], registry=known).validate(statement)
            names = [each["name"] for each in statement["predicate"]["resources"]]
            assert names == sorted(name for name in FILES if name != ".gitattributes")
    assert predicates == {MODEL_PREDICATE, IMAGE_PREDICATE}
