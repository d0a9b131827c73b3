"""`/REPO_ID/resolve/REVISION/PATH`: a file, whole or by range, with the headers that Hub clients live on."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.responses import Response

from llmstack.carried_image.file_index import IndexedFile
from llmstack.hub_server.error_answers import AnswerError, entry_not_found, needs_extract
from llmstack.hub_server.reading import check_readable, read_range
from llmstack.hub_server.repo_index import RepoIndex
from llmstack.hub_server.repos import Files, Revision
from llmstack.hub_server.routes import FileAddress
from llmstack.hub_server.streaming import Streamed
from llmstack.hub_server.threads import Threads

# huggingface_hub refuses to fetch more than this over HTTP where a HEAD tells it the length (MAX_HTTP_DOWNLOAD_SIZE).
MAX_TOLD_SIZE = 50 * 1000**3
# Numbers of more digits mean nothing, and Python does not read those of thousands.
_RANGE = re.compile(r"bytes=(\d{0,100})-(\d{0,100})", re.ASCII)
# Shown by browsers as they are; everything else is offered for saving.
_TEXT = frozenset({".cfg", ".csv", ".json", ".jsonl", ".md", ".py", ".toml", ".txt", ".yaml", ".yml"})
_IMAGES = {
    ".avif": "image/avif",
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}


@dataclass(frozen=True, slots=True)
class Found:
    """A file that was asked for, and the revision that it is of."""

    revision: Revision
    files: Files
    file: IndexedFile


def find(shelf: RepoIndex, address: FileAddress) -> Found:
    """Return the file that an address names; raises AnswerError, and what reading its index raises."""
    revision = shelf.revision(address.kind, address.repo_id, address.revision)
    files = shelf.files(revision)
    file = files.files.get(address.path)
    if file is None and revision.needs_extract and not files.files:
        raise needs_extract(revision.repo_id, address.path, revision.image)
    if file is None:
        raise entry_not_found(revision.repo_id, address.path, revision.commit)
    check_readable(revision, files, file)
    return Found(revision, files, file)


async def resolve(shelf: RepoIndex, threads: Threads, address: FileAddress, method: str, request: Headers) -> Response:
    """Answer a GET or HEAD for a file; raises AnswerError, and what the first bytes' reading raises."""
    found = await threads.run(find, shelf, address)
    headers = file_headers(found)
    size = found.file.size
    if _names(request.get("If-None-Match", ""), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    wanted = wanted_range(request, headers["ETag"], size)
    start, stop = wanted or (0, size)
    if wanted:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    status = 206 if wanted else 200
    headers["Content-Length"] = str(stop - start)
    if method == "HEAD":
        response = Response(status_code=status, headers=headers)
        if size > MAX_TOLD_SIZE:
            del response.headers["Content-Length"]
        return response
    if start == stop:
        return Response(status_code=status, headers=headers)
    transfer = await threads.open(read_range(found.revision, found.files, found.file, start, stop))
    return Streamed(transfer, status, headers)


def file_headers(found: Found) -> dict[str, str]:
    """Return a file's headers: commit, hash and size as the Hub tells them, and what keeps browsers from running it."""
    file = found.file
    etag = f'"{file.oid}"'
    name = quote(posixpath.basename(file.path), safe="", errors="replace")
    headers = {
        "X-Repo-Commit": found.revision.commit,
        "ETag": etag,
        "X-Linked-Etag": etag,
        "Accept-Ranges": "bytes",
        "Content-Type": content_type(file.path),
        "Content-Disposition": f"inline; filename*=UTF-8''{name}",
        # An SVG is a document: opened by itself it may look as it wants to, and do nothing.
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    }
    if file.size <= MAX_TOLD_SIZE:
        headers["X-Linked-Size"] = str(file.size)
    return headers


def content_type(path: str) -> str:
    """Return what browsers are told of a file: text and images are shown, the rest is for saving; nothing is HTML."""
    suffix = posixpath.splitext(path)[1].lower()
    if suffix in _TEXT or posixpath.basename(path) in {"LICENSE", "NOTICE", ".gitattributes"}:
        return "text/plain; charset=utf-8"
    return _IMAGES.get(suffix, "application/octet-stream")


def wanted_range(request: Headers, etag: str, size: int) -> tuple[int, int] | None:
    """Return the range of bytes that a request wants, as start and end (RFC 9110, section 14); None for all of them.

    Several ranges at once, other units and broken ones mean the whole file, and so does an If-Range that does not
    hold. Raises AnswerError (416) for a range beyond the end.
    """
    match = _RANGE.fullmatch(request.get("Range", "").strip())
    if not match or match[0] == "bytes=-" or request.get("If-Range", etag) != etag:
        return None
    first, last = match[1], match[2]
    if first:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    else:
        start, stop = max(0, size - int(last)), size
    if start >= stop:
        raise AnswerError(
            416, "RangeNotSatisfiable", f"the file has {size} bytes", {"Content-Range": f"bytes */{size}"}
        )
    return start, stop


def _names(if_none_match: str, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or tags == ["*"]
