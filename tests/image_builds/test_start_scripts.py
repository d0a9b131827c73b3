"""The scripts that start vLLM's and llama.cpp's servers: their flags, and the warning about keys."""

from __future__ import annotations

import subprocess

import pytest

from llmstack.image_builds.recipe import images_folder

VLLM = "vllm/vllm-serve.sh"
LLAMA = "llama.cpp/llama-serve.sh"


@pytest.fixture
def start(tmp_path):
    """Return a function that runs a script with a server that prints its arguments; it returns these and the log."""
    for name in ("vllm", "llama-server"):
        program = tmp_path / name
        program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        program.chmod(0o755)

    def run(script, *arguments, **variables):
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", **variables}
        command = ["sh", images_folder() / script, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.splitlines(), done.stderr

    return run


def test_vllm_gets_the_model_first_and_the_flags_of_the_variables_before_the_others(start):
    """vLLM 0.32 ends if --served-model-name is given and its first argument is a flag."""
    given, _ = start(VLLM, "/REPO", "--max-model-len", "64", N_GPUS="2", GPU_MEM_USAGE="0.5", PORT="9000")
    host, port = ("--host", "0.0.0.0"), ("--port", "9000")
    assert given[:8] == ["serve", "/REPO", *host, *port, "--tensor-parallel-size", "2"]
    assert given[8:] == ["--gpu-memory-utilization", "0.5", "--max-model-len", "64"]


@pytest.mark.parametrize("arguments", [["/a model"], ["--config", "a.yaml"], []])
def test_vllm_without_a_gpu_gets_no_memory_fraction(start, arguments):
    """The model may be in a configuration file."""
    given, _ = start(VLLM, *arguments, GPU_MEM_USAGE="")
    flags = ["--host", "0.0.0.0", "--port", "8000", "--tensor-parallel-size", "1"]
    model = [argument for argument in arguments[:1] if not argument.startswith("-")]
    assert given == ["serve", *model, *flags, *arguments[len(model) :]]


@pytest.mark.parametrize(
    ("script", "arguments", "variables", "warns"),
    [
        (VLLM, ["/REPO"], {}, True),
        (VLLM, ["/REPO"], {"VLLM_API_KEY": "k"}, False),
        (VLLM, ["/REPO", "--api-key", "k"], {}, False),
        (LLAMA, [], {}, True),
        (LLAMA, ["--port", "1"], {"LLAMA_API_KEY": "k"}, False),
        (LLAMA, [], {"LLAMA_ARG_API_KEY_FILE": "/run/key"}, False),
        (LLAMA, ["--api-key-file", "/run/key"], {}, False),
    ],
)
def test_server_without_a_key_warns(start, script, arguments, variables, warns):
    given, log = start(script, *arguments, **variables)
    assert set(arguments) <= set(given)
    assert ("WARNING: every client can use the server" in log) == warns
