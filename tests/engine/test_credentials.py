"""Credentials of `docker login`, from real config files and a real credential helper."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmstack.engine.credentials import lookup
from llmstack.errors import UsageError
from llmstack.oci.auth import Credentials


@pytest.fixture
def docker_config(tmp_path, monkeypatch):
    """Return a function that writes config.json where DOCKER_CONFIG points."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    def write(value: object) -> Path:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(value))
        return path

    return write


@pytest.fixture
def helper(tmp_path, monkeypatch):
    """Return a function that puts `docker-credential-test`, a shell script, on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def write(script: str) -> None:
        program = folder / "docker-credential-test"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return write


def _auth(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def test_an_auth_entry_of_config_json(docker_config):
    docker_config({"auths": {"registry.local:5000": {"auth": _auth("ann", "s:e:cret")}}})
    assert lookup("registry.local:5000") == Credentials("ann", "s:e:cret")
    assert lookup("other.local") is None


def test_docker_hub_has_its_own_key(docker_config):
    docker_config({"auths": {"https://index.docker.io/v1/": {"auth": _auth("ann", "x")}}})
    assert lookup("docker.io") == Credentials("ann", "x")


def test_an_identity_token(docker_config):
    docker_config({"auths": {"registry.local": {"auth": _auth("ann", ""), "identitytoken": "tok"}}})
    found = lookup("registry.local")
    assert found is not None
    assert found.identity_token == "tok"
    assert "tok" not in repr(found)


def test_no_config_or_an_empty_entry_means_no_credentials(docker_config):
    assert lookup("registry.local") is None
    docker_config({"auths": {"registry.local": {}}})
    assert lookup("registry.local") is None


def test_an_unreadable_config_directory_means_no_credentials(monkeypatch):
    monkeypatch.setenv("DOCKER_CONFIG", "/" + "x" * 5000)
    assert lookup("registry.example") is None


def test_a_credential_helper(docker_config, helper):
    helper('read host; echo "{\\"Username\\": \\"$host\\", \\"Secret\\": \\"pw\\"}"')
    docker_config({"credHelpers": {"registry.local": "test"}})
    assert lookup("registry.local") == Credentials("registry.local", "pw")
    assert lookup("other.local") is None


def test_a_credentials_store_with_a_token(docker_config, helper):
    helper('echo "{\\"Username\\": \\"<token>\\", \\"Secret\\": \\"tok\\"}"')
    docker_config({"credsStore": "test"})
    found = lookup("docker.io")
    assert found is not None
    assert found.identity_token == "tok"


@pytest.mark.parametrize("script", ["echo secret-in-output; exit 3", "echo not json secret-in-output"])
def test_the_error_of_a_failed_helper_does_not_show_its_output(docker_config, helper, script):
    helper(script)
    docker_config({"credsStore": "test"})
    with pytest.raises(UsageError, match="Docker credentials for") as caught:
        lookup("registry.local")
    assert "secret-in-output" not in f"{caught.value} {caught.value.hint}"


def test_a_missing_helper_is_a_usage_error(docker_config):
    docker_config({"credsStore": "no-such-helper"})
    with pytest.raises(UsageError, match="not found on PATH"):
        lookup("registry.local")


def test_invalid_base64_in_an_entry_is_a_usage_error(docker_config):
    docker_config({"auths": {"registry.local": {"auth": "%%%"}}})
    with pytest.raises(UsageError, match="invalid entry"):
        lookup("registry.local")


@pytest.mark.parametrize(
    "config",
    [[], None, {"auths": {"registry.local": {"auth": None}}}, {"auths": ["registry.local"]}, {"credHelpers": ["test"]}],
)
def test_a_config_with_wrong_types_is_a_usage_error(docker_config, config):
    docker_config(config)
    with pytest.raises(UsageError, match="invalid entry"):
        lookup("registry.local")


@pytest.mark.parametrize("printed", ["{}", "null", "[]", '{"Username": "me"}'])
def test_invalid_helper_output_is_a_usage_error(docker_config, helper, printed):
    helper(f"echo '{printed}'")
    docker_config({"credsStore": "test"})
    with pytest.raises(UsageError, match="invalid entry"):
        lookup("registry.local")


@pytest.mark.parametrize(("config", "expected"), [(None, "False"), ({"auths": {}}, "True")])
def test_docker_py_is_imported_only_if_a_config_file_exists(tmp_path, docker_config, config, expected):
    if config is not None:
        docker_config(config)
    code = (
        "import sys, llmstack.extraction.extract\n"
        "from llmstack.engine.credentials import lookup\n"
        "assert lookup('registry.local') is None\n"
        "print('docker' in sys.modules)"
    )
    environment = {**os.environ, "HOME": str(tmp_path / "home")}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == expected
