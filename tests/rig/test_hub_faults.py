"""The injected faults of the loopback hub, tested with curl."""

from __future__ import annotations

import http.client
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.hub import Hub
from tests.support.process import need

pytestmark = pytest.mark.system

DATA = os.urandom(200_000)
# Exit codes of curl.
PARTIAL_FILE, TIMED_OUT, TLS_FAILED = 18, 28, 35


@dataclass(frozen=True)
class Fetched:
    code: int
    status: int
    body: bytes
    headers: str


@pytest.fixture
def url(hub: Hub, tmp_path: Path) -> str:
    """The URL of a file on disk that the hub serves without its CDN."""
    path = tmp_path / "weights.bin"
    path.write_bytes(DATA)
    hub.cdn = False
    hub.add_repo("org/tiny", {"weights.bin": path, "config.json": b"{}"})
    return f"{hub.url}/org/tiny/resolve/main/weights.bin"


def curl(url: str, *options: str) -> Fetched:
    command = [need("curl", "curl"), "--silent", "--dump-header", "/dev/stderr", *options, url]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    headers = done.stderr.decode()
    statuses = [line.split()[1] for line in headers.splitlines() if line.startswith("HTTP/")]
    return Fetched(done.returncode, int(statuses[-1]) if statuses else 0, done.stdout, headers)


@pytest.mark.parametrize(
    ("requested", "start", "stop"),
    [("0-9", 0, 10), ("100-", 100, 200_000), ("-7", 199_993, 200_000), ("199999-300000", 199_999, 200_000)],
)
@pytest.mark.parametrize("on_disk", [True, False])
def test_ranges(hub: Hub, url: str, on_disk: bool, requested: str, start: int, stop: int):
    if not on_disk:
        hub.repos["model", "org/tiny"].commit({"weights.bin": DATA})
    fetched = curl(url, "--range", requested)
    assert (fetched.status, fetched.body) == (206, DATA[start:stop])
    assert f"Content-Range: bytes {start}-{stop - 1}/200000" in fetched.headers


def test_a_range_outside_the_file(url: str):
    fetched = curl(url, "--range", "200000-")
    assert (fetched.code, fetched.status, fetched.body) == (0, 416, b"")
    assert "Content-Range: bytes */200000" in fetched.headers


def test_a_head_has_the_lengths_and_no_body(url: str):
    fetched = curl(url, "--head")
    assert (fetched.code, fetched.status) == (0, 200)
    assert "Content-Length: 200000" in fetched.headers


def test_one_connection_serves_many_requests(url: str):
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc)
    try:
        for method, length in [("GET", 200_000), ("HEAD", 0), ("GET", 200_000), ("HEAD", 0)]:
            connection.request(method, parts.path)
            opened = connection.sock
            assert len(connection.getresponse().read()) == length
            assert connection.sock is opened is not None
    finally:
        connection.close()


def test_drop(hub: Hub, url: str):
    hub.fault("*.bin", drop_after=1000, times=2)
    for _ in range(2):
        fetched = curl(url)
        assert (fetched.code, fetched.body) == (PARTIAL_FILE, DATA[:1000])
    assert curl(url).body == DATA


def test_stall(hub: Hub, url: str):
    hub.fault("*.bin", stall_after=1000)
    fetched = curl(url, "--max-time", "1")
    assert (fetched.code, fetched.body) == (TIMED_OUT, DATA[:1000])
    assert curl(url).body == DATA


def test_a_client_that_disconnects_during_a_stall(hub: Hub, url: str):
    hub.fault("*.bin", stall_after=0, times=None)
    for _ in range(3):
        assert curl(url, "--max-time", "0.1").code == TIMED_OUT
    hub.stop()


def test_a_tls_handshake_is_rejected(url: str):
    assert curl(url.replace("http:", "https:")).code == TLS_FAILED


def test_slow(hub: Hub, url: str):
    hub.fault("*.bin", bytes_per_second=400_000)
    start = time.monotonic()
    assert curl(url).body == DATA
    assert time.monotonic() - start > 0.4


@pytest.mark.parametrize("status", [429, 500, 503])
def test_statuses(hub: Hub, url: str, status: int):
    hub.fault("*.bin", status=status, retry_after=7, times=1)
    fetched = curl(url)
    assert fetched.status == status
    assert "Retry-After: 7" in fetched.headers
    assert curl(url).body == DATA
    assert [entry.status for entry in hub.log.files()] == [status, 200]


def test_curl_waits_for_retry_after(hub: Hub, url: str):
    hub.fault("*.bin", status=429, retry_after=1, times=1)
    start = time.monotonic()
    assert curl(url, "--retry", "1").status == 200
    assert time.monotonic() - start >= 1


def test_an_api_that_fails(hub: Hub, url: str):
    hub.fault("/api/models/org/tiny*", status=502, times=None)
    assert {curl(f"{hub.url}/api/models/org/tiny").status for _ in range(3)} == {502}
    assert curl(url).status == 200
    hub.faults.clear()
    assert curl(f"{hub.url}/api/models/org/tiny").status == 200


def test_truncated_corrupted_and_range_ignored(hub: Hub, url: str):
    hub.fault("*.bin", truncate_to=5000)
    hub.fault("*.bin", corrupt_at=150_000)
    hub.fault("*.bin", ignore_range=True)
    short = curl(url)
    assert (short.code, short.status, short.body) == (0, 200, DATA[:5000])
    wrong = curl(url, "--range", "100000-")
    assert [at for at, (one, other) in enumerate(zip(wrong.body, DATA[100_000:], strict=True)) if one != other] == [
        50_000
    ]
    complete = curl(url, "--range", "100-")
    assert (complete.status, complete.body) == (200, DATA)


def test_signed_urls_expire(hub: Hub, url: str):
    hub.cdn = True
    hub.fault("*.bin", drop_after=1000, expire=True)
    location = next(line.split()[1] for line in curl(url).headers.splitlines() if line.startswith("Location:"))
    assert location.startswith(hub.cdn_url)
    assert curl(location).body == DATA[:1000]
    assert curl(location).status == 403
    assert curl(url, "--location").body == DATA
    assert [entry.status for entry in hub.log.all(host="cdn")] == [200, 403, 200]


@pytest.mark.usefixtures("url")
def test_an_unsigned_url_is_refused_by_the_cdn(hub: Hub):
    hub.cdn = True
    sha = hub.repos["model", "org/tiny"].sha
    assert curl(f"{hub.cdn_url}/models/org/tiny/{sha}/weights.bin").status == 403


def test_a_fault_of_one_host_does_not_affect_the_other(hub: Hub, url: str):
    hub.cdn = True
    hub.fault("*.bin", status=500, host="cdn", times=1)
    assert curl(url).status == 302
    assert curl(url, "--location").status == 500
    assert curl(url, "--location").body == DATA


def test_the_cdn_logs_a_token_that_reaches_it(hub: Hub, url: str):
    hub.cdn = True
    hub.add_token("hf_secret")
    fetched = curl(url, "--header", "Authorization: Bearer hf_secret", "--location-trusted")
    assert fetched.body == DATA
    assert [entry.token for entry in hub.log.all(host="cdn")] == ["Bearer hf_secret"]
