"""The exceptions of llmstack, and the exit code of each.

    LlmstackError            1   the operation failed; also: some entries of a list failed
    ├── UsageError           2   the command line, a settings file or a wish list is invalid
    ├── NotFoundError        3   a repo, revision, image, tag or file does not exist
    ├── NotAuthorizedError   4   a gated or private repo, or a registry that requires authentication
    ├── IntegrityError       5   data does not match its digest, or an image is invalid
    ├── UnavailableError     6   a network, registry, Hub, Docker Engine or disk is not available; the disk is full
    └── InternalError       70   a bug in llmstack, in one of several repos

Any other bug exits with 70 and a traceback, an interrupt with 130 (SIGTERM: 143).
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Collection, Iterator
from typing import ClassVar

EXIT_BUG = 70
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class LlmstackError(Exception):
    """An error with everything a user needs: the object, what failed, the side of the transfer, the next action.

    `message` has the form `<object>: <what failed>: <cause>`. `side` is "source" or "destination" in a transfer (as in
    oras-go's CopyError). `hint` is the next action. None of them may contain a secret.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None, side: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.side = side

    def __str__(self) -> str:
        return f"{self.side}: {self.message}" if self.side else self.message


@contextlib.contextmanager
def on_side(side: str, what: str = "") -> Iterator[None]:
    """Add the side and the object `what` to each error that has no side yet."""
    try:
        yield
    except LlmstackError as error:
        if error.side is None:
            error.side = side
            if what not in error.message:
                error.message = f"{what}: {error.message}"
        raise


def did_you_mean(word: str, noun: str, known: Collection[str]) -> str:
    """Return a hint for an unknown word: the most similar known one, or all of them."""
    similar = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {similar[0]}?" if similar else f"the {noun} are: {', '.join(known)}"


class UsageError(LlmstackError):
    """The command line, a settings file or a wish list is invalid."""

    exit_code = 2


class NotFoundError(LlmstackError):
    """A repo, revision, image, tag or file does not exist."""

    exit_code = 3


class NotAuthorizedError(LlmstackError):
    """A gated or private repo, or a registry that requires authentication."""

    exit_code = 4


class IntegrityError(LlmstackError):
    """Data does not match its digest or its format, or an image contains what no image may contain."""

    exit_code = 5


class UnavailableError(LlmstackError):
    """A network, registry, Hub, Docker Engine or disk is not available; retrying later may help."""

    exit_code = 6


class InternalError(LlmstackError):
    """A bug in llmstack; `__cause__` is the exception."""

    exit_code = EXIT_BUG

    @classmethod
    def of(cls, error: Exception) -> InternalError:
        """Return the error for an unexpected exception, without its message: that may contain a secret."""
        bug = cls(f"a bug in llmstack: {type(error).__name__}", hint="rerun with --debug, and report the traceback")
        bug.__cause__ = error
        return bug
