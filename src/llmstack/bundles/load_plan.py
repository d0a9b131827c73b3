"""What `load` does with each image of a bundle; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from llmstack.bundles.document import BundledImage, Contents
from llmstack.bundles.load_records import TagRecord
from llmstack.oci.reference import Digest

ImageStatus = Literal["loaded", "up-to-date", "older", "planned"]


@dataclass(frozen=True, slots=True)
class TargetImage:
    """What the target has under the tag of an image; `created` is the annotation of its manifest."""

    digest: Digest | None
    created: str = ""


@dataclass(frozen=True, slots=True)
class ImageDecision:
    """An image of a bundle, and what will be done: load it, or leave what the target has."""

    image: BundledImage
    status: ImageStatus


def decide(
    contents: Contents,
    target: Mapping[str, TargetImage],
    records: Mapping[str, TagRecord],
    *,
    allow_older: bool,
) -> list[ImageDecision]:
    """Return the decision for each image, by what the target has under its name."""
    return [
        ImageDecision(image, _status(contents, image, target[image.name], records.get(image.name), allow_older))
        for image in contents.images
    ]


def _status(
    contents: Contents, image: BundledImage, current: TargetImage, record: TagRecord | None, allow_older: bool
) -> ImageStatus:
    if current.digest == image.manifest.digest:
        return "up-to-date"
    if allow_older or image.tag is None:
        return "planned"
    if record and contents.order.is_before(record.order):
        # Also if the tag was deleted since: a replayed bundle must not bring it back.
        return "older"
    written_by_bundle = record is not None and record.digest == current.digest
    if (
        current.digest
        and not written_by_bundle
        and image.created
        and _seconds(current.created) > _seconds(image.created)
    ):
        # Another program wrote the tag. Only the dates of the images tell which one is newer.
        return "older"
    return "planned"


def _seconds(created: str) -> str:
    """Return a date without what programs write differently: fractions, and the zone, which is always UTC."""
    return created[:19]


def order_bundles(bundles: Sequence[Contents]) -> list[Contents]:
    """Return bundles in the order in which they were made; those of missing blobs first, because others need them."""
    ordered = sorted(bundles, key=lambda each: (bool(each.images), each.order.created, each.order.number))
    # Within one ledger the numbers decide, whatever the clock said.
    for ledger in {each.order.ledger for each in ordered if each.order.ledger and each.images}:
        places = [place for place, each in enumerate(ordered) if each.order.ledger == ledger and each.images]
        members = sorted((ordered[place] for place in places), key=lambda each: each.order.number)
        for place, member in zip(places, members, strict=True):
            ordered[place] = member
    return ordered
