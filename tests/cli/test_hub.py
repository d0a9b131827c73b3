"""`llmstack hub` as a command: token, TLS, address, log and shutdown."""

from __future__ import annotations

import base64
import os
import re
import signal
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import trustme

from llmstack.oci.layout import Layout
from tests.support.carried import carry
from tests.support.cli import run_llmstack
from tests.support.registry import Registry
from tests.support.serving import Serving, push, serving, sparse_repo

TOKEN = "hf_s3cret"
LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ 127\.0\.0\.1 GET /org/model/resolve/main/config\.json 200 2 \d+\.\d{3}"
)


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A layout with one repo."""
    folder = tmp_path_factory.mktemp("carried")
    carry(Layout(folder / "models"), "org--model", {"config.json": b"{}"})
    return f"oci:{folder}"


@pytest.fixture(scope="module")
def secured(carried: str, tmp_path_factory: pytest.TempPathFactory):
    """A hub with a token and TLS; the context trusts its CA."""
    folder = tmp_path_factory.mktemp("secured")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    for number, pem in enumerate(certificate.cert_chain_pems):
        pem.write_to_path(folder / "cert.pem", append=bool(number))
    (folder / "token").write_text(f"{TOKEN}\n")
    options = ["--token-file", folder / "token", "--tls-cert", folder / "cert.pem", "--tls-key", folder / "key.pem"]
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with serving(folder, carried, *options) as hub:
        yield hub, context


def ask(secured: tuple[Serving, ssl.SSLContext], target: str, authorization: str | None = None) -> tuple[int, str]:
    hub, context = secured
    headers = {"Authorization": authorization} if authorization else {}
    request = urllib.request.Request(f"{hub.url}{target}", headers=headers)
    try:
        with urllib.request.urlopen(request, context=context, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["X-Error-Code"]


def test_a_token_is_required(secured: tuple[Serving, ssl.SSLContext]):
    password = base64.b64encode(f"anyone:{TOKEN}".encode()).decode()
    wrong = base64.b64encode(b"anyone:other").decode()
    # The Hub's clients take RepoNotFound as a missing repo.
    codes = {
        "/org/model/resolve/main/config.json": "RepoNotFound",
        "/api/models": "Unauthorized",
        "/": "Unauthorized",
        "/metrics": "Unauthorized",
        "/api/whoami-v2": "Unauthorized",
    }
    for target, code in codes.items():
        assert ask(secured, target) == (401, code)
        for refused in ("Bearer hf_other", f"Basic {wrong}", "Basic é", "Bearer", "Digest x", f"Bearer {TOKEN}x"):
            assert ask(secured, target, refused)[0] == 401
        for accepted in (f"Bearer {TOKEN}", f"Basic {password}"):
            assert ask(secured, target, accepted)[0] == 200
    assert ask(secured, "/healthz") == (200, "ok\n")
    assert secured[0].url.startswith("https://")
    assert TOKEN not in secured[0].output


def test_each_request_is_logged_and_sigterm_exits_with_0(carried: str, tmp_path: Path):
    with serving(tmp_path, carried) as hub:
        assert hub.get("/org/model/resolve/main/config.json?token=hf_x").body == b"{}"
        # A request is counted and logged after its end, which the client sees a moment earlier.
        while not LINE.findall(hub.output):
            assert hub.daemon.alive
        assert hub.get("/metrics").body.count(b'requests_total{method="GET",status="200"} 1') == 1
        os.kill(hub.daemon.pid, signal.SIGTERM)
        hub.daemon.wait(30)
    assert len(LINE.findall(hub.output)) == 1
    assert "hf_x" not in hub.output
    assert hub.output.rstrip().endswith("stopped")
    assert hub.daemon.wait(0) == 0


def test_a_transfer_in_progress_is_finished_on_shutdown(tmp_path: Path):
    size = 100_000_000
    sparse_repo(Layout(tmp_path / "carried/models"), "org--big", size, hashed=True)
    with serving(tmp_path, f"oci:{tmp_path}/carried") as hub:
        with hub.open("/org/big/resolve/main/big.bin") as response:
            assert len(response.read(1000)) == 1000
            os.kill(hub.daemon.pid, signal.SIGINT)
            assert len(response.read()) == size - 1000
        assert hub.daemon.wait(30) == 0


def test_a_registry_that_requires_authentication(secure_registry: Registry, tmp_path: Path):
    env = {"SSL_CERT_FILE": str(secure_registry.ca_file)}
    run = run_llmstack("hub", "--from", secure_registry.namespace(), "--listen", "127.0.0.1:0", env=env)
    assert run.code == 4
    assert "docker login" in run.stderr
    login = {**env, "DOCKER_CONFIG": str(secure_registry.docker_config(tmp_path / "docker"))}
    with serving(tmp_path, secure_registry.namespace(), env=login) as hub:
        assert hub.get("/api/models").body == b"[]"


def test_a_missing_repository_that_is_denied_is_ignored(token_registry: Registry, tmp_path: Path):
    """Docker Hub denies access to a repository that does not exist."""
    namespace = token_registry.namespace()
    env = {"DOCKER_CONFIG": str(token_registry.docker_config(tmp_path / "docker"))}
    carry(Layout(tmp_path / "carried"), "org--model", {"config.json": b"{}"})
    login = ["--dest-creds", f"{token_registry.user}:{token_registry.password}", "--preserve-digests"]
    push(f"oci:{tmp_path}/carried:org--model", f"{namespace}/models:org--model", *login)
    assert token_registry.tokens
    token_registry.tokens.refused.add(f"{namespace.partition('/')[2]}/datasets")
    with serving(tmp_path, namespace, env=env) as hub:
        assert hub.get("/org/model/resolve/main/config.json").body == b"{}"
        assert hub.get("/datasets/org/other/resolve/main/a").headers["x-error-code"] == "RepoNotFound"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--listen", f"localhost:{'9' * 5000}"], 2, "must be HOST:PORT"),
        (["--listen", "8080"], 2, "--listen 8080: must be HOST:PORT"),
        (["--tls-cert", "a.pem"], 2, "--tls-cert and --tls-key must be used together"),
        (["--tls-cert", "a.pem", "--tls-key", "b.pem"], 2, "a.pem: invalid certificate or key"),
        (["--token-file", "/dev/null"], 2, "--token-file /dev/null: is empty"),
        (["--from", "docker-archive:x.tar"], 2, "a hub serves a namespace or an OCI layout"),
        (["--from", "oci:typo"], 3, "oci:typo not found"),
        (["--listen", "192.0.2.1:8080"], 6, "192.0.2.1:8080: cannot listen: "),
    ],
)
def test_invalid_options(carried: str, tmp_path: Path, arguments: list[str], code: int, message: str):
    source = [] if "--from" in arguments else ["--from", carried]
    run = run_llmstack("hub", *source, *arguments, cwd=tmp_path)
    assert (run.code, run.stdout) == (code, "")
    assert message in run.stderr
    assert "Traceback" not in run.stderr


def test_without_the_extra_the_error_says_what_to_install(carried: str, tmp_path: Path):
    """starlette cannot be imported, as without `[hub]`."""
    (tmp_path / "starlette.py").write_text("raise ModuleNotFoundError('no', name='starlette')\n")
    done = subprocess.run(
        [sys.executable, "-m", "llmstack", "hub", "--from", carried],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 6
    assert "the package starlette is not installed" in done.stderr
    assert "pip install '.[hub]'" in done.stderr
