"""`llmstack sign`, and --trust of verify and extract, as processes; signatures on the way through copies."""

from __future__ import annotations

import contextlib
import os
import pty
import stat
import subprocess
import sys
import termios
import time

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from llmstack.oci.layout import Layout
from llmstack.signing.keys import load_private_key
from tests.support.carried import carry
from tests.support.cli import run_llmstack
from tests.support.serving import repository
from tests.support.signing import new_key, write_key

FILES = {"config.json": b"{}", "model.safetensors": bytes(100_000), ".gitattributes": b"*.bin"}
VARIABLE = "LLMSTACK_SIGN_PASSPHRASE"
SECRET = "corr\u00e9ct horse"


@pytest.fixture
def space(tmp_path):
    carry(Layout(tmp_path / "carried/models"), "org--model", FILES)
    return f"oci:{tmp_path / 'carried'}"


@pytest.fixture
def key(tmp_path):
    return write_key(tmp_path, new_key())


def sign(space, key, *arguments, **options):
    return run_llmstack("sign", "org/model", "--from", space, "--key", key, *arguments, **options)


def test_keygen_writes_an_encrypted_key_that_signs(space, tmp_path):
    key, passphrase = tmp_path / "new.key", tmp_path / "passphrase"
    passphrase.write_text(SECRET + "\n")
    run = run_llmstack("sign", "--keygen", "--key", key, "--passphrase-file", passphrase)
    assert run.code == 0, run.stderr
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    again = run_llmstack("sign", "--keygen", "--key", key, "--passphrase-file", passphrase)
    assert (again.code, "already exists" in again.stderr) == (2, True)
    assert sign(space, key, "--passphrase-file", passphrase).code == 0
    assert sign(space, key, env={VARIABLE: SECRET}).code == 0
    for wrong in (sign(space, key, env={VARIABLE: "secret-" * 3}), sign(space, key)):
        assert wrong.code == 2
        assert "secret-" not in wrong.stderr
    assert "there is no terminal" in wrong.stderr
    assert run_llmstack("verify", "org/model", "--from", space, "--trust", f"{key}.pub").code == 0


def test_a_terminal_is_asked_and_shows_nothing(space, tmp_path):
    """The passphrase is typed; it is in no output and in no argument."""
    key = tmp_path / "new.key"
    assert run_llmstack("sign", "--keygen", "--key", key, env={VARIABLE: "typed-secret"}).code == 0
    command = [sys.executable, "-m", "llmstack", "sign", "org/model", "--from", space, "--key", str(key)]
    leader, follower = pty.openpty()
    with subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, start_new_session=True) as process:
        # What is typed before the echo is off gets lost.
        while termios.tcgetattr(follower)[3] & termios.ECHO and process.poll() is None:
            time.sleep(0.01)
        os.close(follower)
        os.write(leader, b"typed-secret\n")
        shown = b""
        with contextlib.suppress(OSError):
            while chunk := os.read(leader, 1000):
                shown += chunk
    os.close(leader)
    assert process.returncode == 0, shown
    assert b"Passphrase" in shown
    assert b"typed-secret" not in shown


def test_keys_of_other_kinds_are_refused(space, tmp_path):
    path = tmp_path / "other.key"
    other = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    cases = [
        (other, "is not an ECDSA key on a supported curve"),
        (b"text", "is not a PEM private key"),
        (b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n", "is in cosign's own format"),
    ]
    for data, expected in cases:
        path.write_bytes(data)
        run = sign(space, path)
        assert (run.code, expected in run.stderr) == (2, True), run.stderr
    assert sign(space, tmp_path / "none.key").code == 3


def test_keys_are_not_printed(key):
    assert "PrivateKey(" in repr(load_private_key(key, bytes))
    assert "object" not in repr(load_private_key(key, bytes))


def test_wrong_command_lines(space, key, tmp_path):
    extract = ["extract", "org/model", tmp_path / "o", "--from", space]
    for arguments, expected in [
        (["sign"], "no key"),
        (["sign", "--key", key], "no image"),
        (["sign", "x", "--keygen", "--key", key], "--keygen signs nothing"),
        (["sign", "docker-archive:x.tar", "--key", key], "signatures cannot be attached"),
        ([*extract, "--bundle"], "--bundle needs --trust"),
        ([*extract, "--bundle", "--trust", tmp_path / "signer.pub", "--include", "*"], "--bundle excludes --include"),
    ]:
        run = run_llmstack(*arguments)
        assert (run.code, expected in run.stderr) == (2, True), run.stderr


def test_extract_writes_nothing_of_an_unsigned_image(space, key, tmp_path):
    out, trust = tmp_path / "out", tmp_path / "signer.pub"
    arguments = ["extract", "org/model", out, "--from", space, "--trust", trust]
    run = run_llmstack(*arguments)
    assert (run.code, "its digest: not signed" in run.stderr) == (5, True)
    assert not out.exists()
    assert sign(space, key).code == 0
    # A part is checked for what it has.
    part = run_llmstack(*arguments, "--include", "*.json", "--json")
    assert part.json["signed_by"] == ["signer.pub"]
    assert [path.name for path in out.iterdir()] == ["config.json"]
    assert run_llmstack(*arguments, "--layout", "hf-cache").code == 0


def test_trust_of_the_settings_is_used(space, key, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "llmstack.yaml").write_text("trust: ../trust.yaml\n")
    (tmp_path / "trust.yaml").write_text('signers: [{repos: ["org/*"], key: signer.pub}]')
    verify = ["verify", "org/model", "--from", space, "--json"]
    assert run_llmstack(*verify, cwd=work).code == 5
    assert sign(space, key).code == 0
    run = run_llmstack(*verify, cwd=work)
    assert (run.code, run.json["ok"], run.json["signed_by"]) == (0, True, ["signer.pub"])
    (tmp_path / "trust.yaml").write_text("signers: 1")
    assert run_llmstack(*verify, cwd=work).code == 2


def test_a_hidden_change_of_the_files_is_found(space, key, tmp_path):
    """The signatures are right, and a layer is not: bytes are checked when they are written."""
    assert sign(space, key).code == 0
    layer = max((tmp_path / "carried/models/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(layer.read_bytes())
    data[5000] ^= 1
    layer.write_bytes(data)
    run = run_llmstack("extract", "org/model", tmp_path / "o", "--from", space, "--trust", tmp_path / "signer.pub")
    assert (run.code, "does not match its sha256" in run.stderr) == (5, True)
    assert not (tmp_path / "o/model.safetensors").exists()


def test_signatures_travel_with_images(registry, key, tmp_path):
    """This registry has no referrers API: signatures are under a tag. copy, save and load keep them."""
    source, back = registry.namespace(), registry.namespace()
    carry(repository(source), "org--model", FILES)
    registry.served()
    assert sign(source, key).code == 0
    layers = [each for each in registry.served() if each.method == "GET" and each.length > 50_000]
    assert not layers, "sign reads no layer with files"
    trusted = ["--trust", tmp_path / "signer.pub"]
    assert run_llmstack("verify", "org/model", "--from", source, *trusted).code == 0
    copied = f"oci:{tmp_path / 'copied'}"
    assert run_llmstack("copy", source, copied).code == 0
    assert run_llmstack("save", "--all", "--from", copied, "--to", tmp_path / "disk").code == 0
    assert run_llmstack("load", tmp_path / "disk", "--to", back).code == 0
    for place in (copied, f"oci:{tmp_path / 'disk'}", back):
        run = run_llmstack("verify", "org/model", "--from", place, *trusted)
        assert run.code == 0, (place, run.stderr)
