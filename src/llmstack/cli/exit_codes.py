"""Where errors, signals and bugs become an exit code and at most one screen of text."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from llmstack.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_TERMINATED, LlmstackError, UnavailableError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """SIGINT or SIGTERM came: end, tidying up on the way.

    No KeyboardInterrupt: Typer ends the process itself when it sees one, with one exit code for all.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.terminated = number == signal.SIGTERM


class _StdoutError(OSError):
    """Stdout takes nothing more: its disk is full, say."""


class _Stdout(io.FileIO):
    """The file under stdout's buffer, told apart from all other files when it fails.

    Who has stopped reading has seen enough: the command goes on without, and ends with its own exit code. Typer and
    Rich would end the process with 1.
    """

    def write(self, data: ReadableBuffer, /) -> int:
        """Write what fits."""
        try:
            return super().write(data)
        except BrokenPipeError:
            _to_nowhere(self.fileno())
            return super().write(data)
        except OSError as error:
            raise _StdoutError(error.errno, error.strerror) from error


class Edge:
    """Runs the command line once; `debug` adds tracebacks to errors."""

    debug = False

    def run(self, command: Callable[[], object]) -> int:
        """Run `command` and return the exit code; nothing passes but SystemExit's own."""
        for number in _SIGNALS:
            signal.signal(number, _tidy_up)
        _replace_stdout()
        code = self._code_of(command)
        # What is still in the buffer would go out at exit, where Python itself would complain.
        flushed = self._code_of(sys.stdout.flush)
        return code or flushed

    def _code_of(self, command: Callable[[], object]) -> int:
        try:
            command()
        except LlmstackError as error:
            show_error(error, debug=self.debug)
            return error.exit_code
        except Interrupted as interrupt:
            what = "terminated" if interrupt.terminated else "interrupted"
            _say(what, "nothing half done carries a name; run the command again")
            return EXIT_TERMINATED if interrupt.terminated else EXIT_INTERRUPTED
        except _StdoutError as error:
            _to_nowhere(sys.stdout.fileno())
            show_error(UnavailableError(f"stdout: {error.strerror}"), debug=self.debug)
            return UnavailableError.exit_code
        except SystemExit as exit_:
            return exit_.code if isinstance(exit_.code, int) else int(bool(exit_.code))
        except Exception:
            traceback.print_exc()
            _say("a bug in llmstack", "please report it, with the lines above and the command you ran")
            return EXIT_BUG
        return 0


def _replace_stdout() -> None:
    """Put a stdout in place that tells its errors from others, and takes any text: a table may hold any sign."""
    old = sys.stdout
    if old is None:
        # It was closed before: nobody wants to read.
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(os.devnull, "w")), encoding="utf-8")
    elif isinstance(old, io.TextIOWrapper):
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_Stdout(old.fileno(), "w", closefd=False)),
            encoding=old.encoding,
            errors="backslashreplace",
            line_buffering=old.line_buffering or old.write_through,
        )


def _to_nowhere(stdout: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stdout)
    os.close(nowhere)


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
