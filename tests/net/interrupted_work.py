"""Parallel work that a signal interrupts at a random moment, many times; ends with a traceback if it hangs.

Run by test_parallel.py in a process: Python calls signal handlers in the main thread only.
"""

from __future__ import annotations

import faulthandler
import io
import random
import signal
import sys

from llmstack.interrupts import Interrupted, handle_signals
from llmstack.net.cancel import Cancel
from llmstack.net.parallel import run_all
from llmstack.reporting.plain_reporter import PlainReporter

LONGEST_START = 0.004
HANGS = 30


def work(cancel: Cancel) -> None:
    """Run calls that end, and calls that wait for the cancellation."""
    reporter = PlainReporter(stream=io.StringIO(), interval=0.001)
    try:
        reporter.begin("work", 1)
        run_all(lambda number: cancel.wait(0.002 if number % 2 else HANGS), range(6), 4, cancel)
    finally:
        reporter.end()
        cancel.clear()


def main(rounds: int) -> None:
    interrupted = 0
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    for _ in range(rounds):
        faulthandler.dump_traceback_later(HANGS, exit=True)
        handle_signals()
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00005, LONGEST_START))
            work(Cancel())
        except Interrupted:
            interrupted += 1
    faulthandler.cancel_dump_traceback_later()
    print(interrupted)


if __name__ == "__main__":
    main(int(sys.argv[1]))
