"""What the tests of ferry share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ferry.support import Port
from tests.support.hub import Hub
from tests.support.registry import Registry


@pytest.fixture
def port(hub: Hub, registry: Registry, busybox_base: Path, tmp_path: Path) -> Port:
    """Everything that ferry needs, with an empty folder to start it in."""
    folder = tmp_path / "work"
    folder.mkdir()
    registry.served()
    return Port(hub, registry, registry.namespace(), f"oci:{busybox_base}:latest", folder)


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder for DOCKER_CONFIG with no login in it."""
    folder = tmp_path / "docker"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({}))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    return folder
