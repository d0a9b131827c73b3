"""Helpers of the hub client tests."""

from __future__ import annotations

import hashlib
import random

import pytest

from llmstack.hf.file_hash import hash_while_reading
from llmstack.hf.hub_client import HubClient
from llmstack.hf.snapshot import RepoInfo

DATA = random.Random(3).randbytes(200_000)
TOKEN = "hf_s3cr3tT0kenOfTheTest"


def point_at(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Set the Hub URL as HF_ENDPOINT does when huggingface_hub is imported."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)  # it reads its variables at import
    name = "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE"
    monkeypatch.setattr(name, url + "/{repo_id}/resolve/{revision}/{filename}")  # it reads its variables at import


def read(hub: HubClient, info: RepoInfo, path: str) -> bytes:
    file = next(file for file in hub.snapshot(info).files if file.path == path)
    seen: dict[str, str] = {}
    chunks = hub.read(info, file, 0, file.size)
    verified = hash_while_reading(file, chunks, lambda file, sha256: seen.update({file.path: sha256}), hub.mismatch)
    data = b"".join(verified)
    assert seen == {path: hashlib.sha256(data).hexdigest()}
    return data
