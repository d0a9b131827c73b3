"""What a running command tells the person who started it: one Protocol, and an implementation per kind of listener."""

from __future__ import annotations

import os
import sys
from typing import Literal

from llmstack.reporting.base import Reporter, Task
from llmstack.reporting.plain import PlainReporter
from llmstack.reporting.quiet import QuietReporter
from llmstack.reporting.text import human_size, human_time, printable, write_line, write_traceback

Progress = Literal["auto", "rich", "plain", "none"]

__all__ = [
    "Progress",
    "Reporter",
    "Task",
    "human_size",
    "human_time",
    "make_reporter",
    "printable",
    "write_line",
    "write_traceback",
]


def make_reporter(progress: Progress, *, quiet: bool = False) -> Reporter:
    """Return the reporter for --progress and --quiet; all of them write to stderr.

    `auto` draws bars on a terminal and writes plain lines anywhere else. Quiet leaves only warnings.
    """
    if quiet or progress == "none":
        return QuietReporter(notes=not quiet)
    if progress == "auto":
        drawable = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        progress = "rich" if drawable else "plain"
    if progress == "plain":
        return PlainReporter()
    from llmstack.reporting.rich_reporter import RichReporter

    return RichReporter()
