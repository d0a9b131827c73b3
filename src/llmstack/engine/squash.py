"""Squash an image's layers into one, with the docker-squash library (the extra `squash`)."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmstack.engine.docker_engine import Engine, engine_errors
from llmstack.errors import LlmstackError, UsageError
from llmstack.reporting import Reporter, human_size

if TYPE_CHECKING:
    from docker_squash.v2_image import V2Image


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
    from docker_squash.v2_image import V2Image

    before = engine.inspect(image)["Size"]
    log = logging.getLogger("docker_squash")
    log.setLevel(logging.ERROR)
    source = V2Image(log, engine.client.api, image, from_layer, tag=tag)
    _complete(source, engine)
    try:
        with engine_errors(f"squashing {image}"):
            Squash(log, image, engine.client.api, tag=tag, from_layer=from_layer).squash(source)
    except SquashError as error:
        raise LlmstackError(f"squashing {image}: {error}") from error
    finally:
        if source.tmp_dir:
            source.cleanup()
    squashed = engine.inspect(tag)
    after = squashed["Size"]
    saved = f"{human_size(before - after)} saved" if before > after else "nothing saved"
    reporter.note(f"{tag}: {human_size(before)} before, {human_size(after)} after, {saved}")
    return SquashResult(squashed["Id"], before, after)


def _complete(source: V2Image, engine: Engine) -> None:
    """Let docker-squash read images without a history or a config object, which the image-spec makes optional.

    It takes each non-empty history entry for a layer. With fewer entries than layers it would squash other layers than
    it should, and drop the rest.
    """
    read_layers, read_json_file = source._read_layers, source._read_json_file
    last_layer_metadata = source._generate_last_layer_metadata

    def read_completed(path: str) -> object:
        value = read_json_file(path)
        if isinstance(value, dict):
            _complete_config(value)
        return value

    def read_all_layers(layers: list[str], image_id: str) -> None:
        """List an id for each history entry, the newest first. The history is in the saved image only."""
        read_layers(layers, image_id)
        source._save_image(image_id, source.old_image_dir)
        source._save_image = lambda *_: None
        config = source._read_json_file(str(Path(source.old_image_dir, source._get_manifest()["Config"])))
        missing = len(config["history"]) - len(layers)
        layers.extend(["<missing>"] * missing)
        if missing > 0 and source.from_layer is not None and not str(source.from_layer).isdigit():
            base = engine.inspect(source.from_layer)
            diff_ids = base["RootFS"]["Layers"]
            if base["Id"] not in layers and config["rootfs"]["diff_ids"][: len(diff_ids)] == diff_ids:
                source.from_layer = _entries_above(config["history"], len(diff_ids))

    def completed_metadata(layer_id: str, path: str) -> object:
        file = Path(source.old_image_dir, path)
        value = json.loads(file.read_bytes())
        value["config"] = value.get("config") or {}
        file.write_text(json.dumps(value), encoding="utf-8")
        return last_layer_metadata(layer_id, path)

    source._read_json_file = read_completed
    source._read_layers = read_all_layers
    source._generate_last_layer_metadata = completed_metadata


def _complete_config(config: dict[str, Any]) -> None:
    history = config.get("history") or []
    layers = len(config.get("rootfs", {}).get("diff_ids") or [])
    missing = layers - sum(not entry.get("empty_layer") for entry in history)
    # Layers without an entry are below the others: a builder adds an entry for each layer that it adds.
    config["history"] = [{"comment": "no history"}] * missing + history
    config["config"] = config.get("config") or {}


def _entries_above(history: list[dict[str, Any]], layers: int) -> int:
    """Return how many history entries are above the lowest `layers` layers."""
    for position, entry in enumerate(history):
        layers -= not entry.get("empty_layer")
        if not layers:
            return len(history) - position - 1
    return 0
