"""save and load of complete bundles, between directories."""

from __future__ import annotations

import json

import pytest

from llmstack.errors import NotFoundError, UsageError
from llmstack.oci.layout import Layout
from llmstack.oci.reference import Digest
from llmstack.oci.spec import INDEX, Index, RawManifest, canonical_json
from tests.bundles.support import FILES, Gap, checksums_are_right, sign
from tests.support.carried import carry

DATASET = {"train.parquet": bytes(50_000)}


def test_models_and_datasets_cross_the_gap(gap: Gap):
    gap.carry()
    gap.carry(files=DATASET, repo_type="dataset")
    saved = gap.save("b")
    assert saved.status == "saved"
    assert [image.image for image in saved.images] == ["datasets:org--model", "models:org--model"]
    assert checksums_are_right(gap.folder / "b")
    loaded = gap.load("b")
    assert (loaded.status, {image.status for image in loaded.images}) == ("loaded", {"loaded"})
    assert gap.far_files() == FILES
    assert gap.far_files(repo_type="dataset") == DATASET


def test_an_unsplit_bundle_is_a_layout_that_llmstack_reads(gap: Gap):
    gap.carry()
    gap.carry(files=DATASET, repo_type="dataset")
    gap.save("b")
    source = f"oci:{gap.folder}/b"
    listed = gap.session.list_images(source)
    assert [(image.repo_type, image.error) for image in listed] == [("dataset", None), ("model", None)]
    assert gap.session.verify("org/model", source=source).ok
    assert gap.session.verify("org/model", source=source, repo_type="dataset").ok


def test_the_same_bundle_twice_is_up_to_date_and_writes_nothing(gap: Gap):
    gap.carry()
    gap.save("b")
    gap.load("b")
    before = {path: path.stat().st_mtime_ns for path in (gap.folder / "far").rglob("*")}
    again = gap.load("b")
    assert (again.status, again.bytes_transferred) == ("up-to-date", 0)
    assert {path: path.stat().st_mtime_ns for path in (gap.folder / "far").rglob("*")} == before


def test_saving_again_into_the_same_directory_is_up_to_date(gap: Gap):
    gap.carry()
    first = gap.save("b")
    again = gap.save("b")
    assert (again.status, again.bundle) == ("up-to-date", first.bundle)
    gap.carry(files={"config.json": b"{}"}, commit="2" * 40)
    with pytest.raises(UsageError, match="other images"):
        gap.save("b")


@pytest.mark.parametrize("name", ["index.json", "volume-001", "blobs"])
def test_a_directory_with_something_else_is_refused(gap: Gap, name):
    gap.carry()
    (gap.folder / "b" / name).mkdir(parents=True)
    with pytest.raises(UsageError, match=name):
        gap.save("b")


def test_a_file_in_place_of_the_directory_is_refused(gap: Gap):
    gap.carry()
    (gap.folder / "b").touch()
    with pytest.raises(UsageError, match="File exists"):
        gap.save("b")


def test_selected_images_and_revisions(gap: Gap):
    gap.carry("org/one")
    gap.carry("org/two", revision="v1", tag="org--two--v1")
    gap.carry("org/three")
    saved = gap.save("b", "org/one", "org/two@v1")
    assert [image.image for image in saved.images] == ["models:org--one", "models:org--two--v1"]
    gap.load("b")
    assert set(gap.far_tags()) == {"models:org--one", "models:org--two--v1"}


def test_other_images_of_the_namespace_keep_their_names(gap: Gap):
    carry(Layout(gap.folder / "near/hf"), "cuda13", {"x": b"1"}, repo_id="any/image")
    gap.save("b", "hf:cuda13")
    index = Index.parse(Layout(gap.folder / "b")._raw_index())
    assert [item.annotations for item in index.manifests] == [{"org.opencontainers.image.ref.name": "hf/cuda13"}]
    gap.load("b")
    assert set(gap.far_tags()) == {"hf:cuda13"}


def test_an_image_that_does_not_exist_is_named(gap: Gap):
    gap.carry()
    with pytest.raises(NotFoundError, match="org--absent"):
        gap.save("b", "org/absent")
    assert not (gap.folder / "b/save.json").exists()


def test_partial_images_stay_out_unless_named(gap: Gap):
    gap.carry()
    gap.carry("org/half", {"x": b"1"}, tag="org--half--partial", incomplete=True)
    assert [image.image for image in gap.save("b").images] == ["models:org--model"]


def test_signatures_travel_with_their_image(gap: Gap):
    gap.carry()
    near = Layout(gap.folder / "near/models")
    signature = sign(near, "org--model")
    over_signature = sign(near, signature, b"a signature of the signature")
    # The older scheme of cosign.
    tag = str(near.manifest("org--model").digest).replace(":", "-") + ".sig"
    near.put_manifest(near.manifest(signature), tag)
    saved = gap.save("b", "org/model")
    assert len(saved.images) == 4
    gap.load("b")
    far = gap.far_layout()
    image = far.manifest("org--model").digest
    assert [item.digest for item in far.referrers(image)] == [signature]
    assert [item.digest for item in far.referrers(signature)] == [over_signature]
    assert far.manifest(tag).digest == signature


def test_a_new_signature_of_a_known_image_is_loaded(gap: Gap):
    gap.carry()
    gap.save("b1")
    gap.load("b1")
    signature = sign(Layout(gap.folder / "near/models"), "org--model")
    gap.save("b2", have=gap.inventory())
    assert gap.load("b2").status == "loaded"
    far = gap.far_layout()
    assert [item.digest for item in far.referrers(far.manifest("org--model").digest)] == [signature]


def test_an_older_bundle_does_not_replace_a_newer_tag(gap: Gap):
    gap.carry()
    gap.save("b1")
    old = {"models:org--model": str(Layout(gap.folder / "b1").manifest("org--model").digest)}
    gap.carry(files={"config.json": b"new"}, commit="2" * 40)
    gap.save("b2")
    results, errors = gap.try_load("b2", "b1")
    # In the order in which they were made.
    assert [result.status for result in results] == ["loaded", "loaded"]
    assert not errors
    new = gap.far_tags()
    assert new != old
    assert [image.status for image in gap.load("b1").images] == ["older"]
    assert gap.far_tags() == new
    gap.load("b1", allow_older=True)
    assert gap.far_tags() == old


def test_a_tag_that_was_deleted_is_not_brought_back_by_an_older_bundle(gap: Gap):
    gap.carry()
    gap.save("b1")
    gap.carry(files={"config.json": b"new"}, commit="2" * 40)
    gap.save("b2")
    gap.load("b2")
    far = gap.far_layout()
    far.delete_manifest(far.manifest("org--model").digest, "org--model")
    assert [image.status for image in gap.load("b1").images] == ["older"]
    assert gap.far_tags() == {}


def test_a_newer_image_of_another_origin_is_kept(gap: Gap):
    gap.carry()
    gap.save("b")
    # All images of `carry` have the same date: replace the date by a newer one.
    far = gap.far_layout()
    carry(far, "org--model", {"x": b"2"})
    value = far.manifest("org--model").json()
    value["annotations"]["org.opencontainers.image.created"] = "2031-01-01T00:00:00+00:00"
    far.put_manifest(RawManifest(INDEX, canonical_json(value)), "org--model")
    assert [image.status for image in gap.load("b").images] == ["older"]
    assert [image.status for image in gap.load("b", allow_older=True).images] == ["loaded"]


def test_a_dry_run_changes_nothing(gap: Gap):
    gap.carry()
    planned = gap.save("b", dry_run=True)
    assert (planned.status, planned.bundle, (gap.folder / "b").exists()) == ("planned", None, False)
    gap.save("b")
    loaded = gap.load("b", dry_run=True)
    assert (loaded.status, loaded.images[0].status, (gap.folder / "far").exists()) == ("planned", "planned", False)


def test_the_catalogue_gets_the_loaded_repos(gap: Gap):
    gap.carry()
    gap.save("b")
    lists = gap.folder / "get_hf"
    lists.mkdir()
    gap.load("b", lists=lists)
    assert "[org/model]" in (lists / "models.md").read_text()
    assert str(gap.far_layout().manifest("org--model").digest) in (lists / "models.md").read_text()


def test_a_renamed_repo_has_its_current_page_in_the_catalogue(gap: Gap):
    gap.carry(renamed_to="new/model")
    gap.save("b")
    lists = gap.folder / "get_hf"
    lists.mkdir()
    gap.load("b", lists=lists)
    assert "/new/model)" in (lists / "models.md").read_text()


def test_local_files_have_no_page_in_the_catalogue(gap: Gap):
    (gap.folder / "tuned").mkdir()
    (gap.folder / "tuned/config.json").write_bytes(b"{}")
    gap.session.ferry(gap.folder / "tuned", as_repo="lab/tuned", to=gap.near, base="scratch")
    gap.save("b")
    lists = gap.folder / "get_hf"
    lists.mkdir()
    gap.load("b", lists=lists)
    assert "| lab/tuned | local " in (lists / "models.md").read_text()


def test_the_id_is_the_digest_of_the_contents(gap: Gap):
    gap.carry()
    saved = gap.save("b")
    document = json.loads((gap.folder / "b/bundle.json").read_text())
    text = json.dumps(document["contents"], separators=(",", ":"), ensure_ascii=False)
    assert document["id"] == saved.bundle == Digest.of(text.encode())
