"""Fixtures of the ferry tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory for DOCKER_CONFIG without credentials."""
    folder = tmp_path / "docker"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({}))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    return folder
