"""A client of the loopback hub, with short retry delays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from llmstack.hf.hub_client import HubClient
from llmstack.net import Client
from tests.hf.support import point_at
from tests.support import hub as rig


@pytest.fixture
def notes() -> list[str]:
    """The notes about retries."""
    return []


@pytest.fixture
def client(notes: list[str]) -> Iterator[Client]:
    with closing(Client(note=notes.append, retry_wait=0.01)) as client:
        yield client


@pytest.fixture
def ask(hub: rig.Hub, client: Client, monkeypatch: pytest.MonkeyPatch):
    """Return a function that creates a HubClient for the loopback hub, with or without a token."""

    def make(token: str | None = None) -> HubClient:
        point_at(monkeypatch, hub.url)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        else:
            monkeypatch.delenv("HF_TOKEN", raising=False)
        return HubClient(client)

    return make
