"""Run a command line: errors, signals and bugs become an exit code and at most one screen of text."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmstack.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_TERMINATED, LlmstackError, UnavailableError
from llmstack.interrupts import Interrupted, handle_signals

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


@dataclass(slots=True)
class Invocation:
    """What one command line has set for the handling of its errors: `debug` adds tracebacks."""

    debug: bool = False


class _StdoutError(OSError):
    """Writing to stdout failed, for example because its disk is full."""


class _Stdout(io.FileIO):
    """The file under stdout's buffer, with errors of its own type.

    After a broken pipe the command continues without output and keeps its own exit code; Typer and Rich would exit
    with 1.
    """

    def write(self, data: ReadableBuffer, /) -> int:
        """Write as much as fits."""
        try:
            return super().write(data)
        except BrokenPipeError:
            _discard_output(self.fileno())
            return super().write(data)
        except OSError as error:
            raise _StdoutError(error.errno, error.strerror) from error


def run(command: Callable[[], object], invocation: Invocation) -> int:
    """Run `command` and return the exit code; no exception passes."""
    handle_signals()
    _replace_streams()
    code = _exit_code(command, invocation)
    # Flushed here: at exit, Python would print its own error about a full disk.
    flushed = _exit_code(sys.stdout.flush, invocation)
    return code or flushed


def _exit_code(command: Callable[[], object], invocation: Invocation) -> int:
    try:
        command()
    except LlmstackError as error:
        show_error(error, debug=invocation.debug)
        return error.exit_code
    except Interrupted as interrupt:
        _write_error("terminated" if interrupt.terminated else "interrupted", interrupt.hint)
        return EXIT_TERMINATED if interrupt.terminated else EXIT_INTERRUPTED
    except _StdoutError as error:
        _discard_output(sys.stdout.fileno())
        show_error(UnavailableError(f"stdout: {error.strerror}"), debug=invocation.debug)
        return UnavailableError.exit_code
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(bool(exit_.code))
    except Exception:
        traceback.print_exc()
        _write_error("a bug in llmstack", "report it with the lines above and the command line")
        return EXIT_BUG
    return 0


def _replace_streams() -> None:
    """Make stdout report its own errors and accept every character; open /dev/null for streams that are closed."""
    if sys.stderr is None:
        sys.stderr = _null_stream()
    old = sys.stdout
    if old is None:
        sys.stdout = _null_stream()
    elif isinstance(old, io.TextIOWrapper):
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_Stdout(old.fileno(), "w", closefd=False)),
            encoding=old.encoding,
            errors="backslashreplace",
            line_buffering=old.line_buffering or old.write_through,
        )


def _null_stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(io.FileIO(os.devnull, "w")), encoding="utf-8")


def _discard_output(stdout: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stdout)
    os.close(null)


def show_error(error: LlmstackError, *, about: str = "", debug: bool = False) -> None:
    """Print an error and its hint, with the traceback if `debug`."""
    if debug:
        traceback.print_exception(error)
    _write_error(f"{about}: {error}" if about else str(error), error.hint)


def _write_error(message: str, hint: str | None) -> None:
    # Imported late: --help must not pay for it.
    from llmstack.reporting.text import printable

    lines = "\n".join(map(printable, message.split("\n")))
    sys.stderr.write(f"error: {lines}\n")
    if hint:
        sys.stderr.write(f"  hint: {printable(hint)}\n")
    sys.stderr.flush()
