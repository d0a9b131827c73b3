"""Docker's classic builder, through docker-py; and tags, pushes and pulls, which do not depend on the builder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llmstack.engine.build_context import write_context
from llmstack.engine.build_steps import BuildSpec, LayerProgress, Step, registry_error
from llmstack.engine.credentials import lookup
from llmstack.engine.docker_engine import Engine, engine_errors, engine_failed, is_disk_full_answer
from llmstack.errors import LlmstackError, NotFoundError, UnavailableError
from llmstack.oci.reference import Reference
from llmstack.reporting import Reporter

_STDERR = "\x1b[91m"
_STEP = re.compile(r"Step (\d+)/(\d+) : (.*)", re.DOTALL)
_NOISE = re.compile(r" ?---> |Removing intermediate container |Successfully (built|tagged) ")


@dataclass(frozen=True, slots=True)
class ClassicBuilder:
    """The builder that every Docker Engine has. It understands neither RUN --mount nor several platforms."""

    name: str = "Docker's classic builder"
    buildkit: bool = False

    def build(self, engine: Engine, spec: BuildSpec, reporter: Reporter) -> str:
        """Build an image; see Builder."""
        with write_context(spec.dockerfile, spec.files) as context, engine_errors(f"building {spec.title}"):
            events = engine.client.api.build(
                fileobj=context,
                custom_context=True,
                buildargs=dict(spec.build_args),
                target=spec.stage,
                platform=next(iter(spec.platforms), None),
                network_mode=spec.network,
                nocache=spec.no_cache,
                pull=spec.pull,
                rm=True,
                forcerm=True,
                decode=True,
            )
            return _BuildOutput(spec, reporter).follow(events)


def tag_image(engine: Engine, image: str, names: Iterable[str]) -> None:
    """Tag an image; raises UsageError for an invalid name."""
    for name in names:
        reference = Reference.parse(name)
        with engine_errors(f"tagging {name}"):
            engine.client.api.tag(image, name.partition("@")[0].removesuffix(f":{reference.tag}"), reference.tag)


def push_image(engine: Engine, name: str, reporter: Reporter) -> str:
    """Push an image and return its digest in the registry.

    Raises NotAuthorizedError, NotFoundError, UnavailableError or LlmstackError with the registry's answer.
    """
    reference = Reference.parse(name)
    auth = _auth(reference)
    progress = LayerProgress(reporter, f"push {name}")
    digest = answer = ""
    try:
        with engine_errors(f"pushing {name}"):
            events = engine.client.api.push(name, stream=True, decode=True, auth_config=auth)
            # The engine ends the stream after an error. Reading to the end frees the connection.
            for item in events:
                answer = str(item.get("error", answer))
                progress.follow(item)
                digest = (item.get("aux") or {}).get("Digest", digest)
    finally:
        progress.end()
    if answer:
        raise registry_error(f"pushing {name}", answer, "destination", f"docker login {reference.registry}")
    reporter.note(f"pushed {name}@{digest}")
    return digest


def pull_image(engine: Engine, name: str, reporter: Reporter) -> None:
    """Pull an image.

    Raises NotFoundError, NotAuthorizedError, UnavailableError or LlmstackError with the registry's answer.
    """
    reference = Reference.parse(name)
    what, hint, answer = f"pulling {name}", f"docker login {reference.registry}", ""
    progress = LayerProgress(reporter, f"pull {name}")
    try:
        # Between two messages, the engine may write a large layer.
        with engine.no_timeout(), engine_errors(what):
            events = engine.client.api.pull(
                f"{reference.registry}/{reference.repository}",
                tag=reference.locator,
                stream=True,
                decode=True,
                auth_config=_auth(reference),
            )
            for item in events:
                answer = str(item.get("error", answer))
                progress.follow(item)
    except (NotFoundError, UnavailableError) as error:
        if error.hint:
            # The engine does not answer.
            raise
        # The engine answers with 404 or 500 what the registry has answered.
        raise registry_error(what, error.message.removeprefix(f"{what}: "), "source", hint) from error
    finally:
        progress.end()
    if is_disk_full_answer(answer):
        raise engine_failed(what, answer)
    if answer:
        raise registry_error(what, answer, "source", hint)


def _auth(reference: Reference) -> dict[str, str] | None:
    login = lookup(reference.registry)
    if not login:
        return None
    return {"username": login.username, "password": login.password, "identitytoken": login.identity_token or ""}


class _BuildOutput:
    """Follows the output of one build: the current step, and the downloads of base images."""

    def __init__(self, spec: BuildSpec, reporter: Reporter) -> None:
        self._spec = spec
        self._reporter = reporter
        self._progress = LayerProgress(reporter, f"{spec.title}: base image")
        self._number = 0
        self._step: Step | None = None
        self._cached = False

    def follow(self, events: Iterable[Mapping[str, Any]]) -> str:
        """Report each step and return the image's id."""
        image = failure = ""
        try:
            for item in events:
                failure = str(item.get("error", failure))
                self._progress.follow(item)
                image = (item.get("aux") or {}).get("ID", image)
                self._read(str(item.get("stream", "")))
        finally:
            self._progress.end()
        if failure:
            raise self._failure(failure)
        self._end_step()
        if not image:
            raise LlmstackError(f"building {self._spec.title}: the engine returned no image id")
        return image

    def _read(self, text: str) -> None:
        step = _STEP.match(text)
        if step:
            self._end_step()
            self._number, self._cached = int(step[1]), False
            self._step = Step(self._spec, f"{step[1]}/{step[2]}", step[3], self._reporter)
        elif "---> Using cache" in text:
            self._cached = True
        elif self._step and not _NOISE.match(text):
            self._step.add(text, stderr=text.startswith(_STDERR))

    def _end_step(self) -> None:
        if self._step:
            self._progress.end()
            self._step.end(cached=self._cached)

    def _failure(self, answer: str) -> LlmstackError:
        if self._step is None:
            return LlmstackError(f"building {self._spec.title}: {self._spec.clean(answer)}")
        code = re.search(r"returned a non-zero code: (\d+)", answer)
        known = 0 < self._number <= len(self._spec.origins)
        return self._step.failure(
            answer, code[1] if code else None, self._spec.origins[self._number - 1] if known else ""
        )
