"""An artifact of the registry API: a manifest, and the blobs that no image has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmstack.oci.reference import Digest
from llmstack.oci.spec import RawManifest


@dataclass(frozen=True, slots=True)
class Artifact:
    """A manifest that was made from a file index, and its generated blobs: the config, for example.

    All other blobs are files.
    """

    manifest: RawManifest
    digest: Digest
    blobs: Mapping[Digest, bytes]

    @property
    def size(self) -> int:
        """The memory of its bytes."""
        return len(self.manifest.data) + sum(map(len, self.blobs.values()))


def make_artifact(manifest: RawManifest, *blobs: bytes) -> Artifact:
    """Return an artifact of a manifest and its generated blobs."""
    return Artifact(manifest, manifest.digest, {Digest.of(blob): blob for blob in blobs})
