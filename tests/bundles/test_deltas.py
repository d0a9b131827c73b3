"""Bundles without what the far side has: by its inventory, or by the ledger of what was sent."""

from __future__ import annotations

import base64
import json
import random
from datetime import UTC, datetime

import pytest

from llmstack.bundles.known_blobs import Inventory, LedgerFile
from llmstack.errors import IntegrityError, NotFoundError, UsageError
from llmstack.oci.layout import Layout, blob_path
from llmstack.oci.reference import Digest
from tests.bundles.support import FILES, Gap

MANY = {f"model-{number}.safetensors": random.Random(number).randbytes(300_000) for number in range(8)}
CHANGED = {**MANY, "model-5.safetensors": random.Random(50).randbytes(300_000)}


def test_a_delta_has_the_changed_file_and_little_more(gap: Gap):
    gap.carry(files=MANY)
    gap.save("b1")
    gap.load("b1")
    gap.carry(files=CHANGED, commit="2" * 40)
    saved = gap.save("b2", have=gap.inventory())
    assert 300_000 < saved.bytes_written < 320_000
    assert saved.bytes_presupposed > 2_000_000
    loaded = gap.load("b2")
    assert loaded.bytes_transferred < 320_000
    assert gap.far_files() == CHANGED


def test_an_inventory_has_eight_bytes_for_a_blob(gap: Gap):
    gap.carry(files=MANY)
    gap.save("b")
    gap.load("b")
    [text] = json.loads(gap.inventory().read_text())["repositories"].values()
    # Eight files, the file index, the config of each platform.
    assert len(base64.b64decode(text)) == 6 * 11


def test_a_bundle_whose_base_the_far_side_lost_is_refused_and_the_missing_blobs_can_be_sent(gap: Gap):
    gap.carry(files=MANY)
    gap.save("b1")
    gap.load("b1")
    have = gap.inventory()
    gap.carry(files=CHANGED, commit="2" * 40)
    gap.save("b2", have=have)
    before = gap.far_tags()
    presupposed = json.loads((gap.folder / "b2/bundle.json").read_text())["contents"]["presupposed"]
    for blob in [blob for blob in presupposed if blob["size"] > 200_000][:2]:
        (gap.folder / "far/models" / blob_path(Digest(blob["digest"]))).unlink()
    files = sorted(path for path in (gap.folder / "far").rglob("*"))
    with pytest.raises(NotFoundError, match="lacks 2 blobs"):
        gap.load("b2", missing=gap.folder / "missing.json")
    # Nothing was written.
    assert sorted(path for path in (gap.folder / "far").rglob("*")) == files
    assert gap.far_tags() == before
    saved = gap.save("b3", missing=gap.folder / "missing.json")
    assert 600_000 < saved.bytes_written < 620_000
    results, errors = gap.try_load("b2", "b3")
    assert ([result.status for result in results], errors) == (["loaded", "loaded"], [])
    assert gap.far_files() == CHANGED


def test_missing_blobs_that_the_source_lost_are_named(gap: Gap):
    gap.carry()
    gap.save("b1")
    missing = gap.folder / "missing.json"
    blob = {"repository": "models", "digest": "sha256:" + "0" * 64, "size": 5}
    missing.write_text(json.dumps({"format": 1, "kind": "missing", "blobs": [blob]}))
    with pytest.raises(NotFoundError, match="0000000: blob not found"):
        gap.save("b2", missing=missing)


def test_the_ledger_replaces_the_inventory_on_a_one_way_line(gap: Gap):
    ledger = gap.folder / "ledger.json"
    gap.carry(files=MANY)
    assert gap.save("b1", ledger=ledger).number == 1
    gap.carry(files=CHANGED, commit="2" * 40)
    second = gap.save("b2", ledger=ledger, since=True)
    assert (second.number, second.bytes_written < 320_000) == (2, True)
    gap.carry("org/other", FILES)
    third = gap.save("b3", ledger=ledger, since=True)
    assert third.number == 3
    results, errors = gap.try_load("b3", "b1", "b2")
    assert not errors
    assert [result.number for result in results] == [1, 2, 3]
    assert (gap.far_files(), gap.far_files("org/other")) == (CHANGED, FILES)


def test_an_unfinished_bundle_does_not_count_as_sent(gap: Gap):
    ledger = gap.folder / "ledger.json"
    gap.carry(files=MANY)
    gap.save("b1", ledger=ledger)
    value = json.loads(ledger.read_text())
    value["bundles"][0]["complete"] = False
    ledger.write_text(json.dumps(value))
    assert gap.save("b2", ledger=ledger, since=True).bytes_presupposed == 0


def test_a_lost_bundle_is_noticed(gap: Gap):
    ledger = gap.folder / "ledger.json"
    gap.carry(files=MANY)
    gap.save("b1", ledger=ledger)
    gap.carry(files=CHANGED, commit="2" * 40)
    gap.save("b2", ledger=ledger, since=True)
    with pytest.raises(NotFoundError, match="lacks"):
        gap.load("b2")
    assert gap.far_tags() == {}


def test_ledger_numbers_decide_and_not_the_clock(gap: Gap, monkeypatch):
    ledger = gap.folder / "ledger.json"
    gap.carry()
    gap.save("b1", ledger=ledger)
    gap.carry(files={"config.json": b"new"}, commit="2" * 40)

    class Past:
        @staticmethod
        def now(_zone):
            return datetime(2001, 1, 1, tzinfo=UTC)

    monkeypatch.setattr("llmstack.bundles.save.datetime", Past)  # the clock of this machine must not change
    gap.save("b2", ledger=ledger)
    results, _ = gap.try_load("b2", "b1")
    assert [result.number for result in results] == [1, 2]
    assert [image.status for image in gap.load("b1").images] == ["older"]


def test_deletions_are_listed_and_done_only_if_both_sides_say_so(gap: Gap):
    ledger = gap.folder / "ledger.json"
    gap.carry("org/one")
    gap.carry("org/two", {"x": b"2"})
    gap.save("b1", ledger=ledger)
    gap.load("b1")
    near = Layout(gap.folder / "near/models")
    near.delete_manifest(near.manifest("org--two").digest, "org--two")
    assert gap.save("b2", ledger=ledger).deletions == ()
    saved = gap.save("b3", ledger=ledger, prune=True)
    assert saved.deletions == ("models:org--two",)
    listed = gap.load("b3")
    assert (listed.deletions, listed.pruned) == (("models:org--two",), False)
    assert set(gap.far_tags()) == {"models:org--one", "models:org--two"}
    assert gap.load("b3", prune=True).pruned
    assert set(gap.far_tags()) == {"models:org--one"}
    assert gap.load("b3", prune=True).deletions == ()


def test_a_tag_that_no_bundle_brought_is_not_deleted(gap: Gap):
    ledger = gap.folder / "ledger.json"
    gap.carry("org/one")
    gap.carry("org/two", {"x": b"2"})
    gap.save("b1", ledger=ledger)
    near = Layout(gap.folder / "near/models")
    digest = near.manifest("org--two")
    near.delete_manifest(digest.digest, "org--two")
    gap.save("b2", ledger=ledger, prune=True)
    gap.far_layout().put_manifest(digest, "org--two")
    assert gap.load("b2", prune=True).deletions == ()
    assert "models:org--two" in gap.far_tags()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", IntegrityError),
        ("{}", UsageError),
        ('{"format": 1, "kind": "ledger", "bundles": []}', UsageError),
        ('{"format": 2, "kind": "inventory"}', UsageError),
        ('{"format": 1, "kind": "inventory", "repositories": []}', IntegrityError),
        ('{"format": 1, "kind": "inventory", "repositories": {"models": "x"}}', IntegrityError),
        ('{"format": 1, "kind": "inventory", "repositories": {"models": "AAAA"}}', IntegrityError),
        ('{"format": 1, "kind": "inventory", "repositories": {"../x": ""}}', IntegrityError),
    ],
)
def test_an_invalid_inventory_is_refused(gap: Gap, text, error):
    path = gap.folder / "have.json"
    path.write_text(text)
    with pytest.raises(error, match=r"have\.json"):
        Inventory.read(path)


@pytest.mark.parametrize("text", ['{"format": 1, "kind": "ledger"}', '{"format": 1, "kind": "ledger", "ledger": "x"}'])
def test_an_invalid_ledger_is_refused(gap: Gap, text):
    path = gap.folder / "ledger.json"
    path.write_text(text)
    with pytest.raises(IntegrityError, match="invalid ledger"):
        LedgerFile(path).read()


def test_options_that_exclude_each_other(gap: Gap):
    gap.carry()
    with pytest.raises(UsageError, match="require --ledger"):
        gap.save("b", since=True)
    with pytest.raises(UsageError, match="requires --all"):
        gap.save("b", "org/model", ledger=gap.folder / "l.json", prune=True)
    with pytest.raises(UsageError, match="leave with the bundle"):
        gap.save("b", ledger=gap.folder / "b/ledger.json")
    with pytest.raises(NotFoundError, match="absent"):
        gap.save("b", have=gap.folder / "absent.json")


def test_a_presupposed_blob_that_the_bundle_brings_for_another_repository_is_used(gap: Gap):
    """The same bytes as model and as dataset: the far side lost one of them."""
    files = {"a.safetensors": FILES["a.safetensors"]}
    gap.carry(files=files)
    gap.save("b1")
    gap.load("b1")
    have = gap.inventory()
    gap.carry(files=files, repo_type="dataset")
    gap.save("b2", have=have)
    for digest in [path.name for path in (gap.folder / "b2/blobs/sha256").iterdir()]:
        path = gap.far_layout().folder / "blobs/sha256" / digest
        if path.exists() and path.stat().st_size > 1_000_000:
            path.unlink()
    assert gap.load("b2").status == "loaded"
    assert gap.far_files(repo_type="dataset") == files
