"""What is whole is skipped, what is partial is continued, what is wrong is fetched anew; and two never mix."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from llmstack.carried_image.file_index import IndexedFile, Selection
from llmstack.carried_image.naming import Namespace
from llmstack.errors import IntegrityError, LlmstackError, UnavailableError, UsageError
from llmstack.extraction.destination import WORK_FOLDER, Destination
from llmstack.extraction.extract import ExtractRequest, extract
from llmstack.extraction.fetch_plan import PlannedFile
from llmstack.net import Cancelled, Client
from llmstack.oci.layout import Layout
from llmstack.oci.reference import Reference
from llmstack.oci.store import CHUNK
from tests.extraction.support import FILES, Heard, Interrupting, contents, registries, run, sha256
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


def leave_part(folder: Path, path: str, data: bytes) -> None:
    """Leave what a run that was killed in the midst of a file leaves."""
    file = PlannedFile(path, IndexedFile(path, len(FILES[path]), "a" * 40, sha256(FILES[path]), ()))
    with contextlib.suppress(KeyboardInterrupt), Destination(folder) as destination:
        with destination.part(file.key) as part:
            part.write(data)
        raise KeyboardInterrupt


def test_what_is_whole_is_not_fetched_again(registry, source, tmp_path):
    run("org/model", tmp_path / "out", source=source)
    registry.served()
    heard = Heard()
    result = run("org/model", tmp_path / "out", source=source, heard=heard)
    assert (result.bytes_written, result.bytes_reused) == (0, result.bytes_total)
    assert heard.advanced == result.bytes_total
    # The config and the file index: no data.
    assert len([request for request in registry.served() if "/blobs/" in request.target]) == 2


def test_a_file_that_was_changed_is_fetched_again(source, tmp_path):
    run("org/model", tmp_path / "out", source=source)
    (tmp_path / "out/big.safetensors").write_bytes(bytes(len(BIG)))
    (tmp_path / "out/config.json").write_bytes(b"other length")
    (tmp_path / "out/mine.txt").write_bytes(b"mine")
    heard = Heard()
    result = run("org/model", tmp_path / "out", source=source, heard=heard)
    assert contents(tmp_path / "out") == {**FILES, "mine.txt": b"mine"}
    assert result.bytes_written == len(BIG) + len(FILES["config.json"])
    assert heard.advanced == result.bytes_total


def test_a_part_is_continued_by_range(registry, source, tmp_path):
    leave_part(tmp_path / "out", "big.safetensors", BIG[: len(BIG) // 2])
    registry.served()
    heard = Heard()
    result = run("org/model", tmp_path / "out", source=source, include=("*.safetensors",), heard=heard)
    assert contents(tmp_path / "out") == {"big.safetensors": BIG}
    assert result.bytes_reused == len(BIG) // 2
    assert sum(request.length for request in registry.served() if request.status == 206) == len(BIG) - len(BIG) // 2
    assert heard.advanced == len(BIG)


@pytest.mark.parametrize("left", [b"wrong bytes", bytes(len(BIG)), bytes(len(BIG) + 1), BIG], ids=len)
def test_a_part_that_is_no_good_is_started_over(source, tmp_path, left):
    leave_part(tmp_path / "out", "big.safetensors", left)
    heard = Heard()
    run("org/model", tmp_path / "out", source=source, heard=heard)
    assert contents(tmp_path / "out") == FILES
    assert heard.advanced == sum(map(len, FILES.values()))


@pytest.mark.parametrize("left", ["a part", "a whole file"])
def test_what_is_there_is_not_hashed_to_its_end_once_all_is_cancelled(source, tmp_path, left):
    if left == "a part":
        leave_part(tmp_path / "out", "big.safetensors", BIG[:-100])
    else:
        run("org/model", tmp_path / "out", source=source)
    request = ExtractRequest(
        "org/model", tmp_path / "out", Namespace.parse(source), selection=Selection(("big.safetensors",), ()), jobs=1
    )
    with closing(Client()) as client:
        heard = Interrupting(client.cancel)
        with pytest.raises(Cancelled):
            extract(request, registries(client), client.cancel, heard)
    assert heard.advanced == CHUNK


def test_the_second_into_the_same_folder_is_refused(source, tmp_path):
    with Destination(tmp_path / "out"), pytest.raises(UnavailableError, match="another extract"):
        run("org/model", tmp_path / "out", source=source)
    run("org/model", tmp_path / "out", source=source)
    assert contents(tmp_path / "out") == FILES


def test_one_that_starts_as_another_ends_is_not_in_its_way(tmp_path):
    """The work folder goes away between any two steps of whoever takes it."""

    def take(_: int) -> str:
        said = set()
        for _ in range(3000):
            try:
                with Destination(tmp_path):
                    pass
            except LlmstackError as error:
                said.add(error.message.rpartition(": ")[2])
        return ", ".join(said - {"another extract is writing there"})

    with ThreadPoolExecutor(2) as both:
        assert list(both.map(take, range(2))) == ["", ""]


def test_two_caches_of_different_repos_do_not_wait_for_each_other(source, tmp_path):
    with Destination(tmp_path / "hub/models--org--other"):
        run("org/model", tmp_path / "hub", source=source, layout="hf-cache")


def test_a_damaged_blob_leaves_nothing_wrong_behind(tmp_path):
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
    with pytest.raises(UsageError, match="not a folder"):
        run("org/model", out, source=source, include=("small/",))
    assert [path.name for path in outside.iterdir()] == ["config.json"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / WORK_FOLDER).symlink_to(outside)
    with pytest.raises(UsageError):
        run("org/model", tmp_path / "other", source=source)
    assert [path.name for path in outside.iterdir()] == ["config.json"]


def test_a_link_to_the_destination_itself_is_fine(source, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    run("org/model", tmp_path / "link", source=source)
    assert contents(tmp_path / "real") == FILES


def test_something_else_in_the_place(source, tmp_path):
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


@pytest.mark.parametrize("way", ["a link for a folder", "a file for a folder", "a folder for a file", "for a link"])
def test_what_is_in_the_way_is_found_before_anything_is_fetched(registry, source, tmp_path, way):
    out = tmp_path / "out"
    out.mkdir()
    if way == "a link for a folder":
        (out / "onnx").symlink_to(tmp_path)
    elif way == "a file for a folder":
        (out / "onnx").write_bytes(b"a file")
    elif way == "a folder for a file":
        (out / "onnx/model.onnx").mkdir(parents=True)
    else:
        (out / f"models--org--model/snapshots/{COMMIT}/onnx/model.onnx").mkdir(parents=True)
    before = contents(out)
    registry.served()
    with pytest.raises(UsageError, match=r"onnx/model\.onnx"):
        run("org/model", out, source=source, layout="hf-cache" if way == "for a link" else "dir")
    # Data is asked for by ranges.
    assert [request for request in registry.served() if request.status == 206] == []
    assert contents(out) == before


def test_no_more_is_begun_than_the_disk_can_hold(tmp_path):
    with Destination(tmp_path / "out") as destination, pytest.raises(UnavailableError, match="are free"):
        destination.require(10**18)


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
