"""Where errors, signals and bugs become an exit code and at most one screen of text."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType

from llmstack.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_TERMINATED, LlmstackError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """SIGINT or SIGTERM came: end, tidying up on the way.

    No KeyboardInterrupt: Typer ends the process itself when it sees one, with one exit code for all.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.terminated = number == signal.SIGTERM


class Edge:
    """Runs the command line once; `debug` adds tracebacks to errors."""

    debug = False

    def run(self, command: Callable[[], object]) -> int:
        """Run `command` and return the exit code; nothing passes but SystemExit's own."""
        for number in _SIGNALS:
            signal.signal(number, _tidy_up)
        try:
            command()
        except LlmstackError as error:
            show_error(error, debug=self.debug)
            return error.exit_code
        except Interrupted as interrupt:
            what = "terminated" if interrupt.terminated else "interrupted"
            _say(what, "nothing half done carries a name; run the command again")
            return EXIT_TERMINATED if interrupt.terminated else EXIT_INTERRUPTED
        except BrokenPipeError:
            # Whoever read our output has seen enough; Python must not complain at exit.
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except SystemExit as exit_:
            return exit_.code if isinstance(exit_.code, int) else int(bool(exit_.code))
        except Exception:
            traceback.print_exc()
            _say("a bug in llmstack", "please report it, with the lines above and the command you ran")
            return EXIT_BUG
        return 0


def _tidy_up(number: int, _frame: FrameType | None) -> None:
    """Take the first signal: let everything end in order. A second one ends the process at once."""
    for each in _SIGNALS:
        signal.signal(each, lambda again, _: os._exit(128 + again))
    raise Interrupted(number)


EDGE = Edge()


def show_error(error: LlmstackError, *, about: str = "", debug: bool = False) -> None:
    """Print an error for a person: what happened, and what to do next."""
    if debug:
        traceback.print_exception(error)
    _say(f"{about}: {error}" if about else str(error), error.hint)


def _say(what: str, hint: str | None) -> None:
    # Imported here because --help must not pay for it.
    from llmstack.reporting.text import printable

    lines = "\n".join(map(printable, what.split("\n")))
    sys.stderr.write(f"error: {lines}\n")
    if hint:
        sys.stderr.write(f"  hint: {printable(hint)}\n")
    sys.stderr.flush()
