"""Wheels for another Python and platform: the dependencies are those of the target, not of the running Python."""

from __future__ import annotations

import contextlib
import functools
import http.server
import subprocess
import sysconfig
import threading
from pathlib import Path

import pytest

from llmstack.errors import LlmstackError, UsageError
from llmstack.image_builds.build_environment import BuildEnvironment
from llmstack.image_builds.wheel_download import WheelRequest, download_wheels, platform_tags, target_markers
from llmstack.image_builds.wheel_index import make_index, read_package
from tests.image_builds.test_wheel_index import write_wheel
from tests.support.listener import Listener

LINUX = "manylinux_2_28_x86_64"
DEPENDENCIES = {
    "backport": "python_version < '3.11'",
    "modern": "python_version >= '3.11'",
    "patched": "python_full_version < '3.10.4'",
    "unix": "sys_platform == 'linux' and os_name == 'posix'",
    "windows": "platform_system == 'Windows' and platform_machine == 'AMD64'",
    "mac": "sys_platform == 'darwin' and platform_machine == 'arm64'",
    "arm": "platform_machine == 'aarch64'",
}


@pytest.fixture(scope="module")
def requirements(tmp_path_factory):
    """A requirements file with `app`, its index, and a package with a marker; every dependency has a marker."""
    folder = tmp_path_factory.mktemp("wheels")
    headers = "".join(f"Requires-Dist: {name} ; {marker}\n" for name, marker in DEPENDENCIES.items())
    write_wheel(folder, "app", "1.0", headers)
    for name in (*DEPENDENCIES, "direct"):
        write_wheel(folder, name, "1.0")
    path = folder / "requirements.txt"
    path.write_text(f"--no-index\n--find-links {folder}\napp\ndirect ; python_version < '3.11'\n")
    return path


@contextlib.contextmanager
def serve(folder, wheels):
    """Serve a package index of these wheels; yield its URL."""
    for name, content in make_index(map(read_package, wheels)).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.read_bytes() if isinstance(content, Path) else content)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/simple/"
        server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("python", "tag", "uv_platform", "expected"),
    [
        ("3.10", LINUX, "x86_64-manylinux_2_28", {"app", "backport", "direct", "patched", "unix"}),
        ("3.10.4", "manylinux2014_aarch64", "aarch64-manylinux2014", {"app", "arm", "backport", "direct", "unix"}),
        ("3.12", LINUX, "x86_64-manylinux_2_28", {"app", "modern", "unix"}),
        ("3.12", "win_amd64", "x86_64-pc-windows-msvc", {"app", "modern", "windows"}),
        ("3.12", "macosx_11_0_arm64", "aarch64-apple-darwin", {"app", "modern", "mac"}),
    ],
)
def test_wheels_of_a_target_install_on_that_target(requirements, tmp_path, python, tag, uv_platform, expected):
    request = WheelRequest((requirements,), (python,), (tag,))
    wheels = download_wheels(request, BuildEnvironment(), tmp_path, Listener())
    assert {path.name.partition("-")[0] for path in wheels} == expected
    uv = [Path(sysconfig.get_path("scripts")) / "uv", "pip", "install", "--quiet", "--no-config", "--no-cache"]
    target = ["--python-version", python, "--python-platform", uv_platform, "--target", tmp_path / "installed"]
    with serve(tmp_path / "index", wheels) as url:
        subprocess.run([*uv, *target, "--default-index", url, *sorted(expected & {"app", "direct"})], check=True)
    installed = {path.name.partition("-")[0] for path in (tmp_path / "installed").glob("*.dist-info")}
    assert installed == expected


def test_without_a_target_the_running_python_decides(requirements, tmp_path):
    wheels = download_wheels(WheelRequest((requirements,)), BuildEnvironment(), tmp_path, Listener())
    assert {path.name.partition("-")[0] for path in wheels} >= {"app", "modern", "unix"}


def test_failed_download_shows_pips_last_lines(requirements, tmp_path):
    missing = tmp_path / "requirements.txt"
    missing.write_text(f"-r {requirements}\nnot-in-the-index\n")
    with pytest.raises(LlmstackError, match=r"wheels for Python 3\.10 failed: pip exit code 1") as caught:
        download_wheels(WheelRequest((missing,), ("3.10",)), BuildEnvironment(), tmp_path, Listener())
    assert "No matching distribution found for not-in-the-index" in caught.value.message


@pytest.mark.parametrize("tag", ["solaris_2_11", "manylinux_2_28", "win", "macosx_arm64", "../x"])
def test_unknown_platform_tag_is_refused(requirements, tag):
    with pytest.raises(UsageError, match="unknown platform"):
        WheelRequest((requirements,), (), (tag,))


def test_python_version_sets_the_markers():
    assert target_markers("3.10", "any") == {
        "python_version": "3.10",
        "python_full_version": "3.10.0",
        "implementation_version": "3.10.0",
    }
    assert target_markers("3.10.4", "")["python_full_version"] == "3.10.4"
    assert target_markers("", "win32")["platform_machine"] == "x86"
    assert target_markers("", "musllinux_1_2_x86_64")["platform_machine"] == "x86_64"
    assert target_markers("", "linux_armv7l")["platform_machine"] == "armv7l"


def test_platform_tag_includes_the_tags_of_older_c_libraries():
    tags = platform_tags("manylinux_2_17_x86_64")
    assert tags[:3] == ("manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_16_x86_64")
    assert tags[-2:] == ("manylinux_2_5_x86_64", "manylinux1_x86_64")
    assert platform_tags("win_amd64") == ("win_amd64",)
