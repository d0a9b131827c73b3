"""`ferry --as`: local directories, entries of a Hugging Face cache, and single files."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llmstack
from llmstack.hf.snapshot import HubFile
from tests.extraction.support import contents
from tests.support.cli import run_llmstack
from tests.support.disk import with_bad_sector
from tests.support.serving import serving

_random = random.Random(11)
WEIGHTS = _random.randbytes(17 * 1024 * 1024)
FILES: Mapping[str, bytes] = {
    "README.md": b"---\nlicense: mit\n---\n# Tuned\n",
    "adapter/adapter_config.json": b"{}",
    "config.json": b'{"model_type": "opt"}',
    "empty": b"",
    "model.safetensors": WEIGHTS,
    "name with spaces 模型.txt": b"text",
}
SMALL = {path: data for path, data in FILES.items() if path != "model.safetensors"}


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """A directory with a model."""
    return write(tmp_path / "tuned", FILES)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A directory with small files only."""
    return write(tmp_path / "small", SMALL)


def ferry(path: Path, to: Path, name: str = "lab/tuned", **options: Any) -> llmstack.FerryResult:
    return llmstack.ferry(path, as_repo=name, to=f"oci:{to}", base="scratch", **options)


def extracted(carried: Path, name: str = "lab/tuned", **options: Any) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as out:
        llmstack.extract(name, out, source=f"oci:{carried}", **options)
        return contents(Path(out))


def test_a_directory_is_carried_and_extracted(tuned: Path, tmp_path: Path):
    result = ferry(tuned, tmp_path / "carried")
    assert (result.status, result.repo_id, result.revision) == ("carried", "lab/tuned", "main")
    assert result.image == f"oci:{tmp_path}/carried/models:lab--tuned"
    assert extracted(tmp_path / "carried") == FILES
    details = llmstack.inspect("lab/tuned", source=f"oci:{tmp_path}/carried")
    assert details.index is not None
    assert (details.index.local, details.index.license, details.index.commit) == (True, "mit", result.commit)
    assert [file.oid for file in details.files] == [file.sha256 for file in details.files]
    assert "org.opencontainers.image.source" not in details.labels
    assert llmstack.verify("lab/tuned", source=f"oci:{tmp_path}/carried").ok


def test_the_commit_is_a_digest_that_sha256sum_can_make(small: Path, tmp_path: Path):
    lines = [f"{hashlib.sha256(SMALL[path]).hexdigest()}  {path}\0" for path in sorted(SMALL, key=str.encode)]
    commit = hashlib.sha256("".join(lines).encode()).hexdigest()[:40]
    assert ferry(small, tmp_path / "carried").commit == commit
    assert ferry(small, tmp_path / "carried", f"lab/tuned@{commit}").revision == commit
    with pytest.raises(llmstack.UsageError, match=f"is not the commit of these files, which is {commit}"):
        ferry(small, tmp_path / "carried", f"lab/tuned@{'a' * 40}")


def test_the_same_content_gives_the_same_image(small: Path, tmp_path: Path):
    first = ferry(small, tmp_path / "carried")
    again = ferry(small, tmp_path / "carried")
    assert (again.status, again.digest, again.bytes_transferred) == ("up-to-date", first.digest, 0)
    copy = write(tmp_path / "copy", dict(reversed(SMALL.items())))
    os.utime(copy / "config.json", (1, 1))
    copy.joinpath("config.json").chmod(0o755)
    (copy / "an empty directory").mkdir()
    assert ferry(copy, tmp_path / "carried").status == "up-to-date"
    assert ferry(copy, tmp_path / "other").digest == first.digest


def test_unchanged_files_are_reused(tuned: Path, tmp_path: Path):
    first = ferry(tuned, tmp_path / "carried")
    (tuned / "config.json").write_bytes(b"{}")
    planned = ferry(tuned, tmp_path / "carried", dry_run=True)
    assert (planned.status, planned.bytes_reused) == ("planned", len(WEIGHTS))
    second = ferry(tuned, tmp_path / "carried")
    assert (second.status, second.bytes_reused) == ("carried", len(WEIGHTS))
    assert second.commit != first.commit
    assert extracted(tmp_path / "carried") == {**FILES, "config.json": b"{}"}


def test_datasets_and_revisions(small: Path, tmp_path: Path):
    result = ferry(small, tmp_path / "carried", "lab/rows@v1", repo_type="dataset")
    assert result.image == f"oci:{tmp_path}/carried/datasets:lab--rows--v1"
    assert extracted(tmp_path / "carried", "lab/rows@v1", repo_type="dataset") == SMALL


def test_a_selection_is_not_part_of_the_image(small: Path, tmp_path: Path):
    """The commit is that of the carried files."""
    selected = ferry(small, tmp_path / "carried", exclude=["*.txt", "adapter/"])
    copy = write(tmp_path / "copy", {path: SMALL[path] for path in ("README.md", "config.json", "empty")})
    assert ferry(copy, tmp_path / "other").digest == selected.digest
    assert extracted(tmp_path / "carried") == contents(copy)
    with pytest.raises(llmstack.UsageError, match="no file is selected"):
        ferry(small, tmp_path / "carried", include="*.gguf")


_NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=12).filter(
    lambda name: name not in {".", "..", ".git", ".gitignore", "__pycache__"} and not name.startswith(".wh.")
)
_TREE = st.dictionaries(st.lists(_NAME, min_size=1, max_size=3).map("/".join), st.binary(max_size=40), min_size=1)


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(files=_TREE)
def test_any_directory_comes_back_equal(files: dict[str, bytes]):
    files = {path: data for path, data in files.items() if not any(other.startswith(f"{path}/") for other in files)}
    with tempfile.TemporaryDirectory() as name:
        result = ferry(write(Path(name) / "in", files), Path(name) / "carried")
        assert extracted(Path(name) / "carried") == files
        assert result.bytes_total == sum(map(len, files.values()))


# What is left out


def test_git_caches_and_ignored_files_are_left_out(small: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write(
        small,
        {
            ".git/HEAD": b"ref",
            "sub/.git": b"gitdir: elsewhere",
            ".gitignore": b"checkpoint-*/\n",
            "checkpoint-500/model.bin": b"old",
            ".cache/huggingface/download/a.metadata": b"x",
            "__pycache__/a.pyc": b"x",
            ".ipynb_checkpoints/a.ipynb": b"x",
            "cache/CACHEDIR.TAG": b"Signature: 8a477f597d28d172789f06886806bc55\n",
            "cache/big": b"x",
            "no cache/CACHEDIR.TAG": b"something else",
        },
    )
    with caplog.at_level(logging.INFO, "llmstack"):
        ferry(small, tmp_path / "carried")
    kept = {".gitignore": b"checkpoint-*/\n", "no cache/CACHEDIR.TAG": b"something else"}
    assert extracted(tmp_path / "carried") == {**SMALL, **kept}
    assert "left out by .gitignore, or as caches: .ipynb_checkpoints/, __pycache__/, cache/ and 2 more" in caplog.text


def test_weights_that_git_ignores_are_a_warning(tmp_path: Path):
    weights = {f"m-{number}.safetensors": b"w" for number in range(5)}
    write(tmp_path / "small", {".gitignore": b"*.safetensors\n*.log\n", "a.log": b"x", "config.json": b"{}", **weights})
    command = ("ferry", "small", "--as", "lab/tuned", "--to", "oci:carried", "--base", "scratch")
    run = run_llmstack(*command, cwd=tmp_path)
    assert (run.code, f"small: weights are left out by .gitignore: {', '.join(weights)}\n" in run.stderr) == (0, True)
    selected = run_llmstack(*command, "--include", "*.safetensors", cwd=tmp_path)
    assert (selected.code, "no file is selected" in selected.stderr) == (2, True)
    assert "hint: check --include and --exclude, and its .gitignore" in selected.stderr


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (os.mkfifo, "neither a file nor a directory"),
        (lambda path: path.symlink_to("/etc/passwd"), "the symbolic link leads out of the directory"),
        (lambda path: path.symlink_to("../small-secret"), "the symbolic link leads out of the directory"),
        (lambda path: path.symlink_to("missing"), "the symbolic link leads nowhere"),
        (lambda path: path.symlink_to("odd"), "the symbolic link leads nowhere"),
        (lambda path: path.symlink_to("adapter"), "the symbolic link leads to a directory"),
        (lambda path: path.symlink_to("."), "the symbolic link leads to a directory"),
    ],
)
def test_what_is_not_a_file_is_refused_and_can_be_excluded(small: Path, tmp_path: Path, make, problem):
    (tmp_path / "small-secret").write_bytes(b"secret")
    make(small / "odd")
    with pytest.raises(llmstack.UsageError, match=f"odd: {problem}") as refused:
        ferry(small, tmp_path / "carried")
    assert "--exclude odd" in str(refused.value.hint)
    assert not (tmp_path / "carried/models/index.json").exists()
    ferry(small, tmp_path / "carried", exclude="odd")
    assert extracted(tmp_path / "carried") == SMALL


def test_a_socket_is_refused(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(small)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("control")
        with pytest.raises(llmstack.UsageError, match="control: neither a file nor a directory"):
            ferry(small, tmp_path / "carried")


def test_a_clone_without_its_large_files_is_refused(small: Path, tmp_path: Path):
    pointer = HubFile("model.safetensors", len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest()).pointer
    write(small, {"model.safetensors": pointer})
    with pytest.raises(llmstack.UsageError, match=r"model\.safetensors: a pointer of Git LFS") as refused:
        ferry(small, tmp_path / "carried")
    assert "git lfs pull" in str(refused.value.hint)


def test_a_device_is_no_single_file(tmp_path: Path):
    with pytest.raises(llmstack.UsageError, match="/dev/null: neither a file nor a directory") as refused:
        ferry(Path("/dev/null"), tmp_path / "carried")
    assert refused.value.hint is None


def test_a_name_that_is_not_utf8_is_refused(small: Path, tmp_path: Path):
    write(small, {os.fsdecode(b"caf\xe9.txt"): b"x"})
    with pytest.raises(llmstack.UsageError, match="the name is not UTF-8"):
        ferry(small, tmp_path / "carried")
    run = run_llmstack("ferry", small, "--as", "lab/tuned", "--to", f"oci:{tmp_path}/carried", "--base", "scratch")
    assert run.code == 2
    assert r"caf\udce9.txt: the name is not UTF-8" in run.stderr


def test_links_inside_the_directory_are_followed(small: Path, tmp_path: Path):
    (small / "deep/er").mkdir(parents=True)
    (small / "deep/er/link.json").symlink_to("../../config.json")
    (small / "absolute.json").symlink_to(small / "config.json")
    ferry(small, tmp_path / "carried")
    config = SMALL["config.json"]
    assert extracted(tmp_path / "carried") == {**SMALL, "deep/er/link.json": config, "absolute.json": config}


def test_an_empty_directory_and_a_missing_one(tmp_path: Path):
    (tmp_path / "empty/sub").mkdir(parents=True)
    with pytest.raises(llmstack.NotFoundError, match="no files to carry"):
        ferry(tmp_path / "empty", tmp_path / "carried")
    write(tmp_path / "empty", {".gitignore": b"*\n", "a": b"x"})
    with pytest.raises(llmstack.NotFoundError, match="no files to carry") as empty:
        ferry(tmp_path / "empty", tmp_path / "carried")
    assert ".gitignore" in str(empty.value.hint)
    with pytest.raises(llmstack.NotFoundError, match="missing: not found"):
        ferry(tmp_path / "missing", tmp_path / "carried")


def test_a_destination_inside_the_directory_is_refused(small: Path):
    with pytest.raises(llmstack.UsageError, match="the destination is inside of"):
        ferry(small, small / "carried")
    assert not (small / "carried").exists()


# Other sources


def test_a_single_file(tmp_path: Path):
    write(tmp_path, {"model.Q4_K_M.gguf": WEIGHTS})
    ferry(tmp_path / "model.Q4_K_M.gguf", tmp_path / "carried")
    assert extracted(tmp_path / "carried") == {"model.Q4_K_M.gguf": WEIGHTS}


def test_an_entry_of_a_cache_is_carried_like_the_directory(tuned: Path, tmp_path: Path, caplog):
    first = ferry(tuned, tmp_path / "carried", "lab/tuned@v1")
    llmstack.extract("lab/tuned@v1", tmp_path / "cache", source=f"oci:{tmp_path}/carried", layout="hf-cache")
    entry = tmp_path / "cache/models--lab--tuned"
    snapshot = entry / "snapshots" / str(first.commit)
    for path in (entry, snapshot):
        assert ferry(path, tmp_path / path.name, "lab/tuned@v1").digest == first.digest
    link = snapshot / "model.safetensors"
    ferry(link, tmp_path / "single")
    assert extracted(tmp_path / "single") == {"model.safetensors": WEIGHTS}
    with pytest.raises(llmstack.UsageError, match="this is the cache of a model"):
        ferry(entry, tmp_path / "carried", repo_type="dataset")
    with pytest.raises(llmstack.UsageError, match="a Hugging Face cache with many repos"):
        ferry(tmp_path / "cache", tmp_path / "carried")
    assert caplog.text == ""


def cache_entry(root: Path, snapshots: Mapping[str, Mapping[str, bytes]]) -> Path:
    """Write a cache entry as huggingface_hub does: small files are named by a git hash."""
    entry = root / "models--org--model"
    (entry / "blobs").mkdir(parents=True)
    for commit, files in snapshots.items():
        for path, data in files.items():
            git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            name = hashlib.sha256(data).hexdigest() if len(data) > 1000 else git
            (entry / "blobs" / name).write_bytes(data)
            link = entry / "snapshots" / commit / path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(entry / "blobs" / name, link.parent))
    return entry


def test_the_snapshot_of_the_revision_is_chosen(tmp_path: Path):
    old, new = "1" * 40, "2" * 40
    ignored = {".gitignore": b"*.json\n", "sub/config.json": b"{}"}
    entry = cache_entry(tmp_path, {old: SMALL, new: ignored})
    with pytest.raises(llmstack.UsageError, match="the cache has 2 snapshots, and none is main"):
        ferry(entry, tmp_path / "carried")
    (entry / "refs").mkdir()
    (entry / "refs/main").write_text(new)
    (entry / "refs/v1").write_text(old)
    ferry(entry, tmp_path / "carried")
    ferry(entry, tmp_path / "carried", "lab/tuned@v1")
    assert extracted(tmp_path / "carried") == ignored
    assert extracted(tmp_path / "carried", "lab/tuned@v1") == SMALL


def test_a_damaged_file_of_a_cache_is_found(tmp_path: Path):
    entry = cache_entry(tmp_path, {"1" * 40: FILES})
    (blob,) = [path for path in (entry / "blobs").iterdir() if len(path.name) == 64]
    blob.write_bytes(bytes(len(WEIGHTS)))
    with pytest.raises(llmstack.IntegrityError, match=r"model\.safetensors: the file in the cache is damaged"):
        ferry(entry, tmp_path / "carried")
    with pytest.raises(llmstack.NotFoundError):
        extracted(tmp_path / "carried")


def test_a_link_out_of_a_cache_entry_is_refused(tmp_path: Path):
    entry = cache_entry(tmp_path, {"1" * 40: SMALL})
    (tmp_path / "secret").write_bytes(b"secret")
    (entry / "snapshots" / ("1" * 40) / "odd").symlink_to(tmp_path / "secret")
    with pytest.raises(llmstack.UsageError, match="odd: the symbolic link leads out"):
        ferry(entry, tmp_path / "carried")


# Files that change


def _truncate(path: Path) -> None:
    os.truncate(path, 5)


def _overwrite(path: Path) -> None:
    """Change one byte, and nothing else that a listing shows."""
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(bytes([WEIGHTS[-1] ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _replace(path: Path) -> None:
    shutil.copy2(path, path.with_name("copy"))
    path.with_name("copy").replace(path)


def _swap_directory(path: Path) -> None:
    """Replace the directory by a link to a copy, with the same file at the same path."""
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.symlink_to("moved")


@pytest.mark.parametrize("phase", ["lab/tuned: hashing", "lab/tuned"])
@pytest.mark.parametrize("change", [Path.unlink, _truncate, _overwrite, _replace, _swap_directory])
def test_a_file_that_changes_is_not_published(tmp_path: Path, phase: str, change):
    folder = write(tmp_path / "tuned", {"config.json": b"{}", "sub/model.safetensors": WEIGHTS})
    changed: list[object] = []

    def on_progress(event: llmstack.ProgressEvent) -> None:
        if event.title == phase and event.done and not changed:
            changed.append(change(folder / "sub/model.safetensors"))

    if phase == "lab/tuned: hashing" and change is _overwrite:
        # It is hashed as it is then, and carried.
        ferry(folder, tmp_path / "carried", on_progress=on_progress)
        assert extracted(tmp_path / "carried") == contents(folder)
    else:
        with pytest.raises(llmstack.IntegrityError, match=r"sub/model\.safetensors: the file changed while"):
            ferry(folder, tmp_path / "carried", on_progress=on_progress)
        with pytest.raises(llmstack.NotFoundError):
            extracted(tmp_path / "carried")
    assert changed


def test_a_disk_that_cannot_be_read(tuned: Path, tmp_path: Path):
    command = [sys.executable, "-m", "llmstack", "ferry", str(tuned), "--as", "lab/tuned", "--base", "scratch"]
    command = with_bad_sector([*command, "--to", f"oci:{tmp_path}/carried"])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 6, done.stderr
    assert "source: model.safetensors: cannot be read: Input/output error" in done.stderr


# The command line, the catalogue and the hub


@pytest.mark.usefixtures("small")
def test_the_command_line(tmp_path: Path):
    (tmp_path / "get_hf").mkdir()
    options = ["--to", "oci:carried", "--base", "scratch"]
    run = run_llmstack("ferry", "small", "--as", "lab/tuned", *options, "--json", cwd=tmp_path)
    (result,) = run.json["results"]
    assert (run.code, result["status"], run.stderr) == (0, "carried", "")
    assert f"| lab/tuned | local {result['commit'][:12]} | not stated |" in (tmp_path / "get_hf/models.md").read_text()
    run = run_llmstack("ferry", "small", "--as", "lab/tuned", *options, cwd=tmp_path)
    assert "lab/tuned  up-to-date" in run.stdout
    assert (tmp_path / "get_hf/models.md").read_text().count("lab/tuned |") == 1
    assert (
        "a digest of local files" in run_llmstack("inspect", "lab/tuned", "--from", "oci:carried", cwd=tmp_path).stdout
    )


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["./small"], "'./small' is not a Hugging Face repo id", "the local path ./small, add --as OWNER/NAME"),
        (["small", "small", "--as", "a/b"], "--as needs one directory or file, not 2", "llmstack ferry ./tuned --as"),
        (["--as", "a/b"], "--as needs one directory or file, not 0", "llmstack ferry ./tuned --as"),
        (["small", "--as", "a b"], "'a b' is not a Hugging Face repo id", "write owner/name"),
        (["small", "--as", "a/b", "--prepare", "x.sh"], "--as cannot be combined with --prepare", ""),
        (["small", "--as", "a/b", "--shard", "1/2"], "--as cannot be combined with --shard", "leave --shard out"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments, error, hint):
    run = run_llmstack("ferry", *arguments, "--to", "oci:carried", "--base", "scratch", cwd=tmp_path)
    assert run.code == 2
    assert error in run.stderr
    assert hint in run.stderr


@pytest.mark.usefixtures("small")
def test_a_repo_id_that_is_also_a_directory_is_a_repo_id(tmp_path: Path):
    """Nothing listens at HF_ENDPOINT."""
    env = {"LLMSTACK_RETRY_WAIT": "0.001"}
    run = run_llmstack("ferry", "small", "--to", "oci:carried", "--base", "scratch", cwd=tmp_path, env=env)
    assert run.code == 6
    assert "small: carrying the repo of the Hub; to carry the directory, add --as" in run.stderr


def test_local_files_replace_the_hubs_with_a_warning(hub, small: Path, tmp_path: Path, caplog):
    hub.add_repo("lab/tuned", {"config.json": b"{}"})
    carried = f"oci:{tmp_path}/carried"
    run = run_llmstack("ferry", "lab/tuned", "--to", carried, "--base", "scratch")
    assert run.code == 0, run.stderr
    ferry(small, tmp_path / "carried")
    assert "held the Hub's commit" in caplog.text
    assert extracted(tmp_path / "carried") == SMALL


def test_the_hub_serves_it(small: Path, tmp_path: Path):
    commit = ferry(small, tmp_path / "carried").commit
    with serving(tmp_path / "hub", f"oci:{tmp_path}/carried") as server:
        info = json.loads(server.get("/api/models/lab/tuned").body)
        assert info["sha"] == commit
        assert "lastModified" not in info
        for verb in ("resolve", "raw"):
            assert server.get(f"/lab/tuned/{verb}/main/config.json").body == SMALL["config.json"]
        [config] = [
            item for item in json.loads(server.get("/api/models/lab/tuned/tree/main").body) if "config" in item["path"]
        ]
        assert "lfs" not in config


def test_git_would_have_a_pointer_of_a_large_file(tmp_path: Path):
    (tmp_path / "weights").mkdir()
    with (tmp_path / "weights/model.bin").open("wb") as file:
        file.truncate(10 * 1024 * 1024 + 1)
    ferry(tmp_path / "weights", tmp_path / "carried")
    with serving(tmp_path / "hub", f"oci:{tmp_path}/carried") as server:
        pointer = server.get("/lab/tuned/raw/main/model.bin").body
        [entry] = json.loads(server.get("/api/models/lab/tuned/tree/main").body)
    assert pointer.startswith(b"version https://git-lfs.github.com/spec/v1\n")
    assert entry["lfs"]["pointerSize"] == len(pointer)
