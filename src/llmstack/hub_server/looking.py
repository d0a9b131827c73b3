"""Looking through the layers of an image that has no file index: which files it holds, and where their bytes lie."""

from __future__ import annotations

import hashlib

from llmstack.carried_image.file_index import ROOT, BlobRange, IndexedFile
from llmstack.carried_image.image import Image, StoredLayer
from llmstack.errors import IntegrityError
from llmstack.hub_server.repos import Files
from llmstack.oci.reference import Digest
from llmstack.oci.rootfs import Rootfs
from llmstack.oci.tar_reader import RangeTarReader, TarReader, open_layer

# A compressed layer has to be read whole to see what it holds: a base may be, a model's weights not.
MAX_COMPRESSED = 64 * 1024 * 1024


def worth_looking(image: Image) -> bool:
    """Tell whether an image can be looked through without reading large layers whole."""
    return all(not layer.compressed or layer.blob.size <= MAX_COMPRESSED for layer in _layers(image))


def look_through(image: Image) -> Files:
    """Return the files under /REPO; none where large layers are compressed, which `extract` alone reads.

    Of uncompressed layers the headers are read, and the bytes of files are jumped over. Raises IntegrityError, and what
    reading raises.
    """
    if not worth_looking(image):
        return Files({}, {})
    rootfs = Rootfs(ROOT)
    found: list[dict[str, tuple[int, int]]] = []
    layers = list(reversed(_layers(image)))
    for layer in layers:
        held: dict[str, tuple[int, int]] = {}
        found.append(held)
        if layer.compressed:
            with open_layer(image.reader, layer.blob) as tar:
                _take(tar, rootfs, held)
        else:
            _take(RangeTarReader(image.reader, layer.blob), rootfs, held)
        rootfs.end_layer()
    return _files(rootfs, layers, found)


def _take(tar: TarReader, rootfs: Rootfs, held: dict[str, tuple[int, int]]) -> None:
    """Offer a layer's entries; note where the bytes of its files begin, hidden ones too: a link may stand for them."""
    for entry in tar:
        rootfs.add(entry)
        if entry.kind == "file":
            held["/".join(part for part in entry.name.split("/") if part not in {"", "."})] = tar.position, entry.size


def _files(rootfs: Rootfs, layers: list[StoredLayer], found: list[dict[str, tuple[int, int]]]) -> Files:
    places = {path: (number, f"{ROOT}/{path}") for path in rootfs.files for number in [_highest(found, path)]}
    places |= {link.path: (link.content.layer, link.content.path) for link in rootfs.links()}
    files = {}
    for path, (number, inner) in sorted(places.items()):
        if inner not in found[number]:
            raise IntegrityError(f"{path!r} is a link to what its layer does not hold")
        offset, size = found[number][inner]
        files[path] = _file(path, layers[number].diff_id, offset, size)
    return Files(files, {layer.diff_id: layer for layer in layers})


def _highest(found: list[dict[str, tuple[int, int]]], path: str) -> int:
    return next(number for number, held in enumerate(found) if f"{ROOT}/{path}" in held)


def _file(path: str, layer: Digest, offset: int, size: int) -> IndexedFile:
    """Make a file whose hash nobody has told: its oid stands for the place of its bytes, which never change there."""
    oid = hashlib.sha1(f"{layer} {offset} {size}".encode(), usedforsecurity=False).hexdigest()
    return IndexedFile(path, size, oid, "", (BlobRange(layer, offset, size),))


def _layers(image: Image) -> list[StoredLayer]:
    """Return all layers from the lowest up; raises IntegrityError where the config names others."""
    image.stored_layers()
    pairs = zip(image.manifest.layers, image.config.diff_ids, strict=True)
    return [StoredLayer(blob, diff_id) for blob, diff_id in pairs]
