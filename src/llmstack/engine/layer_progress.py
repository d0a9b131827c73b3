"""The layers that the engine moves for a pull or a push, as the reporter's tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmstack.reporting import Reporter, Task

_MOVING = frozenset({"Downloading", "Pushing"})
_MOVED = frozenset({"Download complete", "Pull complete", "Pushed", "Layer already exists", "Already exists"})


class LayerProgress:
    """Turns the engine's status messages into one task per layer; close it with `end`."""

    def __init__(self, reporter: Reporter, title: str) -> None:
        self._reporter = reporter
        self._title = title
        self._begun = False
        self._tasks: dict[str, tuple[Task, int]] = {}

    def follow(self, item: Mapping[str, Any]) -> None:
        """Take one message; those that are about no layer are passed over."""
        layer, status, detail = str(item.get("id", "")), item.get("status"), item.get("progressDetail") or {}
        if status in _MOVING and detail.get("total"):
            self._advance(layer, int(detail.get("current", 0)), int(detail["total"]))
        elif status in _MOVED and layer in self._tasks:
            self._tasks[layer][0].done()

    def end(self) -> None:
        """Take everything off the display."""
        if self._begun:
            self._reporter.end()
            self._begun = False
            self._tasks.clear()

    def _advance(self, layer: str, current: int, total: int) -> None:
        if not self._begun:
            self._reporter.begin(self._title, 0)
            self._begun = True
        if layer not in self._tasks:
            self._tasks[layer] = (self._reporter.task(layer, total), 0)
        task, before = self._tasks[layer]
        if current > before:
            task.advance(current - before)
            self._tasks[layer] = (task, current)
