"""Errors in the Hub's form: a status, X-Error-Code and X-Error-Message, and `{"error": …}` as the body."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from llmstack.errors import IntegrityError, LlmstackError, NotFoundError
from llmstack.hf.snapshot import RepoType

# Seconds to wait before a retry when the registry is unavailable.
RETRY_AFTER = 5
_MAX_MESSAGE = 1000


class AnswerError(LlmstackError):
    """A request that gets an error response: `status`, the Hub's error `code`, and extra headers."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})


class MovedError(AnswerError):
    """A request for a repo that this hub has under another ID: the Hub answers with a redirect, too."""

    def __init__(self, repo_id: str) -> None:
        super().__init__(307, "Moved", f"this hub has the repo as {repo_id}")
        self.repo_id = repo_id


def repo_not_found(repo_type: RepoType, repo_id: str) -> AnswerError:
    """Return the answer for an unknown repo."""
    return AnswerError(404, "RepoNotFound", f"{repo_type} {repo_id} not found on this hub")


def ambiguous_repo(repo_type: RepoType, repo_id: str, found: Iterable[str]) -> AnswerError:
    """Return the answer for an ID that may mean several repos."""
    message = f"{repo_type} {repo_id} not found on this hub; it may be one of: {', '.join(sorted(found))}"
    return AnswerError(404, "RepoNotFound", message)


def revision_not_found(repo_id: str, revision: str, available: list[str]) -> AnswerError:
    """Return the answer for an unknown revision; it names the available ones."""
    message = f"{repo_id}: revision {revision} not found; available: {', '.join(available)}"
    return AnswerError(404, "RevisionNotFound", message)


def entry_not_found(repo_id: str, path: str, commit: str) -> AnswerError:
    """Return the answer for an unknown file or folder; with the commit, clients cache the miss."""
    return AnswerError(404, "EntryNotFound", f"{repo_id}: {path} not found", {"X-Repo-Commit": commit})


def no_route() -> AnswerError:
    """Return the answer for a path that this hub does not have."""
    return AnswerError(404, "NotFound", "this hub has no such path")


def read_only(allowed: str) -> AnswerError:
    """Return the answer for a method that writes."""
    message = "this hub is read-only: add repos with llmstack ferry"
    return AnswerError(405, "ReadOnly", message, {"Allow": allowed})


def no_git(repo_type: RepoType, repo_id: str, endpoint: str, *, with_token: bool) -> AnswerError:
    """Return the answer for `git clone`: the command that downloads a repo from the hub at `endpoint`."""
    option = " --repo-type dataset" if repo_type == "dataset" else ""
    command = f"hf download {repo_id}{option} --local-dir {repo_id.rpartition('/')[2]}"
    variables = f"HF_ENDPOINT={endpoint}{' HF_TOKEN=YOUR-TOKEN' if with_token else ''}"
    return AnswerError(501, "NoGit", f"this hub has no git; run: {variables} {command}")


def not_authorized(*, names_repo: bool = False) -> AnswerError:
    """Return the answer for a request without the token; browsers ask for it as a password.

    As on the Hub, it does not tell whether the repo that a request names exists.
    """
    message = "this hub requires its token: set HF_TOKEN"
    code = "RepoNotFound" if names_repo else "Unauthorized"
    return AnswerError(401, code, message, {"WWW-Authenticate": 'Basic realm="llmstack hub"'})


def needs_extract(repo_id: str, path: str, image: str) -> AnswerError:
    """Return the answer for files in compressed layers, which allow no range reads."""
    message = f"{path} of {repo_id} is in a compressed layer: run llmstack extract {image}"
    return AnswerError(501, "NeedsExtract", message)


def answer_for(error: LlmstackError) -> AnswerError:
    """Return the answer for an error of the registry or layout.

    Lost or damaged content is a bad gateway; anything else may be temporary.
    """
    if isinstance(error, AnswerError):
        return error
    if isinstance(error, NotFoundError | IntegrityError):
        return AnswerError(502, "BadGateway", str(error))
    return AnswerError(503, "Unavailable", str(error), {"Retry-After": str(RETRY_AFTER)})


def headers_of(error: AnswerError) -> dict[str, str]:
    """Return the headers of an error; the message may quote foreign input, so it becomes printable ASCII."""
    ascii_only = error.message.encode("ascii", "backslashreplace").decode()
    message = "".join(char if char.isprintable() else "?" for char in ascii_only)[:_MAX_MESSAGE]
    return {"X-Error-Code": error.code, "X-Error-Message": message, **error.headers}
