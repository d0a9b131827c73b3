"""The reporter for terminals: a progress line per running task and one for the operation."""

from __future__ import annotations

import atexit
import threading
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from llmstack.interrupts import postponed_signals
from llmstack.reporting.progress import ProgressSnapshot, ProgressTracker
from llmstack.reporting.reporter import Task
from llmstack.reporting.text import clock_time, fit, human_progress, human_size, printable

FRAMES_PER_SECOND = 8
MAX_LINES = 8
MIN_AGE = 0.3
MIN_SIZE = 16_000_000

# The widest values: `99.9/99.9 GB`, `99.9 MB/s`, `9:59:59`.
_SIZE_WIDTH, _RATE_WIDTH, _TIME_WIDTH = 12, 9, 7
_MAX_NAME, _MAX_BAR, _MIN_BAR = 48, 40, 6
_MIN_NAME = 12


class RichReporter:
    """Draws progress lines at the bottom; notes and warnings scroll above them."""

    def __init__(self, *, stream: TextIO | None = None) -> None:
        self._console = Console(file=stream, stderr=stream is None, force_terminal=True, highlight=False)
        self._tracker = ProgressTracker("", 0)
        self._live: Live | None = None
        self._lock = threading.RLock()
        # An interrupted command must restore the cursor.
        atexit.register(self.end)

    def begin(self, title: str, total: int) -> None:
        """Start drawing."""
        with postponed_signals(), self._lock:
            self.end()
            self._tracker = ProgressTracker(title, total)
            # stdout is for results.
            self._live = Live(
                console=self._console,
                get_renderable=self._draw,
                refresh_per_second=FRAMES_PER_SECOND,
                transient=True,
                redirect_stdout=False,
            )
            self._live.start()

    def task(self, name: str, size: int) -> Task:
        """Start a task; it gets a line if it is large or slow."""
        return self._tracker.task(name, size)

    def end(self) -> None:
        """Stop drawing and clear the progress lines."""
        with postponed_signals(), self._lock:
            live, self._live = self._live, None
            if live is not None:
                live.stop()

    def note(self, message: str) -> None:
        """Print the note above the progress lines."""
        self._console.print(Text(printable(message)), soft_wrap=True)

    def warn(self, message: str) -> None:
        """Print the warning above the progress lines."""
        self._console.print(Text.assemble(("warning: ", "yellow"), printable(message)), soft_wrap=True)

    def _draw(self) -> Text:
        width, height = self._console.size
        ascii_only = not self._console.encoding.lower().startswith("utf")
        tasks, more = self._tracker.running(min(MAX_LINES, max(1, height - 4)), MIN_AGE, MIN_SIZE)
        lines = [line(task, width, ascii_only=ascii_only) for task in tasks]
        if more:
            lines.append(Text(fit(f"+{more} more", width), style="dim"))
        lines.append(line(self._tracker.snapshot(), width, ascii_only=ascii_only, style="bold"))
        return Text("\n", no_wrap=True, overflow="crop").join(lines)


def line(progress: ProgressSnapshot, width: int, *, ascii_only: bool = False, style: str = "") -> Text:
    """Return a line of at most `width` - 1 columns: name, bar, size, rate, time left.

    If they do not fit, the time left and the rate are omitted, then the bar. The last column stays free: some
    terminals wrap after it.
    """
    left = progress.seconds_left if progress.total else None
    columns = [
        f"{human_progress(progress.done, progress.total, '/'):>{_SIZE_WIDTH}}",
        f"{human_size(progress.rate) + '/s':>{_RATE_WIDTH}}",
        f"{'-' if left is None else clock_time(left):>{_TIME_WIDTH}}",
    ]
    free = width - 1
    while len(columns) > 1 and free - len(" ".join(columns)) - 1 < _MIN_NAME:
        columns.pop()
    tail = " ".join(columns)
    free -= len(tail) + 1
    bar_width = min(_MAX_BAR, max(free // 4, free - _MAX_NAME - 1))
    if bar_width < _MIN_BAR:
        bar_width = 0
    name_width = max(0, min(_MAX_NAME, free - bar_width - bool(bar_width)))
    name = fit(printable(progress.name), name_width)
    if ascii_only:
        name = name.encode("ascii", "replace").decode()
    text = Text(name, style=style, no_wrap=True, overflow="crop")
    if bar_width:
        share = min(1.0, max(0.0, progress.done / progress.total)) if progress.total else 0.0
        full = int(bar_width * share)
        text.append(" ").append(("=" if ascii_only else "━") * full, style="green")
        text.append(("-" if ascii_only else "─") * (bar_width - full), style="dim")
    return text.append(f" {tail}")
