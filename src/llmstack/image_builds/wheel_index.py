"""A package index as static files, for pip and uv: a plain web server can serve it.

PEP 503 (HTML) and PEP 691 (JSON) pages with hashes, requires-python and the wheels' metadata (PEP 658, PEP 714).
"""

from __future__ import annotations

import email.parser
import hashlib
import html
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)

from llmstack.errors import IntegrityError

FILES = "files"
SIMPLE = "simple"
# PEP 691's name for a static JSON page.
JSON_PAGE = "index.v1_json"
_META = {"api-version": "1.1"}


@dataclass(frozen=True, slots=True)
class PackageFile:
    """A wheel or a source distribution: its normalized project name, version, hash, and size in bytes.

    `metadata` is the METADATA file of a wheel.
    """

    path: Path
    project: str
    version: str
    sha256: str
    size: int
    metadata: bytes | None

    @property
    def requires_python(self) -> str | None:
        """The Requires-Python of a wheel."""
        if self.metadata is None:
            return None
        headers = email.parser.BytesHeaderParser().parsebytes(self.metadata)
        value = headers["Requires-Python"]
        return str(value).strip() if value else None


def read_package(path: Path) -> PackageFile:
    """Read a wheel or a source distribution; raises IntegrityError for an invalid one."""
    if path.suffix == ".whl":
        return read_wheel(path)
    try:
        name, version = parse_sdist_filename(path.name)
    except InvalidSdistFilename as error:
        raise IntegrityError(f"{path.name}: invalid source distribution: {error}") from error
    return PackageFile(path, canonicalize_name(name), str(version), *_facts(path), None)


def _facts(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size


def read_wheel(path: Path) -> PackageFile:
    """Read a wheel's name, hash and metadata; raises IntegrityError for an invalid wheel."""
    try:
        name, version, _, _ = parse_wheel_filename(path.name)
        with zipfile.ZipFile(path) as archive:
            inner = [
                item for item in archive.namelist() if item.endswith(".dist-info/METADATA") and item.count("/") == 1
            ]
            if len(inner) != 1:
                raise IntegrityError(f"{path.name}: invalid wheel: {len(inner)} METADATA files instead of one")
            metadata = archive.read(inner[0])
    except (InvalidWheelFilename, zipfile.BadZipFile, OSError) as error:
        raise IntegrityError(f"{path.name}: invalid wheel: {error}") from error
    return PackageFile(path, canonicalize_name(name), str(version), *_facts(path), metadata)


def make_index(wheels: Iterable[PackageFile]) -> dict[str, bytes | Path]:
    """Return the index's files by their path on the web server; equal wheels give equal files."""
    ordered = sorted(wheels, key=lambda wheel: (wheel.project, wheel.path.name))
    files: dict[str, bytes | Path] = {}
    for wheel in ordered:
        files[f"{FILES}/{wheel.path.name}"] = wheel.path
        if wheel.metadata is not None:
            files[f"{FILES}/{wheel.path.name}.metadata"] = wheel.metadata
    projects = {name: list(group) for name, group in groupby(ordered, key=lambda wheel: wheel.project)}
    files[f"{SIMPLE}/index.html"] = _page("Simple index", [f'<a href="{name}/">{name}</a>' for name in projects])
    files[f"{SIMPLE}/{JSON_PAGE}"] = _json({"meta": _META, "projects": [{"name": name} for name in projects]})
    for name, group in projects.items():
        files[f"{SIMPLE}/{name}/index.html"] = _page(f"Links for {name}", [_link(wheel) for wheel in group])
        files[f"{SIMPLE}/{name}/{JSON_PAGE}"] = _json(_project(name, group))
    return files


def _href(wheel: PackageFile) -> str:
    return f"../../{FILES}/{quote(wheel.path.name)}"


def _link(wheel: PackageFile) -> str:
    # PEP 714's attribute only, not PEP 658's older one: with the older one, pip 22.3 to 23.1 reads the metadata and
    # then rejects each project whose name is not spelled in the normalized form. Without it, pip reads the wheel.
    attributes = {}
    if wheel.metadata is not None:
        attributes["data-core-metadata"] = f"sha256={hashlib.sha256(wheel.metadata).hexdigest()}"
    if wheel.requires_python:
        attributes["data-requires-python"] = wheel.requires_python
    markup = "".join(f' {name}="{html.escape(value)}"' for name, value in attributes.items())
    return f'<a href="{_href(wheel)}#sha256={wheel.sha256}"{markup}>{html.escape(wheel.path.name)}</a>'


def _project(name: str, group: list[PackageFile]) -> dict[str, object]:
    return {
        "meta": _META,
        "name": name,
        "versions": sorted({wheel.version for wheel in group}),
        "files": [_file(wheel) for wheel in group],
    }


def _file(wheel: PackageFile) -> dict[str, object]:
    value: dict[str, object] = {
        "filename": wheel.path.name,
        "url": _href(wheel),
        "hashes": {"sha256": wheel.sha256},
        "size": wheel.size,
    }
    if wheel.metadata is not None:
        value["core-metadata"] = {"sha256": hashlib.sha256(wheel.metadata).hexdigest()}
    return {**value, "requires-python": wheel.requires_python} if wheel.requires_python else value


def _page(title: str, links: list[str]) -> bytes:
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="pypi:repository-version" content="1.1">',
        f"<title>{title}</title></head><body>",
        *(f"{link}<br>" for link in links),
        "</body></html>",
    ]
    return "\n".join(lines).encode() + b"\n"


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
