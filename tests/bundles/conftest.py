"""Fixtures for bundles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bundles.support import Gap
from tests.support.registry import Registry, plain_registry


@pytest.fixture
def gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gap:
    """Two empty directories on both sides of a gap."""
    monkeypatch.chdir(tmp_path)
    return Gap(tmp_path)


@pytest.fixture(scope="session")
def far_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The registry on the far side."""
    with plain_registry(tmp_path_factory.mktemp("far-registry")) as registry:
        yield registry
