"""Image archives: `oci-archive:` and `docker-archive:` files, read in place without unpacking them.

An OCI archive is an image layout in a tar (image-spec image-layout.md). A docker archive is the output of
`docker save`: `manifest.json`, and layers as `<id>/layer.tar` (Docker up to 24) or `blobs/sha256/<hex>` (from 25).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from llmstack.errors import IntegrityError, LlmstackError, NotFoundError, UnavailableError, UsageError
from llmstack.oci.compression import HEAD, sniff
from llmstack.oci.layout import MAX_LAYOUT_INDEX_SIZE, digests_of, find_manifest, tags_of
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
from llmstack.oci.tar_reader import RangeTarReader, TarReader, clean_path

# The manifest.json of an archive lists all its images.
_MAX_MANIFEST_JSON = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Member:
    """The byte range of a file in a tar."""

    offset: int
    size: int


class TarArchive:
    """The files of an uncompressed tar on a disk, listed once and read by offset; safe in threads."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name

    @cached_property
    def members(self) -> dict[str, Member]:
        """The regular files by path, and the links to them."""
        with self.open() as file, self._errors():
            if not file.seekable():
                raise UsageError(f"{self.name}: is a pipe, which cannot be read twice", hint="save it to a file first")
            compression = sniff(file.read(HEAD))
            if compression:
                raise UsageError(f"{self.name}: is compressed with {compression}", hint=_unpack_hint(compression))
            descriptor, size = file.fileno(), file.seek(0, os.SEEK_END)
            tar = RangeTarReader(lambda start, stop: [os.pread(descriptor, stop - start, start)], size, self.name)
            return self.list_members(tar, lambda _tar, _member: None)

    @staticmethod
    def list_members(tar: TarReader, on_file: Callable[[TarReader, Member], None]) -> dict[str, Member]:
        """Return the regular files of a tar by path, and the links to them; `on_file` may read each file."""
        found: dict[str, Member] = {}
        links: dict[str, str] = {}
        for entry in tar:
            path = entry.path
            links.pop(path, None)
            found.pop(path, None)
            if entry.kind == "file":
                found[path] = Member(tar.position, entry.size)
                on_file(tar, found[path])
            elif entry.kind == "symlink":
                links[path] = posixpath.normpath(posixpath.join(posixpath.dirname(path), entry.target))
            elif entry.kind == "hardlink":
                links[path] = clean_path(entry.target)
        for path, target in links.items():
            # Docker 1.10 to 24 link a layer that two images share to its first copy, never to another link.
            if target in found:
                found[path] = found[target]
        return found

    def member(self, path: str) -> Member:
        """Return the byte range of a file; raises NotFoundError."""
        try:
            return self.members[posixpath.normpath(path)]
        except KeyError:
            raise NotFoundError(f"{self.name}: {path} not found") from None

    def read(self, member: Member, start: int = 0, stop: int | None = None) -> Generator[bytes, None, None]:
        """Yield the bytes of a file from `start` up to `stop`; raises IntegrityError if the tar is truncated."""
        left = (member.size if stop is None else min(stop, member.size)) - start
        with self.open() as file:
            file.seek(member.offset + start)
            while left > 0:
                with self._errors():
                    chunk = file.read(min(CHUNK, left))
                if not chunk:
                    raise IntegrityError(f"{self.name}: truncated")
                left -= len(chunk)
                yield chunk

    def read_all(self, path: str, limit: int) -> bytes:
        """Return a small file; raises NotFoundError, IntegrityError if it is larger than `limit` bytes."""
        member = self.member(path)
        if member.size > limit:
            raise IntegrityError(f"{self.name}: {path}: {member.size:,} bytes, the limit is {limit:,}")
        return b"".join(self.read(member))

    def open(self) -> IO[bytes]:
        """Open the tar; raises NotFoundError, UnavailableError."""
        with self._errors():
            return self.path.open("rb", buffering=0)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise NotFoundError(f"{self.path}: not found") from error
        except IsADirectoryError as error:
            raise UsageError(f"{self.path}: is a directory, not an archive", hint=f"try oci:{self.path}") from error
        except OSError as error:
            raise UnavailableError(f"{self.path}: cannot be read: {error.strerror}") from error


class OciArchive:
    """An OCI image layout in a tar; implements BlobReader."""

    def __init__(self, path: Path) -> None:
        self._tar = TarArchive(path, f"oci-archive:{path}")

    @property
    def name(self) -> str:
        """The archive as skopeo names it: `oci-archive:FILE`."""
        return self._tar.name

    @cached_property
    def _index(self) -> Index:
        try:
            data = self._tar.read_all("index.json", MAX_LAYOUT_INDEX_SIZE)
        except NotFoundError as error:
            hint = f"if it is from docker save: docker-archive:{self._tar.path}"
            if not self._tar.path.exists():
                raise
            raise UsageError(f"{self._tar.path}: is not an OCI archive: no index.json", hint=hint) from error
        return Index.parse(RawManifest("", data))

    def manifest(self, reference: str) -> RawManifest:
        """Return a manifest or an index; the empty reference stands for the only one. See BlobReader."""
        named = reference.startswith("sha256:")
        digest = Digest.parse(reference) if named else find_manifest(self._index, reference, self.name).digest
        data = self._tar.read_all(_blob_path(digest), MAX_MANIFEST_SIZE)
        if Digest.of(data) != digest:
            raise IntegrityError(f"{self.name}: manifest {digest}: does not match its digest")
        return replace(RawManifest("", data), media_type=media_type_of(parse_object(data, "manifest")))

    def read_blob(self, blob: Descriptor, start: int = 0, stop: int | None = None) -> Generator[bytes, None, None]:
        """Yield the bytes of a blob; see BlobReader."""
        yield from _read_sized(self._tar, self._tar.member(_blob_path(blob.digest)), blob, start, stop)

    def tags(self) -> list[str]:
        """Return all tags; see BlobReader."""
        return tags_of(self._index)

    def digests(self, tags: Sequence[str] | None = None, _jobs: int = 1, /) -> dict[str, Digest]:
        """Return the digests of tags; see BlobReader."""
        return digests_of(self._index, tags)

    def referrers(self, _digest: Digest) -> list[Descriptor]:
        """Return nothing: archives hold images only; see BlobReader."""
        return []


class DockerArchive:
    """An archive of `docker save`; implements BlobReader. Makes manifests from manifest.json and the configs."""

    def __init__(self, archive: Path | TarArchive) -> None:
        self._tar = archive if isinstance(archive, TarArchive) else TarArchive(archive, f"docker-archive:{archive}")

    @property
    def name(self) -> str:
        """The archive as skopeo names it: `docker-archive:FILE`."""
        return self._tar.name

    def manifest(self, reference: str) -> RawManifest:
        """Return the manifest of an image by `repository:tag` or tag; the empty reference stands for the only one."""
        for image in self._images:
            if image.raw_manifest.digest == reference:
                return image.raw_manifest
        matching = [image for image in self._images if not reference or image.has_name(reference)]
        if len(matching) == 1:
            return matching[0].raw_manifest
        hint = f"available images: {', '.join(self.tags()[:8])}" if self.tags() else "its images have no names"
        if matching:
            raise UsageError(f"{self.name}: has several images, and no tag is given", hint=hint)
        raise NotFoundError(f"{self.name}: image {reference} not found", hint=hint)

    def read_blob(self, blob: Descriptor, start: int = 0, stop: int | None = None) -> Generator[bytes, None, None]:
        """Yield the bytes of a config or a layer; see BlobReader."""
        try:
            member = self._blobs[blob.digest]
        except KeyError:
            raise NotFoundError(f"{self.name}: blob {blob.digest}: not found") from None
        yield from _read_sized(self._tar, member, blob, start, stop)

    def offset(self, digest: Digest) -> int:
        """Return where a blob is in the archive."""
        return self._blobs[digest].offset

    def tags(self) -> list[str]:
        """Return the names of the images as `repository:tag`; see BlobReader."""
        return sorted(name for image in self._images for name in image.names)

    def digests(self, tags: Sequence[str] | None = None, _jobs: int = 1, /) -> dict[str, Digest]:
        """Return the digests of images by name; see BlobReader."""
        named = {name: image.raw_manifest.digest for image in self._images for name in image.names}
        return {name: digest for name, digest in named.items() if tags is None or name in tags}

    def referrers(self, _digest: Digest) -> list[Descriptor]:
        """Return nothing: archives hold images only; see BlobReader."""
        return []

    @cached_property
    def _images(self) -> tuple[_SavedImage, ...]:
        try:
            data = self._tar.read_all("manifest.json", _MAX_MANIFEST_JSON)
        except NotFoundError as error:
            if not self._tar.path.exists():
                raise
            hint = f"if it is an OCI archive: oci-archive:{self._tar.path}"
            raise UsageError(f"{self._tar.path}: is not from docker save: no manifest.json", hint=hint) from error
        entries = parse_object(b'{"images":' + data + b"}", f"{self.name}: manifest.json")["images"]
        try:
            return tuple(self._image(entry) for entry in entries)
        except (KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"{self.name}: manifest.json: invalid") from error
        except NotFoundError as error:
            raise IntegrityError(error.message) from error

    @cached_property
    def _blobs(self) -> dict[Digest, Member]:
        return {digest: member for image in self._images for digest, member in image.blobs.items()}

    def _image(self, entry: dict[str, Any]) -> _SavedImage:
        data = self._tar.read_all(str(entry["Config"]), MAX_CONFIG_SIZE)
        config = Descriptor(CONFIG, Digest.of(data), len(data))
        blobs = {config.digest: self._tar.member(str(entry["Config"]))}
        paths, diff_ids = [str(path) for path in entry["Layers"] or ()], ImageConfig.parse(data).diff_ids
        if len(paths) != len(diff_ids):
            raise IntegrityError(f"{self.name}: {len(paths)} layers, but {len(diff_ids)} diff_ids in the config")
        layers = []
        for path, diff_id in zip(paths, diff_ids, strict=True):
            member = self._tar.member(path)
            layer = self._layer(path, member, diff_id)
            blobs[layer.digest] = member
            layers.append(layer)
        names = tuple(str(name) for name in entry.get("RepoTags") or ())
        return _SavedImage(names, Manifest(config, tuple(layers)).to_raw(), blobs)

    def _layer(self, path: str, member: Member, diff_id: Digest) -> Descriptor:
        compression = sniff(b"".join(self._tar.read(member, stop=HEAD)))
        if not compression:
            return Descriptor(LAYER_TAR, diff_id, member.size)
        # The containerd image store saves layers compressed as they were pulled, and names the file by the digest.
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

    def has_name(self, reference: str) -> bool:
        """Tell whether `reference` is a name of the image, with or without Docker's defaults, or a tag of one."""
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
        raise IntegrityError(f"{tar.name}: blob {blob.digest}: has {member.size} bytes, not {blob.size}")
    yield from tar.read(member, start, stop)


def _unpack_hint(compression: str) -> str:
    program = {"gzip": "gunzip", "zstd": "unzstd", "xz": "unxz", "bzip2": "bunzip2"}[compression]
    return f"unpack it first: {program} FILE"
