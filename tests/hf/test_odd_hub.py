"""A hub that sends invalid responses: they end in an error, and nothing of them gets into an image."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from llmstack.errors import UnavailableError
from llmstack.hf import hub_client
from llmstack.hf.hub_client import HubClient
from llmstack.hf.snapshot import RepoInfo
from llmstack.net import Client
from tests.hf.support import point_at
from tests.support.webserver import Request, Response, WebServer

JSON = {"Content-Type": "application/json"}
INFO = RepoInfo("org/tiny", "model", "main", "c" * 40, "2024-01-01T00:00:00Z", None, False)


@contextmanager
def serve(monkeypatch: pytest.MonkeyPatch, answer: Callable[[Request], Response], prefix: str = "") -> Iterator[None]:
    """Serve as the Hub at HF_ENDPOINT."""
    server = WebServer(answer)
    server.start()
    point_at(monkeypatch, server.url + prefix)
    try:
        yield
    finally:
        server.stop()


@pytest.mark.parametrize("sha", [None, "", "main", "../../x", "A" * 40, "a" * 39, 7])
def test_a_commit_that_is_no_hash(client: Client, monkeypatch: pytest.MonkeyPatch, sha: object):
    """No reader would accept the file index of such an image."""
    body = json.dumps({"id": "org/tiny", "sha": sha}).encode()
    with serve(monkeypatch, lambda _: Response(200, JSON, body)), pytest.raises(UnavailableError):
        HubClient(client).info("org/tiny", "model", "main")


@pytest.mark.parametrize(
    "page",
    [
        b"[7]",
        b"[" * 100_000,
        b'[{"type": "file", "path": "x", "size": %d, "oid": "%s"}]' % (2**63, b"a" * 40),
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
def test_an_invalid_file_list(client: Client, monkeypatch: pytest.MonkeyPatch, page: bytes):
    with (
        serve(monkeypatch, lambda request: Response(200, {}, page if "/tree/" in request.path else b"{}")),
        pytest.raises(UnavailableError, match="the response is not a file list") as raised,
    ):
        HubClient(client).snapshot(INFO)
    assert raised.value.side == "source"


def test_a_file_list_that_repeats_a_page(client: Client, monkeypatch: pytest.MonkeyPatch):
    """A caching mirror does so if it ignores the query."""
    page = b'[{"type": "file", "path": "x", "size": 1, "oid": "%s"}]' % (b"a" * 40)

    def answer(request: Request) -> Response:
        return Response(200, {"Link": f'<{request.path}?cursor=2>; rel="next"'}, page)

    with serve(monkeypatch, answer), pytest.raises(UnavailableError, match="the file list repeats a page"):
        HubClient(client).snapshot(INFO)


@pytest.mark.parametrize("prefix", ["", "/mirror"])
def test_pages_stay_on_the_hub_if_the_link_names_another_host(
    client: Client, monkeypatch: pytest.MonkeyPatch, prefix: str
):
    """A mirror passes on the links of huggingface.co, which may be unreachable."""
    requests: list[Request] = []

    def refuse(request: Request) -> Response:
        requests.append(request)
        return Response(500, {}, b"")

    other_host = WebServer(refuse, host="127.0.0.2")
    tree = f"/api/models/org/tiny/tree/{'c' * 40}"

    def mirror(request: Request) -> Response:
        if request.path != prefix + tree:
            return Response(404, {}, b"")
        last = request.query.get("cursor") == ["2/=="]
        link = {} if last else {"Link": f'<{other_host.url}{tree}?recursive=true&cursor=2%2F%3D%3D>; rel="next"'}
        entry = {"type": "file", "path": "b" if last else "a", "size": 1, "oid": "a" * 40}
        return Response(200, link, json.dumps([entry]).encode())

    other_host.start()
    try:
        with serve(monkeypatch, mirror, prefix):
            assert [file.path for file in HubClient(client).snapshot(INFO).files] == ["a", "b"]
    finally:
        other_host.stop()
    assert not requests


@pytest.mark.parametrize("link", ["http://[::1", "https://huggingface.co/api"])
def test_an_invalid_link_to_the_next_page(client: Client, monkeypatch: pytest.MonkeyPatch, link: str):
    headers = {"Link": f'<{link}>; rel="next"'}
    with (
        serve(monkeypatch, lambda _: Response(200, headers, b"[]")),
        pytest.raises(UnavailableError, match="the link to the next page of the file list is invalid"),
    ):
        HubClient(client).snapshot(INFO)


@pytest.mark.parametrize(
    ("files_per_page", "limit", "pages"),
    [
        (0, "more than 100 pages with fewer than 10 entries on average", 100),
        (1, "more than 100 pages with fewer than 10 entries on average", 100),
        (10, "more than 150 pages", 150),
        (20, "more than 2,500 entries", 126),
    ],
)
def test_a_file_list_without_end_is_limited(
    client: Client, monkeypatch: pytest.MonkeyPatch, files_per_page: int, limit: str, pages: int
):
    monkeypatch.setattr(hub_client, "_MAX_FILES", 2_500)  # a million would take too long
    monkeypatch.setattr(hub_client, "_MAX_PAGES", 150)  # 2,000 would take too long
    numbers = itertools.count(1)

    def answer(_: Request) -> Response:
        number = next(numbers)
        files = [
            {"type": "file", "path": f"{number}-{place}", "size": 1, "oid": "a" * 40} for place in range(files_per_page)
        ]
        return Response(200, {"Link": f'</x?cursor={number}>; rel="next"'}, json.dumps(files).encode())

    with serve(monkeypatch, answer), pytest.raises(UnavailableError, match=f"the file list: {limit}$"):
        HubClient(client).snapshot(INFO)
    assert next(numbers) == pages + 1


@pytest.mark.parametrize("date", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "yesterday", 7, "[" * 9999])
def test_a_commit_date_that_is_no_date_is_replaced_by_that_of_the_repo(
    client: Client, monkeypatch: pytest.MonkeyPatch, date: object
):
    """As with mirrors that do not have the route."""
    commits = json.dumps([{"date": date}]).encode()
    with serve(monkeypatch, lambda request: Response(200, {}, commits if "/commits/" in request.path else b"[]")):
        assert HubClient(client).snapshot(INFO).created == INFO.last_modified


@pytest.mark.parametrize(
    ("date", "utc"),
    [("0999-01-01T00:30:00+01:00", "0998-12-31T23:30:00Z"), ("2024-01-01T00:00:00", "2024-01-01T00:00:00Z")],
)
def test_commit_dates_are_converted_to_utc(client: Client, monkeypatch: pytest.MonkeyPatch, date: str, utc: str):
    commits = json.dumps([{"date": date}]).encode()
    with serve(monkeypatch, lambda request: Response(200, {}, commits if "/commits/" in request.path else b"[]")):
        assert HubClient(client).snapshot(INFO).created == utc


@pytest.mark.parametrize("answer", [b"[" * 100_000, b'{"id": "org/tiny", "sha": "\\ud800"}', b'{"id": 7}', b"null"])
def test_an_invalid_response_about_a_repo(client: Client, monkeypatch: pytest.MonkeyPatch, answer: bytes):
    with serve(monkeypatch, lambda _: Response(200, JSON, answer)), pytest.raises(UnavailableError):
        HubClient(client).info("org/tiny", "model", "main")


@pytest.mark.parametrize(("declared", "expected"), [(b"\\ud800", "?"), (b"x" * 200_000, "x" * 1024)], ids=["", "long"])
def test_a_license_that_no_image_can_state(
    client: Client, monkeypatch: pytest.MonkeyPatch, declared: bytes, expected: str
):
    """It must not break the writing of the image, nor make an image that cannot be read."""
    body = b'{"id": "org/tiny", "sha": "%s", "cardData": {"license": "%s"}}' % (b"a" * 40, declared)
    with serve(monkeypatch, lambda _: Response(200, JSON, body)):
        assert HubClient(client).info("org/tiny", "model", "main").license == expected
