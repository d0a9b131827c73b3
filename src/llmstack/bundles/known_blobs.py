"""Files about what the far side has: its inventory, the ledger of what was sent, and the list of what is missing."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmstack.bundles.document import FORMAT, Contents, Order, StoredBlob, check_format
from llmstack.disk import disk_errors, lock_directory, replace_file
from llmstack.errors import IntegrityError, NotFoundError, UnavailableError, UsageError
from llmstack.oci.reference import Digest, is_repository
from llmstack.oci.spec import parse_object

IsKnown = Callable[[str, Digest], bool]
# An inventory has the first bytes of each digest: `load` checks the blobs again, so a wrong guess does no harm.
_PREFIX = 6
_MAX_FILE = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Inventory:
    """Prefixes of the digests of all blobs in each repository of a namespace."""

    prefixes: Mapping[str, frozenset[bytes]]

    @classmethod
    def of(cls, blobs: Iterable[StoredBlob]) -> Inventory:
        """Return the inventory of these blobs."""
        prefixes: dict[str, set[bytes]] = {}
        for blob in blobs:
            prefixes.setdefault(blob.repository, set()).add(_prefix(blob.digest))
        return cls({repository: frozenset(found) for repository, found in prefixes.items()})

    def has(self, repository: str, digest: Digest) -> bool:
        """Tell whether the repository has the blob, as far as its prefix tells."""
        return _prefix(digest) in self.prefixes.get(repository, ())

    def to_json(self) -> dict[str, Any]:
        """Return the document."""
        repositories = {
            repository: base64.b64encode(b"".join(sorted(found))).decode()
            for repository, found in sorted(self.prefixes.items())
        }
        return {"format": FORMAT, "kind": "inventory", "repositories": repositories}

    @classmethod
    def read(cls, path: Path) -> Inventory:
        """Read the output of `llmstack inventory`; raises LlmstackError."""
        value = _read(path, "inventory").get("repositories")
        if not isinstance(value, dict):
            raise IntegrityError(f"{path}: repositories must be an object")
        prefixes = {}
        for repository, text in value.items():
            try:
                data = base64.b64decode(str(text), validate=True)
            except binascii.Error as error:
                raise IntegrityError(f"{path}: {repository[:80]!r}: invalid base64") from error
            if len(data) % _PREFIX or not is_repository(repository):
                raise IntegrityError(f"{path}: {repository[:80]!r}: invalid entry")
            prefixes[repository] = frozenset(data[start : start + _PREFIX] for start in range(0, len(data), _PREFIX))
        return cls(prefixes)


def read_missing(path: Path) -> tuple[StoredBlob, ...]:
    """Read the list that `load --missing` wrote; raises LlmstackError."""
    items = _read(path, "missing").get("blobs")
    if not isinstance(items, list) or not items:
        raise IntegrityError(f"{path}: blobs must be a list")
    return tuple(StoredBlob.from_json(item) for item in items)


def write_missing(path: Path, bundle: Digest, blobs: Iterable[StoredBlob]) -> None:
    """Write the list of blobs that the target lacks; raises LlmstackError."""
    value = {"format": FORMAT, "kind": "missing", "bundle": bundle, "blobs": [blob.to_json() for blob in blobs]}
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path.resolve(), json.dumps(value, indent=1).encode() + b"\n")


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One bundle of a ledger: `images` by name, and the blobs that no earlier bundle of the ledger has."""

    id: str
    number: int
    created: str
    complete: bool
    images: Mapping[str, str]
    blobs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the object in the ledger."""
        return {
            "id": self.id,
            "number": self.number,
            "created": self.created,
            "complete": self.complete,
            "images": dict(self.images),
            "blobs": {repository: list(digests) for repository, digests in self.blobs.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LedgerEntry:
        """Parse the object; raises KeyError, TypeError, ValueError, AttributeError."""
        return cls(
            str(value["id"]),
            int(value["number"]),
            str(value["created"]),
            bool(value["complete"]),
            {str(name): str(digest) for name, digest in value["images"].items()},
            {str(name): tuple(map(str, digests)) for name, digests in value["blobs"].items()},
        )


@dataclass(frozen=True, slots=True)
class Ledger:
    """All bundles that were made for one far side, in order."""

    id: str
    entries: tuple[LedgerEntry, ...] = ()

    @property
    def next_number(self) -> int:
        """The number of the next bundle."""
        return max((entry.number for entry in self.entries), default=0) + 1

    @property
    def blobs(self) -> Mapping[str, frozenset[str]]:
        """The digests of what complete bundles sent, by repository."""
        found: dict[str, set[str]] = {}
        for entry in self.entries:
            for repository, digests in entry.blobs.items() if entry.complete else ():
                found.setdefault(repository, set()).update(digests)
        return {repository: frozenset(digests) for repository, digests in found.items()}

    @property
    def images(self) -> Mapping[str, str]:
        """The digest that each image had in the last complete bundle with it."""
        return {name: digest for entry in self.entries if entry.complete for name, digest in entry.images.items()}

    def with_bundle(self, contents: Contents, blobs: Iterable[StoredBlob], *, complete: bool) -> Ledger:
        """Return the ledger with a bundle, which replaces its earlier entry."""
        entries = tuple(entry for entry in self.entries if entry.id != contents.id)
        known = replace(self, entries=entries).blobs
        new: dict[str, list[str]] = {}
        for blob in blobs:
            if blob.digest not in known.get(blob.repository, ()):
                new.setdefault(blob.repository, []).append(str(blob.digest))
        images = {image.name: str(image.manifest.digest) for image in contents.images if image.tag}
        entry = LedgerEntry(
            contents.id,
            contents.order.number,
            contents.order.created,
            complete,
            images,
            {repository: tuple(dict.fromkeys(digests)) for repository, digests in new.items()},
        )
        return replace(self, entries=tuple(sorted((*entries, entry), key=lambda each: each.number)))


class LedgerFile:
    """The file of a ledger."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Ledger:
        """Return the ledger, a new one if the file does not exist; raises LlmstackError."""
        try:
            value = _read(self.path, "ledger")
        except NotFoundError:
            return Ledger(uuid.uuid4().hex)
        try:
            return Ledger(str(value["ledger"]), tuple(LedgerEntry.from_json(item) for item in value["bundles"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise IntegrityError(f"{self.path}: invalid ledger", hint="restore it from a backup") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the ledger while it is read and written."""
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with lock_directory(self.path.parent):
            yield

    def write(self, ledger: Ledger) -> None:
        """Replace the file; raises LlmstackError."""
        entries = [entry.to_json() for entry in ledger.entries]
        value = {"format": FORMAT, "kind": "ledger", "ledger": ledger.id, "bundles": entries}
        with disk_errors(self.path):
            replace_file(self.path.resolve(), json.dumps(value, indent=1).encode() + b"\n")


def order_in(ledger: Ledger | None, created: str) -> Order:
    """Return the order of a new bundle."""
    return Order(created, ledger.id, ledger.next_number) if ledger else Order(created)


def _read(path: Path, kind: str) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: not found") from error
    except OSError as error:
        raise UnavailableError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > _MAX_FILE:
        raise IntegrityError(f"{path}: larger than {_MAX_FILE:,} bytes")
    value = parse_object(data, str(path))
    if value.get("kind") != kind:
        raise UsageError(f"{path}: is not the {kind} of llmstack", hint=f"its kind is {str(value.get('kind'))[:40]!r}")
    check_format(value.get("format"), str(path))
    return value


def _prefix(digest: Digest) -> bytes:
    return bytes.fromhex(digest.hex[: 2 * _PREFIX])
