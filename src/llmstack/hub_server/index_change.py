"""What changes in the index of one process, in a form for the indexes of others."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from llmstack.hub_server.repos import Revision
from llmstack.oci.reference import Digest
from llmstack.oci.store import BlobReader

# A revision without its reader, which has connections and locks: each process has its own.
Packed = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """What tags name now, and the tags that are gone; a tag comes with the number of its source.

    A `complete` change has all tags, and the revisions that tags named before.
    """

    seen: Mapping[tuple[int, str], tuple[Digest, Packed | None]]
    gone: Collection[tuple[int, str]]
    former: Sequence[tuple[int, Packed]]
    refreshed: float | None
    complete: bool


def pack(revision: Revision) -> Packed:
    """Return a revision without its reader."""
    return {field.name: getattr(revision, field.name) for field in fields(revision) if field.name != "reader"}


def unpack(packed: Packed, reader: BlobReader) -> Revision:
    """Return a revision with the reader of its source."""
    return Revision(**packed, reader=reader)
