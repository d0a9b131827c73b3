"""`llmstack verify`: every byte of an image hashed again, and nothing written."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from threading import Event

from llmstack.carried_image.file_index import ROOT, IndexedFile
from llmstack.carried_image.image import Image, all_manifests
from llmstack.carried_image.source import Source
from llmstack.engine.engine_image import EngineImage
from llmstack.errors import IntegrityError, NotFoundError, UsageError, on_side
from llmstack.net import Cancelled
from llmstack.net.parallel import run_all, unless_cancelled
from llmstack.oci.reference import Digest
from llmstack.oci.spec import Descriptor
from llmstack.oci.tar_reader import TarReader, open_layer
from llmstack.reporting import Reporter


@dataclass(frozen=True, slots=True)
class VerifyResult:
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


def verify(source: Source, reporter: Reporter, cancel: Event, jobs: int) -> VerifyResult:
    """Hash all layers of all platforms, and each file of the file index, at its place in its layer.

    Other layers need not even be tars: attestations and charts are kept in registries, too. Raises what reading raises;
    bytes that are wrong or missing are told in the result, all of them.
    """
    if isinstance(source.image, EngineImage):
        return _verify_in_engine(source, source.image, reporter, cancel)
    image = source.image
    manifests, not_read = all_manifests(image)
    blobs = {layer.digest: layer for manifest in manifests for layer in manifest.layers}
    reads = _reads(source, image, blobs)
    size = {read: sum(blobs[digest].size for digest in read) for read in reads}
    reporter.begin(f"verifying {source.name}", sum(size.values()))

    def verify_read(read: tuple[Digest, ...]) -> list[str]:
        checks = _Checks(reads[read], cancel)
        return checks.layers(image, [blobs[digest] for digest in read], reporter)

    try:
        found = run_all(verify_read, sorted(reads, key=lambda read: -size[read]), jobs, cancel)
    finally:
        reporter.end()
    return VerifyResult(
        image=source.name,
        layers=len(blobs),
        files=len(source.index.files) if source.index else 0,
        bytes_read=sum(size.values()),
        problems=tuple(sorted(chain(not_read, *found))),
    )


def _reads(
    source: Source, image: Image, blobs: Mapping[Digest, Descriptor]
) -> Mapping[tuple[Digest, ...], list[IndexedFile]]:
    """Return which blobs are read one after the other, and the files in them: one blob, or all with a file's parts."""
    listed = source.index.files if source.index else ()
    layers = image.layers_of(listed) if source.index else {}
    reads: dict[tuple[Digest, ...], list[IndexedFile]] = defaultdict(list)
    for file in listed:
        reads[tuple(layers[layer].blob.digest for layer in file.layers)].append(file)
    read = {digest for digests in reads for digest in digests}
    return {**reads, **{(digest,): [] for digest in blobs if digest not in read}}


class _Checks:
    """What is found of some files, which lie in one layer, or in parts in the same layers, as these are read."""

    def __init__(self, files: Sequence[IndexedFile], cancel: Event) -> None:
        self._files = files
        self._cancel = cancel
        self._hashes = {file.path: file.new_hash() for file in files}
        self._wrong: dict[str, str] = {}

    def layers(self, image: Image, blobs: Sequence[Descriptor], reporter: Reporter) -> list[str]:
        """Read the layers in order, and return what is wrong with them and with the files."""
        damaged = []
        for number, blob in enumerate(blobs):
            task = reporter.task(f"layer {blob.digest[:19]}", blob.size)
            try:
                what = f"layer {blob.digest}"
                count_bytes = unless_cancelled(task.advance, self._cancel)
                with on_side("source", what), open_layer(image.reader, blob, count_bytes) as tar:
                    # What is not read here is hashed all the same when the layer is closed.
                    if self._files:
                        self.compare(tar, number, self._at(number), in_layer=True)
            except (IntegrityError, NotFoundError) as error:
                damaged.append(error.message)
            finally:
                task.done()
        return damaged or self.problems()

    def compare(
        self, tar: TarReader, number: int, expected: Mapping[str, list[IndexedFile]], *, in_layer: bool
    ) -> None:
        """Hash what a tar holds of the files' parts of this number, which should have these names there."""
        missing = dict(expected)
        for entry in tar:
            files = missing.pop(entry.path, []) if entry.kind == "file" else []
            for file in files:
                part = file.ranges[number]
                if entry.size != part.size:
                    self._note(file, "does not match its size in the file index")
                elif in_layer and tar.position != part.offset:
                    self._note(file, f"lies at byte {tar.position} of its layer, not {part.offset}")
            if files:
                self._hash(tar, files)
        self._missing(missing)

    def in_engine(self, image: EngineImage, path: str, number: int, expected: Mapping[str, list[IndexedFile]]) -> None:
        """Hash what lies at a path in an image in the engine; nothing may."""
        try:
            with image.open_tar(f"/{path}") as tar:
                self.compare(tar, number, expected, in_layer=False)
        except NotFoundError:
            self._missing(expected)

    def problems(self) -> list[str]:
        """Return what is wrong with the files, when all has been read."""
        for file in self._files:
            if mismatch := file.mismatch(self._hashes[file.path]):
                self._note(file, f"does not match its {mismatch} in the file index")
        return list(self._wrong.values())

    def _at(self, number: int) -> Mapping[str, list[IndexedFile]]:
        """Return the files by the paths of their parts of this number; files with the same bytes share parts."""
        paths: dict[str, list[IndexedFile]] = defaultdict(list)
        for file in self._files:
            paths[file.part_path(number)].append(file)
        return paths

    def _hash(self, tar: TarReader, files: Sequence[IndexedFile]) -> None:
        for piece in tar.content():
            if self._cancel.is_set():
                raise Cancelled("cancelled")
            for file in files:
                self._hashes[file.path].update(piece)

    def _missing(self, expected: Mapping[str, list[IndexedFile]]) -> None:
        for file in (file for files in expected.values() for file in files):
            self._note(file, "is not where the file index says")

    def _note(self, file: IndexedFile, what: str) -> None:
        self._wrong.setdefault(file.path, f"{file.path!r} {what}")


def _verify_in_engine(source: Source, image: EngineImage, reporter: Reporter, cancel: Event) -> VerifyResult:
    if source.index is None:
        raise UsageError(
            f"{source.name} has no file index, so there is nothing to verify its files against",
            hint="an image in a registry can be verified by its layers' digests",
        )
    files = source.index.files
    whole = [file for file in files if not file.is_split]
    problems: list[str] = []
    reporter.begin(f"verifying {source.name}", source.index.size)
    try:
        if whole:
            checks = _Checks(whole, cancel)
            checks.in_engine(image, ROOT, 0, {f"{ROOT}/{file.path}": [file] for file in whole})
            problems += checks.problems()
        for file in files:
            if file.is_split:
                problems += _parts_in_engine(image, file, cancel)
    finally:
        reporter.end()
    return VerifyResult(source.name, 0, len(files), source.index.size, tuple(sorted(problems)))


def _parts_in_engine(image: EngineImage, file: IndexedFile, cancel: Event) -> list[str]:
    checks = _Checks([file], cancel)
    for number in range(len(file.ranges)):
        path = file.part_path(number)
        # The engine names what it gives by the last part of its path.
        checks.in_engine(image, path, number, {posixpath.basename(path): [file]})
    return checks.problems()
