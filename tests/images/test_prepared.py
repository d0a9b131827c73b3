"""Images that a script prepares, from a gated repo of a local hub: their files, and no trace of the token."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmstack.engine.docker_engine import Engine as Client
from llmstack.errors import LlmstackError, UsageError
from llmstack.image_builds.build_environment import BuildEnvironment
from llmstack.image_builds.prepared_image import PrepareRequest, build_prepared
from llmstack.image_builds.recipe import images_folder
from llmstack.settings import BuildSettings
from tests.support.listener import Listener

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("images")]
TOKEN = "hf_" + "t0kenOfTheTests"
DEFAULT_SCRIPT = images_folder().parent / "get_hf" / "prepare.example.sh"


@pytest.fixture
def prepare(engine, busybox, debian, build_environment, hub):
    """Return a function that prepares a gated repo and returns the image and the listener."""
    hub.add_repo("org/tiny", {"config.json": b"{}", "sub/model.safetensors": b"w" * 20_000}, gated="auto")
    hub.add_repo("org/rows", {"data/train.csv": b"a,b\n1,2\n"}, repo_type="dataset", gated="auto")
    hub.add_token(TOKEN, access={"org/tiny", "org/rows"})
    ca = build_environment.get("LLMSTACK_CA_CERT")
    settings = BuildSettings(
        build_network="host",
        ca_cert=Path(ca) if ca else None,
        http_proxy=build_environment.get("LLMSTACK_HTTP_PROXY", ""),
        https_proxy=build_environment.get("LLMSTACK_HTTPS_PROXY", ""),
        no_proxy="127.0.0.1",
    )

    def run(script, repo_id="org/tiny", repo_type="model"):
        listener = Listener()
        bases = {"": busybox, "prepare": debian}
        request = PrepareRequest(repo_id, repo_type, "main", script, hub.url, TOKEN, bases)
        with Client() as client:
            return build_prepared(request, BuildEnvironment(settings), listener, client), listener

    run.engine = engine
    run.url = hub.url
    return run


def write_script(tmp_path, text):
    path = tmp_path / "prepare.sh"
    path.write_text(text)
    return path


def files_of(engine, image):
    listed = engine.docker("run", "--rm", "--network", "none", image, "find", "/REPO", "-type", "f").stdout
    return sorted(listed.split())


@pytest.mark.parametrize(
    ("repo_id", "repo_type", "files"),
    [
        ("org/tiny", "model", ["/REPO/config.json", "/REPO/sub/model.safetensors"]),
        ("org/rows", "dataset", ["/REPO/data/train.csv"]),
    ],
)
def test_default_script_downloads_a_gated_repo(prepare, repo_id, repo_type, files):
    image, _ = prepare(DEFAULT_SCRIPT, repo_id, repo_type)
    assert files_of(prepare.engine, image) == files


def test_script_gets_repo_and_token_and_no_image_contains_the_token(prepare, tmp_path):
    script = write_script(
        tmp_path,
        'test "$1" = "$REPO_URL"; echo "the token is $HF_TOKEN"\n'
        'echo "$REPO_URL $REPO_ID $REPO_TYPE $REVISION" > facts; echo "${#HF_TOKEN}" > length; chmod 600 facts\n'
        "for tool in git git-lfs hf huggingface-cli python curl wget; do command -v $tool > /dev/null; done\n"
        "huggingface-cli version > version\n",
    )
    image, listener = prepare(script)
    engine = prepare.engine
    run = ("run", "--rm", "--network", "none")
    assert (
        engine.docker(*run, "--user", "1000", image, "cat", "/REPO/facts").stdout
        == f"{prepare.url}/org/tiny org/tiny model main\n"
    )
    assert engine.docker(*run, image, "cat", "/REPO/length").stdout == f"{len(TOKEN)}\n"
    assert "org/tiny prepare.sh: the token is ***" in listener.notes
    everything = engine.docker("image", "ls", "--all", "--quiet", "--no-trunc").stdout.split()
    # A parallel test may remove an image meanwhile: docker inspects the others.
    seen = engine.docker("image", "inspect", *everything, check=False).stdout
    assert image in seen
    seen += "".join(engine.docker("history", "--no-trunc", each, check=False).stdout for each in (image, everything[0]))
    assert TOKEN not in seen
    assert "llmstack-prepared" not in engine.docker("image", "ls").stdout
    assert engine.docker("ps", "--all", "--quiet", "--filter", "label=dev.llmstack=prepare").stdout == ""


def test_next_script_reuses_the_installed_tools(prepare, tmp_path):
    prepare(write_script(tmp_path, "echo one > file\n"))
    _, listener = prepare(write_script(tmp_path, "echo two > file\n"), "org/rows", "dataset")
    [step] = [note.partition(" RUN ")[0] for note in listener.notes if "apt-get" in note]
    assert f"{step} cached" in listener.notes


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ("#!/bin/sh\necho the reason >&2\nexit 9\n", "org/tiny prepare.sh: exit code 9\n  the reason"),
        ("true\n", "prepare.sh left no file in /x"),
    ],
)
def test_script_that_fails_or_leaves_no_file_is_an_error(prepare, tmp_path, script, cause):
    with pytest.raises(LlmstackError) as caught:
        prepare(write_script(tmp_path, script))
    assert cause in caught.value.message
    assert prepare.engine.docker("ps", "--all", "--quiet", "--filter", "label=dev.llmstack=prepare").stdout == ""


def test_missing_script_is_named(prepare, tmp_path):
    with pytest.raises(UsageError, match=r"missing\.sh: cannot be read"):
        prepare(tmp_path / "missing.sh")
