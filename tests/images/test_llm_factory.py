"""llm-factory for CPUs: the web UI answers, and the command line imports its libraries."""

from __future__ import annotations

import urllib.request

import pytest

from tests.support.standin import running

pytestmark = [pytest.mark.images, pytest.mark.timeout(3600), pytest.mark.xdist_group("images")]


@pytest.fixture(scope="module")
def factory(shared_engine, network, llm_factory):
    with running(shared_engine, network, llm_factory) as container:
        container.wait_healthy()
        yield container


def test_web_ui_answers_and_does_not_run_as_root(factory):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{factory.ip}:7860/", timeout=30) as response:
        assert b"gradio" in response.read()
    assert factory.exec("id", "-u").stdout == "2000\n"


def test_command_line_imports_its_libraries_and_is_offline(factory):
    assert "0.9.5" in factory.exec("llamafactory-cli", "version").stdout
    code = "import torch, peft, trl; from huggingface_hub import constants; print(constants.HF_HUB_OFFLINE)"
    assert factory.exec("python", "-c", code).stdout.splitlines()[-1] == "True"
