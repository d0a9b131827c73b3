"""Carried images made in a moment, out of bytes, by the code that ferry itself uses; no hub is asked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial

from llmstack.carried.fileindex import INDEX_PATH, NO_SELECTION, FileIndex, FilePart, IndexedFile, Selection
from llmstack.carried.image import LAYER_ANNOTATION
from llmstack.ferry.assemble import FILEPATH, assemble
from llmstack.ferry.base import load_base
from llmstack.ferry.plan import Limits, plan
from llmstack.hub.snapshot import HubFile, RepoType
from llmstack.net import Client
from llmstack.oci import tar
from llmstack.oci.reference import Digest
from llmstack.oci.repository import Registries
from llmstack.oci.spec import LAYER_TAR, Descriptor
from llmstack.oci.store import BlobStore, copy_blob, write_bytes

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# Small limits, so that small files make images of several layers.
LIMITS = Limits(large=64 * 1024, bundle=96 * 1024)


def carry(
    store: BlobStore,
    tag: str,
    files: Mapping[str, bytes],
    *,
    repo_id: str = "org/model",
    repo_type: RepoType = "model",
    revision: str = "main",
    commit: str = COMMIT,
    selection: Selection = NO_SELECTION,
    base: str = "scratch",
    limits: Limits = LIMITS,
    incomplete: bool = False,
) -> FileIndex:
    """Put an image of `files` into a store under a tag, as ferry would; return its file index."""
    hub_files = [HubFile(path, len(data), _oid(data, limits)) for path, data in files.items()]
    descriptors, indexed = [], []
    for layer in plan(hub_files, limits):
        contents = [[files[file.path]] for file in layer.files]
        digest, size = store.write_blob(partial(tar.layer, layer.tar_files, contents))
        notes = {FILEPATH: layer.files[0].path} if layer.is_single else {}
        descriptors.append(Descriptor(LAYER_TAR, digest, size, notes))
        for file, offset in zip(layer.files, layer.offsets, strict=True):
            sha256 = hashlib.sha256(files[file.path]).hexdigest()
            part = FilePart(digest, offset, file.size)
            indexed.append(IndexedFile(file.path, file.size, file.oid, sha256, (part,)))
    index = FileIndex(
        repo_id=repo_id,
        repo_type=repo_type,
        revision=revision,
        commit=commit,
        created="2024-05-06T07:08:09+00:00",
        license="mit",
        gated=False,
        selection=selection,
        files=tuple(sorted(indexed, key=lambda file: file.path.encode())),
        incomplete=incomplete,
    )
    put_image(store, tag, index, descriptors, base)
    return index


def put_image(store: BlobStore, tag: str, index: FileIndex, layers: list[Descriptor], base: str = "scratch") -> Digest:
    """Complete an image of data layers that are in the store already; `index` is written as it is, lies and all."""
    # A base out of a folder, or none: no request is made.
    loaded = load_base(base, Registries(Client(), lambda _: None))
    if loaded.source:
        for entry in loaded.platforms:
            for blob in entry.layers:
                copy_blob(blob, loaded.source, store)
    data = index.to_bytes()
    digest, size = store.write_blob(lambda: tar.layer([tar.TarFile(INDEX_PATH, len(data))], [[data]]))
    assembled = assemble(index, loaded, [*layers, Descriptor(LAYER_TAR, digest, size, {LAYER_ANNOTATION: "index"})])
    for config in assembled.configs:
        write_bytes(store, config)
    for document in assembled.manifests:
        store.put_manifest(document)
    store.put_manifest(assembled.index, tag)
    return assembled.index.digest


def _oid(data: bytes, limits: Limits) -> str:
    if len(data) >= limits.large:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
