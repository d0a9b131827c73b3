"""Read bundles: find their volumes, check them, and read blobs from the pieces in them. Nothing is trusted."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmstack.bundles.document import FILE_NAME, MAX_FILE_SIZE, Contents, Piece, Volume, short_id
from llmstack.bundles.unfinished import STATE
from llmstack.bundles.volume_writer import SUMS
from llmstack.disk import exists
from llmstack.errors import IntegrityError, LlmstackError, NotFoundError, UnavailableError, UsageError
from llmstack.oci.reference import Digest
from llmstack.oci.regular_files import RegularFiles
from llmstack.oci.spec import MAX_MANIFEST_SIZE, Descriptor, RawManifest, media_type_of, parse_object
from llmstack.oci.store import BlobReader, verified

_SUM = re.compile(r"([0-9a-f]{64})  (\S+)")
_LAYOUT_FILES = ("oci-layout", "index.json")
# DIR/volume-001 and DIR/BUNDLE/volume-001
_DEPTH = 2


@dataclass(frozen=True, slots=True)
class StoredPiece:
    """A piece that can be read: `blob` is its own digest and size, under which `reader` has it."""

    piece: Piece
    blob: Descriptor
    reader: BlobReader | OpenedVolume

    def chunks(self, start: int, stop: int) -> Generator[bytes, None, None]:
        """Yield bytes of the blob; both positions are in this piece."""
        offset = self.piece.start
        if isinstance(self.reader, OpenedVolume):
            return self.reader.chunks(self.piece, start - offset, stop - offset)
        return self.reader.read_blob(self.blob, start - offset, stop - offset)

    def read_blob(self, _blob: Descriptor, /) -> Generator[bytes, None, None]:
        """Yield the piece, not verified."""
        return self.chunks(self.piece.start, self.piece.stop)

    def damage(self, _blob: Descriptor, _error: LlmstackError, /) -> LlmstackError:
        """Return the error if the bytes were wrong."""
        return damaged(self.where, self.piece.path)

    @property
    def where(self) -> str:
        """The volume or the repository that has the piece."""
        return self.reader.files.name if isinstance(self.reader, OpenedVolume) else self.reader.name


@dataclass(frozen=True, slots=True)
class OpenedVolume:
    """A complete volume on a disk: its document, and the hashes of its files."""

    files: RegularFiles
    volume: Volume
    sums: dict[str, Digest]

    def chunks(self, piece: Piece, start: int, stop: int) -> Generator[bytes, None, None]:
        """Yield bytes of a piece."""
        return self.files.chunks(piece.path, piece.path, piece.length, start, stop)

    def verified_chunks(self, piece: Piece) -> Generator[bytes, None, None]:
        """Yield a piece; raises IntegrityError at the end if it does not match SHA256SUMS."""
        blob = Descriptor("", self.sums[piece.path], piece.length)
        try:
            yield from verified(self.chunks(piece, 0, piece.length), blob, self.files.name)
        except IntegrityError as error:
            raise damaged(self.files.name, piece.path) from error

    @property
    def pieces(self) -> list[StoredPiece]:
        """The pieces of this volume."""
        return [
            StoredPiece(piece, Descriptor("", self.sums[piece.path], piece.length), self)
            for piece in self.volume.pieces
        ]


def damaged(volume: str, path: str) -> IntegrityError:
    """Return the error for a file that does not match its hash."""
    return IntegrityError(
        f"{volume}: {path}: does not match its hash",
        hint=f"copy the volume again; to check it: cd {volume} && sha256sum -c {SUMS}",
    )


def find_volumes(paths: Sequence[Path]) -> tuple[list[OpenedVolume], list[LlmstackError]]:
    """Return the volumes in these directories, or one or two levels below, and the errors of damaged ones.

    Raises LlmstackError if a directory has no volume.
    """
    unique: dict[tuple[Digest, int], OpenedVolume] = {}
    errors: list[LlmstackError] = []
    for folder in dict.fromkeys(folder for path in paths for folder in _folders(path)):
        try:
            opened = open_volume(folder)
        except LlmstackError as error:
            error.side = "source"
            errors.append(error)
            continue
        same = unique.setdefault((opened.volume.contents.id, opened.volume.number), opened)
        if same.volume != opened.volume:
            claim = f"{opened.files.name}: claims to be the same volume as {same.files.name}, and holds other blobs"
            errors.append(IntegrityError(claim, side="source"))
    return list(unique.values()), errors


def _folders(path: Path) -> list[Path]:
    if not exists(path):
        raise NotFoundError(f"{path}: not found", hint="is the disk mounted?")
    if not path.is_dir():
        raise UsageError(f"{path}: is not a directory", hint="name the directory of a bundle or of a volume")
    found, level = list[Path](), [path]
    for _ in range(_DEPTH + 1):
        found += [folder for folder in level if exists(folder / FILE_NAME)]
        level = [child for folder in level if folder not in found for child in _children(folder)]
    if found:
        return found
    if exists(path / STATE):
        raise _unfinished(path)
    if exists(path / "index.json"):
        raise UsageError(f"{path}: is an OCI layout, not a bundle: no {FILE_NAME}", hint=f"read it as oci:{path}")
    raise NotFoundError(f"{path}: no bundle found: no {FILE_NAME}", hint="is it the directory that save --to named?")


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir() and not child.is_symlink())
    except PermissionError:
        # For example lost+found.
        return []
    except OSError as error:
        raise UnavailableError(f"{folder}: cannot be read: {error.strerror}") from error


def open_volume(folder: Path) -> OpenedVolume:
    """Read bundle.json and SHA256SUMS of a volume, and check that all its files exist with their sizes.

    Raises LlmstackError.
    """
    files = RegularFiles(folder, str(folder))
    data = files.read(FILE_NAME, FILE_NAME, MAX_FILE_SIZE)
    try:
        sums = _parse_sums(files.read(SUMS, SUMS, MAX_FILE_SIZE), str(folder))
    except NotFoundError as error:
        raise _unfinished(folder) from error
    if sums.get(FILE_NAME) != Digest.of(data):
        raise damaged(str(folder), FILE_NAME)
    volume = Volume.parse(data, str(folder))
    for path in _LAYOUT_FILES if volume.number == 1 else ():
        if Digest.of(files.read(path, path, MAX_FILE_SIZE)) != sums.get(path):
            raise damaged(str(folder), path)
    for piece in volume.pieces:
        if piece.path not in sums or (piece.is_whole and sums[piece.path] != piece.digest):
            raise IntegrityError(f"{folder}: {SUMS}: {piece.path}: does not match {FILE_NAME}")
        size = files.size(piece.path, piece.path)
        if size != piece.length:
            raise IntegrityError(
                f"{folder}: {piece.path}: has {size:,} bytes, not {piece.length:,}", hint="copy the volume again"
            )
    return OpenedVolume(files, volume, sums)


def _parse_sums(data: bytes, what: str) -> dict[str, Digest]:
    sums: dict[str, Digest] = {}
    *lines, rest = data.decode("ascii", errors="replace").split("\n")
    if rest:
        raise damaged(what, SUMS)
    for line in lines:
        match = _SUM.fullmatch(line)
        if match is None or match[2] in sums:
            raise IntegrityError(f"{what}: {SUMS}: invalid line {line[:80]!r}", hint="copy the volume again")
        sums[match[2]] = Digest(f"sha256:{match[1]}")
    return sums


def _unfinished(folder: Path) -> NotFoundError:
    return NotFoundError(
        f"{folder}: the volume is not complete: no {SUMS}", hint="finish it: rerun the llmstack save that wrote it"
    )


class BundleReader:
    """The blobs of a bundle, of any of its volumes; implements BlobReader."""

    def __init__(self, contents: Contents, pieces: Iterable[StoredPiece]) -> None:
        self._contents = contents
        self._pieces: dict[Digest, list[StoredPiece]] = {}
        for stored in pieces:
            self._pieces.setdefault(stored.piece.digest, []).append(stored)
        for digest, parts in self._pieces.items():
            parts.sort(key=lambda part: part.piece.start)
            ends = [0, *(part.piece.stop for part in parts)]
            sizes = {part.piece.size for part in parts}
            if [part.piece.start for part in parts] != ends[:-1] or sizes != {ends[-1]}:
                raise IntegrityError(f"{self.name}: blob {digest}: its parts do not fit together")

    @property
    def name(self) -> str:
        """The bundle in messages."""
        return f"bundle {short_id(self._contents.id)}"

    def holds(self, digest: Digest) -> bool:
        """Tell whether the bundle has a blob."""
        return digest in self._pieces

    def mountable(self, digest: Digest) -> BlobReader | None:
        """Return the repository that has a complete blob already, from a volume that came earlier; see BlobSupply."""
        [first, *_] = self._parts(digest)
        return first.reader if first.piece.is_whole and not isinstance(first.reader, OpenedVolume) else None

    def manifest(self, reference: str) -> RawManifest:
        """Return a manifest by its digest; see BlobReader."""
        digest = Digest.parse(reference)
        parts = self._parts(digest)
        size = parts[0].piece.size
        if size > MAX_MANIFEST_SIZE:
            raise IntegrityError(f"{self.name}: manifest {digest}: larger than {MAX_MANIFEST_SIZE:,} bytes")
        data = b"".join(self.read_blob(Descriptor("", digest, size)))
        if Digest.of(data) != digest:
            raise damaged(parts[0].where, parts[0].piece.path)
        return replace(RawManifest("", data), media_type=media_type_of(parse_object(data, f"manifest {digest}")))

    def read_blob(self, blob: Descriptor, start: int = 0, stop: int | None = None) -> Generator[bytes, None, None]:
        """Yield the bytes of a blob; see BlobReader."""
        parts = self._parts(blob.digest)
        if parts[0].piece.size != blob.size:
            raise IntegrityError(f"{self.name}: blob {blob.digest}: has {parts[0].piece.size} bytes, not {blob.size}")
        end = blob.size if stop is None else stop
        for part in parts:
            first, last = max(start, part.piece.start), min(end, part.piece.stop)
            if first < last:
                yield from part.chunks(first, last)

    def verified_blob(self, blob: Descriptor) -> Generator[bytes, None, None]:
        """Yield a blob; raises IntegrityError, which names the damaged file, at the end."""
        try:
            yield from verified(self.read_blob(blob), blob, self.name)
        except IntegrityError as error:
            raise self.damage(blob, error) from error

    def damage(self, blob: Descriptor, error: LlmstackError) -> LlmstackError:
        """Return the error for a blob that is damaged: only the volume of the damaged part must be copied again."""
        parts = self._parts(blob.digest)
        if len(parts) == 1 and isinstance(parts[0].reader, OpenedVolume):
            return damaged(parts[0].reader.files.name, parts[0].piece.path)
        for part in parts:
            if isinstance(part.reader, OpenedVolume):
                try:
                    for _ in part.reader.verified_chunks(part.piece):
                        pass
                except IntegrityError as found:
                    return found
        return error

    def tags(self) -> list[str]:
        """Return nothing: images are read by digest; see BlobReader."""
        return []

    def digests(self, _tags: Sequence[str] | None = None, _jobs: int = 1, /) -> dict[str, Digest]:
        """Return nothing; see BlobReader."""
        return {}

    def referrers(self, _digest: Digest) -> list[Descriptor]:
        """Return nothing: a bundle lists them as images; see BlobReader."""
        return []

    def _parts(self, digest: Digest) -> list[StoredPiece]:
        try:
            return self._pieces[digest]
        except KeyError:
            raise NotFoundError(f"{self.name}: blob {digest}: not found") from None
