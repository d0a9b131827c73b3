"""A hub that is none: what it says is not believed, and gets no token."""

from __future__ import annotations

import json

import pytest

from llmstack.errors import LlmstackError, UnavailableError
from llmstack.hf.hub_client import HubClient
from llmstack.hf.snapshot import RepoInfo
from llmstack.net import Client
from tests.hf.support import TOKEN, point_at
from tests.support.webserver import Request, Response, WebServer


@pytest.mark.parametrize("sha", [None, "", "main", "../../x", "A" * 40, "a" * 39, 7])
def test_a_hub_that_names_no_commit(client: Client, monkeypatch: pytest.MonkeyPatch, sha: object):
    """What is not a commit must not get into an image: nobody could read its file index."""

    def answer(_: Request) -> Response:
        return Response(200, {"Content-Type": "application/json"}, json.dumps({"id": "org/tiny", "sha": sha}).encode())

    server = WebServer(answer)
    server.start()
    point_at(monkeypatch, server.url)
    try:
        with pytest.raises(LlmstackError) as raised:
            HubClient(client).info("org/tiny", "model", "main")
    finally:
        server.stop()
    assert raised.value.exit_code == 6


@pytest.mark.parametrize(
    "page",
    [
        b"[7]",
        b"<html>",
        b'[{"type": "file"}]',
        b'[{"type": "file", "path": 7, "size": 1, "oid": "%s"}]' % (b"a" * 40),
        b'[{"type": "file", "path": "x", "size": -1, "oid": "%s"}]' % (b"a" * 40),
        b'[{"type": "file", "path": "x", "size": "1", "oid": "%s"}]' % (b"a" * 40),
        b'[{"type": "file", "path": "x", "size": 1, "oid": "zz"}]',
        b'[{"type": "file", "path": "x", "size": 1, "oid": 7}]',
        b'[{"type": "file", "path": "x", "size": 1, "oid": "%s", "lfs": {"size": 1}}]' % (b"a" * 40),
    ],
)
def test_a_hub_whose_file_list_is_none(client: Client, monkeypatch: pytest.MonkeyPatch, page: bytes):
    server = WebServer(lambda request: Response(200, {}, page if "/tree/" in request.path else b"{}"))
    server.start()
    point_at(monkeypatch, server.url)
    info = RepoInfo("org/tiny", "model", "main", "c" * 40, "2024-01-01T00:00:00Z", None, False)
    try:
        with pytest.raises(UnavailableError, match="no file list") as raised:
            HubClient(client).snapshot(info)
    finally:
        server.stop()
    assert raised.value.side == "source"


def test_a_file_list_whose_pages_go_in_a_circle(client: Client, monkeypatch: pytest.MonkeyPatch):
    """So does a mirror that keeps answers, and looks at the path alone."""
    page = b'[{"type": "file", "path": "x", "size": 1, "oid": "%s"}]' % (b"a" * 40)

    def answer(request: Request) -> Response:
        following = f'<http://{request.headers["host"]}{request.path}?cursor=2>; rel="next"'
        return Response(200, {"Link": following}, page)

    server = WebServer(answer)
    server.start()
    point_at(monkeypatch, server.url)
    info = RepoInfo("org/tiny", "model", "main", "c" * 40, "2024-01-01T00:00:00Z", None, False)
    try:
        with pytest.raises(UnavailableError, match="the same page of the file list again"):
            HubClient(client).snapshot(info)
    finally:
        server.stop()


def test_the_next_page_of_another_host_gets_no_token(client: Client, monkeypatch: pytest.MonkeyPatch):
    seen: list[Request] = []

    def other(request: Request) -> Response:
        seen.append(request)
        return Response(200, {}, b"[]")

    elsewhere = WebServer(other, host="127.0.0.2")
    elsewhere.start()
    link = {"Link": f'<{elsewhere.url}/page2>; rel="next"'}
    server = WebServer(lambda request: Response(200, link if "/tree/" in request.path else {}, b"[]"))
    server.start()
    point_at(monkeypatch, server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    info = RepoInfo("org/tiny", "model", "main", "c" * 40, "2024-01-01T00:00:00Z", None, False)
    try:
        assert HubClient(client).snapshot(info).files == ()
    finally:
        server.stop()
        elsewhere.stop()
    assert len(seen) == 1
    assert TOKEN not in str(seen)
