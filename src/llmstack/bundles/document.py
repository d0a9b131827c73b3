"""bundle.json: what a bundle holds, and which bytes one of its volumes holds; values only.

docs/reference/bundle-format.md describes the format. All volumes of a bundle have the same `contents`; their digest is
the id of the bundle, so volumes of different bundles cannot be mixed up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmstack.errors import IntegrityError, UsageError
from llmstack.oci.reference import Digest, is_repository, is_tag
from llmstack.oci.spec import Descriptor, canonical_json, parse_object

FILE_NAME = "bundle.json"
FORMAT = 1
# Room for 100,000 images.
MAX_FILE_SIZE = 64 * 1024 * 1024
# Where `load` keeps what it knows about bundles, in the namespace that it writes to.
RESERVED_REPOSITORY = "bundles"


@dataclass(frozen=True, slots=True)
class BundledImage:
    """An image, by its repository in the namespace and its tag; without a tag, a manifest that refers to an image.

    `created` is the annotation of its manifest, empty if it has none.
    """

    repository: str
    tag: str | None
    manifest: Descriptor
    created: str = ""

    @property
    def name(self) -> str:
        """The name for messages."""
        return f"{self.repository}:{self.tag}" if self.tag else f"{self.repository}@{self.manifest.digest}"

    def to_json(self) -> dict[str, Any]:
        """Return the object in bundle.json."""
        value = {"repository": self.repository, **({"tag": self.tag} if self.tag else {}), **self.manifest.to_json()}
        return {**value, "created": self.created} if self.created else value

    @classmethod
    def from_json(cls, value: object) -> BundledImage:
        """Parse the object in bundle.json; raises IntegrityError."""
        manifest, entry = Descriptor.from_json(value), _object(value)
        tag = entry.get("tag")
        if tag is not None and not is_tag(str(tag)):
            raise IntegrityError(f"{FILE_NAME}: {str(tag)[:80]!r} is not a tag")
        return cls(_repository(entry), None if tag is None else str(tag), manifest, str(entry.get("created", ""))[:80])


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob in a repository of a namespace."""

    repository: str
    digest: Digest
    size: int

    def to_json(self) -> dict[str, Any]:
        """Return the object in bundle.json."""
        return {"repository": self.repository, "digest": str(self.digest), "size": self.size}

    @classmethod
    def from_json(cls, value: object) -> StoredBlob:
        """Parse the object in bundle.json; raises IntegrityError."""
        blob = Descriptor.from_json(value)
        return cls(_repository(_object(value)), blob.digest, blob.size)


@dataclass(frozen=True, slots=True)
class Order:
    """When a bundle was made: by its number in a ledger, else by the clock (UTC, ISO 8601)."""

    created: str
    ledger: str | None = None
    number: int = 0

    def is_before(self, other: Order) -> bool:
        """Tell whether this bundle was made before another one."""
        if self.ledger and self.ledger == other.ledger:
            return self.number < other.number
        return self.created < other.created

    def to_json(self) -> dict[str, Any]:
        """Return the members of an object."""
        return {"created": self.created, **({"ledger": self.ledger, "number": self.number} if self.ledger else {})}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Order:
        """Parse the members of an object; raises IntegrityError."""
        ledger, number = value.get("ledger"), value.get("number", 0)
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise IntegrityError(f"{FILE_NAME}: invalid number")
        return cls(str(value.get("created", ""))[:80], None if ledger is None else str(ledger)[:80], number)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a bundle holds: images, and in a bundle of missing blobs, `blobs` that no image of it refers to.

    `presupposed` are the blobs of its images that the target must have. `deletions` are tags that are gone at the
    source. All of them are `REPOSITORY:TAG`.
    """

    order: Order
    images: tuple[BundledImage, ...]
    presupposed: tuple[StoredBlob, ...] = ()
    blobs: tuple[StoredBlob, ...] = ()
    deletions: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the object `contents` in bundle.json."""
        return {
            **self.order.to_json(),
            "images": [image.to_json() for image in self.images],
            "presupposed": [blob.to_json() for blob in self.presupposed],
            "blobs": [blob.to_json() for blob in self.blobs],
            "deletions": list(self.deletions),
        }

    @classmethod
    def from_json(cls, value: object) -> Contents:
        """Parse the object; raises IntegrityError."""
        entry = _object(value)
        images = tuple(BundledImage.from_json(item) for item in _list(entry, "images"))
        names = [image.name for image in images]
        if len(set(names)) < len(names):
            raise IntegrityError(f"{FILE_NAME}: lists an image twice")
        deletions = tuple(str(item)[:400] for item in _list(entry, "deletions"))
        for name in deletions:
            split_name(name)
        return cls(
            Order.from_json(entry),
            images,
            tuple(StoredBlob.from_json(item) for item in _list(entry, "presupposed")),
            tuple(StoredBlob.from_json(item) for item in _list(entry, "blobs")),
            deletions,
        )

    @property
    def id(self) -> Digest:
        """The id of the bundle."""
        return Digest.of(canonical_json(self.to_json()))


@dataclass(frozen=True, slots=True)
class Piece:
    """The bytes from `start` up to `stop` of a blob of `size` bytes: the complete blob, or part `number` of it."""

    digest: Digest
    size: int
    start: int
    stop: int
    number: int = 0

    @property
    def path(self) -> str:
        """The path in the volume. Sorted by path, the parts of a blob are in order, also across volumes."""
        return f"blobs/sha256/{self.digest.hex}" + ("" if self.is_whole else f".part{self.number:05}")

    @property
    def is_whole(self) -> bool:
        """Tell whether this is the complete blob."""
        return (self.start, self.stop) == (0, self.size)

    @property
    def length(self) -> int:
        """The number of bytes."""
        return self.stop - self.start

    def to_json(self) -> dict[str, Any]:
        """Return the object in bundle.json."""
        value = {"digest": str(self.digest), "size": self.size}
        return value if self.is_whole else {**value, "start": self.start, "stop": self.stop, "part": self.number}

    @classmethod
    def from_json(cls, value: object) -> Piece:
        """Parse the object in bundle.json; raises IntegrityError."""
        blob, entry = Descriptor.from_json(value), _object(value)
        numbers = [entry.get(key, default) for key, default in (("start", 0), ("stop", blob.size), ("part", 0))]
        if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
            raise IntegrityError(f"{FILE_NAME}: blob {blob.digest}: invalid part")
        start, stop, number = numbers
        piece = cls(blob.digest, blob.size, start, stop, number)
        if not (0 <= start < stop <= blob.size or piece.is_whole) or not 0 <= number < 100_000:
            raise IntegrityError(f"{FILE_NAME}: blob {blob.digest}: invalid part")
        return piece


@dataclass(frozen=True, slots=True)
class Volume:
    """The document of one volume: number `number` of `count`."""

    contents: Contents
    number: int
    count: int
    pieces: tuple[Piece, ...]

    def to_bytes(self) -> bytes:
        """Return the bytes of bundle.json."""
        value = {
            "format": FORMAT,
            "id": str(self.contents.id),
            "volume": self.number,
            "volumes": self.count,
            "pieces": [piece.to_json() for piece in self.pieces],
            "contents": self.contents.to_json(),
        }
        return canonical_json(value) + b"\n"

    @classmethod
    def parse(cls, data: bytes, what: str) -> Volume:
        """Parse bundle.json; raises IntegrityError, UsageError if a newer version wrote it. `what` names the volume."""
        value = parse_object(data, f"{what}: {FILE_NAME}")
        if value.get("format") != FORMAT:
            check_format(value.get("format"), what)
        try:
            contents = Contents.from_json(value.get("contents"))
            pieces = tuple(Piece.from_json(item) for item in _list(value, "pieces"))
        except IntegrityError as error:
            error.message = f"{what}: {error.message}"
            raise
        number, count = value.get("volume"), value.get("volumes")
        if not isinstance(number, int) or not isinstance(count, int) or not 1 <= number <= count <= 100_000:
            raise IntegrityError(f"{what}: {FILE_NAME}: invalid volume number")
        if value.get("id") != contents.id:
            raise IntegrityError(f"{what}: {FILE_NAME}: the contents do not match the id of the bundle")
        if len({piece.path for piece in pieces}) < len(pieces):
            raise IntegrityError(f"{what}: {FILE_NAME}: lists a blob twice")
        return cls(contents, number, count, pieces)


def check_format(found: object, what: str) -> None:
    """Raise UsageError for a format of a newer version, IntegrityError for what is no format."""
    if isinstance(found, int) and not isinstance(found, bool) and found > FORMAT:
        raise UsageError(
            f"{what}: has format {found}; this version of llmstack reads format {FORMAT}", hint="update llmstack"
        )
    if found != FORMAT or isinstance(found, bool):
        raise IntegrityError(f"{what}: has no valid format number")


def short_id(bundle: Digest) -> str:
    """Return the part of a bundle's id that messages show."""
    return bundle.hex[:12]


def split_name(name: str) -> tuple[str, str]:
    """Split `REPOSITORY:TAG`; raises IntegrityError."""
    repository, _, tag = name.partition(":")
    if not is_tag(tag):
        raise IntegrityError(f"{FILE_NAME}: {name[:80]!r} is not an image of a namespace")
    return _repository({"repository": repository}), tag


def _repository(entry: Mapping[str, Any]) -> str:
    repository = str(entry.get("repository", ""))
    if not is_repository(repository) or repository == RESERVED_REPOSITORY:
        raise IntegrityError(f"{FILE_NAME}: {repository[:80]!r} is not a repository of a namespace")
    return repository


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise IntegrityError(f"{FILE_NAME}: {str(value)[:80]!r} must be a JSON object")
    return value


def _list(value: Mapping[str, Any], name: str) -> list[Any]:
    items = value.get(name, [])
    if not isinstance(items, list):
        raise IntegrityError(f"{FILE_NAME}: {name} must be a list")
    return items
