"""A Reporter that remembers what it was told."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmstack.reporting import Task


@dataclass
class HeardTask:
    """A task: how far it came, and whether it is done."""

    name: str
    size: int
    moved: int = 0
    ended: bool = False

    def advance(self, size: int) -> None:
        self.moved += size

    def done(self) -> None:
        self.ended = True


@dataclass
class Listener:
    """Everything that a running command said."""

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tasks: list[HeardTask] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)

    def begin(self, title: str, total: int) -> None:  # noqa: ARG002 - the protocol's names
        self.titles.append(title)

    def task(self, name: str, size: int) -> Task:
        self.tasks.append(HeardTask(name, size))
        return self.tasks[-1]

    def end(self) -> None:
        """Nothing is drawn."""

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)
