"""Every byte of a carried image is extracted, from any source, after any copy."""

from __future__ import annotations

import gzip
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from llmstack.errors import NotFoundError, UsageError
from llmstack.ferrying.layer_plan import Limits, plan
from llmstack.hf.snapshot import HubFile
from llmstack.net import Client
from llmstack.oci.layout import Layout
from llmstack.oci.reference import Reference
from tests.extraction.support import FILES, RecordingReporter, contents, registries, run
from tests.support.carried import COMMIT, carry
from tests.support.cli import run_llmstack
from tests.support.engine import Engine
from tests.support.process import need
from tests.support.registry import Registry

TAG = "org--model"
# big.safetensors is split over four layers, another file has its own layer, the others are in bundle layers.
LIMITS = Limits(large=64 * 1024, bundle=96 * 1024, layer_size=1_000_000, split_large=True)
LAYERS = sum(
    len(planned.layer_sizes)
    for planned in plan([HubFile(path, len(data), "0" * 64) for path, data in FILES.items()], LIMITS)
)
SPLIT_FILE = "big.safetensors"


@pytest.fixture
def carried(tmp_path: Path, busybox_base: Path) -> Path:
    """A namespace in a directory, with one carried image on busybox."""
    carry(Layout(tmp_path / "carried/models"), TAG, FILES, base=f"oci:{busybox_base}", limits=LIMITS)
    return tmp_path / "carried"


@pytest.fixture
def pushed(registry: Registry, busybox_base: Path) -> str:
    """A namespace in a registry, with one carried image on busybox."""
    namespace = registry.namespace()
    with closing(Client()) as client:
        store = registries(client).repository(Reference.parse(f"{namespace}/models"), write=True)
        carry(store, TAG, FILES, base=f"oci:{busybox_base}", limits=LIMITS)
    return namespace


@pytest.fixture
def pulled(pushed: str, engine: Engine) -> str:
    """The same image, in a Docker Engine."""
    engine.docker("pull", f"{pushed}/models:{TAG}")
    return f"{pushed}/models:{TAG}"


def skopeo(*arguments: str) -> None:
    command = [need("skopeo", "skopeo"), "--insecure-policy", *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True)


def test_a_namespace_in_a_directory(carried, tmp_path):
    result = run("org/model", tmp_path / "out", source=f"oci:{carried}")
    assert contents(tmp_path / "out") == FILES
    size = sum(map(len, FILES.values()))
    assert (result.files, result.bytes_total, result.bytes_written) == (len(FILES), size, size)
    assert (result.repo_id, result.image) == ("org/model", f"oci:{carried}/models:{TAG}")


@pytest.mark.parametrize("argument", ["oci:{0}/models:org--model", "oci:{0}/models"])
def test_a_layout_without_a_repo_id(carried, tmp_path, argument):
    run(argument.format(carried), tmp_path / "out")
    assert contents(tmp_path / "out") == FILES


def test_a_registry_by_repo_id(pushed, tmp_path):
    reporter = RecordingReporter()
    run("org/model", tmp_path / "out", source=pushed, reporter=reporter)
    assert contents(tmp_path / "out") == FILES
    assert reporter.advanced == sum(map(len, FILES.values()))


@pytest.mark.parametrize("argument", ["{0}/models:org--model", "docker://{0}/models:org--model"])
def test_a_registry_by_image(pushed, tmp_path, argument):
    run(argument.format(pushed), tmp_path / "out")
    assert contents(tmp_path / "out") == FILES


def test_only_selected_bytes_are_fetched(registry, pushed, tmp_path):
    registry.served()
    result = run("org/model", tmp_path / "out", source=pushed, include=("small/", "*.json"), exclude=("small/01*",))
    wanted = {path for path in FILES if path.startswith("small/") or path.endswith(".json")}
    wanted -= {path for path in wanted if path.startswith("small/01")}
    assert contents(tmp_path / "out").keys() == wanted
    assert result.bytes_total == sum(len(FILES[path]) for path in wanted)
    blobs = [request for request in registry.served() if "/blobs/" in request.target]
    # The config and file index, then ranges with the gaps between neighbors. Not the big file.
    assert sum(request.length for request in blobs) < len(FILES["big.safetensors"]) / 8
    assert len(blobs) <= 2 + LAYERS


def test_small_neighbors_share_a_request(registry, pushed, tmp_path):
    registry.served()
    run("org/model", tmp_path / "out", source=pushed)
    assert len([request for request in registry.served() if "/blobs/" in request.target]) <= 2 + LAYERS


def test_an_oci_archive_that_skopeo_made(carried, tmp_path):
    archive = tmp_path / "image.tar"
    skopeo("copy", "--all", f"oci:{carried}/models:{TAG}", f"oci-archive:{archive}:any:name")
    for number, argument in enumerate([f"oci-archive:{archive}", f"oci-archive:{archive}:any:name"]):
        run(argument, tmp_path / str(number))
        assert contents(tmp_path / str(number)) == FILES
    run("org/model", tmp_path / "by repo", source=f"oci-archive:{archive}")
    assert contents(tmp_path / "by repo") == FILES


def test_another_revision_than_the_requested_one_is_refused(carried, tmp_path):
    """Also in an archive with a single image, and if two revisions share a tag."""
    store = Layout(tmp_path / "carried/models")
    carry(store, f"{TAG}--feature_x", FILES, revision="feature/x")
    archive = tmp_path / "image.tar"
    skopeo("copy", "--all", f"oci:{carried}/models:{TAG}--feature_x", f"oci-archive:{archive}")
    for name, source in [("v2.0", f"oci-archive:{archive}"), ("feature_x", f"oci:{carried}")]:
        with pytest.raises(NotFoundError, match=f"holds org/model@feature/x .*, not @{name}"):
            run(f"org/model@{name}", tmp_path / "out", source=source)
    assert not (tmp_path / "out").exists()
    for number, name in enumerate(["", "@feature/x", f"@{COMMIT}"]):
        run(f"org/model{name}", tmp_path / str(number), source=f"oci-archive:{archive}")
        assert contents(tmp_path / str(number)) == FILES


def test_a_docker_archive_that_skopeo_made(carried, tmp_path):
    archive = tmp_path / "image.tar"
    skopeo("copy", f"oci:{carried}/models:{TAG}", f"docker-archive:{archive}:here/models:{TAG}")
    for number, argument in enumerate(["", f":here/models:{TAG}", f":{TAG}"]):
        run(f"docker-archive:{archive}{argument}", tmp_path / str(number))
        assert contents(tmp_path / str(number)) == FILES


def test_docker_save(pulled, engine, tmp_path):
    archive = tmp_path / "saved.tar"
    engine.docker("save", "--output", str(archive), pulled)
    result = run("org/model", tmp_path / "out", source=f"docker-archive:{archive}")
    assert contents(tmp_path / "out") == FILES
    assert result.repo_id == "org/model"
    with pytest.raises(NotFoundError, match="org/other"):
        run("org/other", tmp_path / "other", source=f"docker-archive:{archive}")
    (tmp_path / "saved.tar.gz").write_bytes(gzip.compress(archive.read_bytes(), 1))
    with pytest.raises(UsageError) as caught:
        run(f"docker-archive:{archive}.gz", tmp_path / "zipped")
    assert "gunzip" in (caught.value.hint or "")


def test_an_image_that_docker_pushed_again(pulled, engine, registry, tmp_path):
    """Docker compresses the layers and drops the annotations."""
    again = f"{registry.namespace()}/models:{TAG}"
    engine.docker("tag", pulled, again)
    engine.docker("push", again)
    result = run(f"docker://{again}", tmp_path / "out")
    assert contents(tmp_path / "out") == FILES
    assert result.repo_id == "org/model"
    run(f"docker://{again}", tmp_path / "cache", layout="hf-cache")
    run(f"docker://{again}", tmp_path / "some", include=("small/00*",))
    assert contents(tmp_path / "some").keys() == {f"small/00{number}.bin" for number in range(10)}


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_an_image_that_skopeo_compressed(carried, registry, tmp_path, compression):
    there = f"{registry.namespace()}/models:{TAG}"
    options = ["--dest-tls-verify=false", f"--dest-compress-format={compression}", "--dest-compress"]
    skopeo("copy", "--all", *options, f"oci:{carried}/models:{TAG}", f"docker://{there}")
    run(there, tmp_path / "out")
    assert contents(tmp_path / "out") == FILES


def test_the_docker_engine(pulled, engine, tmp_path):
    run(f"docker-daemon:{pulled}", tmp_path / "out")
    assert contents(tmp_path / "out") == FILES
    run(f"docker-daemon:{pulled}", tmp_path / "some", include=("small/00*", "empty"))
    assert contents(tmp_path / "some").keys() == {"empty", *(f"small/00{number}.bin" for number in range(10))}
    run("org/model", tmp_path / "cache", source=f"docker-daemon:{pulled.partition('/models')[0]}", layout="hf-cache")
    assert engine.docker("ps", "--all", "--quiet", "--filter", f"ancestor={pulled}").stdout == ""


def test_an_image_in_the_local_engine_is_read_from_it(pulled, tmp_path):
    reporter = RecordingReporter()
    result = run("org/model", tmp_path / "out", namespace=pulled.partition("/models")[0], reporter=reporter)
    assert contents(tmp_path / "out") == FILES
    assert result.image == f"docker-daemon:{pulled}"
    assert any("local Docker" in note for note in reporter.notes)


def test_an_image_built_on_a_carried_one(pulled, engine, tmp_path):
    """The file index does not list the changes, so it is not used."""
    (tmp_path / "Dockerfile").write_text(f"FROM {pulled}\nRUN rm /REPO/empty && echo new > /REPO/config.json\n")
    engine.docker("build", "--network", "host", "--tag", "derived:1", str(tmp_path))
    expected = {**FILES, "config.json": b"new\n"}
    del expected["empty"]
    # The parts of a split file cannot be joined without the index: a warning says so.
    del expected[SPLIT_FILE]
    reporter = RecordingReporter()
    result = run("docker-daemon:derived:1", tmp_path / "out", reporter=reporter)
    assert contents(tmp_path / "out") == expected
    assert result.repo_id is None
    assert any("split files" in warning for warning in reporter.warnings)
    archive = tmp_path / "derived.tar"
    engine.docker("save", "--output", str(archive), "derived:1")
    run(f"docker-archive:{archive}", tmp_path / "from archive")
    assert contents(tmp_path / "from archive") == expected


def test_several_images_in_one_archive(pulled, engine, tmp_path):
    archive = tmp_path / "saved.tar"
    engine.docker("tag", pulled, "other:tag")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /REPO/\n")
    engine.docker("build", "--tag", "tiny:1", str(tmp_path))
    engine.docker("save", "--output", str(archive), "other:tag", "tiny:1")
    with pytest.raises(UsageError) as caught:
        run(f"docker-archive:{archive}", tmp_path / "out")
    assert "tiny:1" in (caught.value.hint or "")
    run(f"docker-archive:{archive}:tiny:1", tmp_path / "out")
    assert contents(tmp_path / "out").keys() == {"Dockerfile"}
    with pytest.raises(NotFoundError) as missing:
        run(f"docker-archive:{archive}:no:such", tmp_path / "out")
    assert "other:tag" in (missing.value.hint or "")


def test_a_missing_image_hints_at_the_list_of_its_source(carried, registry, tmp_path, monkeypatch):
    monkeypatch.chdir(carried.parent)
    for source, hint in [
        (registry.namespace(), "check the name"),
        (f"oci:{carried.name}", "available tags: org--model"),
    ]:
        with pytest.raises(NotFoundError) as missing:
            run("org/none", tmp_path / "out", source=source)
        assert missing.value.hint == f"{hint}; list the images: llmstack list --from {source}"


def test_a_namespace_is_not_an_image(carried, tmp_path):
    with pytest.raises(NotFoundError, match="is not an OCI layout") as refused:
        run(f"oci:{carried}", tmp_path / "out")
    assert refused.value.hint == f"it is a namespace with models: write REPO_ID --from oci:{carried}"


def test_a_missing_directory_has_one_error(tmp_path):
    source = f"oci:{tmp_path}/none"
    for argument, option in [("org/model", source), (source, None)]:
        with pytest.raises(NotFoundError, match="not found") as missing:
            run(argument, tmp_path / "out", source=option)
        assert missing.value.message == f"{source} not found"
    assert f"{source} not found" in run_llmstack("list", "--from", source).stderr


@pytest.mark.usefixtures("engine")
def test_images_that_do_not_exist_are_not_found(carried, registry, tmp_path):
    for argument, source in [
        ("org/none", f"oci:{carried}"),
        ("org/none", registry.namespace()),
        ("docker-daemon:no/such:image", None),
        (f"oci-archive:{tmp_path}/none.tar", None),
        (f"docker-archive:{tmp_path}/none.tar", None),
        (f"oci:{tmp_path}/none", None),
    ]:
        with pytest.raises(NotFoundError):
            run(argument, tmp_path / "out", source=source)
    assert not (tmp_path / "out").exists()
    with pytest.raises(NotFoundError, match="selected"):
        run("org/model", tmp_path / "out", source=f"oci:{carried}", include=("nothing",))
