"""The llmstack that runs, as a wheel: for images that hold llmstack itself, where no index has it.

Made from the package's own files and what was recorded when it was installed, as a wheel or editable from a checkout.
Its form is that of the binary distribution format (PyPA specifications).
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
from llmstack.image_builds.recipe_folder import images_folder

_DISTRIBUTION = "llmstack-ferry"
_WHEEL = "Wheel-Version: 1.0\nGenerator: llmstack\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
# The first moment that a zip can tell: the same files give the same wheel, and Docker's cache holds.
_MOMENT = (1980, 1, 1, 0, 0, 0)


def own_wheel() -> tuple[str, bytes]:
    """Return the wheel's file name and its bytes; raises UnavailableError where llmstack was not installed."""
    try:
        installed = importlib.metadata.distribution(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        raise UnavailableError(
            "llmstack cannot be put into an image: it runs from a folder and was not installed",
            hint="pip install . in the checkout, or pip install --editable .",
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
            archive.writestr(zipfile.ZipInfo(name, _MOMENT), content, zipfile.ZIP_DEFLATED)
    return f"{stem}-py3-none-any.whl", data.getvalue()


def _files() -> Iterator[tuple[str, Path]]:
    """Yield the package's files and the recipes, with their names in the wheel."""
    package = Path(llmstack.__file__).parent
    for folder, inside in ((images_folder(), "llmstack/_data/images"), (package, "llmstack")):
        for path in folder.rglob("*"):
            relative = path.relative_to(folder)
            # The package of an installed wheel holds the recipes, which came first.
            if path.is_file() and "__pycache__" not in relative.parts and relative.parts[0] != "_data":
                yield f"{inside}/{relative.as_posix()}", path


def _record(files: dict[str, bytes], own_name: str) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.writerow((name, f"sha256={digest}", len(content)))
    rows.writerow((own_name, "", ""))
    return text.getvalue().encode()
