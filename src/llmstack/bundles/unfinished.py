"""save.json: the plan of a bundle that is being written, so that an interrupted save continues with the same bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmstack.bundles.document import FILE_NAME, FORMAT, Contents, Piece, Volume, check_format, short_id
from llmstack.bundles.volume_writer import SUMS, disk_errors
from llmstack.disk import replace_file
from llmstack.errors import IntegrityError, NotFoundError, UsageError
from llmstack.oci.regular_files import RegularFiles
from llmstack.oci.spec import parse_object

STATE = "save.json"
_VOLUME = "volume-{:03}"
_MAX_STATE = 1024 * 1024 * 1024
# What a bundle consists of: a directory with any of it is not free for another one.
_OWN = ("oci-layout", "index.json", "blobs", FILE_NAME, SUMS)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A bundle on its way: what was asked for, its volumes, and how many of them are complete."""

    request: Mapping[str, Any]
    volumes: tuple[Volume, ...]
    done: int = 0

    @property
    def contents(self) -> Contents:
        """What the bundle holds."""
        return self.volumes[0].contents

    def folder(self, directory: Path, volume: Volume) -> Path:
        """Return the directory of a volume: that of the bundle if it is the only one and no size was asked for."""
        split = self.request.get("volume_size") is not None
        return directory / _VOLUME.format(volume.number) if split else directory

    def advanced(self) -> Unfinished:
        """Return the state after one more volume."""
        return replace(self, done=self.done + 1)

    def write(self, directory: Path) -> None:
        """Write save.json; raises LlmstackError."""
        value = {
            "format": FORMAT,
            "request": dict(self.request),
            "done": self.done,
            "contents": self.contents.to_json(),
            "volumes": [[piece.to_json() for piece in volume.pieces] for volume in self.volumes],
        }
        with disk_errors(directory):
            replace_file(directory / STATE, json.dumps(value).encode())

    @classmethod
    def read(cls, directory: Path) -> Unfinished | None:
        """Read save.json; None if there is none. Raises LlmstackError."""
        try:
            data = RegularFiles(directory, str(directory)).read(STATE, STATE, _MAX_STATE)
        except NotFoundError:
            return None
        value = parse_object(data, f"{directory}/{STATE}")
        check_format(value.get("format"), f"{directory}/{STATE}")
        try:
            contents = Contents.from_json(value["contents"])
            groups = [tuple(Piece.from_json(item) for item in group) for group in value["volumes"]]
            volumes = tuple(Volume(contents, number, len(groups), group) for number, group in enumerate(groups, 1))
            return cls(value["request"], volumes, int(value["done"]))
        except (KeyError, TypeError, ValueError, IntegrityError) as error:
            raise IntegrityError(
                f"{directory}/{STATE}: invalid", hint="remove the unfinished bundle and save again"
            ) from error


def complete_bundle(directory: Path) -> Volume | None:
    """Return the document of a complete bundle in a directory: of its first volume if it is split."""
    for folder in (directory, *sorted(directory.glob("volume-*"))):
        if (folder / SUMS).is_file():
            files = RegularFiles(folder, str(folder))
            return Volume.parse(files.read(FILE_NAME, FILE_NAME, _MAX_STATE), str(folder))
    return None


def check_free(directory: Path) -> None:
    """Raise UsageError if a directory holds another bundle or layout."""
    own = [name for name in _OWN if (directory / name).exists()]
    own += [path.name for path in directory.glob("volume-*")]
    if own:
        raise UsageError(
            f"{directory}: holds another bundle or OCI layout ({own[0]})",
            hint="choose an empty directory: a bundle is never changed",
        )


def check_same(directory: Path, unfinished: Unfinished, request: Mapping[str, Any]) -> None:
    """Raise UsageError if a directory's unfinished bundle was made with other arguments."""
    if dict(unfinished.request) != dict(request):
        changed = sorted(key for key in request if unfinished.request.get(key) != request[key])
        raise UsageError(
            f"{directory}: holds the unfinished bundle {short_id(unfinished.contents.id)} of another command line "
            f"({', '.join(changed)})",
            hint="repeat that command to resume it, or choose another directory",
        )
