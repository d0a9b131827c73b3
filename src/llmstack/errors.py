"""What can go wrong, and the exit code that each kind ends the process with.

    LlmstackError            1   something failed; the base class, also for "some entries failed"
    ├── UsageError           2   the command line, a settings file or a wish list is wrong
    ├── NotFoundError        3   a repo, revision, image, tag or file does not exist
    ├── NotAuthorizedError   4   a gated or private repo, a registry that wants a login
    ├── IntegrityError       5   bytes are not what they claim to be
    └── UnavailableError     6   network, registry, hub or Docker daemon does not answer; disk full

A bug ends with 70 and a traceback, an interrupt with 130 (SIGTERM: 143).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import ClassVar

EXIT_BUG = 70
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class LlmstackError(Exception):
    """An error that a person can act on: what happened, to what, on which side, and what to do next.

    `message` names the operation and the object. `side` is "source" or "destination" where a transfer has two
    ends (after oras-go's CopyError). `hint` says what to do next. None of them ever holds a secret.
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
    """Say of every error in here which side it is on, and what object it is about, unless it says so itself."""
    try:
        yield
    except LlmstackError as error:
        if error.side is None:
            error.side = side
            if what not in error.message:
                error.message = f"{what}: {error.message}"
        raise


class UsageError(LlmstackError):
    """The command line, a settings file or a wish list is wrong."""

    exit_code = 2


class NotFoundError(LlmstackError):
    """A repo, revision, image, tag or file does not exist."""

    exit_code = 3


class NotAuthorizedError(LlmstackError):
    """A gated or private repo, or a registry that wants a login."""

    exit_code = 4


class IntegrityError(LlmstackError):
    """Bytes are not what they claim to be, or an image tries what no image may do."""

    exit_code = 5


class UnavailableError(LlmstackError):
    """Network, registry, hub, Docker daemon or disk cannot be used now; trying again later may help."""

    exit_code = 6
