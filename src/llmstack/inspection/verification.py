"""`llmstack verify`: hash every byte of an image again; write nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from threading import Event
from typing import TYPE_CHECKING

from llmstack.carried_image.file_index import IndexedFile
from llmstack.carried_image.image import FileTar, OpenedImage
from llmstack.errors import IntegrityError, NotFoundError, on_side
from llmstack.net import Cancelled
from llmstack.net.parallel import run_all, unless_cancelled
from llmstack.oci.tar_reader import TarEntry, TarReader, clean_path
from llmstack.reporting import Reporter

if TYPE_CHECKING:
    from llmstack.signing.trust import Trust


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What was verified, and what is wrong.

    `files` counts the files in the file index, 0 without one; `format` is its version, None without one. `signed_by`
    are the trusted signers, if trust was asked for.
    """

    image: str
    layers: int
    files: int
    bytes_read: int
    problems: tuple[str, ...]
    format: str | None = None
    signed_by: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Tell whether nothing is wrong."""
        return not self.problems


def verify(
    image: OpenedImage, reporter: Reporter, cancel: Event, jobs: int, trust: Trust | None = None
) -> VerifyResult:
    """Hash all layers of all platforms, and all files of the file index at their positions in the layers.

    Layers without indexed files need not be tars: registries also hold attestations and charts. Wrong and missing bytes
    are reported in the result. Raises LlmstackError if the image cannot be read, or is not signed as `trust` requires.
    """
    signed_by = _signers(image, trust) if trust else ()
    if image.artifact_type:
        reporter.warn(f"{image.name} is an artifact ({image.artifact_type}), not an image: only digests are verified")
    groups, problems = image.tars_to_verify()
    groups.sort(key=lambda group: -sum(tar.size for tar in group))
    size = sum(tar.size for group in groups for tar in group)
    reporter.begin(f"verifying {image.name}", size)
    try:
        found = run_all(lambda group: _Verification(group, cancel).run(reporter), groups, jobs, cancel)
    finally:
        reporter.end()
    return VerifyResult(
        image=image.name,
        layers=len({tar.blob.digest for group in groups for tar in group if tar.blob}),
        files=len(image.index.files) if image.index else 0,
        bytes_read=size,
        problems=tuple(sorted(chain(problems, *found))),
        format=image.index.format if image.index else None,
        signed_by=signed_by,
    )


def _signers(image: OpenedImage, trust: Trust) -> tuple[str, ...]:
    # Imported late: cryptography is for those who ask for trust.
    from llmstack.signing.check import check_image

    return check_image(image, trust).signed_by


class _Verification:
    """Verify the tars of one group, which hold the same files, or parts of the same files."""

    def __init__(self, group: Sequence[FileTar], cancel: Event) -> None:
        self._group = group
        self._cancel = cancel
        self._files = {file.path: file for tar in group for files in tar.files.values() for file in files}
        self._hashes = {path: file.new_hash() for path, file in self._files.items()}
        self._problems: dict[str, str] = {}

    def run(self, reporter: Reporter) -> list[str]:
        """Read the tars in order; return what is wrong with them and with the files."""
        damaged = []
        for number, tar in enumerate(self._group):
            task = reporter.task(tar.name[:25], tar.size)
            try:
                with on_side("source", tar.name), tar.open(unless_cancelled(task.advance, self._cancel)) as reader:
                    # Closing the tar hashes the bytes that were not read here.
                    if tar.files:
                        self._read(reader, number, tar)
            except (IntegrityError, NotFoundError) as error:
                if tar.blob or isinstance(error, IntegrityError):
                    damaged.append(error.message)
                else:
                    self._report_missing(tar.files.values())
            finally:
                task.done()
        return damaged or self._check_hashes()

    def _read(self, reader: TarReader, number: int, tar: FileTar) -> None:
        """Hash the files in a tar, or their parts of this number; check sizes, positions and hard links.

        Anything else in a layer would change or hide files for those who run or mount the image.
        """
        missing, links = dict(tar.files), dict(tar.links)
        for entry in reader:
            files = missing.pop(entry.path, ()) if entry.kind == "file" else ()
            for file in files:
                part = file.ranges[number]
                if entry.size != part.size:
                    self._report(file, "does not match its size in the file index")
                elif tar.blob and reader.position != part.offset:
                    self._report(file, f"is at byte {reader.position} of its layer, not {part.offset}")
            if files:
                self._hash(reader, files)
            elif tar.blob and not _is_expected(entry, links):
                self._problems.setdefault(tar.name, f"{tar.name}: {entry.name[:200]!r} is not in the file index")
        self._report_missing(missing.values())
        self._report_missing(tar.files[target] for target in links.values() if target not in missing)

    def _hash(self, reader: TarReader, files: Sequence[IndexedFile]) -> None:
        for piece in reader.content():
            if self._cancel.is_set():
                raise Cancelled("cancelled")
            for file in files:
                self._hashes[file.path].update(piece)

    def _check_hashes(self) -> list[str]:
        for path, file in self._files.items():
            if mismatch := file.mismatch(self._hashes[path]):
                self._report(file, f"does not match its {mismatch} in the file index")
        return list(self._problems.values())

    def _report_missing(self, missing: Iterable[Sequence[IndexedFile]]) -> None:
        for file in chain(*missing):
            self._report(file, "is not where the file index says")

    def _report(self, file: IndexedFile, problem: str) -> None:
        self._problems.setdefault(file.path, f"{file.path!r} {problem}")


def _is_expected(entry: TarEntry, links: dict[str, str]) -> bool:
    """Tell whether an entry is a directory, or one of `links`, which is then removed from them."""
    if entry.kind == "hardlink":
        return links.pop(entry.path, None) == clean_path(entry.target)
    return entry.kind == "directory"
