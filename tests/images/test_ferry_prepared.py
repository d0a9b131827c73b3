"""`llmstack ferry --prepare`: the files that a script prepared are carried, listed and extracted like any repo."""

from __future__ import annotations

import pytest

from tests.images.conftest import BUILD_TIMEOUT
from tests.support.cli import run_llmstack

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("images")]
TOKEN = "hf_" + "t0kenOfTheTests"
WEIGHTS = b"w" * 20_000
# One weight format only, and two new files.
SCRIPT = """\
hf download "$REPO_ID" --repo-type "$REPO_TYPE" --revision "$REVISION" --exclude '*.bin' --local-dir .
rm -rf .cache
mkdir -p sub
echo prepared > sub/note.txt
ln sub/note.txt twin.txt
"""


@pytest.fixture
def bases(engine, busybox, debian):
    """Stand-ins for the recipe's base images, under their names."""
    names = {"debian:bookworm-slim": debian, "busybox:stable": busybox}
    for name, image in names.items():
        engine.docker("tag", image, name)
    yield
    for name in names:
        engine.docker("image", "rm", name)


@pytest.fixture
def ferry(bases, busybox_base, build_environment, hub, registry, tmp_path):  # noqa: ARG001 - builds need the images
    """Return a function that runs ferry with a script's settings, in a directory with wish lists."""
    hub.add_repo("org/tiny", {"config.json": b"{}", "sub/w.safetensors": WEIGHTS, "w.bin": WEIGHTS}, gated="auto")
    hub.add_repo("org/rows", {"train.csv": b"a,b\n1,2\n"}, repo_type="dataset", gated="auto")
    hub.add_token(TOKEN, access={"org/tiny", "org/rows"})
    lists = tmp_path / "get_hf"
    lists.mkdir()
    (lists / "prepare.sh").write_text(SCRIPT)
    environment = {
        **build_environment,
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "LLMSTACK_BUILD_NETWORK": "host",
        "LLMSTACK_NO_PROXY": "127.0.0.1",
        # The weights are larger than a layer: they are read from the container in three parts.
        "LLMSTACK_MAX_LAYER": "10 KB",
        "LLMSTACK_SPLIT_LARGE": "true",
    }

    def run(*arguments):
        options = ("--to", run.namespace, "--base", f"oci:{busybox_base}", "--json")
        # The first run builds the script's image.
        return run_llmstack("ferry", *arguments, *options, env=environment, cwd=tmp_path, timeout=BUILD_TIMEOUT)

    run.namespace = registry.namespace()
    run.folder = tmp_path
    return run


def pulled(engine, image, folder):
    """Pull an image with Docker only; return its files from `docker cp`."""
    engine.docker("pull", "--quiet", image)
    try:
        listed = engine.docker("run", "--rm", "--network", "none", image, "find", "/REPO", "-type", "f").stdout
        created = engine.docker("create", image).stdout.strip()
        engine.docker("cp", f"{created}:/REPO", str(folder))
        engine.docker("rm", created)
    finally:
        engine.docker("image", "rm", image)
    files = files_in(folder)
    assert sorted(listed.split()) == sorted(f"/REPO/{path}" for path in files)
    return files


def files_in(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_prepared_repo_is_carried_like_any_other_repo(ferry, engine, tmp_path):
    done = ferry("org/tiny", "--prepare", "get_hf/prepare.sh")
    assert done.code == 0, done.stderr
    [result] = done.json["results"]
    assert (result["status"], result["bytes_total"]) == ("carried", 2 + len(WEIGHTS) + 2 * len("prepared\n"))
    out = tmp_path / "out"
    back = run_llmstack("extract", "org/tiny", out, "--from", ferry.namespace, "--json")
    assert back.code == 0, back.stderr
    assert back.json["commit"] == result["commit"]
    assert files_in(out) == {
        "config.json": b"{}",
        "sub/w.safetensors": WEIGHTS,
        "sub/note.txt": b"prepared\n",
        "twin.txt": b"prepared\n",
    }
    # Parts are outside /REPO, so that no reader takes a part for the file.
    by_docker = {path: data for path, data in files_in(out).items() if path != "sub/w.safetensors"}
    assert pulled(engine, f"{ferry.namespace}/models:org--tiny", tmp_path / "pulled") == by_docker
    assert run_llmstack("verify", "org/tiny", "--from", ferry.namespace).code == 0
    assert result["digest"] in (ferry.folder / "get_hf/models.md").read_text()
    assert TOKEN not in done.stdout + done.stderr
    assert "llmstack-prepared" not in engine.docker("image", "ls", "--all").stdout
    assert engine.docker("ps", "--all", "--quiet", "--filter", "label=dev.llmstack=prepare").stdout == ""
    assert "llmstack-prepared" not in engine.docker("ps", "--all", "--format", "{{.Image}}").stdout

    again = ferry("org/tiny", "--prepare", "get_hf/prepare.sh")
    assert again.json["results"][0]["status"] == "up-to-date"
    (ferry.folder / "get_hf/prepare.sh").write_text(SCRIPT + "rm config.json\n")
    (ferry.folder / "get_hf/to_get_models.txt").write_text("org/tiny\n")
    (ferry.folder / "get_hf/to_get_datasets.txt").write_text("org/rows --prepare get_hf/rows.sh\n")
    (ferry.folder / "get_hf/rows.sh").write_text(SCRIPT)
    other = ferry()
    assert other.code == 0, other.stderr
    assert [result["status"] for result in other.json["results"]] == ["carried", "carried"]
    rows = pulled(engine, f"{ferry.namespace}/datasets:org--rows", tmp_path / "rows")
    assert rows == {"train.csv": b"a,b\n1,2\n", "sub/note.txt": b"prepared\n", "twin.txt": b"prepared\n"}
    inspected = run_llmstack("inspect", "org/tiny", "--from", ferry.namespace, "--json").json
    listed = {file["path"]: file for file in inspected["index"]["files"]}
    assert "config.json" not in listed
    assert len(listed["sub/w.safetensors"]["parts"]) == 3


def test_script_that_fails_or_leaves_an_invalid_file_carries_nothing(ferry):
    script = ferry.folder / "get_hf/prepare.sh"
    script.write_text("echo the reason; exit 7\n")
    failed = ferry("org/tiny", "--prepare", "get_hf/prepare.sh", "--force")
    assert failed.code == 1
    assert "the reason" in failed.stderr
    script.write_text("echo x > file; ln -s file link\n")
    linked = ferry("org/tiny", "--prepare", "get_hf/prepare.sh", "--force")
    assert linked.code == 2
    assert "'link'" in linked.stderr
    script.write_text("echo x > \"$(printf '\\377')\"\n")
    unnamed = ferry("org/tiny", "--prepare", "get_hf/prepare.sh", "--force")
    assert unnamed.code == 5
    assert r"'\udcff' is not a valid path of a file in a repo" in unnamed.stderr
    missing = ferry("org/tiny", "--prepare", "get_hf/other.sh")
    assert missing.code == 2
    assert "other.sh" in missing.stderr
