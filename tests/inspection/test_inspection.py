"""list, inspect and verify: images of a namespace, details of an image, wrong bytes."""

from __future__ import annotations

import gzip
import json
import re
import tarfile
from contextlib import closing, contextmanager
from dataclasses import replace
from threading import Event

import pytest

from llmstack.carried_image.annotation_keys import COMMIT as COMMIT_KEY
from llmstack.carried_image.annotation_keys import LICENSES, REPO_TYPE
from llmstack.carried_image.image import host_platform, open_image
from llmstack.carried_image.image_location import locate
from llmstack.carried_image.naming import Namespace
from llmstack.carried_image.open_location import open_requested
from llmstack.errors import IntegrityError, NotFoundError, UsageError
from llmstack.ferrying.layer_plan import Limits
from llmstack.inspection import inspect, list_images, verify
from llmstack.net import Cancelled, Client
from llmstack.oci.layout import Layout
from llmstack.oci.reference import Digest, Reference
from llmstack.oci.spec import CONFIG, LAYER_GZIP, LAYER_TAR, Descriptor, Index, Manifest, Platform, is_tar
from llmstack.oci.store import CHUNK, write_bytes
from tests.extraction.support import (
    FILES,
    CancelingReporter,
    RecordingReporter,
    git_oid,
    put_with_oids,
    registries,
    run,
)
from tests.support.carried import COMMIT, carry, put_image
from tests.support.cli import run_llmstack
from tests.support.layers import file, folder, hardlink, image, symlink, tar

LIMITS = Limits(large=64 * 1024, bundle=96 * 1024, layer_size=1_000_000, split_large=True)
NOWHERE = Namespace.parse("oci:/nowhere")


@contextmanager
def opened(argument: str, source: str | None = None):
    with closing(Client()) as client:
        wanted = locate(argument, source, "model", NOWHERE)
        with open_requested(wanted, registries(client), lambda _: None) as found:
            yield found


def checked(argument: str, source: str | None = None):
    reporter = RecordingReporter()
    with opened(argument, source) as found:
        return verify(found, reporter, Event(), 3), reporter


@pytest.fixture
def carried(tmp_path, busybox_base):
    folder = tmp_path / "carried"
    carry(Layout(folder / "models"), "org--model", FILES, base=f"oci:{busybox_base}")
    return folder


def blob_of(folder, index, path):
    layer = next(file.ranges[0].layer for file in index.files if file.path == path)
    return folder / "models/blobs/sha256" / layer.hex


def test_list_of_a_registry_takes_two_requests_per_tag(registry):
    namespace = registry.namespace()
    with closing(Client()) as client:
        for repo_type in ("model", "dataset"):
            store = registries(client).repository(Reference.parse(f"{namespace}/{repo_type}s"), write=True)
            for number in range(5):
                carry(
                    store,
                    f"org--{repo_type}{number}",
                    {"a": b"a"},
                    repo_id=f"org/{repo_type}{number}",
                    repo_type=repo_type,
                )
        registry.served()
        found = list_images(namespace, NOWHERE, ["model", "dataset"], registries(client), Event(), 4)
        # Two lists of tags, and two manifests per image.
        assert len([request for request in registry.served() if request.status == 200]) <= 2 + 2 * 10 + 1
        assert list_images(registry.namespace(), NOWHERE, ["model"], registries(client), Event(), 4) == []
    assert [entry.repo_id for entry in found] == [f"org/{kind}{n}" for kind in ("model", "dataset") for n in range(5)]
    first = found[0]
    assert first.image == f"{namespace}/models:org--model0"
    assert (first.commit, first.license, first.revision) == (COMMIT, "mit", "main")
    assert first.created == "2024-05-06T07:08:09+00:00"
    assert first.size is not None
    assert first.error is None


def test_list_of_a_missing_directory_is_an_error(tmp_path):
    with closing(Client()) as client, pytest.raises(NotFoundError, match="typo not found"):
        list_images(f"oci:{tmp_path}/typo", NOWHERE, ["model"], registries(client), Event(), 4)


def test_list_includes_damaged_and_foreign_images(carried, tmp_path):
    layout = Layout(carried / "models")
    index = carry(layout, "broken", {"a": b"a"}, repo_id="org/broken")
    assert index.files
    (carried / "models/blobs/sha256" / layout.manifest("broken").digest.hex).write_bytes(b"{}")
    with closing(Client()) as client:
        found = list_images(f"oci:{carried}", NOWHERE, ["model", "dataset"], registries(client), Event(), 4)
        foreign = list_images(
            image(tmp_path / "other", tar(file("REPO/a", b"a"))).rpartition(":")[0],
            NOWHERE,
            [],
            registries(client),
            Event(),
            4,
        )
        with pytest.raises(UsageError, match="Docker Engine"):
            list_images("docker-daemon:", NOWHERE, ["model"], registries(client), Event(), 4)
    assert [(entry.repo_id, bool(entry.error)) for entry in found] == [(None, True), ("org/model", False)]
    assert [(entry.image, entry.repo_id) for entry in foreign] == [(f"oci:{tmp_path}/other:latest", None)]


def test_list_names_a_tag_that_cannot_be_read(carried):
    layout = Layout(carried / "models")
    carry(layout, "broken", {"a": b"a"}, repo_id="org/broken")
    (carried / "models/blobs/sha256" / layout.manifest("broken").digest.hex).write_bytes(b"{}")
    done = run_llmstack("list", "--from", f"oci:{carried}", "--type", "model")
    [line] = [line for line in done.stdout.splitlines() if line.startswith("?")]
    assert line.split()[1] == f"oci:{carried}/models:broken:"
    assert "digest" in line


def test_inspect(carried):
    with opened("org/model", f"oci:{carried}") as source:
        details = inspect(source)
    assert details.index is not None
    assert details.index.commit == COMMIT
    assert {file.path: file.size for file in details.files} == {path: len(data) for path, data in FILES.items()}
    assert details.platforms == ("linux/amd64", "linux/arm64/v8")
    assert details.digest == Layout(carried / "models").manifest("org--model").digest
    assert details.layers[0].files == 0
    assert sum(layer.files for layer in details.layers) == len(FILES)
    assert details.labels["dev.llmstack.repo-id"] == "org/model"


def test_inspect_says_that_no_license_is_stated(tmp_path):
    layout = Layout(tmp_path)
    index = carry(layout, "org--model", {"a": b"a"})
    layers = list(open_image(layout, "org--model").manifest.layers[:-1])
    put_image(layout, "org--model", replace(index, license=None), layers)
    lines = run_llmstack("inspect", f"oci:{tmp_path}:org--model").stdout.splitlines()
    assert [line.split(maxsplit=1)[1] for line in lines if line.startswith("license")] == ["not stated"]


def test_inspect_and_verify_in_the_engine(registry, engine):
    there = f"{registry.namespace()}/models:org--model"
    with closing(Client()) as client:
        store = registries(client).repository(Reference.parse(there), write=True)
        carry(store, "org--model", FILES)
    engine.docker("pull", there)
    with opened(f"docker-daemon:{there}") as source:
        details = inspect(source)
    assert len(details.files) == len(FILES)
    result, _ = checked(f"docker-daemon:{there}")
    assert result.ok
    assert result.files == len(FILES)


def in_engine(registry, engine, files, keep=lambda layers: layers):
    """Put an image into the engine, with large files split, and with the layers that `keep` returns."""
    there = f"{registry.namespace()}/models:org--model"
    with closing(Client()) as client:
        store = registries(client).repository(Reference.parse(there), write=True)
        index = carry(store, "org--model", files, limits=LIMITS)
        manifest = store.manifest("org--model").json()["manifests"][0]["digest"]
        *layers, _ = Manifest.parse(store.manifest(manifest)).layers
        put_image(store, "org--model", index, keep(layers))
    engine.docker("pull", there)
    return f"docker-daemon:{there}"


PARTS = {"big.safetensors": FILES["big.safetensors"]}
AWAY = "is not where the file index says"


@pytest.mark.parametrize(
    ("files", "keep", "problems"),
    [
        (PARTS, slice(None), []),
        (PARTS, slice(1), [f"'big.safetensors' {AWAY}"]),
        (PARTS | {"config.json": b"{}"}, slice(None), []),
        (PARTS | {"config.json": b"{}"}, slice(-1), [f"'config.json' {AWAY}"]),
        (PARTS | {"config.json": b"{}"}, slice(0), [f"'big.safetensors' {AWAY}", f"'config.json' {AWAY}"]),
    ],
)
def test_verify_split_files_in_the_engine(registry, engine, files, keep, problems):
    result, _ = checked(in_engine(registry, engine, files, lambda layers: layers[keep]))
    assert list(result.problems) == problems
    assert result.files == len(files)


@pytest.mark.parametrize(("files", "keep"), [(PARTS, slice(1)), ({"config.json": b"{}"}, slice(0))])
def test_extract_of_files_missing_in_the_engine(registry, engine, tmp_path, files, keep):
    with pytest.raises(IntegrityError, match=r"the file index lists .*, which the image does not hold"):
        run(in_engine(registry, engine, files, lambda layers: layers[keep]), tmp_path / "out")


def test_verify_of_a_correct_image_changes_nothing(carried):
    before = {path: path.stat().st_mtime_ns for path in carried.rglob("*")}
    result, reporter = checked("org/model", f"oci:{carried}")
    assert result.ok
    assert result.files == len(FILES)
    assert result.bytes_read == reporter.advanced > sum(map(len, FILES.values()))
    assert {path: path.stat().st_mtime_ns for path in carried.rglob("*")} == before


@pytest.mark.parametrize("place", [0, 600, 1_000_000, -1])
def test_verify_finds_one_wrong_byte(carried, place):
    with opened("org/model", f"oci:{carried}") as source:
        blob = blob_of(carried, source.index, "big.safetensors")
    data = bytearray(blob.read_bytes())
    data[place] ^= 1
    blob.write_bytes(data)
    result, _ = checked("org/model", f"oci:{carried}")
    assert not result.ok


A, LINK = file("models/a", b"A"), hardlink("REPO/a", "models/a")


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([A, LINK, folder("REPO")], None),
        ([A], "'a' is not where the file index says"),
        ([A, hardlink("REPO/a", "models/b")], "'REPO/a' is not in the file index"),
        ([A, file("REPO/a", b"B")], "'REPO/a' is not in the file index"),
        ([A, LINK, file("REPO/a", b"B")], "'REPO/a' is not in the file index"),
        ([A, LINK, LINK], "'REPO/a' is not in the file index"),
        ([A, LINK, file("models/a", b"B")], "'models/a' is not in the file index"),
        ([A, LINK, file("REPO/b", b"B")], "'REPO/b' is not in the file index"),
        ([A, LINK, symlink("REPO/b", "a")], "'REPO/b' is not in the file index"),
        ([A, LINK, file("REPO/.wh.a")], "'REPO/.wh.a' is not in the file index"),
    ],
)
def test_what_users_of_the_image_see_is_verified(tmp_path, entries, problem):
    """The file index describes models/a; a container may read REPO/a, and all else in the layer."""
    layout = Layout(tmp_path / "models")
    index = carry(layout, "org--model", {"a": b"A"})
    digest, size = layout.write_blob(lambda: iter([tar(*entries)]))
    [listed] = index.files
    changed = replace(listed, ranges=(replace(listed.ranges[0], layer=digest),))
    put_image(layout, "org--model", replace(index, files=(changed,)), [Descriptor(LAYER_TAR, digest, size)])
    result, _ = checked("org/model", f"oci:{tmp_path}")
    assert any(problem in found for found in result.problems) if problem else result.ok


def test_the_other_platforms_base_is_verified_too(carried):
    layout = Layout(carried / "models")
    arm = layout.manifest(layout.manifest("org--model").json()["manifests"][1]["digest"]).json()["layers"][0]["digest"]
    blob = carried / "models/blobs/sha256" / arm[7:]
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    result, _ = checked("org/model", f"oci:{carried}")
    assert [arm in problem for problem in result.problems] == [True]


def test_verify_stops_in_a_layer_when_cancelled(tmp_path):
    cancel = Event()
    reporter = CancelingReporter(cancel)
    name = image(tmp_path / "foreign", tar(file("REPO/big", bytes(4 * CHUNK))))
    with opened(name) as found, pytest.raises(Cancelled):
        verify(found, reporter, cancel, 1)
    assert reporter.advanced == CHUNK


def test_other_images_have_their_layers_verified(tmp_path):
    name = image(tmp_path / "other", tar(file("REPO/a", b"a")), compression="gzip")
    result, _ = checked(name)
    assert (result.ok, result.files, result.layers) == (True, 0, 1)


def blob(store, data, media_type):
    write_bytes(store, data)
    return Descriptor(media_type, Digest.of(data), len(data))


def put(store, tag, config, *layers):
    """Put a manifest with these layers, which need not be tars, into a store; return its descriptor."""
    document = Manifest(config, layers).to_raw()
    store.put_manifest(document, tag)
    return document.descriptor


def put_with_attestation(layout):
    """Put an image and its attestation into a layout, as BuildKit does; return the attestation's layer."""
    content = tar(file("bin/sh", b"#!"))
    settings = b'{"rootfs":{"type":"layers","diff_ids":["%s"]}}' % Digest.of(content).encode()
    built = put(layout, None, blob(layout, settings, CONFIG), blob(layout, content, LAYER_TAR))
    statement = blob(layout, b'{"_type": "https://in-toto.io/Statement/v0.1"}' * 20, "application/vnd.in-toto+json")
    attestation = put(layout, None, blob(layout, b'{"architecture":"unknown"}', CONFIG), statement)
    listed = (
        replace(built, platform=Platform("linux", "amd64")),
        replace(attestation, platform=Platform("unknown", "unknown")),
    )
    layout.put_manifest(Index(listed).to_raw(), "latest")
    return statement


def test_attestations_have_their_digests_verified(tmp_path):
    layout = Layout(tmp_path / "other")
    statement = put_with_attestation(layout)
    result, _ = checked(f"oci:{tmp_path}/other:latest")
    assert (result.ok, result.layers) == (True, 2)
    place = tmp_path / "other/blobs/sha256" / statement.digest.hex
    place.write_bytes(place.read_bytes().replace(b"_type", b"_tipe"))
    result, _ = checked(f"oci:{tmp_path}/other:latest")
    assert [statement.digest in problem for problem in result.problems] == [True]


@pytest.mark.parametrize("content", [b"apiVersion: v2", b"\x1f\x8bno gzip"])
def test_artifacts_have_their_digests_verified(tmp_path, content):
    layout = Layout(tmp_path / "other")
    config = blob(layout, b"{}", "application/vnd.cncf.helm.config.v1+json")
    chart = blob(layout, content, "application/vnd.cncf.helm.chart.content.v1.tar+gzip")
    put(layout, "chart", config, chart)
    result, _ = checked(f"oci:{tmp_path}/other:chart")
    assert (result.ok, result.files, result.bytes_read) == (True, 0, len(content))
    (tmp_path / "other/blobs/sha256" / chart.digest.hex).write_bytes(content[:-1] + b"x")
    result, _ = checked(f"oci:{tmp_path}/other:chart")
    assert [chart.digest in problem for problem in result.problems] == [True]


def test_a_copy_for_one_platform(tmp_path):
    """`docker save` and sparse copies list platforms whose manifests they do not hold."""
    layout = Layout(tmp_path / "other")
    here = put(layout, None, blob(layout, b'{"rootfs":{}}', CONFIG))
    away = Descriptor(here.media_type, Digest.of(b"away"), 100, platform=Platform("linux", "riscv64"))
    layout.put_manifest(Index((away, replace(here, platform=host_platform()))).to_raw(), "latest")
    with closing(Client()) as client:
        [listed] = list_images(f"oci:{tmp_path}/other", NOWHERE, [], registries(client), Event(), 4)
    assert (listed.repo_id, listed.size, listed.error) == (None, 0, None)
    done = run_llmstack("verify", f"oci:{tmp_path}/other:latest")
    assert done.code == 5
    problem, error, hint = done.stderr.splitlines()[-3:]
    assert problem == f"linux/riscv64: oci:{tmp_path}/other: manifest {away.digest}: not found"
    assert "1 manifest, layer or file is damaged or missing" in error
    assert "copy the complete image again" in hint


def test_verify_names_a_missing_layer(carried):
    with opened("org/model", f"oci:{carried}") as source:
        place = blob_of(carried, source.index, "config.json")
        place.unlink()
    result, _ = checked("org/model", f"oci:{carried}")
    assert [place.name in problem for problem in result.problems] == [True]


@pytest.mark.parametrize("oid", [git_oid(b"other"), "0" * 40])
def test_a_file_that_does_not_match_its_oid_is_found(tmp_path, oid):
    put_with_oids(tmp_path, {"config.json": b"{}", "other.json": b"[]"}, {"config.json": oid})
    result, _ = checked("org/model", f"oci:{tmp_path}")
    assert list(result.problems) == ["'config.json' does not match its oid in the file index"]


def listed_of(source):
    with closing(Client()) as client:
        return list_images(source, NOWHERE, ["model"], registries(client), Event(), 4)


def rewrite(layout, source, target, change):
    """Put the image for one platform under another tag, with a changed manifest."""
    image = open_image(layout, source)
    manifest = change(image.manifest)
    layout.put_manifest(manifest.to_raw(), target)
    return manifest


def without_annotations(manifest):
    """Remove annotations, as Docker and skopeo do when they push an image again."""
    return Manifest(manifest.config, tuple(replace(layer, annotations={}) for layer in manifest.layers))


def test_the_labels_identify_an_image_that_lost_its_annotations(carried):
    layout = Layout(carried / "models")
    rewrite(layout, "org--model", "org--model", without_annotations)
    [found] = listed_of(f"oci:{carried}")
    assert (found.repo_id, found.revision, found.commit, found.license) == ("org/model", "main", COMMIT, "mit")
    assert found.error is None


def test_an_unknown_repo_type_is_not_passed_on(carried):
    layout = Layout(carried / "models")

    def as_space(manifest):
        return replace(manifest, annotations={**manifest.annotations, REPO_TYPE: "space"})

    rewrite(layout, "org--model", "org--model", as_space)
    [found] = listed_of(f"oci:{carried}")
    assert (found.repo_id, found.repo_type, found.error) == ("org/model", "model", None)


def test_annotations_that_the_file_index_contradicts_are_not_listed(carried):
    layout = Layout(carried / "models")
    top = Index.parse(layout.manifest("org--model"))
    changed = {**top.annotations, COMMIT_KEY: "f" * 40, LICENSES: "x" * 200_000}
    layout.put_manifest(replace(top, annotations=changed).to_raw(), "org--model")
    [found] = listed_of(f"oci:{carried}")
    assert (found.repo_id, found.commit, found.license, found.error) == ("org/model", COMMIT, "mit", None)


def test_signatures_and_referrers_are_not_images(carried):
    layout = Layout(carried / "models")
    digest = layout.manifest("org--model").digest.hex
    for tag in (f"sha256-{digest}", f"sha256-{digest}.sig", f"sha256-{digest}.att"):
        rewrite(layout, "org--model", tag, without_annotations)
    assert [found.image.rpartition(":")[2] for found in listed_of(f"oci:{carried}")] == ["org--model"]


def test_an_image_under_another_repos_tag_is_not_that_repo(carried, tmp_path):
    layout = Layout(carried / "models")
    carry(layout, "zzz--other", {"a": b"a"}, repo_id="org/model")
    other = listed_of(f"oci:{carried}")[1]
    assert (other.repo_id, other.commit) == (None, None)
    assert other.error == "it claims to be the model org/model@main, its tag or repository does not"
    name = f"oci:{carried}/models:zzz--other"
    with opened(name) as source:
        assert not inspect(source).confirmed
    assert "its tag is not of that repo" in run_llmstack("inspect", name).stdout
    with pytest.raises(UsageError, match="is not written into the cache of that repo") as caught:
        run(name, tmp_path / "cache", layout="hf-cache")
    assert caught.value.hint == "use --layout dir, or give the image its repo's name, …/models:org--model"
    assert not list(tmp_path.glob("cache/models--*"))
    result = run(name, tmp_path / "out")
    assert (result.repo_id, result.commit, result.files) == (None, None, 1)
    digest = layout.manifest("org--model").digest
    assert run(f"oci:{carried}/models:{digest}", tmp_path / "pinned").repo_id == "org/model"


@pytest.mark.parametrize("named", ["by its digest", "as the only image of a layout", "as the only one of an archive"])
def test_an_image_without_a_tag_fills_no_cache(carried, tmp_path, named):
    """Only the file index says which repo it holds: nothing confirms that."""
    layout = Layout(carried / "models")
    source = f"oci:{layout.folder}"
    digest = layout.manifest("org--model").digest
    index = carried / "models/index.json"
    index.write_text(re.sub(r'"annotations":{[^}]*"org--model"}', '"annotations":{}', index.read_text()))
    if named == "as the only one of an archive":
        source = f"oci-archive:{tmp_path}/saved.tar"
        with tarfile.open(tmp_path / "saved.tar", "w") as archive:
            archive.add(layout.folder, ".")
    name = f"{source}:{digest}" if named == "by its digest" else source
    with pytest.raises(UsageError, match="no tag does, so it is not written into the cache") as caught:
        run(name, tmp_path / "cache", layout="hf-cache")
    assert caught.value.hint == "name the repo: llmstack extract OWNER/NAME --from SOURCE --layout hf-cache"
    assert not list(tmp_path.glob("cache/models--*"))
    assert run(name, tmp_path / "out").repo_id == "org/model"
    run("org/model", tmp_path / "cache", source=source, layout="hf-cache")
    assert list(tmp_path.glob("cache/models--org--model"))
    with pytest.raises(NotFoundError, match="holds org/model, not a/other"):
        run("a/other", tmp_path / "cache", source=source, layout="hf-cache")


def test_a_dataset_among_models_is_not_that_dataset(tmp_path):
    layout = tmp_path / "carried/models"
    carry(Layout(layout), "org--data", {"a": b"a"}, repo_id="org/data", repo_type="dataset")
    for source in (f"oci:{tmp_path}/carried", f"oci:{layout}"):
        [found] = listed_of(source)
        assert (found.repo_id, found.repo_type) == (None, None)
        assert found.error == "it claims to be the dataset org/data@main, its tag or repository does not"
    with pytest.raises(UsageError, match="is not written into the cache of that repo"):
        run(f"oci:{layout}:org--data", tmp_path / "cache", layout="hf-cache")
    assert run(f"oci:{layout}:org--data", tmp_path / "out").repo_id is None


@pytest.mark.parametrize("repo_id", ["a/b--c", "a/b.git", "-", ""])
def test_what_is_no_repo_id_is_not_listed_as_one(tmp_path, repo_id):
    carry(Layout(tmp_path / "models"), repo_id.replace("/", "--") or "x", {"a": b"a"}, repo_id=repo_id)
    [found] = listed_of(f"oci:{tmp_path}")
    assert (found.repo_id, found.commit) == (None, None)
    assert "it claims to be the model" in (found.error or "")


def test_a_dataset_is_not_taken_for_a_model_of_the_same_name(tmp_path):
    carry(Layout(tmp_path / "carried/models"), "org--data", {"a": b"a"}, repo_id="org/data", repo_type="dataset")
    with pytest.raises(NotFoundError, match="holds the dataset org/data, not a model") as caught:
        run("org/data", tmp_path / "cache", source=f"oci:{tmp_path}/carried", layout="hf-cache")
    assert caught.value.hint == "add --type dataset"


def test_an_untagged_image_is_listed(carried, tmp_path):
    index = (carried / "models/index.json").read_text()
    (carried / "models/index.json").write_text(re.sub(r'"annotations":{[^}]*"org--model"}', '"annotations":{}', index))
    [found] = listed_of(f"oci:{carried}/models")
    assert (found.image, found.repo_id) == (f"oci:{carried}/models", "org/model")
    Layout(tmp_path / "empty").put_manifest(Index(()).to_raw())
    assert listed_of(f"oci:{tmp_path}/empty") == []


def append(layout, tag, name, content, *, last):
    """Add a layer to an image, as crane append does, or replace the last one."""
    manifest = open_image(layout, tag).manifest
    config = json.loads(b"".join(layout.read_blob(manifest.config)))
    added = blob(layout, tar(file(name, content)), LAYER_TAR)
    if last:
        added = replace(added, annotations=manifest.layers[-1].annotations)
        config["rootfs"]["diff_ids"].pop()
    config["rootfs"]["diff_ids"].append(added.digest)
    layers = (*(manifest.layers[:-1] if last else manifest.layers), added)
    changed = Manifest(blob(layout, json.dumps(config).encode(), CONFIG), layers, manifest.annotations)
    layout.put_manifest(changed.to_raw(), tag)


def test_an_image_built_on_a_carried_image_is_not_that_commit(carried, tmp_path):
    layout = Layout(carried / "models")
    append(layout, "org--model", "REPO/config.json", b"changed", last=False)
    [found] = listed_of(f"oci:{carried}")
    assert (found.repo_id, found.commit) == (None, None)
    assert found.error == "another program has added or rewritten layers, so its file index is not usable"
    result = run(f"oci:{carried}/models:org--model", tmp_path / "out")
    assert (result.repo_id, result.commit) == (None, None)
    assert (tmp_path / "out/config.json").read_bytes() == b"changed"
    done = run_llmstack("verify", f"oci:{carried}/models:org--model")
    assert "no file index, so digests of layers only" in done.stdout


def test_a_converted_image_is_read_as_a_foreign_one(carried, tmp_path):
    """An eStargz conversion keeps the annotations, and adds its own entries to every layer."""
    layout = Layout(carried / "models")
    append(layout, "org--model", "stargz.index.json", b"{}", last=True)
    name = f"oci:{carried}/models:org--model"
    notes = []
    with closing(Client()) as client:
        request = locate(name, None, "model", NOWHERE)
        with open_requested(request, registries(client), notes.append) as source:
            assert source.index is None
    assert "its file index is not usable" in notes[0]
    assert run(name, tmp_path / "out").commit is None
    manifest = open_image(layout, "org--model").manifest
    toc = {"containerd.io/snapshot/stargz/toc.digest": "sha256:" + "0" * 64}
    marked = replace(manifest.layers[-1], annotations=manifest.layers[-1].annotations | toc)
    converted = Manifest(manifest.config, (*manifest.layers[:-1], marked), manifest.annotations)
    layout.put_manifest(converted.to_raw(), "org--model")
    [found] = listed_of(f"oci:{carried}")
    assert (found.repo_id, "is not usable" in (found.error or "")) == (None, True)


def test_an_artifact_is_not_an_image(tmp_path):
    layout = Layout(tmp_path / "other")
    empty = blob(layout, b"{}", "application/vnd.oci.empty.v1+json")
    put(layout, "file", empty, blob(layout, b"no tar", LAYER_TAR))
    with pytest.raises(UsageError, match=r"is an artifact \(application/vnd.oci.empty.v1\+json\), not an image"):
        run(f"oci:{tmp_path}/other:file", tmp_path / "out")
    [found] = listed_of(f"oci:{tmp_path}/other")
    assert found.error == "an artifact (application/vnd.oci.empty.v1+json), not an image"


def test_a_signature_of_cosign_is_not_an_image(tmp_path):
    """It has the config of an image."""
    layout = Layout(tmp_path / "other")
    config = blob(layout, b'{"rootfs":{"type":"layers","diff_ids":["%s"]}}' % Digest.of(b"{}").encode(), CONFIG)
    payload = "application/vnd.dev.cosign.simplesigning.v1+json"
    put(layout, "signed", config, blob(layout, b'{"critical":{}}', payload))
    name = f"oci:{tmp_path}/other:signed"
    done = run_llmstack("extract", name, tmp_path / "out")
    assert (done.code, f"is an artifact ({payload}), not an image" in done.stderr) == (2, True)
    [found] = listed_of(f"oci:{tmp_path}/other")
    assert found.error == f"an artifact ({payload}), not an image"
    done = run_llmstack("verify", name)
    assert (done.code, "no file index, so digests of layers only" in done.stdout) == (0, True)
    assert f"is an artifact ({payload}), not an image: only digests are verified" in done.stderr


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        ("", True),
        ("application/vnd.oci.image.layer.v1.tar", True),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", True),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", True),
        ("application/x-tar", True),
        ("application/vnd.in-toto+json", False),
        ("application/vnd.example.start", False),
    ],
)
def test_media_types_of_tars(media_type, expected):
    assert is_tar(media_type) == expected


def convert(layout, annotations):
    """Rewrite and compress all layers but that of the file index, which survives."""
    manifest = open_image(layout, "org--model").manifest
    config = json.loads(b"".join(layout.read_blob(manifest.config)))
    content = tar(file("REPO/config.json", b"{}"), file("stargz.index.json", b"{}"))
    *data, index = manifest.layers
    converted = blob(layout, gzip.compress(content), LAYER_GZIP)
    layers = tuple(replace(converted, annotations={**layer.annotations, **annotations}) for layer in data)
    config["rootfs"]["diff_ids"] = [*(Digest.of(content) for _ in data), index.digest]
    changed = Manifest(blob(layout, json.dumps(config).encode(), CONFIG), (*layers, index), manifest.annotations)
    layout.put_manifest(changed.to_raw(), "org--model")


@pytest.mark.parametrize("annotations", [{}, {"containerd.io/snapshot/stargz/toc.digest": "sha256:" + "0" * 64}])
def test_an_image_whose_file_index_survived_a_conversion_is_a_foreign_one(carried, tmp_path, annotations):
    convert(Layout(carried / "models"), annotations)
    problem = "another program has added or rewritten layers, so its file index is not usable"
    [found] = listed_of(f"oci:{carried}")
    assert (found.repo_id, found.error) == (None, problem)
    name = f"oci:{carried}/models:org--model"
    reporter = RecordingReporter()
    result = run(name, tmp_path / "out", reporter=reporter)
    assert (result.repo_id, (tmp_path / "out/config.json").read_bytes()) == (None, b"{}")
    assert [problem in note for note in reporter.notes] == [True]
    assert checked(name)[0].ok


def test_verify_reads_the_registry_that_it_was_asked_about(registry, engine):
    name = in_engine(registry, engine, {"config.json": b"{}"}).removeprefix("docker-daemon:")
    with closing(Client()) as client:
        request = locate(name, None, "model", NOWHERE)
        with open_requested(request, registries(client), lambda _: None, prefer_engine=False) as source:
            assert source.name == name
        with open_requested(request, registries(client), lambda _: None) as source:
            assert source.name == f"docker-daemon:{name}"
