"""What the tags of a place name, without reading what they name: one request for each tag, none in a layout."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event

from llmstack.carried_image.naming import tag_for
from llmstack.errors import NotFoundError, UsageError
from llmstack.net.parallel import run_all
from llmstack.oci.layout import Layout
from llmstack.oci.reference import Digest
from llmstack.oci.repository import Repository
from llmstack.oci.store import BlobReader


def digests(reader: BlobReader, jobs: int, tags: Sequence[str] | None = None) -> dict[str, Digest]:
    """Return the tags that are there (of `tags`, where they are given) with their digests; `jobs` requests at a time.

    Raises NotAuthorizedError, UnavailableError.
    """
    if isinstance(reader, Layout):
        named = reader.digests()
        return named if tags is None else {tag: named[tag] for tag in tags if tag in named}
    if not isinstance(reader, Repository):
        raise TypeError(reader)
    repository = reader

    def digest_of(tag: str) -> tuple[str, Digest] | None:
        try:
            return tag, repository.digest_of(tag)
        except NotFoundError:
            return None

    wanted = repository.tags() if tags is None else tags
    return dict(filter(None, run_all(digest_of, wanted, jobs, Event())))


def tags_of(repo_id: str, name: str) -> list[str]:
    """Return the tags that a repo's revision may have: a commit is also what `main` may have moved to."""
    tags = []
    for revision in (name, "main"):
        try:
            tags.append(tag_for(repo_id, revision))
        except UsageError:
            # Too long for a tag: it was never carried under that name.
            continue
    return list(dict.fromkeys(tags))
