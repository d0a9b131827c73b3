"""Create carried images from bytes with the code of ferry, without a hub."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from llmstack.carried_image import annotation_keys
from llmstack.carried_image.file_index import FORMAT, ROOT, FileIndex, root_of
from llmstack.carried_image.index_layer import index_layer
from llmstack.carried_image.selection import NO_SELECTION, Selection
from llmstack.errors import LlmstackError
from llmstack.ferrying.assemble import assemble
from llmstack.ferrying.base_image import load_base
from llmstack.ferrying.layer_plan import Limits, plan
from llmstack.ferrying.publish import CompleteLayer
from llmstack.ferrying.upload import Upload
from llmstack.hf.snapshot import HubFile, RepoInfo, RepoType, Snapshot
from llmstack.net import Client
from llmstack.oci import tar_writer
from llmstack.oci.reference import Digest
from llmstack.oci.repository import Registries
from llmstack.oci.spec import LAYER_TAR, Descriptor
from llmstack.oci.store import BlobStore, copy_blob, write_bytes
from llmstack.oci.tar_writer import TarFile
from llmstack.reporting import make_reporter

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# Small limits, so that small files make images of several layers.
LIMITS = Limits(large=64 * 1024, bundle=96 * 1024)


class _InMemory:
    """A source of files in memory; implements what an upload needs of FileSource."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def info(self, repo_id: str, repo_type: RepoType, revision: str) -> RepoInfo:
        raise NotImplementedError

    def snapshot(self, info: RepoInfo) -> Snapshot:
        raise NotImplementedError

    def read(self, info: RepoInfo, file: HubFile, start: int, stop: int) -> Generator[bytes, None, None]:  # noqa: ARG002 - there is one repo
        yield self._files[file.path][start:stop]

    def mismatch(self, file: HubFile) -> LlmstackError:
        raise NotImplementedError


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
    form: str = FORMAT,
    renamed_to: str | None = None,
    created: str = "2024-05-06T07:08:09+00:00",
) -> FileIndex:
    """Write an image of `files` with a tag into a store, as ferry does; return its file index.

    `form` is the format: earlier ones as earlier releases wrote them.
    """
    limits = replace(limits, root=root_of(repo_type) if form == FORMAT else ROOT)
    hub_files = [HubFile(path, len(data), _oid(data, limits)) for path, data in files.items()]
    info = RepoInfo(repo_id, repo_type, revision, commit, "", "mit", gated=False)
    with ThreadPoolExecutor(1) as ahead:
        upload = Upload(_InMemory(files), info, store, make_reporter("none"), ahead, lambda _: None)
        complete = [CompleteLayer(planned, upload.upload(planned)) for planned in plan(hub_files, limits)]
    index = FileIndex(
        repo_id=repo_id,
        repo_type=repo_type,
        revision=revision,
        commit=commit,
        created=created,
        license="mit",
        gated=False,
        selection=selection,
        files=tuple(sorted((file for layer in complete for file in layer.files), key=lambda file: file.path.encode())),
        incomplete=incomplete,
        renamed_to=renamed_to,
        format=form,
    )
    put_image(store, tag, index, [descriptor for layer in complete for descriptor in layer.descriptors], base)
    return index


def put_image(store: BlobStore, tag: str, index: FileIndex, layers: list[Descriptor], base: str = "scratch") -> Digest:
    """Write an image whose data layers are already in the store; `index` is written unchecked, and may be wrong."""
    # The base is an OCI layout or scratch: no request is made.
    loaded = load_base(base, Registries(Client(), lambda _: None))
    if loaded.source:
        for entry in loaded.platforms:
            for blob in entry.layers:
                copy_blob(blob, loaded.source, store)
    data = index.to_bytes()
    digest, size = store.write_blob(lambda: index_layer(index, len(data), [data]))
    assembled = assemble(
        index, loaded, [*layers, Descriptor(LAYER_TAR, digest, size, {annotation_keys.LAYER: "index"})]
    )
    for config in assembled.configs:
        write_bytes(store, config)
    for manifest in assembled.manifests:
        store.put_manifest(manifest)
    store.put_manifest(assembled.index, tag)
    return assembled.index.digest


def _oid(data: bytes, limits: Limits) -> str:
    if len(data) >= limits.large:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def write_large(archive: Path, size: int, others: dict[str, bytes]) -> None:
    """Write the layer of a large file, sparse and without data between its headers, and of other files."""
    large = TarFile("models/large", size, ("REPO/large",))
    files = [TarFile(name, len(data), (f"REPO/{name}",)) for name, data in others.items()]
    with archive.open("wb") as file:
        file.write(tar_writer.header(large))
        file.seek(size, os.SEEK_CUR)
        file.write(tar_writer.trailer(large))
        for piece in tar_writer.layer(files, [[data] for data in others.values()]):
            file.write(piece)
        assert file.tell() == tar_writer.offsets([large, *files])[1]
