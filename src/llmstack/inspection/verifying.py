"""`llmstack verify`: every byte of an image hashed again, and nothing written."""

from __future__ import annotations

import hashlib
import posixpath
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Event

from llmstack.carried.fileindex import ROOT, IndexedFile
from llmstack.carried.image import Image, all_manifests
from llmstack.carried.parallel import run_all
from llmstack.carried.source import Source
from llmstack.engine.daemon import DaemonImage
from llmstack.errors import IntegrityError, UsageError, on_side
from llmstack.net import Cancelled
from llmstack.oci.reference import Digest
from llmstack.oci.spec import Descriptor
from llmstack.oci.untar import TarReader, open_layer
from llmstack.reporting import Reporter


@dataclass(frozen=True, slots=True)
class Verified:
    """What was read and what is wrong with it; `files` counts those that the file index vouches for."""

    image: str
    layers: int
    files: int
    bytes_read: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Tell whether nothing is wrong."""
        return not self.problems


def verify(source: Source, reporter: Reporter, cancel: Event, jobs: int) -> Verified:
    """Hash all layers of all platforms, and each file of the file index, at its place in its layer.

    Raises what reading raises; bytes that are wrong are told in the result, all of them.
    """
    if isinstance(source.image, DaemonImage):
        return _verify_in_engine(source, source.image, reporter, cancel)
    image = source.image
    blobs = {layer.digest: layer for manifest in all_manifests(image) for layer in manifest.layers}
    files = _by_layer(source, image)
    reporter.begin(f"verifying {source.name}", sum(blob.size for blob in blobs.values()))
    try:
        problems = run_all(
            lambda blob: _verify_layer(image, blob, files.get(blob.digest, []), reporter, cancel),
            sorted(blobs.values(), key=lambda blob: -blob.size),
            jobs,
            cancel,
        )
    finally:
        reporter.end()
    return Verified(
        image=source.name,
        layers=len(blobs),
        files=len(source.index.files) if source.index else 0,
        bytes_read=sum(blob.size for blob in blobs.values()),
        problems=tuple(sorted(problem for found in problems for problem in found)),
    )


def _by_layer(source: Source, image: Image) -> dict[Digest, list[IndexedFile]]:
    files: dict[Digest, list[IndexedFile]] = defaultdict(list)
    listed = source.index.files if source.index else ()
    for file, layer in zip(listed, image.layers_of(listed), strict=True):
        files[layer.blob.digest].append(file)
    return files


def _verify_layer(
    image: Image, blob: Descriptor, files: Iterable[IndexedFile], reporter: Reporter, cancel: Event
) -> list[str]:
    task = reporter.task(f"layer {blob.digest[:19]}", blob.size)
    try:
        with on_side("source", f"layer {blob.digest}"), open_layer(image.reader, blob, task.advance) as tar:
            return _compare(tar, files, blob.digest[:19], cancel)
    except IntegrityError as error:
        return [error.message]
    finally:
        task.done()


def _compare(tar: TarReader, files: Iterable[IndexedFile], place: str, cancel: Event) -> list[str]:
    """Hash a tar's files and return how they differ from what the file index says of them."""
    expected = {f"{ROOT}/{file.path}": file for file in files}
    problems = []
    for entry in tar:
        offset = tar.position
        path = posixpath.normpath(entry.name)
        file = expected.pop(path, None) if entry.kind == "file" else None
        if file is None:
            continue
        digest = hashlib.sha256()
        for piece in tar.content():
            if cancel.is_set():
                raise Cancelled("cancelled")
            digest.update(piece)
        if entry.size != file.size or digest.hexdigest() != file.sha256:
            problems.append(f"{file.path!r} does not match its sha256 in the file index")
        elif place and offset != file.offset:
            problems.append(f"{file.path!r} lies at byte {offset} of its layer, not {file.offset}")
    missing = [f"{file.path!r} is not where the file index says" for file in expected.values()]
    return problems + missing


def _verify_in_engine(source: Source, image: DaemonImage, reporter: Reporter, cancel: Event) -> Verified:
    if source.index is None:
        raise UsageError(
            f"{source.name} has no file index, so there is nothing to verify its files against",
            hint="an image in a registry can be verified by its layers' digests",
        )
    reporter.begin(f"verifying {source.name}", source.index.size)
    try:
        with image.open_tar(f"/{ROOT}") as tar:
            problems = _compare(tar, source.index.files, "", cancel)
    finally:
        reporter.end()
    return Verified(source.name, 0, len(source.index.files), source.index.size, tuple(sorted(problems)))
