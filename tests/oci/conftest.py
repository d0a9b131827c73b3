"""Fixtures for tests with registries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from llmstack.net import Client
from llmstack.net.http_client import tls_context
from tests.support.registry import Registry


@pytest.fixture
def client() -> Iterator[Client]:
    tls_context.cache_clear()
    with closing(Client(retry_wait=0.01)) as client:
        yield client
    tls_context.cache_clear()


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Return a function that stores credentials as docker login does, and trusts the CA of the registry."""

    def log_in(registry: Registry) -> None:
        monkeypatch.setenv("DOCKER_CONFIG", str(registry.docker_config(tmp_path / "docker")))
        if registry.ca_file:
            monkeypatch.setenv("SSL_CERT_FILE", str(registry.ca_file))

    return log_in
