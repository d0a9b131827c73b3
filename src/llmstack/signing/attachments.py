"""Signatures as manifests that refer to an image, as cosign 3 stores them (OCI 1.1 referrers)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llmstack.errors import IntegrityError
from llmstack.oci.reference import Digest
from llmstack.oci.spec import (
    INDEX_TYPES,
    MANIFEST,
    Descriptor,
    Manifest,
    RawManifest,
    canonical_json,
    subject_of,
)
from llmstack.oci.store import BlobReader, BlobStore, read_verified, write_bytes
from llmstack.signing.bundle import BUNDLE_TYPE, MAX_BUNDLE_SIZE

EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"
_CONTENT = "dev.sigstore.bundle.content"
_PREDICATE = "dev.sigstore.bundle.predicateType"
_CREATED = "org.opencontainers.image.created"
# Each is read: more are an attack on the reader.
MAX_ATTACHED = 100


@dataclass(frozen=True, slots=True)
class Attachment:
    """A bundle to attach to an image. `created` is a date that does not change if the same image is signed again."""

    predicate_type: str
    bundle: bytes
    created: str | None = None

    def manifest(self, subject: RawManifest) -> RawManifest:
        """Return the manifest that refers to `subject`; the bytes depend on the values only."""
        target = subject.descriptor
        notes = {_CONTENT: "dsse-envelope", _PREDICATE: self.predicate_type}
        if self.created:
            notes[_CREATED] = self.created
        value = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": BUNDLE_TYPE,
            "config": Descriptor(EMPTY_TYPE, Digest.of(EMPTY), len(EMPTY)).to_json(),
            "layers": [Descriptor(BUNDLE_TYPE, Digest.of(self.bundle), len(self.bundle)).to_json()],
            "subject": {"mediaType": target.media_type, "digest": target.digest, "size": target.size},
            "annotations": notes,
        }
        return RawManifest(MANIFEST, canonical_json(value))


def attach(store: BlobStore, subject: RawManifest, attachment: Attachment) -> Digest:
    """Store an attachment of an image and return the digest of its manifest. The same one is stored once."""
    manifest = attachment.manifest(subject)
    write_bytes(store, EMPTY)
    write_bytes(store, attachment.bundle)
    store.put_manifest(manifest)
    return manifest.digest


def attached_bundles(reader: BlobReader, digest: Digest) -> Iterator[bytes]:
    """Yield the bundles that are attached to an image.

    Raises IntegrityError if one does not match its digest, or if there are too many; NotFoundError if one is missing.
    """
    referrers = reader.referrers(digest)
    if len(referrers) > MAX_ATTACHED:
        raise IntegrityError(f"{reader.name}@{digest}: {len(referrers)} referrers, the limit is {MAX_ATTACHED}")
    for referrer in referrers:
        raw = reader.manifest(referrer.digest)
        if raw.media_type in INDEX_TYPES or subject_of(raw) != digest:
            continue
        layers = Manifest.parse(raw).layers
        if len(layers) == 1 and layers[0].media_type == BUNDLE_TYPE:
            yield read_verified(reader, layers[0], MAX_BUNDLE_SIZE)
