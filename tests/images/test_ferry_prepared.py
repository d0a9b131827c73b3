"""`llmstack ferry --prepare`: what a script makes of a repo is carried, catalogued and extracted like any other."""

from __future__ import annotations

import pytest

from tests.support.cli import run_llmstack

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("images")]
TOKEN = "hf_" + "t0kenOfTheTests"
WEIGHTS = b"w" * 20_000
# One weight format only, and a file of the script's own.
SCRIPT = """\
hf download "$REPO_ID" --revision "$REVISION" --exclude '*.bin' --local-dir .
rm -rf .cache
echo prepared > sub/note.txt
ln sub/note.txt twin.txt
"""


@pytest.fixture
def ferry(engine, busybox, debian, build_environment, hub, registry, tmp_path):
    """Return a function that runs ferry with what a script needs, in a folder with wish lists."""
    # The recipe's own base images, stood in for under their own names.
    engine.docker("tag", debian, "debian:bookworm-slim")
    engine.docker("tag", busybox, "busybox:stable")
    hub.add_repo("org/tiny", {"config.json": b"{}", "sub/w.safetensors": WEIGHTS, "w.bin": WEIGHTS}, gated="auto")
    hub.add_token(TOKEN, access={"org/tiny"})
    lists = tmp_path / "get_hf"
    lists.mkdir()
    (lists / "prepare.sh").write_text(SCRIPT)
    environment = {
        **build_environment,
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "LLMSTACK_BUILD_NETWORK": "host",
        "LLMSTACK_NO_PROXY": "127.0.0.1",
    }

    def run(*arguments):
        namespace = f"{registry.host}/prepared"
        return run_llmstack(
            "ferry", *arguments, "--to", namespace, "--base", "scratch", "--json", env=environment, cwd=tmp_path
        )

    run.namespace = f"{registry.host}/prepared"
    run.folder = tmp_path
    yield run
    for name in ("debian:bookworm-slim", "busybox:stable"):
        engine.docker("image", "rm", name)


def test_what_a_script_prepared_is_carried_like_any_other_repo(ferry, engine, tmp_path):
    done = ferry("org/tiny", "--prepare", "get_hf/prepare.sh")
    assert done.code == 0, done.stderr
    [result] = done.json["results"]
    assert (result["status"], result["bytes_total"]) == ("carried", 2 + len(WEIGHTS) + 2 * len("prepared\n"))
    out = tmp_path / "out"
    back = run_llmstack("extract", "org/tiny", out, "--from", ferry.namespace, "--json")
    assert back.code == 0, back.stderr
    assert back.json["commit"] == result["commit"]
    files = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert files == {
        "config.json": b"{}",
        "sub/w.safetensors": WEIGHTS,
        "sub/note.txt": b"prepared\n",
        "twin.txt": b"prepared\n",
    }
    assert run_llmstack("verify", "org/tiny", "--from", ferry.namespace).code == 0
    assert result["digest"] in (ferry.folder / "get_hf/models.md").read_text()
    assert TOKEN not in done.stdout + done.stderr
    assert "llmstack-prepared" not in engine.docker("image", "ls", "--all").stdout
    assert engine.docker("ps", "--all", "--quiet", "--filter", "label=dev.llmstack=prepare").stdout == ""
    assert "llmstack-prepared" not in engine.docker("ps", "--all", "--format", "{{.Image}}").stdout

    again = ferry("org/tiny", "--prepare", "get_hf/prepare.sh")
    assert again.json["results"][0]["status"] == "up-to-date"
    (ferry.folder / "get_hf/prepare.sh").write_text(SCRIPT + "rm config.json\n")
    (ferry.folder / "get_hf/to_get_models.txt").write_text("org/tiny --prepare get_hf/prepare.sh\n")
    other = ferry()
    assert other.code == 0, other.stderr
    assert other.json["results"][0]["status"] == "carried"
    inspected = run_llmstack("inspect", "org/tiny", "--from", ferry.namespace, "--json").json
    assert "config.json" not in [file["path"] for file in inspected["index"]["files"]]


def test_a_script_that_fails_or_leaves_a_link_carries_nothing(ferry):
    script = ferry.folder / "get_hf/prepare.sh"
    script.write_text("echo something is amiss; exit 7\n")
    failed = ferry("org/tiny", "--prepare", "get_hf/prepare.sh", "--force")
    assert failed.code == 1
    assert "something is amiss" in failed.stderr
    script.write_text("echo x > file; ln -s file link\n")
    linked = ferry("org/tiny", "--prepare", "get_hf/prepare.sh", "--force")
    assert linked.code == 2
    assert "'link'" in linked.stderr
    missing = ferry("org/tiny", "--prepare", "get_hf/other.sh")
    assert missing.code == 2
    assert "other.sh" in missing.stderr
