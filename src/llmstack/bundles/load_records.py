"""What `load` keeps in the target, in the repository `bundles`: which bundle wrote each tag, and staged volumes.

Both are OCI artifacts, so they are stored, copied and backed up with the images, and no local file is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmstack.bundles.document import FORMAT, Contents, Order, Piece, check_format, short_id
from llmstack.bundles.volume_reader import OpenedVolume, StoredPiece
from llmstack.errors import IntegrityError, NotFoundError, on_side
from llmstack.oci.reference import Digest
from llmstack.oci.spec import MANIFEST, Descriptor, Manifest, RawManifest, canonical_json, parse_object
from llmstack.oci.store import BlobStore, read_verified, write_bytes

_LOADED_TAG = "loaded"
_LOADED_TYPE = "application/vnd.llmstack.loaded-tags.v1+json"
_STAGED_TYPE = "application/vnd.llmstack.staged-bundle.v1+json"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_PIECE_TYPE = "application/octet-stream"
_MAX_RECORD = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class TagRecord:
    """The bundle that wrote a tag last, and the digest that it wrote."""

    digest: str
    bundle: str
    order: Order


class LoadedTags:
    """The record of all tags that bundles wrote to a target, by `REPOSITORY:TAG`."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store

    @on_side("destination")
    def read(self) -> dict[str, TagRecord]:
        """Return the record, empty if nothing was loaded yet; raises LlmstackError."""
        what = f"{self._store.name}:{_LOADED_TAG}"
        found = _read_artifact(self._store, _LOADED_TAG)
        if found is None:
            return {}
        value = parse_object(found[0], what)
        check_format(value.get("format"), what)
        try:
            return {
                str(name): TagRecord(str(entry["digest"]), str(entry["bundle"]), Order.from_json(entry))
                for name, entry in value["tags"].items()
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"{what}: invalid record of loaded tags") from error

    @on_side("destination")
    def add(self, contents: Contents, names: Mapping[str, Digest]) -> None:
        """Record that a bundle wrote these tags. Another load may have written in between, so the record is reread."""
        tags = self.read()
        before = dict(tags)
        for name, digest in names.items():
            if name not in tags or not contents.order.is_before(tags[name].order):
                tags[name] = TagRecord(digest, contents.id, contents.order)
        if tags == before:
            return
        entries = {
            name: {"digest": record.digest, "bundle": record.bundle, **record.order.to_json()}
            for name, record in sorted(tags.items())
        }
        data = canonical_json({"format": FORMAT, "tags": entries})
        _put_artifact(self._store, _LOADED_TAG, _LOADED_TYPE, data)


class Staging:
    """The volumes of one bundle that were read before the others came."""

    def __init__(self, store: BlobStore, contents: Contents) -> None:
        self._store = store
        self._contents = contents
        self._tag = short_id(contents.id)

    @on_side("destination")
    def read(self) -> dict[int, list[StoredPiece]]:
        """Return the staged volumes with their pieces; raises LlmstackError."""
        found = _read_artifact(self._store, self._tag)
        if found is None:
            return {}
        what = f"{self._store.name}:{self._tag}"
        value, layers = parse_object(found[0], what), {layer.digest: layer for layer in found[1]}
        check_format(value.get("format"), what)
        volumes: dict[int, list[StoredPiece]] = {}
        try:
            if value["id"] != self._contents.id:
                raise IntegrityError(f"{what}: is another bundle")
            for number, entries in value["staged"].items():
                pieces = volumes.setdefault(int(number), [])
                for entry in entries:
                    blob = layers[Digest.parse(entry["blob"])]
                    pieces.append(StoredPiece(Piece.from_json(entry["piece"]), blob, self._store))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise IntegrityError(f"{what}: invalid record of a bundle") from error
        return volumes

    @on_side("destination")
    def write(self, volumes: Mapping[int, Sequence[StoredPiece]]) -> None:
        """Record the volumes whose pieces the store has."""
        staged = {
            str(number): [{"blob": str(part.blob.digest), "piece": part.piece.to_json()} for part in pieces]
            for number, pieces in sorted(volumes.items())
        }
        value: dict[str, Any] = {"format": FORMAT, "id": str(self._contents.id), "staged": staged}
        blobs = {part.blob.digest: part.blob for pieces in volumes.values() for part in pieces}
        _put_artifact(self._store, self._tag, _STAGED_TYPE, canonical_json(value), blobs.values())

    @on_side("destination")
    def remove(self) -> bool:
        """Delete the record; return whether there was one."""
        try:
            digest = self._store.manifest(self._tag).digest
        except NotFoundError:
            return False
        self._store.delete_manifest(digest, self._tag)
        return True


def staged_pieces(opened: OpenedVolume, store: BlobStore) -> list[StoredPiece]:
    """Return the pieces of a volume as they are after staging."""
    return [
        StoredPiece(part.piece, Descriptor(_PIECE_TYPE, part.blob.digest, part.blob.size), store)
        for part in opened.pieces
    ]


def _put_artifact(
    store: BlobStore, tag: str, artifact_type: str, data: bytes, blobs: Iterable[Descriptor] = ()
) -> None:
    write_bytes(store, b"{}")
    write_bytes(store, data)
    payload = Descriptor(artifact_type, Digest.of(data), len(data))
    value = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": artifact_type,
        "config": Descriptor(_EMPTY_TYPE, Digest.of(b"{}"), 2).to_json(),
        "layers": [layer.to_json() for layer in (payload, *blobs)],
    }
    store.put_manifest(RawManifest(MANIFEST, canonical_json(value)), tag)


def _read_artifact(store: BlobStore, tag: str) -> tuple[bytes, tuple[Descriptor, ...]] | None:
    """Return the first layer of an artifact and the others; None if there is no such tag."""
    try:
        manifest = Manifest.parse(store.manifest(tag))
    except NotFoundError:
        return None
    if not manifest.layers:
        raise IntegrityError(f"{store.name}:{tag}: has no layers")
    return read_verified(store, manifest.layers[0], _MAX_RECORD), manifest.layers[1:]
