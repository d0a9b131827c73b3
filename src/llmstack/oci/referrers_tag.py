"""The index of referrers under a tag, for registries without the referrers API.

distribution-spec, "Referrers Tag Schema": the client that pushes a manifest with a subject keeps the index up to date.
"""

from __future__ import annotations

from llmstack.errors import NotFoundError
from llmstack.oci.reference import Digest
from llmstack.oci.spec import INDEX, RawManifest, canonical_json
from llmstack.oci.store import BlobStore


def referrers_tag(subject: Digest) -> str:
    """Return the tag of the index of referrers to a manifest."""
    return subject.replace(":", "-")


def add_to_referrers_tag(store: BlobStore, manifest: RawManifest, subject: Digest) -> None:
    """List a manifest in the index of referrers to its subject, unless the index lists it."""
    tag = referrers_tag(subject)
    try:
        index = store.manifest(tag).json()
    except NotFoundError:
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
    entries = [entry for entry in index.get("manifests") or () if isinstance(entry, dict)]
    if all(entry.get("digest") != manifest.digest for entry in entries):
        data = canonical_json({**index, "manifests": [*entries, _entry(manifest)]})
        store.put_manifest(RawManifest(INDEX, data), tag)


def _entry(manifest: RawManifest) -> dict[str, object]:
    """Return the entry of a referrer: its descriptor with its type and annotations."""
    value, entry = manifest.json(), manifest.descriptor.to_json()
    config = value.get("config")
    artifact_type = value.get("artifactType") or (config.get("mediaType") if isinstance(config, dict) else None)
    if artifact_type:
        entry["artifactType"] = artifact_type
    if value.get("annotations"):
        entry["annotations"] = value["annotations"]
    return entry
