"""The reporters: their output, its stream, and the cost of counting."""

import io
import os
import pty
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.reporting import make_reporter
from llmstack.reporting.plain_reporter import PlainReporter
from llmstack.reporting.progress import ProgressSnapshot, ProgressTracker
from llmstack.reporting.reporter import QuietReporter
from llmstack.reporting.rich_reporter import RichReporter, line
from llmstack.reporting.text import clock_time, fit, human_progress, human_size, human_time, printable, width_of


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Listener(io.StringIO):
    """A stream that sets `found` when `text` was written."""

    def __init__(self, text):
        super().__init__()
        self._text = text
        self.found = threading.Event()

    def write(self, text):
        written = super().write(text)
        if self._text in self.getvalue():
            self.found.set()
        return written


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_949, "99.9 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (2_000_000_000, "2.0 GB"),
        (140_000_000, "140 MB"),
    ],
)
def test_human_size(size, text):
    assert human_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "long", "short"),
    [
        (0, "0 s", "0:00"),
        (59.6, "1 min", "1:00"),
        (65, "1 min 5 s", "1:05"),
        (7500, "2 h 5 min", "2:05:00"),
        (43_500, "12 h 5 min", "12h05m"),
        (277_200, "3 d 5 h", "3d05h"),
        (10**12, "11574074 d 1 h", "-"),
    ],
)
def test_human_time(seconds, long, short):
    assert human_time(seconds) == long
    assert clock_time(seconds) == short


@given(st.integers(0, 10**19))
def test_a_size_is_short(size):
    assert len(human_size(size)) <= len("99.9 GB")


def test_progress_uses_the_larger_unit():
    assert human_progress(1_200_000_000, 2_000_000_000) == "1.2 of 2.0 GB"
    assert human_progress(1_000, 2_000_000_000) == "0.0 of 2.0 GB"
    assert human_progress(500, 0) == "500 B"


def test_printable_escapes_control_and_invisible_characters():
    assert printable("a\x1b[2Jb\r\n\x07\u202egnp.\u200b\x9b\udcff") == (
        "a\\x1b[2Jb\\r\\n\\x07\\u202egnp.\\u200b\\x9b\\udcff"
    )
    assert printable("模型 é 🤗.bin") == "模型 é 🤗.bin"


@given(st.text(), st.integers(0, 200))
def test_fit_returns_exactly_the_requested_width(text, width):
    assert width_of(fit(printable(text), width)) == width


def test_fit_keeps_the_number_of_a_shard():
    assert fit("model-00001-of-00004.safetensors", 20) == "model-00001-o…ensors"


def test_rate_covers_the_last_seconds_and_falls_to_zero_in_a_stall():
    clock = Clock()
    tracker = ProgressTracker("work", 1000, clock)
    task = tracker.task("file", 1000)
    for second in range(1, 11):
        clock.now = float(second)
        task.advance(50 if second <= 2 else 10)
        rate = tracker.snapshot().rate
    assert rate == 10
    clock.now = 20.0
    tracker.snapshot()
    clock.now = 26.0
    assert tracker.snapshot() == ProgressSnapshot("work", 180, 1000, 0.0)
    assert tracker.snapshot().seconds_left is None


def test_retransmitted_bytes_and_finished_tasks():
    clock = Clock()
    tracker = ProgressTracker("work", 100, clock)
    task = tracker.task("file", 100)
    task.advance(80)
    task.advance(-30)
    task.done()
    task.done()
    clock.now = 10.0
    progress = tracker.snapshot()
    assert (progress.done, progress.rate, progress.seconds_left) == (50, 5.0, 10.0)
    assert tracker.running(8, 0.0, 0) == ([], 0)


def test_short_tasks_have_no_line_and_lines_are_limited():
    clock = Clock()
    tracker = ProgressTracker("work", 0, clock)
    tracker.task("big", 10_000)
    small = [tracker.task(f"small-{number}", 10) for number in range(20)]
    assert [shown.name for shown in tracker.running(8, 0.3, 1000)[0]] == ["big"]
    clock.now = 0.5
    small[0].done()
    shown, more = tracker.running(8, 0.3, 1000)
    assert [task.name for task in shown] == ["big", *(f"small-{number}" for number in range(1, 8))]
    assert more == 12


def test_counting_is_thread_safe_and_cheap():
    tracker = ProgressTracker("work", 0)

    def work():
        task = tracker.task("file", 0)
        for _ in range(10_000):
            task.advance(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    before = time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tracker.snapshot().done == 80_000
    # 80,000 chunks of 1 MiB are 80 GB. The limit allows for a busy machine.
    assert time.process_time() - before < 4


def test_plain_writes_lines_at_the_start_at_intervals_and_at_the_end():
    stream = Listener(" MB/s, ")
    reporter = PlainReporter(stream=stream, interval=0.01)
    reporter.begin("facebook/opt-125m", 2_000_000_000)
    task = reporter.task("model\x1b.bin", 2_000_000_000)
    while not stream.found.is_set():
        task.advance(1_000_000)
        stream.found.wait(0.005)
    task.done()
    reporter.note("a note\x1b[2J")
    reporter.warn("take care")
    reporter.end()
    reporter.end()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "facebook/opt-125m: 2.0 GB"
    assert any(" of 2.0 GB, " in text and text.endswith(" left") for text in lines)
    assert "a note\\x1b[2J" in lines
    assert "warning: take care" in lines
    assert lines[-1].startswith("facebook/opt-125m: ")
    assert sum(" in " in text for text in lines) == 1


def test_plain_writes_no_summary_without_bytes():
    stream = io.StringIO()
    reporter = PlainReporter(stream=stream)
    reporter.begin("gpt2", 0)
    reporter.end()
    assert stream.getvalue() == "gpt2\n"


def test_a_closed_stream_raises_no_error():
    stream = io.StringIO()
    reporter = PlainReporter(stream=stream)
    stream.close()
    reporter.begin("gpt2", 10)
    reporter.task("a", 10).advance(10)
    reporter.end()
    reporter.warn("no error")


def test_quiet_reporter_shows_only_the_requested_messages():
    stream = io.StringIO()
    for notes, warnings in ((False, False), (False, True), (True, True)):
        reporter = QuietReporter(notes=notes, warnings=warnings, stream=stream)
        reporter.begin("gpt2", 10)
        task = reporter.task("a", 10)
        task.advance(10)
        task.done()
        reporter.end()
        reporter.note("a note")
        reporter.warn("care")
    assert stream.getvalue() == "warning: care\na note\nwarning: care\n"


@given(
    st.text(max_size=80),
    st.integers(0, 10**15),
    st.integers(0, 10**15),
    st.floats(0, 10**12),
    st.integers(16, 200),
    st.booleans(),
)
def test_a_progress_line_never_wraps(name, done, total, rate, width, ascii_only):
    text = line(ProgressSnapshot(name, done, total, rate), width, ascii_only=ascii_only).plain
    assert width_of(text) < width
    assert not ascii_only or text.isascii()


def test_rich_draws_progress_prints_messages_above_and_clears():
    stream = Listener("model.bin")
    reporter = RichReporter(stream=stream)
    reporter.begin("facebook/opt-125m", 2_000_000_000)
    task = reporter.task("model.bin", 2_000_000_000)
    task.advance(1_000_000_000)
    assert stream.found.wait(30)
    reporter.note("[bold]a note[/bold]\x1b[2J")
    reporter.warn("take care")
    task.done()
    reporter.end()
    reporter.end()
    text = stream.getvalue()
    assert "1.0/2.0 GB" in text
    assert "[bold]a note[/bold]\\x1b[2J" in text
    assert "take care" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def _run(code, stderr, **environ):
    return subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=stderr, env=os.environ | environ, check=True
    )


WORK = """
import sys
from llmstack.reporting import make_reporter
reporter = make_reporter(sys.argv[1] if len(sys.argv) > 1 else "auto")
reporter.begin("gpt2", 10)
reporter.task("a", 10).advance(10)
reporter.end()
print("rich" in sys.modules, type(reporter).__name__)
"""


def test_auto_is_plain_without_a_terminal_and_does_not_import_rich():
    run = _run(WORK, subprocess.PIPE)
    assert run.stdout == b"False PlainReporter\n"
    assert run.stderr == b"gpt2: 10 B\ngpt2: 10 B in 0 s\n"


@pytest.mark.parametrize(("term", "kind"), [("xterm", b"True RichReporter\n"), ("dumb", b"False PlainReporter\n")])
def test_auto_on_a_terminal(term, kind):
    ours, theirs = pty.openpty()
    try:
        assert _run(WORK, theirs, TERM=term).stdout == kind
    finally:
        os.close(theirs)
        os.close(ours)


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        ({"progress": "rich", "quiet": True}, ""),
        ({"progress": "none", "quiet": True}, ""),
        ({"progress": "plain", "quiet": True, "warnings_only": True}, ""),
        ({"progress": "rich", "warnings_only": True}, "warning: care\n"),
        ({"progress": "none"}, "a note\nwarning: care\n"),
    ],
)
def test_messages_without_progress(capsys, options, messages):
    reporter = make_reporter(**options)
    reporter.note("a note")
    reporter.warn("care")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", messages)
