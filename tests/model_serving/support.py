"""Models for the tests, and `llmstack serve` as a process."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.cli import Run, run_llmstack
from tests.support.engine import Engine
from tests.support.process import free_port

FILES: dict[str, dict[str, bytes]] = {
    "org/gguf": {"a-Q4_K_M.gguf": b"4" * 200_000, "a-Q8_0.gguf": b"8" * 300_000, "README.md": b"# A"},
    "org/safe": {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"s" * 200_000},
    "org/pickle": {"config.json": b"{}", "pytorch_model.bin": b"p" * 1000},
}
TIMEOUT = 120.0


def sha256(repo_id: str, path: str) -> str:
    return hashlib.sha256(FILES[repo_id][path]).hexdigest()


def chat(url: str, key: str | None = None) -> tuple[int, Any]:
    """Ask a server for a completion; return the status and its answer."""
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}]}).encode()
    request = urllib.request.Request(f"{url}/v1/chat/completions", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, None


def content(url: str, key: str | None = None) -> str:
    status, answer = chat(url, key)
    assert status == 200
    return str(answer["choices"][0]["message"]["content"])


@dataclass(frozen=True, slots=True)
class Bench:
    """A namespace with models and servers, and an engine to serve them."""

    engine: Engine
    namespace: str
    network: str

    def serve(self, *arguments: str, env: Mapping[str, str] | None = None) -> Run:
        """Run `llmstack serve` to its end, with the tests' network."""
        return run_llmstack("serve", *self._in_network(arguments), env=env)

    def start(self, *arguments: str, env: Mapping[str, str] | None = None, stdout: int = subprocess.PIPE) -> Running:
        """Start `llmstack serve`, with a free port; `stdout` as Popen has it."""
        port = free_port()
        command = [sys.executable, "-m", "llmstack", "serve", *self._in_network(("--port", str(port), *arguments))]
        process = subprocess.Popen(
            command,
            cwd=os.environ["HOME"],
            env={**os.environ, **(env or {})},
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )
        return Running(process, f"http://127.0.0.1:{port}")

    def servers(self) -> list[dict[str, Any]]:
        """Return what --list prints of this namespace's models; other tests may use the engine, too."""
        done = run_llmstack("serve", "--list", "--json")
        assert done.code == 0, done.stderr
        return list(done.json)

    def volumes(self) -> set[str]:
        """Return the volumes with models of this namespace."""
        listed = self.engine.docker(
            "ps", "--all", "--filter", "label=dev.llmstack=model-volume", "--format", "{{.Names}} {{.Image}}"
        )
        pairs = [line.split() for line in listed.stdout.splitlines()]
        return {name for name, image in pairs if image.startswith((self.namespace, "llmstack-loaded:"))}

    def clean(self) -> None:
        """Remove what a test has left, and nothing else: the engine may be the only one of this machine."""
        for model in FILES:
            label = f"label=dev.llmstack.serve.model={model}"
            for container in self.engine.docker("ps", "--all", "--quiet", "--filter", label).stdout.split():
                self.engine.docker("rm", "--force", "--volumes", container)
        for volume in self.volumes():
            self.engine.docker("rm", "--force", volume)
            self.engine.docker("volume", "rm", volume)

    def _in_network(self, arguments: tuple[str, ...]) -> list[str]:
        given = [] if "--network" in arguments else ["--network", self.network]
        place = arguments.index("--") if "--" in arguments else len(arguments)
        return [*arguments[:place], *given, *arguments[place:]]


@dataclass(frozen=True, slots=True)
class Running:
    """`llmstack serve` in the foreground."""

    process: subprocess.Popen[str]
    url: str

    def wait_ready(self) -> None:
        """Wait until it has printed the command to try."""
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline(), self.process.stdout.readline()]
        assert lines[1].startswith(f"curl {self.url}/v1/"), (lines, self.process.communicate())

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and stderr."""
        _, stderr = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode, stderr
