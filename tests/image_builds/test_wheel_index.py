"""The static package index, of wheels that the tests write."""

from __future__ import annotations

import hashlib
import json
import zipfile

import pytest

from llmstack.errors import IntegrityError
from llmstack.image_builds.wheel_index import make_index, read_wheel


def write_wheel(folder, name, version, headers=""):
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        metadata = (
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{headers}\nText with Requires-Python: no\n"
        )
        info = f"{name}-{version}.dist-info"
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


def test_names_are_normalized_and_versions_grouped(tmp_path):
    wheels = [write_wheel(tmp_path, "Some.Thing", "1.0"), write_wheel(tmp_path, "some_thing", "2.0")]
    files = make_index(read_wheel(path) for path in wheels)
    assert b'<a href="some-thing/">some-thing</a>' in files["simple/index.html"]
    listed = json.loads(files["simple/some-thing/index.v1_json"])
    assert listed["name"] == "some-thing"
    assert listed["versions"] == ["1.0", "2.0"]
    assert len(listed["files"]) == 2


def test_links_have_hash_python_and_metadata(tmp_path):
    path = write_wheel(tmp_path, "thing", "1.0", "Requires-Python: >=3.8,<4\n")
    files = make_index([read_wheel(path)])
    page = files["simple/thing/index.html"].decode()
    assert f"#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}" in page
    assert 'data-requires-python="&gt;=3.8,&lt;4"' in page
    digest = hashlib.sha256(files["files/thing-1.0-py3-none-any.whl.metadata"]).hexdigest()
    assert f'data-core-metadata="sha256={digest}"' in page
    # With this older attribute, pip 22.3 to 23.1 rejects names that are not normalized.
    assert "data-dist-info-metadata" not in page
    assert files["files/thing-1.0-py3-none-any.whl"] == path


def test_equal_wheels_give_equal_pages(tmp_path):
    wheels = [read_wheel(write_wheel(tmp_path, name, "1.0")) for name in ("b", "a", "c")]
    assert make_index(wheels) == make_index(reversed(wheels))


@pytest.mark.parametrize("name", ["thing-1.0.tar.gz", "thing-1.0-py3-none-any.whl"])
def test_invalid_wheel_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"not a zip")
    with pytest.raises(IntegrityError, match="invalid wheel"):
        read_wheel(tmp_path / name)
