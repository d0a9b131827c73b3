"""Image archives read in place: `oci-archive:` and `docker-archive:` files, whose tar is never unpacked.

An OCI archive is an image layout in a tar (image-spec image-layout.md). A docker archive is what `docker save` writes:
`manifest.json` and, per layer, `<id>/layer.tar` (Docker up to 24) or `blobs/sha256/<hex>` (from 25 on).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import posixpath
import tarfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from llmstack.errors import IntegrityError, LlmstackError, NotFoundError, UnavailableError, UsageError
from llmstack.oci.compression import sniff
from llmstack.oci.layout import digests_of, find_manifest, tags_of
from llmstack.oci.reference import Digest, Reference
from llmstack.oci.spec import (
    CONFIG,
    LAYER_TAR,
    MAX_CONFIG_SIZE,
    MAX_MANIFEST_SIZE,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    RawManifest,
    media_type_of,
    parse_object,
)
from llmstack.oci.store import CHUNK

# A docker archive of many images lists them all in one file.
_MAX_MANIFEST_JSON = 16 * 1024 * 1024

# A long name or a set of extended attributes: PATH_MAX is 4096.
_MAX_HEADER = 1024 * 1024
_MAX_OFFSET = 2**63


@dataclass(frozen=True, slots=True)
class Member:
    """Where a file lies in a tar: `tar[offset : offset + size]`."""

    offset: int
    size: int


class _ForwardFile(io.FileIO):
    """What tarfile reads headers from, onwards only: a size that lies neither makes it turn in circles nor read all."""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go on to a position; raises tarfile.ReadError for one that lies behind, or that no file has."""
        if whence != os.SEEK_SET or not self.tell() <= offset < _MAX_OFFSET:
            raise tarfile.ReadError("the size in a header leads out of it")
        return super().seek(offset)

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes; raises tarfile.ReadError for more than a header may take."""
        if size is None or not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        return super().read(size)


class TarArchive:
    """The files of an uncompressed tar on a disk, found once and read by offset; safe in threads."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name

    @cached_property
    def members(self) -> dict[str, Member]:
        """The regular files by their path, hard and symbolic links followed."""
        found: dict[str, Member] = {}
        links: dict[str, str] = {}
        with self.open() as file, self._errors():
            if not file.seekable():
                raise UsageError(f"{self.name} can be read only once, as a pipe", hint="save it to a file first")
            compression = sniff(file.read(8))
            file.seek(0)
            if compression:
                raise UsageError(f"{self.name} is compressed with {compression}", hint=_unpack_hint(compression))
            try:
                with tarfile.open(fileobj=_ForwardFile(file.fileno(), closefd=False), mode="r:") as tar:
                    for info in tar:
                        path = posixpath.normpath(info.name)
                        links.pop(path, None)
                        found.pop(path, None)
                        if info.isreg() and not info.issparse():
                            found[path] = Member(info.offset_data, info.size)
                        elif info.issym():
                            links[path] = posixpath.normpath(posixpath.join(posixpath.dirname(path), info.linkname))
                        elif info.islnk():
                            links[path] = posixpath.normpath(info.linkname)
            except (tarfile.TarError, ValueError, RecursionError) as error:
                # Not all that a header may hold is told by tarfile in its own words.
                raise IntegrityError(f"{self.name} is not a whole tar archive: {error}") from error
            end = file.seek(0, 2)
        for path, member in found.items():
            if member.offset + member.size > end:
                raise IntegrityError(f"{self.name} is cut off in the midst of {path}")
        for path, target in links.items():
            # Docker 1.10 to 24 link a layer that two images share to where it lies first; never to another link.
            if target in found:
                found[path] = found[target]
        return found

    def member(self, path: str) -> Member:
        """Return where a file lies; raises NotFoundError."""
        try:
            return self.members[posixpath.normpath(path)]
        except KeyError:
            raise NotFoundError(f"{self.name} holds no {path}") from None

    def read(self, member: Member, start: int = 0, stop: int | None = None) -> Generator[bytes, None, None]:
        """Yield a file's bytes from `start` up to `stop`; raises IntegrityError if the tar ends before."""
        left = (member.size if stop is None else min(stop, member.size)) - start
        with self.open() as file:
            file.seek(member.offset + start)
            while left > 0:
                with self._errors():
                    chunk = file.read(min(CHUNK, left))
                if not chunk:
                    raise IntegrityError(f"{self.name} is cut off")
                left -= len(chunk)
                yield chunk

    def read_whole(self, path: str, limit: int) -> bytes:
        """Return a small file; raises NotFoundError, IntegrityError if it is larger than `limit` bytes."""
        member = self.member(path)
        if member.size > limit:
            raise IntegrityError(f"{self.name}: {path} is larger than {limit} bytes")
        return b"".join(self.read(member))

    def open(self) -> IO[bytes]:
        """Open the tar itself; raises NotFoundError, UnavailableError."""
        with self._errors():
            return self.path.open("rb", buffering=0)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise NotFoundError(f"{self.path} does not exist") from error
        except IsADirectoryError as error:
            raise UsageError(f"{self.path} is a folder, not an archive", hint=f"write it as oci:{self.path}") from error
        except OSError as error:
            raise UnavailableError(f"{self.path} cannot be read: {error.strerror}") from error


class OciArchive:
    """An OCI image layout inside a tar; implements BlobReader."""

    def __init__(self, path: Path) -> None:
        self._tar = TarArchive(path, f"oci-archive:{path}")

    @property
    def name(self) -> str:
        """Return the archive as skopeo names it: `oci-archive:FILE`."""
        return self._tar.name

    @cached_property
    def _index(self) -> Index:
        try:
            data = self._tar.read_whole("index.json", MAX_MANIFEST_SIZE)
        except NotFoundError as error:
            hint = f"is it from docker save? then write docker-archive:{self._tar.path}"
            if not self._tar.path.exists():
                raise
            raise UsageError(f"{self._tar.path} is not an OCI archive: it has no index.json", hint=hint) from error
        return Index.parse(RawManifest("", data))

    def manifest(self, reference: str) -> RawManifest:
        """Return a manifest or an index; the empty reference names the only one there is. See BlobReader."""
        named = reference.startswith("sha256:")
        digest = Digest.parse(reference) if named else find_manifest(self._index, reference, self.name).digest
        data = self._tar.read_whole(_blob_path(digest), MAX_MANIFEST_SIZE)
        if Digest.of(data) != digest:
            raise IntegrityError(f"{self.name}: manifest {digest} does not match its digest")
        return replace(RawManifest("", data), media_type=media_type_of(parse_object(data, "manifest")))

    def read_blob(self, blob: Descriptor, start: int = 0, stop: int | None = None) -> Generator[bytes, None, None]:
        """Yield a blob's bytes; see BlobReader."""
        yield from _read_sized(self._tar, self._tar.member(_blob_path(blob.digest)), blob, start, stop)

    def tags(self) -> list[str]:
        """Return all tags; see BlobReader."""
        return tags_of(self._index)

    def digests(self, tags: Sequence[str] | None = None, _jobs: int = 1, /) -> dict[str, Digest]:
        """Return the digests of tags; see BlobReader."""
        return digests_of(self._index, tags)


class DockerArchive:
    """What `docker save` wrote, as a BlobReader: manifests are made up from manifest.json and the configs."""

    def __init__(self, path: Path) -> None:
        self._tar = TarArchive(path, f"docker-archive:{path}")

    @property
    def name(self) -> str:
        """Return the archive as skopeo names it: `docker-archive:FILE`."""
        return self._tar.name

    def manifest(self, reference: str) -> RawManifest:
        """Return an image's manifest: by `repository:tag`, by tag alone, or the only one for the empty reference."""
        for image in self._images:
            if image.raw_manifest.digest == reference:
                return image.raw_manifest
        matching = [image for image in self._images if not reference or image.is_called(reference)]
        if len(matching) == 1:
            return matching[0].raw_manifest
        names = ", ".join(self.tags()[:8]) or "images without a name"
        if matching:
            raise UsageError(f"{self.name} holds several images", hint=f"name one after a colon: {names}")
        raise NotFoundError(f"{self.name} holds no image {reference}", hint=f"it holds: {names}")

    def read_blob(self, blob: Descriptor, start: int = 0, stop: int | None = None) -> Generator[bytes, None, None]:
        """Yield a config's or a layer's bytes; see BlobReader."""
        try:
            member = self._blobs[blob.digest]
        except KeyError:
            raise NotFoundError(f"{self.name}: blob {blob.digest} is missing") from None
        yield from _read_sized(self._tar, member, blob, start, stop)

    def tags(self) -> list[str]:
        """Return the images' names, each `repository:tag`; see BlobReader."""
        return sorted(name for image in self._images for name in image.names)

    def digests(self, tags: Sequence[str] | None = None, _jobs: int = 1, /) -> dict[str, Digest]:
        """Return the digests of images by name; see BlobReader."""
        named = {name: image.raw_manifest.digest for image in self._images for name in image.names}
        return {name: digest for name, digest in named.items() if tags is None or name in tags}

    @cached_property
    def _images(self) -> tuple[_SavedImage, ...]:
        try:
            data = self._tar.read_whole("manifest.json", _MAX_MANIFEST_JSON)
        except NotFoundError as error:
            if not self._tar.path.exists():
                raise
            hint = f"is it an OCI archive? then write oci-archive:{self._tar.path}"
            raise UsageError(f"{self._tar.path} is not from docker save: it has no manifest.json", hint=hint) from error
        entries = parse_object(b'{"images":' + data + b"}", f"{self.name}: manifest.json")["images"]
        try:
            return tuple(self._image(entry) for entry in entries)
        except (KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"{self.name}: manifest.json is not what docker save writes") from error
        except NotFoundError as error:
            raise IntegrityError(error.message) from error

    @cached_property
    def _blobs(self) -> dict[Digest, Member]:
        return {digest: member for image in self._images for digest, member in image.blobs.items()}

    def _image(self, entry: dict[str, Any]) -> _SavedImage:
        data = self._tar.read_whole(str(entry["Config"]), MAX_CONFIG_SIZE)
        config = Descriptor(CONFIG, Digest.of(data), len(data))
        blobs = {config.digest: self._tar.member(str(entry["Config"]))}
        paths, diff_ids = [str(path) for path in entry["Layers"] or ()], ImageConfig.parse(data).diff_ids
        if len(paths) != len(diff_ids):
            raise IntegrityError(f"{self.name}: {len(paths)} layers, but the config names {len(diff_ids)}")
        layers = []
        for path, diff_id in zip(paths, diff_ids, strict=True):
            member = self._tar.member(path)
            layer = self._layer(path, member, diff_id)
            blobs[layer.digest] = member
            layers.append(layer)
        names = tuple(str(name) for name in entry.get("RepoTags") or ())
        return _SavedImage(names, Manifest(config, tuple(layers)).to_raw(), blobs)

    def _layer(self, path: str, member: Member, diff_id: Digest) -> Descriptor:
        compression = sniff(b"".join(self._tar.read(member, stop=8)))
        if not compression:
            return Descriptor(LAYER_TAR, diff_id, member.size)
        # An engine with the containerd store saves layers as it pulled them. The blob's digest is its name then, and
        # where it is not, it has to be found out.
        folder, _, name = path.rpartition("/")
        with contextlib.suppress(LlmstackError):
            if folder == "blobs/sha256":
                return Descriptor(f"{LAYER_TAR}+{compression}", Digest.parse(f"sha256:{name}"), member.size)
        digest = hashlib.sha256()
        for chunk in self._tar.read(member):
            digest.update(chunk)
        return Descriptor(f"{LAYER_TAR}+{compression}", Digest("sha256:" + digest.hexdigest()), member.size)


@dataclass(frozen=True, slots=True)
class _SavedImage:
    names: tuple[str, ...]
    raw_manifest: RawManifest
    blobs: dict[Digest, Member]

    def is_called(self, reference: str) -> bool:
        """Tell whether a name is `reference`, with Docker's defaults filled in, or has it as its tag."""
        if reference in self.names:
            return True
        wanted = _parsed(reference) if "/" in reference or ":" in reference else None
        for name in self.names:
            known = _parsed(name)
            if known and (known == wanted or known.tag == reference):
                return True
        return False


def _parsed(name: str) -> Reference | None:
    try:
        return Reference.parse(name)
    except UsageError:
        return None


def _blob_path(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex}"


def _read_sized(
    tar: TarArchive, member: Member, blob: Descriptor, start: int, stop: int | None
) -> Generator[bytes, None, None]:
    if member.size != blob.size:
        raise IntegrityError(f"{tar.name}: blob {blob.digest} is {member.size} bytes long, not {blob.size}")
    yield from tar.read(member, start, stop)


def _unpack_hint(compression: str) -> str:
    program = {"gzip": "gunzip", "zstd": "unzstd", "xz": "unxz", "bzip2": "bunzip2"}[compression]
    return f"unpack it first: {program} FILE"
