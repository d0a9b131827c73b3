"""Variables of the developer's machine do not reach the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from huggingface_hub import constants

ROOT = Path(__file__).parents[1]
SET = {
    "HF_TOKEN": "hf_developer",
    "HF_HUB_OFFLINE": "1",
    "HF_HOME": "/nowhere",
    "LLMSTACK_NAMESPACE": "registry.example/llm",
    "DOCKER_CONFIG": "/nowhere",
    "XDG_CACHE_HOME": "/nowhere",
    "https_proxy": "http://127.0.0.1:1",
    "SSL_CERT_FILE": "/nowhere",
}


def test_a_test_sees_an_empty_home_and_nothing_configured(home: Path, started_with: Mapping[str, str]):
    assert Path.home() == home
    assert list(home.iterdir()) == []
    assert home != Path(started_with["HOME"])
    assert not set(SET) & set(os.environ)
    assert not Path(constants.HF_HOME).is_relative_to(started_with["HOME"])
    assert SET["HF_HOME"] != constants.HF_HOME
    assert constants.HF_HUB_OFFLINE is False


@pytest.mark.slow
def test_isolation_on_a_machine_with_all_variables_set():
    this = f"{__file__}::{test_a_test_sees_an_empty_home_and_nothing_configured.__name__}"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", this]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | SET, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout
