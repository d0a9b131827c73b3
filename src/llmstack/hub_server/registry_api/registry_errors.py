"""Errors in the form of the OCI distribution-spec: `{"errors": [{"code": …, "message": …}]}`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from starlette.responses import Response

from llmstack.hub_server.error_answers import AnswerError, headers_of
from llmstack.hub_server.repos import Repo, Revision
from llmstack.oci.reference import Digest

API_VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}
# The codes of distribution-spec ("Error Codes") for those of the Hub; UNAVAILABLE, RANGE_INVALID, UNKNOWN are Docker's.
_CODES = {
    "RepoNotFound": "NAME_UNKNOWN",
    "RevisionNotFound": "MANIFEST_UNKNOWN",
    "EntryNotFound": "BLOB_UNKNOWN",
    "NotFound": "NAME_UNKNOWN",
    "ReadOnly": "UNSUPPORTED",
    "NeedsExtract": "UNSUPPORTED",
    "RangeNotSatisfiable": "RANGE_INVALID",
    "Unavailable": "UNAVAILABLE",
    "BadGateway": "UNKNOWN",
    "InternalError": "UNKNOWN",
}
_LOGIN = "this hub requires its token: log in with any user name, and the token as the password"


def unknown_tag(repo: Repo, tag: str, available: Sequence[str]) -> AnswerError:
    """Return the answer for an unknown tag; it names the available ones."""
    message = f"{repo.repo_id}: tag {tag} not found; available: {', '.join(available)}"
    return AnswerError(404, "MANIFEST_UNKNOWN", message)


def unknown_manifest(repo: Repo, digest: Digest) -> AnswerError:
    """Return the answer for an unknown digest of a manifest."""
    return AnswerError(404, "MANIFEST_UNKNOWN", f"{repo.repo_id}: manifest {digest} not found")


def unknown_blob(repo: Repo, digest: Digest) -> AnswerError:
    """Return the answer for an unknown digest of a blob."""
    return AnswerError(404, "BLOB_UNKNOWN", f"{repo.repo_id}: blob {digest} not found")


def invalid_digest(text: str) -> AnswerError:
    """Return the answer for a digest that is not a sha256."""
    return AnswerError(400, "DIGEST_INVALID", f"{text} is not a digest: write sha256: and 64 hex digits")


def invalid_number(text: str) -> AnswerError:
    """Return the answer for an invalid number of names in a page; the code is Docker's."""
    return AnswerError(400, "PAGINATION_NUMBER_INVALID", f"n={text}: must be a number of names, 0 or more")


def unsupported(revision: Revision, reason: str) -> AnswerError:
    """Return the answer for an image whose files cannot be blobs."""
    message = f"{revision.repo_id}: {reason}: run llmstack extract {revision.image}"
    return AnswerError(501, "UNSUPPORTED", message)


def no_ollama(message: str) -> AnswerError:
    """Return the answer for what ollama cannot have. It shows the message, but not that of a 404."""
    return AnswerError(400, "MANIFEST_UNKNOWN", message)


def is_registry_path(path: str) -> bool:
    """Tell whether a normalized path is in the registry API."""
    return path == "/v2" or path.startswith("/v2/")


def registry_error(error: AnswerError) -> Response:
    """Return an error in the form of the distribution-spec."""
    code, message = _CODES.get(error.code, error.code), headers_of(error)["X-Error-Message"]
    if error.status == 401:
        code, message = "UNAUTHORIZED", _LOGIN
    headers = {**API_VERSION, **error.headers, "Content-Type": "application/json"}
    return Response(json.dumps({"errors": [{"code": code, "message": message}]}), error.status, headers)
