"""Pack the running llmstack as a wheel, for images that contain llmstack: it is in no package index.

Uses the package's files and the metadata of its installation, editable or not. The format is PyPA's "Binary
distribution format" specification.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import llmstack
from llmstack.errors import UnavailableError
from llmstack.image_builds.recipe import images_folder

_DISTRIBUTION = "llmstack-ferry"
_WHEEL = "Wheel-Version: 1.0\nGenerator: llmstack\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
# The earliest date of a zip entry: equal files give an equal wheel, so Docker's build cache stays valid.
_DATE = (1980, 1, 1, 0, 0, 0)


def own_wheel() -> tuple[str, bytes]:
    """Return the wheel's file name and content; raises UnavailableError if llmstack is not installed."""
    try:
        installed = importlib.metadata.distribution(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        raise UnavailableError(
            "llmstack: cannot be packed for an image: it is not installed",
            hint="in the checkout, run pip install --editable .",
        ) from error
    stem = f"{_DISTRIBUTION.replace('-', '_')}-{installed.version}"
    info = f"{stem}.dist-info"
    files = {
        **{name: path.read_bytes() for name, path in sorted(_files())},
        f"{info}/METADATA": (installed.read_text("METADATA") or "").encode(),
        f"{info}/WHEEL": _WHEEL.encode(),
        f"{info}/entry_points.txt": (installed.read_text("entry_points.txt") or "").encode(),
    }
    files[f"{info}/RECORD"] = _record(files, f"{info}/RECORD")
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), content, zipfile.ZIP_DEFLATED)
    return f"{stem}-py3-none-any.whl", data.getvalue()


def _files() -> Iterator[tuple[str, Path]]:
    """Yield the paths of the package's files and the recipes, with their names in the wheel."""
    package = Path(llmstack.__file__).parent
    for folder, inside in ((images_folder(), "llmstack/_data/images"), (package, "llmstack")):
        for path in folder.rglob("*"):
            relative = path.relative_to(folder)
            # An installed wheel's _data is listed already: it contains the recipes.
            if path.is_file() and "__pycache__" not in relative.parts and relative.parts[0] != "_data":
                yield f"{inside}/{relative.as_posix()}", path


def _record(files: dict[str, bytes], own_name: str) -> bytes:
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.writerow((name, f"sha256={digest}", len(content)))
    rows.writerow((own_name, "", ""))
    return buffer.getvalue().encode()
