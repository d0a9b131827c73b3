"""A rerun skips complete files, resumes partial ones and fetches wrong ones again. Concurrent runs are refused."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from llmstack.carried_image.file_index import IndexedFile
from llmstack.carried_image.naming import Namespace
from llmstack.carried_image.selection import Selection
from llmstack.errors import IntegrityError, LlmstackError, UnavailableError, UsageError
from llmstack.extraction.destination import WORK_DIRECTORY, Destination
from llmstack.extraction.extract import ExtractRequest, extract
from llmstack.extraction.fetch_plan import PlannedFile
from llmstack.net import Cancelled, Client
from llmstack.oci.layout import Layout
from llmstack.oci.reference import Reference
from llmstack.oci.store import CHUNK
from tests.extraction.support import FILES, CancelingReporter, RecordingReporter, contents, registries, run, sha256
from tests.support.carried import COMMIT, carry
from tests.support.disk import unsized_disk
from tests.support.registry import Registry

BIG = FILES["big.safetensors"]


@pytest.fixture
def source(registry: Registry) -> str:
    namespace = registry.namespace()
    with closing(Client()) as client:
        carry(registries(client).repository(Reference.parse(f"{namespace}/models"), write=True), "org--model", FILES)
    return namespace


def leave_partial_file(folder: Path, path: str, data: bytes) -> None:
    """Leave a partial file, as a run that was killed does."""
    file = PlannedFile(path, IndexedFile(path, len(FILES[path]), "a" * 40, sha256(FILES[path]), ()))
    with contextlib.suppress(KeyboardInterrupt), Destination(folder) as destination:
        with destination.partial(file.key) as partial:
            partial.write(data)
        raise KeyboardInterrupt


def test_complete_files_are_not_fetched_again(registry, source, tmp_path):
    run("org/model", tmp_path / "out", source=source)
    registry.served()
    reporter = RecordingReporter()
    result = run("org/model", tmp_path / "out", source=source, reporter=reporter)
    assert (result.bytes_written, result.bytes_reused) == (0, result.bytes_total)
    assert reporter.advanced == result.bytes_total
    # The config and the file index only.
    assert len([request for request in registry.served() if "/blobs/" in request.target]) == 2


def test_a_file_that_was_changed_is_fetched_again(source, tmp_path):
    run("org/model", tmp_path / "out", source=source)
    (tmp_path / "out/big.safetensors").write_bytes(bytes(len(BIG)))
    (tmp_path / "out/config.json").write_bytes(b"other length")
    (tmp_path / "out/mine.txt").write_bytes(b"mine")
    reporter = RecordingReporter()
    result = run("org/model", tmp_path / "out", source=source, reporter=reporter)
    assert contents(tmp_path / "out") == {**FILES, "mine.txt": b"mine"}
    assert result.bytes_written == len(BIG) + len(FILES["config.json"])
    assert reporter.advanced == result.bytes_total


def test_a_partial_file_is_resumed_with_a_range_request(registry, source, tmp_path):
    leave_partial_file(tmp_path / "out", "big.safetensors", BIG[: len(BIG) // 2])
    registry.served()
    reporter = RecordingReporter()
    result = run("org/model", tmp_path / "out", source=source, include=("*.safetensors",), reporter=reporter)
    assert contents(tmp_path / "out") == {"big.safetensors": BIG}
    assert result.bytes_reused == len(BIG) // 2
    assert sum(request.length for request in registry.served() if request.status == 206) == len(BIG) - len(BIG) // 2
    assert reporter.advanced == len(BIG)


@pytest.mark.parametrize("left", [b"wrong bytes", bytes(len(BIG)), bytes(len(BIG) + 1), BIG], ids=len)
def test_a_wrong_partial_file_is_fetched_from_the_start(source, tmp_path, left):
    leave_partial_file(tmp_path / "out", "big.safetensors", left)
    reporter = RecordingReporter()
    run("org/model", tmp_path / "out", source=source, reporter=reporter)
    assert contents(tmp_path / "out") == FILES
    assert reporter.advanced == sum(map(len, FILES.values()))


@pytest.mark.parametrize("left", ["a partial file", "a complete file"])
def test_hashing_existing_bytes_stops_when_cancelled(source, tmp_path, left):
    if left == "a partial file":
        leave_partial_file(tmp_path / "out", "big.safetensors", BIG[:-100])
    else:
        run("org/model", tmp_path / "out", source=source)
    request = ExtractRequest(
        "org/model", tmp_path / "out", Namespace.parse(source), selection=Selection(("big.safetensors",), ()), jobs=1
    )
    with closing(Client()) as client:
        reporter = CancelingReporter(client.cancel)
        with pytest.raises(Cancelled):
            extract(request, registries(client), client.cancel, reporter)
    assert reporter.advanced == CHUNK


def test_a_second_extract_into_the_same_directory_is_refused(source, tmp_path):
    with Destination(tmp_path / "out"), pytest.raises(UnavailableError, match="another extract"):
        run("org/model", tmp_path / "out", source=source)
    run("org/model", tmp_path / "out", source=source)
    assert contents(tmp_path / "out") == FILES


def test_starting_while_another_run_ends_gives_no_other_error(tmp_path):
    """The other run may remove the work directory between any two steps of taking the lock."""

    def take(_: int) -> str:
        messages = set()
        for _ in range(3000):
            try:
                with Destination(tmp_path):
                    pass
            except LlmstackError as error:
                messages.add(error.message.rpartition(": ")[2])
        return ", ".join(messages - {"another extract is running there"})

    with ThreadPoolExecutor(2) as both:
        assert list(both.map(take, range(2))) == ["", ""]


def test_repos_in_one_cache_are_locked_separately(source, tmp_path):
    with Destination(tmp_path / "hub/models--org--other"):
        run("org/model", tmp_path / "hub", source=source, layout="hf-cache")


def test_no_file_with_wrong_bytes_is_published(tmp_path):
    layout = Layout(tmp_path / "models")
    index = carry(layout, "org--model", FILES)
    big = next(file for file in index.files if file.path == "big.safetensors")
    blob = tmp_path / "models/blobs/sha256" / big.ranges[0].layer.hex
    data = bytearray(blob.read_bytes())
    data[1_000_000] ^= 1
    blob.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"big\.safetensors"):
        run("org/model", tmp_path / "out", source=f"oci:{tmp_path}", jobs=1)
    left = contents(tmp_path / "out") if (tmp_path / "out").exists() else {}
    assert all(FILES.get(path) == data for path, data in left.items())
    data[1_000_000] ^= 1
    blob.write_bytes(data)
    run("org/model", tmp_path / "out", source=f"oci:{tmp_path}")
    assert contents(tmp_path / "out") == FILES


def test_links_in_the_destination_are_not_followed(source, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "config.json").write_bytes(b"precious")
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").symlink_to(outside / "config.json")
    run("org/model", out, source=source, include=("config.json",))
    assert (outside / "config.json").read_bytes() == b"precious"
    assert not (out / "config.json").is_symlink()
    (out / "small").symlink_to(outside)
    with pytest.raises(UsageError, match="not a directory"):
        run("org/model", out, source=source, include=("small/",))
    assert [path.name for path in outside.iterdir()] == ["config.json"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / WORK_DIRECTORY).symlink_to(outside)
    with pytest.raises(UsageError):
        run("org/model", tmp_path / "other", source=source)
    assert [path.name for path in outside.iterdir()] == ["config.json"]


def test_the_destination_itself_may_be_a_link(source, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    run("org/model", tmp_path / "link", source=source)
    assert contents(tmp_path / "real") == FILES


def test_a_file_or_directory_in_the_way_is_named(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/small").write_bytes(b"a file")
    with pytest.raises(UsageError, match="small"):
        run("org/model", tmp_path / "out", source=source)
    (tmp_path / "other/config.json/inner").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"config\.json"):
        run("org/model", tmp_path / "other", source=source)
    (tmp_path / "file").write_bytes(b"")
    for folder in ("file", "file/below"):
        with pytest.raises(UsageError, match="file"):
            run("org/model", tmp_path / folder, source=source)


@pytest.mark.parametrize(
    "obstacle", ["link for directory", "file for directory", "directory for file", "directory for link"]
)
def test_an_obstacle_is_reported_before_anything_is_fetched(registry, source, tmp_path, obstacle):
    out = tmp_path / "out"
    out.mkdir()
    if obstacle == "link for directory":
        (out / "onnx").symlink_to(tmp_path)
    elif obstacle == "file for directory":
        (out / "onnx").write_bytes(b"a file")
    elif obstacle == "directory for file":
        (out / "onnx/model.onnx").mkdir(parents=True)
    else:
        (out / f"models--org--model/snapshots/{COMMIT}/onnx/model.onnx").mkdir(parents=True)
    before = contents(out)
    registry.served()
    with pytest.raises(UsageError, match=r"onnx/model\.onnx"):
        run("org/model", out, source=source, layout="hf-cache" if obstacle == "directory for link" else "dir")
    # Only data is requested with ranges.
    assert [request for request in registry.served() if request.status == 206] == []
    assert contents(out) == before


def test_more_bytes_than_the_disk_has_free_are_refused(tmp_path):
    with Destination(tmp_path / "out") as destination, pytest.raises(UnavailableError, match="are free"):
        destination.require_space(10**18)


def test_a_disk_of_unknown_size_is_not_full(source, tmp_path):
    with unsized_disk(tmp_path / "disk") as disk:
        assert os.statvfs(disk).f_blocks == 0
        run("org/model", disk / "out", source=source)
        assert contents(disk / "out") == FILES


def test_modes_follow_the_umask(source, tmp_path):
    old = os.umask(0o027)
    try:
        run("org/model", tmp_path / "out", source=source, include=("config.json", "deep/"))
    finally:
        os.umask(old)
    assert (tmp_path / "out/config.json").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "out/deep").stat().st_mode & 0o777 == 0o750
