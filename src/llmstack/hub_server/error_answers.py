"""Error answers in the Hub's own form: a status, X-Error-Code and X-Error-Message, and `{"error": …}` as the body."""

from __future__ import annotations

from collections.abc import Mapping

from llmstack.errors import IntegrityError, LlmstackError, NotFoundError

# How long a client is asked to wait when the registry is away, in seconds.
RETRY_AFTER = 5
_MAX_MESSAGE = 300


class AnswerError(LlmstackError):
    """A request that is answered with an error: `status`, the Hub's `code` for it, and further headers."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})


def repo_not_found(kind: str, repo_id: str) -> AnswerError:
    """Return the answer for a repo that is not there."""
    return AnswerError(404, "RepoNotFound", f"no {kind} {repo_id} was carried here")


def revision_not_found(repo_id: str, revision: str, there: list[str]) -> AnswerError:
    """Return the answer for a revision that is not there; it tells which ones are."""
    return AnswerError(
        404, "RevisionNotFound", f"{repo_id} was not carried at {revision}; there is: {', '.join(there)}"
    )


def entry_not_found(repo_id: str, path: str, commit: str) -> AnswerError:
    """Return the answer for a file or folder that is not there; the commit lets clients remember that."""
    return AnswerError(404, "EntryNotFound", f"{repo_id} has no {path}", {"X-Repo-Commit": commit})


def no_route() -> AnswerError:
    """Return the answer for an address that this hub does not have."""
    return AnswerError(404, "NotFound", "this hub has no such address")


def read_only(allowed: str) -> AnswerError:
    """Return the answer for everything that writes."""
    text = "this hub is read-only: carry repos with llmstack ferry"
    return AnswerError(405, "ReadOnly", text, {"Allow": allowed})


def not_authorized() -> AnswerError:
    """Return the answer for a request without the token that this hub wants; browsers ask for it as a password."""
    text = "this hub wants its token: set HF_TOKEN"
    return AnswerError(401, "RepoNotFound", text, {"WWW-Authenticate": 'Basic realm="llmstack hub"'})


def needs_extract(repo_id: str, path: str, image: str) -> AnswerError:
    """Return the answer for what lies in compressed layers, of which no range can be read."""
    text = f"{path} of {repo_id} is in a compressed layer: get it with llmstack extract {image}"
    return AnswerError(501, "NeedsExtract", text)


def answer_for(error: LlmstackError) -> AnswerError:
    """Return how an error of the places behind the hub is answered.

    What the registry has lost, or has damaged, is a bad gateway; all else may pass.
    """
    if isinstance(error, AnswerError):
        return error
    if isinstance(error, NotFoundError | IntegrityError):
        return AnswerError(502, "BadGateway", str(error))
    return AnswerError(503, "Unavailable", str(error), {"Retry-After": str(RETRY_AFTER)})


def headers_of(error: AnswerError) -> dict[str, str]:
    """Return the headers of an error answer; a message may hold what a stranger sent, so it becomes plain ASCII."""
    text = error.message.encode("ascii", "backslashreplace").decode()
    message = "".join(char if char.isprintable() else "?" for char in text)[:_MAX_MESSAGE]
    return {"X-Error-Code": error.code, "X-Error-Message": message, **error.headers}
