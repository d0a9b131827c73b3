"""Images without a file index: the files that the merged layers have under /REPO."""

from __future__ import annotations

import gzip
import os
import subprocess
import tarfile

import pytest

from llmstack.errors import IntegrityError, NotFoundError, UsageError
from tests.extraction.support import RecordingReporter, contents, run
from tests.support.layers import file, folder, hardlink, image, special, symlink, tar


@pytest.fixture
def extract_layers(tmp_path):
    """Return a function that extracts an image of the given tars, lowest first, and returns its files as strings."""

    def extract(*layers: bytes, **options):
        compression = options.pop("compression", "")
        run(image(tmp_path / "image", *layers, compression=compression), tmp_path / "out", **options)
        return {path: data.decode() for path, data in contents(tmp_path / "out").items()}

    return extract


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_tar_formats_and_compressions(extract_layers, compression, form):
    long = "REPO/" + "/".join(["d" * 120] * 4) + "/" + "f" * 250
    base = tar(folder("bin/"), file("bin/sh", b"#!"), special("dev/null", tarfile.CHRTYPE), form=form)
    layer = tar(folder("./REPO/"), file("./REPO/a", b"A"), file(long, b"long"), file("REPO/模型", b"M"), form=form)
    assert extract_layers(base, layer, compression=compression) == {"a": "A", long[5:]: "long", "模型": "M"}


def test_names_are_relative_to_the_image_root_as_in_docker(extract_layers):
    """Bases of distroless images have absolute names, other tools write `./` and `//`."""
    base = tar(folder("/"), file("/etc/passwd", b"root"), file("/REPO/.wh.x"))
    layer = tar(
        file("/REPO/a", b"A"),
        file(".//REPO//b", b"B"),
        hardlink("/REPO/hard", "/REPO/a"),
        hardlink("REPO/other", ".//REPO/b"),
        symlink("/REPO/soft", "/REPO//a"),
        symlink("REPO/outer", ".//./b"),
    )
    files = {"a": "A", "b": "B", "hard": "A", "other": "B", "soft": "A", "outer": "B"}
    assert extract_layers(base, layer) == files


@pytest.mark.parametrize("labels", [{}, {"dev.llmstack.repo-type": "model"}], ids=["foreign", "model"])
def test_files_that_are_hard_links_into_models(tmp_path, labels):
    """Carried models are such images, and so are those built on them. Their layers are read once."""
    low = tar(file("models/a", b"old"), hardlink("REPO/a", "models/a"), file("models/gone", b"g"))
    high = tar(
        file("models/a", b"new"),
        hardlink("REPO/a", "models/a"),
        file("models/sub/b", b"B"),
        hardlink("/REPO/sub/b", "./models//sub/b"),
        hardlink("REPO/again", "models/sub/b"),
        file("models/c", b"C"),
        file("models/REPO", b"D"),
        hardlink("REPO/models/a", "models/REPO"),
    )
    top = tar(file("REPO/.wh.c"), hardlink("etc/x", "../usr/x"))
    reporter = RecordingReporter()
    name = image(tmp_path / "image", low, high, top, compression="gzip", config={"Labels": labels})
    run(name, tmp_path / "out", reporter=reporter)
    files = {"a": b"new", "sub/b": b"B", "again": b"B", "models/a": b"D"}
    assert contents(tmp_path / "out") == files
    read = (low, high, top) if labels else (low, high, top, high)
    assert reporter.advanced == sum(len(gzip.compress(layer)) for layer in read)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "again", "models", "sub"]
    run(name, tmp_path / "part", include=("sub/*",))
    assert contents(tmp_path / "part") == {"sub/b": b"B"}


def test_a_large_file_under_models_of_another_image_needs_no_space(tmp_path):
    info, _ = file("models/large", size=1 << 50)
    layer = tar(file("REPO/a", b"A")).removesuffix(bytes(1024)) + info.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(IntegrityError, match="truncated"):
        run(image(tmp_path / "image", layer), tmp_path / "out")


def test_files_of_higher_layers_replace_those_of_lower_ones(extract_layers):
    low = tar(file("REPO/a", b"old"), file("REPO/b", b"B"), file("REPO/gone", b"g"), file("REPO/sub/gone", b"g"))
    high = tar(file("REPO/a", b"new"), file("REPO/.wh.gone"), file("REPO/.wh.sub"))
    assert extract_layers(low, high) == {"a": "new", "b": "B"}


def test_a_whiteout_applies_to_lower_layers_only(extract_layers):
    low = tar(file("REPO/sub/old", b"old"))
    assert extract_layers(low, tar(file("REPO/sub/new", b"new"), file("REPO/.wh.sub"))) == {"sub/new": "new"}


def test_a_file_deleted_and_created_again(extract_layers):
    one, two, three = tar(file("REPO/a", b"1")), tar(file("REPO/.wh.a")), tar(file("REPO/a", b"3"))
    assert extract_layers(one, two, three) == {"a": "3"}


@pytest.mark.parametrize("marker", ["REPO/sub/.wh..wh..opq", "REPO/.wh..wh..opq", ".wh..wh..opq"])
def test_opaque_whiteouts_hide_all_lower_files(extract_layers, marker):
    low = tar(file("REPO/sub/old", b"old"), file("REPO/sub/deep/old", b"old"))
    high = tar(file("REPO/sub/new", b"new"), file(marker))
    assert extract_layers(low, high) == {"sub/new": "new"}


def test_a_whiteout_of_the_root(extract_layers):
    assert extract_layers(tar(file("REPO/a", b"a")), tar(file(".wh.REPO"), file("REPO/b", b"b"))) == {"b": "b"}
    with pytest.raises(NotFoundError, match="/REPO"):
        extract_layers(tar(file("REPO/a", b"a")), tar(file(".wh.REPO")))


def test_files_and_directories_that_replace_each_other(extract_layers):
    low = tar(file("REPO/x/inner", b"i"), file("REPO/y", b"y"))
    middle = tar(file("REPO/x", b"now a file"), file("REPO/y/inner", b"now a folder"))
    assert extract_layers(low, middle) == {"x": "now a file", "y/inner": "now a folder"}


def test_a_directory_that_was_a_file_in_a_middle_layer(extract_layers):
    low, middle, high = tar(file("REPO/x/old", b"i")), tar(file("REPO/x", b"x")), tar(file("REPO/x/new", b"n"))
    assert extract_layers(low, middle, high) == {"x/new": "n"}


def test_the_last_entry_of_a_path_in_a_layer_wins(extract_layers):
    assert extract_layers(tar(file("REPO/a", b"1"), file("REPO/b", b"b"), file("REPO/a", b"22"))) == {
        "a": "22",
        "b": "b",
    }


def test_hard_links_share_their_bytes(extract_layers, tmp_path):
    low = tar(file("REPO/low", b"low"))
    high = tar(
        file("aside/blob", b"aside"),
        file("REPO/a", b"a"),
        hardlink("REPO/b", "REPO/a"),
        hardlink("REPO/c", "REPO/b"),
        hardlink("REPO/d", "aside/blob"),
        hardlink("REPO/e", "REPO/low"),
    )
    assert extract_layers(low, high) == {"low": "low", "a": "a", "b": "a", "c": "a", "d": "aside", "e": "low"}
    assert (tmp_path / "out/a").samefile(tmp_path / "out/c")


def test_a_hard_link_keeps_its_bytes_when_its_target_is_deleted(extract_layers):
    low = tar(file("REPO/a", b"a"), hardlink("REPO/b", "REPO/a"), hardlink("REPO/c", "REPO/a"))
    assert extract_layers(low, tar(file("REPO/.wh.a"))) == {"b": "a", "c": "a"}


def test_symlinks_of_a_hugging_face_cache_become_files(extract_layers, tmp_path):
    """Older images hold the complete cache, as `huggingface-cli download` writes it."""
    layer = tar(
        file("REPO/blobs/1234", b"weights"),
        file("REPO/blobs/5678", b"config"),
        symlink("REPO/snapshots/c0/model.bin", "../../blobs/1234"),
        symlink("REPO/snapshots/c0/config.json", "/REPO/blobs/5678"),
        symlink("REPO/latest", "snapshots/c0"),
        symlink("REPO/nothing", "blobs/none"),
    )
    reporter = RecordingReporter()
    assert extract_layers(layer, reporter=reporter, include=("snapshots/", "latest/")) == {
        "snapshots/c0/model.bin": "weights",
        "snapshots/c0/config.json": "config",
        "latest/model.bin": "weights",
        "latest/config.json": "config",
    }
    assert not (tmp_path / "out/latest").is_symlink()
    assert "nothing" in reporter.warnings[0]


def test_a_symlink_that_a_directory_replaced(extract_layers):
    low = tar(file("REPO/real/a", b"a"), symlink("REPO/link", "real"))
    assert extract_layers(low, tar(file("REPO/link/b", b"b"))) == {"real/a": "a", "link/b": "b"}


def test_include_and_exclude(extract_layers):
    layer = tar(file("REPO/a.bin", b"a"), file("REPO/b.txt", b"b"), file("REPO/sub/c.txt", b"c"))
    assert extract_layers(layer, include=("*.txt",), exclude=("sub/",)) == {"b.txt": "b"}


def test_a_second_extract_gives_the_same_files(extract_layers):
    layer = tar(file("REPO/a", b"a"), hardlink("REPO/b", "REPO/a"))
    assert extract_layers(layer) == extract_layers(layer) == {"a": "a", "b": "a"}


def test_no_files_or_none_selected_is_not_found(extract_layers, tmp_path):
    with pytest.raises(NotFoundError, match="no files under /REPO"):
        extract_layers(tar(file("other", b"")))
    with pytest.raises(NotFoundError, match="selected"):
        extract_layers(tar(file("REPO/a", b"")), include=("b",))
    assert contents(tmp_path / "out") == {}


@pytest.mark.parametrize("obstacle", ["c", "linked"])
def test_nothing_is_published_if_a_directory_occupies_a_path(extract_layers, tmp_path, obstacle):
    (tmp_path / "out" / obstacle / "below").mkdir(parents=True)
    lower = tar(file("REPO/c", b"c"), file("aside", b"aside"), hardlink("REPO/linked", "aside"))
    with pytest.raises(UsageError, match=obstacle):
        extract_layers(lower, tar(file("REPO/a", b"a")))
    assert contents(tmp_path / "out") == {}


def test_no_file_of_a_damaged_layer_is_published(tmp_path):
    name = image(tmp_path / "image", tar(file("REPO/a", b"a" * 5000), file("REPO/b", b"b" * 5000)))
    blob = max((tmp_path / "image/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[8000] ^= 1
    blob.write_bytes(data)
    with pytest.raises(IntegrityError, match="digest"):
        run(name, tmp_path / "out")
    assert contents(tmp_path / "out") == {}


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_a_truncated_layer_is_refused(tmp_path, compression):
    name = image(tmp_path / "image", tar(file("REPO/a", os.urandom(50_000))), compression=compression)
    for blob in (tmp_path / "image/blobs/sha256").iterdir():
        if blob.stat().st_size > 40_000:
            blob.write_bytes(blob.read_bytes()[:-30_000])
    with pytest.raises(IntegrityError):
        run(name, tmp_path / "out")
    assert contents(tmp_path / "out") == {}


DOCKERFILE = """
FROM scratch
COPY repo /REPO
"""
CHANGED = """
FROM rootfs:1
COPY more /REPO
"""


def test_images_that_docker_built_give_the_files_of_docker_cp(engine, registry, tmp_path):
    """From a registry, an archive and the engine."""
    repo = tmp_path / "context/repo"
    (repo / "sub").mkdir(parents=True)
    (repo / "weights.bin").write_bytes(os.urandom(200_000))
    (repo / "sub/config.json").write_text("{}")
    os.link(repo / "weights.bin", repo / "linked.bin")
    (repo / "sub/link.bin").symlink_to("../weights.bin")
    more = tmp_path / "context/more"
    more.mkdir()
    (more / "added.txt").write_text("added")
    (tmp_path / "context/Dockerfile").write_text(DOCKERFILE)
    engine.docker("build", "--tag", "rootfs:1", str(tmp_path / "context"))
    (tmp_path / "context/Dockerfile").write_text(CHANGED)
    engine.docker("build", "--tag", "rootfs:2", str(tmp_path / "context"))
    there = f"{registry.namespace()}/hf:test"
    engine.docker("tag", "rootfs:2", there)
    engine.docker("push", there)
    engine.docker("save", "--output", str(tmp_path / "saved.tar"), "rootfs:2")
    container = engine.docker("create", "rootfs:2", "none").stdout.strip()
    engine.docker("cp", f"{container}:/REPO", str(tmp_path / "expected"))
    engine.docker("rm", container)
    sources = [f"docker://{there}", f"docker-archive:{tmp_path}/saved.tar", "docker-daemon:rootfs:2"]
    for number, source in enumerate(sources):
        out = tmp_path / str(number)
        run(source, out)
        assert contents(out) == contents(tmp_path / "expected")
        assert subprocess.run(["find", out, "-type", "l"], check=True, capture_output=True).stdout == b""
