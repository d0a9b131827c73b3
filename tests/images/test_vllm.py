"""vllm for CPUs: a chat completion from a tiny random model, through the wrapper and with a key."""

from __future__ import annotations

import json
import re

import pytest

from tests.images.conftest import BUILD_TIMEOUT, ask
from tests.images.tiny_model import MAKE_MODEL, PROMPT
from tests.support.cli import run_llmstack
from tests.support.process import free_port
from tests.support.standin import running

pytestmark = [pytest.mark.images, pytest.mark.timeout(3600), pytest.mark.xdist_group("images")]
KEY = "key-of-the-tests"


@pytest.fixture(scope="module")
def vllm(build_environment, debian, torch_links):
    """The name of the image for CPUs."""
    links = ["--build-arg", f"torch_links={torch_links}"] if torch_links else []
    arguments = ["build", "vllm", "--variant", "cpu", "--base", debian, *links]
    done = run_llmstack(*arguments, env=build_environment, timeout=BUILD_TIMEOUT)
    assert done.code == 0, done.stderr[-4000:]
    return "vllm:cpu"


def test_tiny_model_answers_a_chat_for_clients_with_the_key(shared_engine, network, vllm, tmp_path):
    tmp_path.chmod(0o777)
    volume = ("--volume", f"{tmp_path}:/models")
    make = ("--rm", "--network", "none", *volume, "--env", "MODEL=/models/tiny", "--entrypoint", "python")
    shared_engine.docker("run", *make, vllm, "-c", MAKE_MODEL)
    options = (
        *volume,
        *("--env", "PORT=9000"),
        *("--env", f"VLLM_API_KEY={KEY}"),
        *("--env", "VLLM_CPU_KVCACHE_SPACE=1"),
        *("--shm-size", "1g"),
    )
    flags = ("--dtype", "float32", "--enforce-eager", "--max-model-len", "128", "--served-model-name", "tiny")
    with running(shared_engine, network, vllm, "/models/tiny", *flags, options=options) as container:
        container.wait_healthy()
        assert "WARNING: every client can use the server" not in container.logs
        assert container.exec("id", "-u").stdout == "2000\n"
        started = container.exec("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
        assert "serve /models/tiny --host 0.0.0.0 --port 9000 --tensor-parallel-size 1 --dtype" in started
        body = {"model": "tiny", "messages": [{"role": "user", "content": "abc"}], "max_tokens": 8, "temperature": 0}
        url = f"http://{container.ip}:9000/v1/chat/completions"
        status, answer = ask(url, body, KEY)
        assert status == 200
        assert answer["usage"]["completion_tokens"] > 0
        assert ask(url, body, "wrong")[0] == 401


def test_a_carried_model_answers_a_chat_as_transformers_does(shared_engine, vllm, busybox_base, tmp_path, monkeypatch):
    """`llmstack serve` from a layout: the same tokens as PyTorch's."""
    tmp_path.chmod(0o777)
    make = ("--rm", "--network", "none", "--volume", f"{tmp_path}:/models", "--env", "MODEL=/models/tiny")
    made = shared_engine.docker("run", *make, "--entrypoint", "python", vllm, "-c", MAKE_MODEL).stdout
    expected = json.loads(re.search("^tokens: (.*)$", made, re.MULTILINE)[1])
    options = ("--as", "org/tiny", "--base", f"oci:{busybox_base}:latest", "--to", f"oci:{tmp_path}/carried")
    done = run_llmstack("ferry", tmp_path / "tiny", *options)
    assert done.code == 0, done.stderr
    monkeypatch.setenv("DOCKER_HOST", shared_engine.host)
    port = free_port()
    options = ("--from", f"oci:{tmp_path}/carried", "--server-image", vllm, "--network", "host", "--shm-size", "1GiB")
    flags = ("--dtype", "float32", "--enforce-eager")
    serve = ("serve", "org/tiny", *options, "--rm", "--detach", "--port", str(port), "--context-length", "128")
    done = run_llmstack(*serve, "--", *flags)
    assert done.code == 0, done.stderr
    try:
        body = {
            "model": "org/tiny",
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": len(expected),
            "temperature": 0,
            "ignore_eos": True,
            "logprobs": True,
            "return_tokens_as_token_ids": True,
        }
        status, answer = ask(f"http://127.0.0.1:{port}/v1/chat/completions", body, "")
        assert status == 200
        tokens = [token["token"] for token in answer["choices"][0]["logprobs"]["content"]]
        assert tokens == [f"token_id:{number}" for number in expected]
    finally:
        run_llmstack("serve", "--stop", "--rm", "org/tiny")


def test_invalid_flag_ends_the_container_with_vllms_error(shared_engine, network, vllm):
    with running(shared_engine, network, vllm, "/REPO", "--no-such-flag") as container:
        assert container.wait_ended() != 0
        assert "WARNING: every client can use the server" in container.logs
        assert "--no-such-flag" in container.logs
