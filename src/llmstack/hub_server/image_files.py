"""From an image to its revision, its files, and ranges of their bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from contextlib import closing

from llmstack.carried_image.file_index import ROOT, BlobRange, IndexedFile, extents
from llmstack.carried_image.image import Image, StoredLayer, has_base, open_image
from llmstack.carried_image.naming import check_repo_id, is_leftover, is_referrer_tag, repo_of
from llmstack.carried_image.open_location import ImageReader
from llmstack.errors import IntegrityError, UsageError
from llmstack.hub_server.error_answers import needs_extract
from llmstack.hub_server.repos import Files, Revision
from llmstack.oci.reference import Digest
from llmstack.oci.rootfs import Rootfs
from llmstack.oci.tar_reader import TarReader, layer_by_ranges, open_layer

# A compressed layer must be read completely to list its files. A base image is small enough for that, weights are not.
MAX_COMPRESSED = 64 * 1024 * 1024


def open_revision(source: ImageReader, tag: str, digest: Digest) -> tuple[Revision, Files | None] | None:
    """Open an image by its digest.

    None for what is not a repo: a partial image, a leftover, a signature, an artifact, another tag. The files are
    included if the image has a file index. Raises NotFoundError, IntegrityError, NotAuthorizedError, UnavailableError.
    """
    if is_referrer_tag(tag):
        return None
    image = open_image(source.reader, digest)
    if image.artifact_type:
        return None
    try:
        return _carried(source, tag, image) if image.index else _foreign(source, tag, image)
    except UsageError:
        return None


def open_files(revision: Revision) -> Files:
    """Return the files of an image, from its file index or its layers; raises as `open_revision` does."""
    image = open_image(revision.reader, revision.digest)
    return _indexed_files(image) if image.index else _scan(image)


def _carried(source: ImageReader, tag: str, image: Image) -> tuple[Revision, Files] | None:
    index = image.index
    if index is None or index.incomplete or is_leftover(tag, index.repo_id, index.revision):
        return None
    if not index.agrees_with(tag, source.repo_type):
        raise IntegrityError(f"its file index claims another repo or revision: the {index.claim}")
    revision = Revision(
        repo_type=index.repo_type,
        repo_id=check_repo_id(index.repo_id),
        name=index.revision,
        commit=index.commit,
        image=f"{source.reader.name}:{tag}",
        digest=image.raw_manifest.digest,
        size=index.size,
        files=len(index.files),
        license=index.license,
        gated=index.gated,
        created=None if index.local else index.created,
        needs_extract=any(layer.compressed for layer in image.layers_of(index.files).values()),
        reader=source.reader,
        renamed_to=index.renamed_to,
        has_base=has_base(image),
    )
    return revision, _indexed_files(image)


def _foreign(source: ImageReader, tag: str, image: Image) -> tuple[Revision, None]:
    repo_id, name = repo_of(tag)
    revision = Revision(
        repo_type=source.repo_type or "model",
        repo_id=repo_id,
        name=name,
        # Clients expect a commit of 40 hex digits that changes with the content.
        commit=image.raw_manifest.digest.hex[:40],
        image=f"{source.reader.name}:{tag}",
        digest=image.raw_manifest.digest,
        size=sum(layer.size for layer in image.manifest.layers),
        files=None,
        license=None,
        gated=False,
        created=None,
        needs_extract=not _can_scan(image),
        reader=source.reader,
    )
    return revision, None


def _indexed_files(image: Image) -> Files:
    files = image.index.files if image.index else ()
    local = image.index is not None and image.index.local
    return Files({file.path: file for file in files}, image.layers_of(files), local)


def check_readable(revision: Revision, files: Files, file: IndexedFile) -> None:
    """Raise AnswerError if a file is in a compressed layer."""
    if any(files.layers[layer].compressed for layer in file.layers):
        raise needs_extract(revision.repo_id, file.path, revision.image)


def read_range(
    revision: Revision, files: Files, file: IndexedFile, start: int, stop: int
) -> Generator[bytes, None, None]:
    """Yield `file[start:stop]`; closing the generator ends the transfer.

    Raises AnswerError for a file in a compressed layer, NotFoundError, IntegrityError, NotAuthorizedError,
    UnavailableError.
    """
    check_readable(revision, files, file)
    for extent in extents(file, start, stop - start):
        blob = files.layers[extent.layer].blob
        with closing(revision.reader.read_blob(blob, extent.offset, extent.offset + extent.size)) as chunks:
            yield from chunks


def read_file(revision: Revision, files: Files, file: IndexedFile) -> Generator[bytes, None, None]:
    """Yield a complete file; raise IntegrityError before its last chunk if its bytes do not match the file index.

    The files of an image without a file index have no known hash. Raises what `read_range` raises.
    """
    content, held = file.new_hash(), b""
    with closing(read_range(revision, files, file, 0, file.size)) as chunks:
        for chunk in chunks:
            content.update(chunk)
            if held:
                yield held
            held = chunk
    if file.sha256 and (mismatch := file.mismatch(content)):
        raise IntegrityError(f"{revision.image}: {file.path!r} does not match its {mismatch} in the file index")
    yield held


def _can_scan(image: Image) -> bool:
    """Tell whether the files can be listed without decompressing large layers."""
    return all(not layer.compressed or layer.blob.size <= MAX_COMPRESSED for layer in _all_layers(image))


def _scan(image: Image) -> Files:
    """Return the files under /REPO of an image without a file index; none if a large layer is compressed.

    Only the tar headers of uncompressed layers are read. Raises IntegrityError, and what reading raises.
    """
    if not _can_scan(image):
        return Files({}, {})
    rootfs = Rootfs(ROOT)
    found: list[dict[str, tuple[int, int]]] = []
    layers = list(reversed(_all_layers(image)))
    for layer in layers:
        held: dict[str, tuple[int, int]] = {}
        found.append(held)
        if layer.compressed:
            with open_layer(image.reader, layer.blob) as tar:
                _scan_layer(tar, rootfs, held)
        else:
            _scan_layer(layer_by_ranges(image.reader, layer.blob), rootfs, held)
        rootfs.end_layer()
    return _scanned_files(rootfs, layers, found)


def _scan_layer(tar: TarReader, rootfs: Rootfs, held: dict[str, tuple[int, int]]) -> None:
    """Apply a layer's entries; record where each file's bytes are, also of hidden files: a link may name them."""
    for entry in tar:
        rootfs.add(entry)
        if entry.kind == "file":
            held[entry.path] = tar.position, entry.size


def _scanned_files(rootfs: Rootfs, layers: list[StoredLayer], found: list[dict[str, tuple[int, int]]]) -> Files:
    origins = {path: (number, f"{ROOT}/{path}") for path in rootfs.files for number in [_highest(found, path)]}
    origins |= {link.path: (link.content.layer, link.content.path) for link in rootfs.links()}
    files = {}
    for path, (number, inner) in origins.items():
        if inner not in found[number]:
            raise IntegrityError(f"{path!r} is a link to a file that its layer does not have")
        offset, size = found[number][inner]
        files[path] = _file(path, layers[number].diff_id, offset, size)
    return Files(files, {layer.diff_id: layer for layer in layers})


def _highest(found: list[dict[str, tuple[int, int]]], path: str) -> int:
    return next(number for number, held in enumerate(found) if f"{ROOT}/{path}" in held)


def _file(path: str, layer: Digest, offset: int, size: int) -> IndexedFile:
    """Return a file without a known hash; its oid is derived from the position of its bytes, which never change."""
    oid = hashlib.sha1(f"{layer} {offset} {size}".encode(), usedforsecurity=False).hexdigest()
    return IndexedFile(path, size, oid, "", (BlobRange(layer, offset, size),))


def _all_layers(image: Image) -> list[StoredLayer]:
    """Return all layers from the lowest up; raises IntegrityError if the config does not match."""
    image.stored_layers()
    pairs = zip(image.manifest.layers, image.config.diff_ids, strict=True)
    return [StoredLayer(blob, diff_id) for blob, diff_id in pairs]
