"""llmstack prune: old versions go, what others need stays."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.bundles.prune import REGISTRY_HINT, Pruner, PruneResult
from llmstack.bundles.prune_plan import PruneRules, TaggedImage, built_version, decide, parse_age
from llmstack.carried_image.naming import Namespace
from llmstack.errors import NotFoundError, UsageError
from llmstack.net import Client
from llmstack.oci.layout import Layout
from llmstack.oci.layout_garbage import unreferenced
from llmstack.oci.reference import Digest
from llmstack.oci.spec import Index
from llmstack.oci.store import BlobStore
from llmstack.session import Session
from tests.bundles.support import Gap, sign
from tests.oci.repositories import open_repository
from tests.support.carried import carry
from tests.support.cli import run_llmstack
from tests.support.registry import Registry, plain_registry

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")


def versions(store: BlobStore, *years: int, repo_id: str = "org/model") -> None:
    """Carry main, and revisions with dates."""
    tag = repo_id.replace("/", "--")
    carry(store, tag, {"a": b"main", "shared": b"s"}, repo_id=repo_id, created="2020-01-01T00:00:00Z")
    for year in years:
        files = {"a": str(year).encode(), "shared": b"s"}
        carry(store, f"{tag}--v{year}", files, repo_id=repo_id, revision=f"v{year}", created=f"{year}-01-01T00:00:00Z")


def statuses(result: PruneResult) -> Mapping[str, str]:
    return {image.image.removeprefix("models:"): image.status for image in result.images}


def test_the_newest_versions_and_main_stay(gap: Gap):
    models = Layout(gap.folder / "near/models")
    versions(models, 2021, 2022, 2023)
    before = gap.folder / "near/models/blobs/sha256"
    blobs = len(list(before.iterdir()))
    planned = gap.session.prune("oci:near", keep=2, dry_run=True)
    assert statuses(planned) == {
        "org--model": "kept",
        "org--model--v2023": "kept",
        "org--model--v2022": "planned",
        "org--model--v2021": "planned",
    }
    assert len(models.tags()) == 4
    done = gap.session.prune("oci:near", keep=2)
    assert [image.image for image in done.images if image.status == "deleted"] == [
        "models:org--model--v2022",
        "models:org--model--v2021",
    ]
    assert (done.hint, done.exit_code) == ("", 0)
    assert models.tags() == ["org--model", "org--model--v2023"]
    # The four images have equally many blobs, and share none.
    assert len(list(before.iterdir())) == blobs / 2
    assert unreferenced(models).digests == ()
    for reference in ("org/model", "org/model@v2023"):
        gap.session.extract(reference, gap.folder / reference, source="oci:near")
    assert gap.session.prune("oci:near", keep=2).images[1].status == "kept"


def test_age_and_number_together(gap: Gap):
    versions(Layout(gap.folder / "near/models"), 2021, 2022)
    recent = (datetime.now(UTC) - timedelta(days=5)).isoformat()
    store = Layout(gap.folder / "near/models")
    carry(store, "org--model--new", {"a": b"n"}, revision="new", created=recent)
    result = gap.session.prune("oci:near", older_than="90d", dry_run=True)
    assert {image.image: image.reason for image in result.images} == {
        "models:org--model": "is the current version",
        "models:org--model--new": "is not old enough",
        "models:org--model--v2022": "",
        "models:org--model--v2021": "",
    }
    both = gap.session.prune("oci:near", keep=3, older_than="90d", dry_run=True)
    assert [image.image for image in both.images if image.status == "planned"] == ["models:org--model--v2021"]


def test_partial_foreign_and_undated_images_stay(gap: Gap):
    models = Layout(gap.folder / "near/models")
    versions(models, 2021)
    carry(models, "org--model--v3--partial", {"a": b"p"}, revision="v3", incomplete=True)
    carry(models, "org--model--undated", {"a": b"u"}, revision="undated", created="soon")
    # Its tag contradicts its file index.
    carry(models, "something", {"a": b"f"}, revision="v4", created="2001-01-01T00:00:00Z")
    done = gap.session.prune("oci:near", keep=1)
    assert [image.image for image in done.images if image.status == "deleted"] == ["models:org--model--v2021"]
    assert models.tags() == ["org--model", "org--model--undated", "org--model--v3--partial", "something"]


def test_a_registry_deletes_images_with_their_signatures(registry: Registry):
    namespace = registry.namespace()
    store = open_repository(Client(), f"{namespace}/models")
    versions(store, 2021, 2022)
    old = store.manifest("org--model--v2021").digest
    for tag in ("org--model--v2021", "org--model--v2022"):
        sign(store, tag)
    done = Session.from_settings().prune(namespace, keep=2)
    assert (statuses(done)["org--model--v2021"], done.hint) == ("deleted", REGISTRY_HINT)
    assert store.referrers(old) == []
    tags = [tag for tag in store.tags() if not tag.startswith("sha256-")]
    assert tags == ["org--model", "org--model--v2022"]
    kept = store.manifest("org--model--v2022").digest
    assert len(store.referrers(kept)) == 1
    with pytest.raises(NotFoundError):
        store.manifest(old)


def test_dated_tags_of_built_images(registry: Registry):
    """The moving tag and the dated tag of the current image share a digest; a part of an index stays."""
    namespace = registry.namespace()
    store = open_repository(Client(), f"{namespace}/hf")
    for number, time in enumerate(("20250101-000000", "20250201-000000", "20250301-000000", "20250401-000000")):
        carry(store, f"cpu-{time}", {"a": str(number).encode()})
    store.put_manifest(store.manifest("cpu-20250401-000000"), "cpu")
    carry(store, "cuda13-20250101-000000", {"a": b"no moving tag"})
    part = store.manifest("cpu-20250201-000000")
    index = Index((part.descriptor,)).to_raw()
    store.put_manifest(index, "both")
    done = Session.from_settings().prune(namespace, repositories=["hf"], keep=1)
    assert {image.image: (image.status, image.reason) for image in done.images} == {
        "hf:cpu-20250401-000000": ("kept", "is the current version"),
        "hf:cpu-20250301-000000": ("deleted", ""),
        "hf:cpu-20250201-000000": ("kept", "is a part of both"),
        "hf:cpu-20250101-000000": ("deleted", ""),
    }
    assert set(store.tags()) == {
        "both",
        "cpu",
        "cpu-20250201-000000",
        "cpu-20250401-000000",
        "cuda13-20250101-000000",
    }
    assert store.manifest("both").digest == index.digest


def test_a_tag_that_has_moved_is_not_deleted(gap: Gap):
    models = Layout(gap.folder / "near/models")
    versions(models, 2021)

    def move(_: PruneResult) -> bool:
        carry(models, "org--model--v2021", {"a": b"new"}, revision="v2021", created="2026-01-01T00:00:00Z")
        return True

    result = gap.session.prune("oci:near", keep=1, confirm=move)
    assert (result.images[1].status, result.exit_code) == ("refused", 1)
    gap.session.extract("org/model@v2021", gap.folder / "out", source="oci:near")
    assert (gap.folder / "out/a").read_bytes() == b"new"


@pytest.mark.registry
def test_a_registry_that_refuses_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REGISTRY_STORAGE_DELETE_ENABLED", "false")
    with plain_registry(tmp_path) as registry:
        namespace = registry.namespace()
        versions(open_repository(Client(), f"{namespace}/models"), 2021)
        done = run_llmstack("prune", "--from", namespace, "--keep", "1", "--yes", "--json")
    assert done.code == 1
    assert [image["status"] for image in done.json["images"]] == ["kept", "refused"]
    assert "was not deleted: the registry does not allow it" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "nothing says what to delete"),
        (["--older-than", "soon"], "--older-than soon: is not an age"),
        (["--keep", "0"], "greater than or equal to 1"),
        (["--keep", "1"], "this needs a confirmation"),
        (["--keep", "1", "bundles"], "keeps its records"),
    ],
)
def test_the_command_line_deletes_nothing_without_being_told(gap: Gap, options: list[str], words: str):
    models = Layout(gap.folder / "near/models")
    versions(models, 2021)
    done = run_llmstack("prune", "--from", f"oci:{gap.folder}/near", *options)
    assert done.code == 2
    assert words in done.stderr
    assert len(models.tags()) == 2


def test_the_command_line_shows_what_it_did(gap: Gap):
    versions(Layout(gap.folder / "near/models"), 2021)
    done = run_llmstack("prune", "--from", f"oci:{gap.folder}/near", "--keep", "1", "--yes")
    assert done.code == 0
    assert "models:org--model--v2021  2021-01-01  deleted" in done.stdout
    assert done.stdout.endswith("1 deleted, 1 kept\n")


IMAGES = st.builds(
    TaggedImage,
    repository=st.just("models"),
    tag=st.uuids().map(str),
    digest=st.integers(0, 5).map(digest),
    versions_of=st.sampled_from(["a", "b", None]),
    created=st.none() | st.datetimes(datetime(2020, 1, 1), datetime(2026, 1, 1), timezones=st.just(UTC)),
    current=st.booleans(),
)


@given(st.lists(IMAGES, max_size=12), st.integers(1, 4), st.none() | st.integers(0, 2000))
def test_what_is_decided_for_any_images(images: list[TaggedImage], keep: int, days: int | None):
    rules = PruneRules(keep, None if days is None else timedelta(days=days))
    decisions = decide(images, rules, NOW)
    assert {each.image.tag for each in decisions} == {image.tag for image in images if image.versions_of}
    for name in ("a", "b"):
        group = [each for each in decisions if each.image.versions_of == name]
        gone = [each.image for each in group if not each.kept_because]
        assert len(group) - len(gone) >= min(keep, len(group))
        stay = [
            each.image.created for each in group if each.kept_because and not each.image.current and each.image.created
        ]
        for image in gone:
            assert not image.current
            assert image.created is not None
            assert rules.older_than is None or NOW - image.created > rules.older_than
            assert all(image.created <= other or rules.older_than is not None for other in stay)


def test_ages_and_times():
    assert [parse_age(text, "x").days for text in ("90d", "2w", "1m", "1y")] == [90, 14, 30, 365]
    for text in ("", "d", "-1d", "1h", "\u0661d", "999999d"):
        with pytest.raises(UsageError):
            parse_age(text, "x")
    tags = {"cpu": digest(1), "cpu-20259999-000000": digest(2), "cpu-20250101-000000": digest(3)}
    found = {tag: built_version("hf", tag, tags[tag], tags).versions_of for tag in tags}
    assert found == {"cpu": None, "cpu-20259999-000000": None, "cpu-20250101-000000": "hf:cpu"}


def test_the_records_of_load_are_no_images(gap: Gap):
    pruner = Pruner(
        Namespace.parse("oci:near"), gap.session.registries, 1, gap.session.client.cancel, gap.session.reporter
    )
    with pytest.raises(UsageError, match="keeps its records"):
        pruner.plan(["bundles"], PruneRules(1))
