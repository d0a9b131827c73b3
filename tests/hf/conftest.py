"""A client of the loopback hub, impatient and listened to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from llmstack.hf.hub_client import Hub
from llmstack.net import Client
from tests.hf.support import point_at
from tests.support import hub as rig


@pytest.fixture
def told() -> list[str]:
    """What was told of waits."""
    return []


@pytest.fixture
def client(told: list[str]) -> Iterator[Client]:
    with closing(Client(tell=told.append, retry_wait=0.01)) as client:
        yield client


@pytest.fixture
def ask(hub: rig.Hub, client: Client, monkeypatch: pytest.MonkeyPatch):
    """Return a function that makes a client of the loopback hub, with a token or without."""

    def make(token: str | None = None) -> Hub:
        point_at(monkeypatch, hub.url)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        else:
            monkeypatch.delenv("HF_TOKEN", raising=False)
        return Hub(client)

    return make
