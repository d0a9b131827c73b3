"""Build images with `docker buildx`: cache mounts, build secrets, several platforms, attestations."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from llmstack.engine.build_context import write_context
from llmstack.engine.build_steps import BASE_HINT, BuildSpec, LayerProgress, Step, describe, registry_error, shorten
from llmstack.engine.docker_build import ClassicBuilder
from llmstack.engine.docker_engine import Engine, engine_host
from llmstack.errors import LlmstackError, UnavailableError, UsageError
from llmstack.oci.reference import Reference
from llmstack.reporting import Reporter

BUILDERS = ("auto", "classic", "buildx")
# The first version with --progress=rawjson.
_MINIMUM = (0, 13)
_VERSION = re.compile(r"\bv?(\d+)\.(\d+)\.(\d+)")
_NETWORKS = frozenset({"default", "host", "none"})
# Seconds that an interrupted build has to end.
_GRACE = 10.0
_PROBE_TIME = 30.0
_INSTALL = "install Docker's buildx plugin, the package docker-buildx or docker-buildx-plugin"

# The name of a vertex of BuildKit's build graph: `[build 2/5] RUN make`.
_STEP = re.compile(r"\[((?:[^\]]+ )?\d+/\d+)\] (.*)", re.DOTALL)
_METADATA = "[internal] load metadata for "
_LINE = re.compile(r"Dockerfile:(\d+)")
_EXIT = re.compile(r"did not complete successfully: exit code: (\d+)")
_INSTRUCTION = re.compile(r"[A-Za-z]+[ \t]")
_UNSUPPORTED = re.compile(r"attestation is not supported|multi-platform build is not supported", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Buildx:
    """The command `docker buildx`, which exists on this machine."""

    version: str
    buildkit: bool = True

    @property
    def name(self) -> str:
        """The name with its version."""
        return f"docker buildx {self.version}"

    def build(self, engine: Engine, spec: BuildSpec, reporter: Reporter) -> str:  # noqa: ARG002 - see Builder
        """Build an image into the Docker Engine; see Builder."""
        # The engine's own builder: it sees the engine's images, so that a recipe can build on its parent.
        return self._run(spec, ["--builder=default", "--load"], reporter)

    def publish(self, spec: BuildSpec, names: Sequence[str], attestations: Iterable[str], reporter: Reporter) -> str:
        """Build an image for all platforms with the selected builder and push it; return the digest of its index.

        `attestations` are values of docker's option --attest. Raises the errors of a build and of a push.
        """
        options = ["--push", *(f"--tag={name}" for name in names), *(f"--attest={each}" for each in attestations)]
        digest = self._run(spec, options, reporter, names[0])
        for name in names:
            reporter.note(f"pushed {name}@{digest}")
        return digest

    def _run(self, spec: BuildSpec, options: Sequence[str], reporter: Reporter, pushed: str = "") -> str:
        with tempfile.TemporaryDirectory(prefix="llmstack-buildx-") as folder:
            metadata = Path(folder, "metadata.json")
            command = ["docker", "buildx", "build", "--progress=rawjson", f"--metadata-file={metadata}"]
            command += [*options, *_options(spec), "-"]
            output = _Output(spec, reporter, pushed)
            with write_context(spec.dockerfile, spec.files) as context, _process(command, context) as process:
                output.follow(process.stderr or ())
                code = process.wait()
            if code:
                raise output.failure(code)
            digest = json.loads(metadata.read_bytes()).get("containerimage.digest")
            if not digest:
                raise LlmstackError(f"building {spec.title}: {self.name} returned no image id")
            return str(digest)


def choose_builder(kind: str, needs: str = "", excludes: str = "") -> Buildx | ClassicBuilder:
    """Return the builder for a value of the setting `builder`.

    `needs` says what only buildx can do, `excludes` why buildx cannot be used; empty: nothing. Raises UsageError for an
    unknown value or a contradiction, UnavailableError if buildx is needed and does not exist.
    """
    if kind not in BUILDERS:
        raise UsageError(f"builder: must be {', '.join(BUILDERS[:-1])} or {BUILDERS[-1]}, not {kind!r}")
    if needs and kind == "classic":
        raise UsageError(f"{needs}: the classic builder cannot do that", hint="use --builder buildx")
    if excludes and (needs or kind == "buildx"):
        raise UsageError(
            f"{excludes}{f'; {needs} needs buildx' if needs else ''}", hint="use --builder classic, without it"
        )
    if kind == "classic" or excludes:
        return ClassicBuilder()
    try:
        return _find()
    except UnavailableError as error:
        if kind == "auto" and not needs:
            return ClassicBuilder()
        if not needs:
            raise UnavailableError(error.message, hint=f"{_INSTALL}, or use --builder classic") from error
        raise UnavailableError(f"{needs}: {error.message}", hint=_INSTALL) from error


def _find() -> Buildx:
    try:
        done = subprocess.run(
            ["docker", "buildx", "version"],  # noqa: S607 - the docker command of the user's PATH
            capture_output=True,
            text=True,
            check=False,
            timeout=_PROBE_TIME,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError("docker buildx: the command docker cannot be run") from error
    version = _VERSION.search(done.stdout)
    if done.returncode or not version:
        raise UnavailableError("docker buildx: not found")
    if (int(version[1]), int(version[2])) < _MINIMUM:
        raise UnavailableError(f"docker buildx {version[0]}: older than 0.13")
    return Buildx(".".join(version.groups()))


def _options(spec: BuildSpec) -> Iterator[str]:
    for name, value in spec.build_args.items():
        yield f"--build-arg={name}={value}"
    for name, path in spec.secret_files.items():
        yield f"--secret=id={name},src={path}"
    if spec.stage:
        yield f"--target={spec.stage}"
    if spec.platforms:
        yield f"--platform={','.join(spec.platforms)}"
    if spec.network:
        if spec.network not in _NETWORKS:
            raise UsageError(
                f"build_network {spec.network}: buildx has only {', '.join(sorted(_NETWORKS))}",
                hint="use --builder classic",
            )
        yield f"--network={spec.network}"
        if spec.network == "host":
            yield "--allow=network.host"
    if spec.no_cache:
        yield "--no-cache"
    if spec.pull:
        yield "--pull"


@contextmanager
def _process(command: Sequence[str], context: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command with a build context, in a process group of its own; end it at the latest when the block ends."""
    environment = {
        **os.environ,
        # docker-py ignores the current context of docker; both must use the same engine.
        "DOCKER_HOST": engine_host(),
        "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",
        "BUILDX_METADATA_PROVENANCE": "disabled",
    }
    process = subprocess.Popen(  # noqa: S603 - docker, with options that were checked
        command,
        stdin=context,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    # The plugin is a child of docker: a signal to the group reaches both. BuildKit cancels the build then.
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


class _Output:
    """Follows the status messages of one build, as JSON lines, and the lines of text between them."""

    def __init__(self, spec: BuildSpec, reporter: Reporter, pushed: str) -> None:
        self._spec = spec
        self._reporter = reporter
        self._pushed = pushed
        self._progress = LayerProgress(reporter, f"{spec.title}: base image")
        self._steps: dict[str, Step] = {}
        self._failed: tuple[str, str, str] | None = None
        self._text: deque[str] = deque(maxlen=40)

    def follow(self, lines: Iterable[bytes]) -> None:
        """Read all lines."""
        try:
            for line in lines:
                status = _parse(line)
                if status is None:
                    self._text.append(line.decode(errors="replace").rstrip())
                    continue
                for vertex in status.get("vertexes") or ():
                    self._vertex(vertex)
                for transfer in status.get("statuses") or ():
                    self._transfer(transfer)
                for log in status.get("logs") or ():
                    self._log(log)
        finally:
            self._progress.end()

    def failure(self, code: int) -> LlmstackError:
        """Return the error of a build that ended with an exit code."""
        text = "\n".join(self._text)
        if self._failed is None:
            answer = self._spec.clean(text.rpartition("ERROR: ")[2]).strip()
            hint = None
            if _UNSUPPORTED.search(answer):
                answer = answer.partition("\n")[0]
                hint = "create a builder (docker buildx create --use), or enable the containerd image store of Docker"
            return LlmstackError(f"building {self._spec.title}: docker buildx, exit code {code}: {answer}", hint=hint)
        digest, name, answer = self._failed
        answer = self._spec.clean(answer)
        instruction, origin = self._place(text)
        if digest in self._steps:
            exit_code = _EXIT.search(answer)
            return self._steps[digest].failure(answer, exit_code[1] if exit_code else None, origin)
        if name.startswith(_METADATA):
            return registry_error(describe(self._spec, f"({instruction})", origin), answer, "source", BASE_HINT)
        if self._pushed and "push" in name + answer:
            hint = f"docker login {Reference.parse(self._pushed).registry}"
            return registry_error(f"pushing {self._pushed}", answer, "destination", hint)
        return LlmstackError(f"{describe(self._spec, f'({instruction or name})', origin)}: {answer}")

    def _vertex(self, vertex: Mapping[str, Any]) -> None:
        digest, name = str(vertex.get("digest")), str(vertex.get("name"))
        step = _STEP.match(name)
        if step and vertex.get("started") and digest not in self._steps:
            self._steps[digest] = Step(self._spec, step[1], step[2], self._reporter)
        if digest in self._steps and vertex.get("completed") and not vertex.get("error"):
            self._steps[digest].end(cached=bool(vertex.get("cached")))
        # The other steps that run at that time are canceled, with an error that says so.
        if vertex.get("error") and self._failed is None and "canceled" not in vertex["error"]:
            self._failed = digest, name, str(vertex["error"])

    def _transfer(self, status: Mapping[str, Any]) -> None:
        name = str(status.get("id", ""))
        if name.startswith("sha256:") and status.get("total"):
            done = bool(status.get("completed"))
            detail = {"current": status.get("current", 0), "total": status["total"]}
            layer = {"id": name.removeprefix("sha256:")[:12], "progressDetail": detail}
            self._progress.follow({**layer, "status": "Downloading"})
            if done:
                self._progress.follow({**layer, "status": "Download complete"})

    def _log(self, log: Mapping[str, Any]) -> None:
        step = self._steps.get(str(log.get("vertex")))
        if step:
            piece = base64.b64decode(log.get("data") or "").decode(errors="replace")
            step.add(piece, stderr=log.get("stream") == 2)

    def _place(self, text: str) -> tuple[str, str]:
        """Return the instruction of the line that the text names, and its place in the recipe."""
        line = _LINE.search(text)
        starts = _instruction_lines(self._spec.dockerfile)
        number = sum(start <= int(line[1]) for start in starts) if line else 0
        if not 0 < number <= len(self._spec.origins):
            return "", ""
        instruction = self._spec.dockerfile.split("\n")[starts[number - 1] - 1]
        return shorten(instruction), self._spec.origins[number - 1]


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.startswith(b"{"):
        return None
    try:
        status = json.loads(line)
    except ValueError:
        return None
    return status if isinstance(status, dict) else None


def _instruction_lines(dockerfile: str) -> list[int]:
    """Return the lines, from 1, on which instructions start."""
    found, continued = [], False
    for number, line in enumerate(dockerfile.split("\n"), 1):
        if line.startswith("#"):
            continue
        if not continued and _INSTRUCTION.match(line):
            found.append(number)
        continued = line.endswith("\\")
    return found
