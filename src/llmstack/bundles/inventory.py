"""`llmstack inventory`: which blobs a namespace has."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event

from llmstack.bundles.document import StoredBlob
from llmstack.bundles.found_images import ImagesRequest
from llmstack.bundles.known_blobs import Inventory
from llmstack.errors import IntegrityError, NotFoundError, on_side
from llmstack.net.parallel import run_all
from llmstack.oci.graph import read_graph
from llmstack.oci.repository import Registries
from llmstack.oci.store import BlobReader
from llmstack.reporting import Reporter


def take_inventory(
    request: ImagesRequest, registries: Registries, cancel: Event, reporter: Reporter, jobs: int
) -> Inventory:
    """Return the inventory of all images of a namespace, or of the repositories in `request.images`.

    Raises LlmstackError. Images that are damaged are left out, with a warning.
    """
    with on_side("source"):
        space = request.repositories(registries)
        names: Sequence[str] = request.images
        if not names:
            names, complete = space.names()
            if not complete:
                reporter.note(
                    f"{space.namespace}: the registry does not list its repositories; reading {', '.join(names)}"
                )
        tags = [(name, space.open(name), tag) for name in names for tag in space.open(name).tags()]

        def read(item: tuple[str, BlobReader, str]) -> list[StoredBlob]:
            name, reader, tag = item
            try:
                graph = read_graph(reader, reader.manifest(tag))
            except (NotFoundError, IntegrityError) as error:
                reporter.warn(f"{reader.name}:{tag}: left out: {error}")
                return []
            return [StoredBlob(name, blob.digest, blob.size) for blob in graph.blobs]

        found = run_all(read, tags, jobs, cancel)
    return Inventory.of(blob for blobs in found for blob in blobs)
