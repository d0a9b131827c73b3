"""What a running command tells the person who started it: one Protocol, and an implementation per kind of listener."""

from llmstack.reporting.base import Reporter, Task

__all__ = ["Reporter", "Task"]
