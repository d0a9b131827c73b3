"""Report the layers that the engine pulls or pushes as tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmstack.reporting import Reporter, Task

_TRANSFERRING = frozenset({"Downloading", "Pushing"})
_TRANSFERRED = frozenset({"Download complete", "Pull complete", "Pushed", "Layer already exists", "Already exists"})


class LayerProgress:
    """Turns the engine's status messages into one task per layer. Call `end` at the end."""

    def __init__(self, reporter: Reporter, title: str) -> None:
        self._reporter = reporter
        self._title = title
        self._begun = False
        self._tasks: dict[str, tuple[Task, int]] = {}

    def follow(self, item: Mapping[str, Any]) -> None:
        """Read one message. Messages without a layer are ignored."""
        layer, status, detail = str(item.get("id", "")), item.get("status"), item.get("progressDetail") or {}
        if status in _TRANSFERRING and detail.get("total"):
            self._advance(layer, int(detail.get("current", 0)), int(detail["total"]))
        elif status in _TRANSFERRED and layer in self._tasks:
            self._tasks[layer][0].done()

    def end(self) -> None:
        """End all tasks."""
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
