"""Squash an image's layers into one, with the docker-squash library (the extra `squash`)."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from llmstack.engine.docker_engine import Engine, engine_errors
from llmstack.errors import LlmstackError, UsageError
from llmstack.reporting import Reporter, human_size


@dataclass(frozen=True, slots=True)
class SquashResult:
    """A squashed image: its id, and the sizes in bytes before and after."""

    image: str
    before: int
    after: int


def require_library() -> None:
    """Raise UsageError if docker-squash is not installed."""
    try:
        import docker_squash.squash  # noqa: F401 - only to see whether it is installed
    except ImportError as error:
        raise UsageError(
            "squashing: the docker-squash library is not installed",
            hint="in a checkout of llmstack: pip install '.[squash]'",
        ) from error


def squash_image(
    engine: Engine, image: str, tag: str, reporter: Reporter, from_layer: str | None = None
) -> SquashResult:
    """Squash an image's layers (those above `from_layer`; default: all) and tag the result `tag`.

    Raises NotFoundError if the image does not exist, UsageError without the library, LlmstackError if it fails.
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
    return SquashResult(squashed["Id"], before, after)
