"""Garbage collection of an OCI layout: remove the blobs that no image in index.json refers to."""

from __future__ import annotations

from dataclasses import dataclass

from llmstack.disk import disk_errors, lock_directory
from llmstack.oci.graph import read_graph
from llmstack.oci.layout import Layout, blob_path
from llmstack.oci.reference import Digest


@dataclass(frozen=True, slots=True)
class Garbage:
    """Blobs without references, and their size in bytes."""

    digests: tuple[Digest, ...]
    size: int


def unreferenced(layout: Layout) -> Garbage:
    """Return the blobs that no image refers to; raises LlmstackError if an image cannot be read."""
    needed: set[Digest] = set()
    for digest in layout.entries():
        if digest not in needed:
            graph = read_graph(layout, layout.manifest(digest))
            needed.update(item.digest for item in (*graph.manifests, *graph.blobs))
    folder = layout.folder / "blobs" / "sha256"
    found = {path.name: path.stat().st_size for path in folder.glob("?" * 64) if path.is_file()}
    extra = sorted(name for name in found if Digest(f"sha256:{name}") not in needed)
    return Garbage(tuple(Digest(f"sha256:{name}") for name in extra), sum(found[name] for name in extra))


def remove_unreferenced(layout: Layout) -> Garbage:
    """Delete the blobs that no image refers to. Nothing may write to the layout meanwhile."""
    with disk_errors(layout.folder), lock_directory(layout.folder):
        garbage = unreferenced(layout)
        for digest in garbage.digests:
            (layout.folder / blob_path(digest)).unlink(missing_ok=True)
    return garbage
