"""A Reporter that records its calls."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmstack.reporting import Task


@dataclass
class RecordedTask:
    """A task with its progress."""

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
    """All messages and tasks of a command."""

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tasks: list[RecordedTask] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)

    def begin(self, title: str, total: int) -> None:  # noqa: ARG002 - the protocol's names
        self.titles.append(title)

    def task(self, name: str, size: int) -> Task:
        self.tasks.append(RecordedTask(name, size))
        return self.tasks[-1]

    def end(self) -> None:
        """Do nothing."""

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)
