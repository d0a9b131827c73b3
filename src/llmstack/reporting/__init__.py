"""Progress, notes and warnings of a running command: the Reporter protocol and its implementations."""

from __future__ import annotations

import os
import sys
from typing import Literal

from llmstack.reporting.plain_reporter import PlainReporter
from llmstack.reporting.reporter import QuietReporter, Reporter, Task
from llmstack.reporting.text import human_size, human_time, printable, write_line, write_traceback

Progress = Literal["auto", "rich", "plain", "none"]

__all__ = [
    "Progress",
    "QuietReporter",
    "Reporter",
    "Task",
    "human_size",
    "human_time",
    "make_reporter",
    "printable",
    "write_line",
    "write_traceback",
]


def make_reporter(progress: Progress, *, quiet: bool = False, warnings_only: bool = False) -> Reporter:
    """Return the reporter for --progress and --quiet. It writes to stderr.

    `auto` draws bars on a terminal and writes plain lines anywhere else. `quiet` shows nothing.
    """
    if quiet or warnings_only or progress == "none":
        return QuietReporter(notes=not (quiet or warnings_only), warnings=not quiet)
    if progress == "auto":
        can_draw = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        progress = "rich" if can_draw else "plain"
    if progress == "plain":
        return PlainReporter()
    from llmstack.reporting.rich_reporter import RichReporter

    return RichReporter()
