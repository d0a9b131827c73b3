"""Squashing an image's layers into one, by the docker-squash library (the extra `squash`)."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from llmstack.engine.docker_engine import Engine, engine_errors
from llmstack.errors import LlmstackError, UnavailableError
from llmstack.reporting import Reporter, human_size


@dataclass(frozen=True, slots=True)
class Squashed:
    """A squashed image: its id, and the sizes in bytes before and after."""

    image: str
    before: int
    after: int


def require_library() -> None:
    """Raise UnavailableError if docker-squash is not installed."""
    try:
        import docker_squash.squash  # noqa: F401 - whether it can be imported is the question
    except ImportError as error:
        raise UnavailableError(
            "squashing needs the docker-squash library, which is not installed",
            hint="in llmstack's folder: pip install '.[squash]'",
        ) from error


def squash_image(engine: Engine, image: str, tag: str, reporter: Reporter, from_layer: str | None = None) -> Squashed:
    """Squash an image's layers (those above `from_layer`, all by default) and name the result `tag`.

    Raises NotFoundError if there is no such image, UnavailableError without the library, LlmstackError if it fails.
    """
    require_library()
    from docker_squash.errors import SquashError
    from docker_squash.squash import Squash

    before = engine.inspect(image)["Size"]
    log = logging.getLogger("docker_squash")
    log.setLevel(logging.ERROR)
    try:
        with engine_errors(f"squashing {image}"):
            Squash(log, image, engine.client.api, tag=tag, from_layer=from_layer).run()
    except SquashError as error:
        raise LlmstackError(f"squashing {image}: {error}") from error
    squashed = engine.inspect(tag)
    after = squashed["Size"]
    saved = f"{human_size(before - after)} saved" if before > after else "nothing saved"
    reporter.note(f"{tag}: {human_size(before)} before, {human_size(after)} after, {saved}")
    return Squashed(squashed["Id"], before, after)
