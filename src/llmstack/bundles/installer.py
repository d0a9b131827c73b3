"""llmstack itself beside a bundle: its wheels, for a host with Python and nothing else, and how to do without."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from llmstack.bundles.volume_writer import SUMS, disk_errors
from llmstack.disk import replace_file
from llmstack.image_builds.build_environment import BuildEnvironment
from llmstack.image_builds.own_wheel import own_wheel
from llmstack.image_builds.wheel_download import WheelRequest, download_wheels
from llmstack.reporting import Reporter

FOLDER = "llmstack"
_TEXTS = Path(__file__).with_name("installer_texts")
# The far side wants to serve what it loads.
_EXTRAS = "[hub]"


def write_installer(
    bundle: Path,
    pythons: tuple[str, ...],
    platforms: tuple[str, ...],
    environment: BuildEnvironment,
    reporter: Reporter,
) -> Path:
    """Write the directory `llmstack` into that of a bundle, and return its path.

    `pythons` (`3.11`) and `platforms` (`manylinux_2_28_x86_64`) are those of the far side; without them, those of this
    Python. SHA256SUMS is written last. Raises UsageError, UnavailableError, LlmstackError with pip's last lines.
    """
    folder = bundle / FOLDER
    name, wheel = own_wheel()
    with tempfile.TemporaryDirectory(prefix="llmstack-wheels-") as work:
        (Path(work) / name).write_bytes(wheel)
        requirements = Path(work) / "requirements.txt"
        requirements.write_text(f"{Path(work) / name}{_EXTRAS}\n")
        wheels = Path(work) / "wheels"
        wheels.mkdir()
        request = WheelRequest((requirements,), pythons, platforms)
        found = download_wheels(request, environment, wheels, reporter, what="--with-llmstack")
        sums = {}
        with disk_errors(folder):
            (folder / "wheels").mkdir(parents=True, exist_ok=True)
            for path in found:
                sums[f"wheels/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
                shutil.copyfile(path, folder / "wheels" / path.name)
            for text in sorted(_TEXTS.iterdir()):
                data = text.read_bytes()
                sums[text.name] = hashlib.sha256(data).hexdigest()
                replace_file(folder / text.name, data)
            replace_file(folder / SUMS, "".join(f"{sums[path]}  {path}\n" for path in sorted(sums)).encode())
    return folder
