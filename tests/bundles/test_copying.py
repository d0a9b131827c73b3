"""llmstack copy between registries and directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmstack.errors import UsageError
from llmstack.net import Client
from llmstack.oci.layout import Layout
from llmstack.session import Session
from tests.bundles.support import FILES, Gap, sign
from tests.oci.repositories import open_repository
from tests.support.carried import carry
from tests.support.registry import Registry


def statuses(result) -> dict[str, str]:
    return {image.image: image.status for image in result.images if "@" not in image.image}


def test_a_namespace_with_signatures_into_a_directory_and_back(gap: Gap):
    gap.carry()
    gap.carry(files={"x": b"1"}, repo_type="dataset")
    signature = sign(Layout(gap.folder / "near/models"), "org--model")
    first = gap.session.copy("oci:near", "oci:far")
    assert set(statuses(first).values()) == {"copied"}
    assert gap.far_files() == FILES
    far = gap.far_layout()
    assert [item.digest for item in far.referrers(far.manifest("org--model").digest)] == [signature]
    again = gap.session.copy("oci:near", "oci:far")
    assert (set(statuses(again).values()), again.bytes_transferred) == ({"up-to-date"}, 0)


def test_one_image_under_another_name(gap: Gap):
    gap.carry()
    gap.session.copy("oci:near/models:org--model", "oci:far/tools:v1")
    assert list(gap.far_tags()) == ["tools:v1"]
    gap.session.copy("oci:near/models:org--model", "oci:far")
    assert list(gap.far_tags()) == ["tools:v1", "models:org--model"] or len(gap.far_tags()) == 2


def test_a_dry_run_writes_nothing(gap: Gap):
    gap.carry()
    planned = gap.session.copy("oci:near", "oci:far", dry_run=True)
    assert (set(statuses(planned).values()), planned.bytes_transferred) == ({"planned"}, 0)
    assert not (gap.folder / "far").exists()


@pytest.mark.parametrize(
    ("source", "destination", "words"),
    [
        ("oci:near", "oci:far/models:tag", "names one image"),
        ("docker-daemon:hf:latest", "oci:far", "reads registries"),
        ("oci:near/models:org--model", "docker-archive:x.tar", "writes to registries"),
    ],
)
def test_what_cannot_be_copied(gap: Gap, source: str, destination: str, words: str):
    gap.carry()
    with pytest.raises(UsageError, match=words):
        gap.session.copy(source, destination)


def test_between_registries_and_by_mount_within_one(registry: Registry, far_registry: Registry, tmp_path: Path):
    near, other, far = registry.namespace(), registry.namespace(), far_registry.namespace()
    source = open_repository(Client(), f"{near}/models")
    carry(source, "org--model", FILES)
    sign(source, "org--model")
    session = Session.from_settings()
    session.copy(near, far)
    copied = open_repository(Client(), f"{far}/models")
    digest = source.manifest("org--model").digest
    assert copied.manifest("org--model").digest == digest
    assert len(copied.referrers(digest)) == 1
    registry.served()
    session.copy(f"{near}/models:org--model", f"{other}/tools/x:v1")
    served = registry.served()
    assert not [request for request in served if request.method == "PATCH"]
    assert [request.status for request in served if "mount=" in request.target]
    renamed = open_repository(Client(), f"{other}/tools/x")
    assert renamed.manifest("v1").digest == digest
    assert len(renamed.referrers(digest)) == 1
    session.extract("org/model", tmp_path / "out", source=far)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == FILES
