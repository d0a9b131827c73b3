"""`/REPO_ID/{resolve,raw}/REVISION/PATH`: a file or a range of it, with the headers that Hub clients need."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from llmstack.carried_image.file_index import IndexedFile
from llmstack.hf.snapshot import HubFile
from llmstack.hub_server.error_answers import AnswerError, entry_not_found, needs_extract
from llmstack.hub_server.hub_state import Hub
from llmstack.hub_server.image_files import check_readable, read_file, read_range
from llmstack.hub_server.layout_files import ZERO_COPY, FileResponse
from llmstack.hub_server.paths import Target, flag
from llmstack.hub_server.repos import Files, Found, Revision
from llmstack.hub_server.streaming import StreamedResponse
from llmstack.oci.layout import Layout

# huggingface_hub refuses to download more than this over HTTP if HEAD returns the length (MAX_HTTP_DOWNLOAD_SIZE).
MAX_HTTP_SIZE = 50 * 1000**3
# A file of up to this size is read completely, checked and kept in memory.
MAX_SMALL = 64 * 1024
# Python does not parse numbers of thousands of digits.
_RANGE = re.compile(r"bytes=(\d{0,100})-(\d{0,100})", re.ASCII)
# Browsers show these types and save all others.
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


async def get_file(hub: Hub, request: Request, target: Target) -> Response:
    """Answer a GET or HEAD of a file; raises AnswerError, and what reading the first bytes raises."""
    # No thread is needed for what is in memory: changing threads takes longer than the answer.
    found = _find_now(hub, target)
    if found is None:
        found = await hub.threads.run(_find, hub, target)
    response = await send_file(hub, request, found, file_headers(found, is_download=flag(request, "download")))
    if request.method == "HEAD" and found.file.size > MAX_HTTP_SIZE:
        del response.headers["Content-Length"]
    return response


async def send_file(hub: Hub, request: Request, found: Found, headers: dict[str, str]) -> Response:
    """Answer with a file or the requested range, with these headers (ETag is one of them) and those of the range.

    Raises AnswerError, and what reading the first bytes raises.
    """
    size = found.file.size
    status, start, stop = _requested(request, headers, size)
    if status == 304:
        return Response(status_code=status, headers=headers)
    headers["Content-Length"] = str(stop - start)
    if request.method == "HEAD" or start == stop:
        return Response(status_code=status, headers=headers)
    if size <= MAX_SMALL:
        data = hub.repo_index.read_now(found.revision, found.file.path)
        if data is None:
            data = await hub.threads.read(hub.repo_index.read, found.revision, found.file.path, MAX_SMALL)
        if data is not None:
            return Response(data[start:stop], status, headers)
    if ZERO_COPY in request.scope.get("extensions", {}) and isinstance(found.revision.reader, Layout):
        part = await hub.threads.read(hub.layout_files.open, found, start, stop)
        if part:
            return FileResponse(hub.metrics, part, status, headers)
    # A range cannot be compared with the hash of the file.
    if status == 206:
        chunks = read_range(found.revision, found.files, found.file, start, stop)
    else:
        chunks = hub.layout_files.hashed(found, read_file(found.revision, found.files, found.file))
    transfer = await hub.threads.open(chunks)
    return StreamedResponse(transfer, status, headers)


def send_bytes(request: Request, data: bytes, headers: dict[str, str]) -> Response:
    """Answer with bytes or the requested range of them, as send_file does; raises AnswerError."""
    status, start, stop = _requested(request, headers, len(data))
    return Response(data[start:stop], status, headers)


def _requested(request: Request, headers: dict[str, str], size: int) -> tuple[int, int, int]:
    """Return the status and the requested range, 304 without bytes for what the client has; add Content-Range."""
    if is_unchanged(request.headers, headers["ETag"]):
        return 304, 0, 0
    asked = asked_range(request.headers, headers["ETag"], size)
    if asked:
        start, stop = asked
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return 206, start, stop
    if not size and "Range" in request.headers:
        # huggingface.js reads the size from this header, also of an empty file.
        headers["Content-Range"] = "bytes */0"
    return 200, 0, size


async def get_raw(hub: Hub, request: Request, target: Target) -> Response:
    """Answer a GET or HEAD of a file as git has it: the pointer of an LFS file, else the file."""
    found = await hub.threads.run(_find, hub, target)
    file = found.file
    if not found.files.is_lfs(file):
        return await get_file(hub, request, target)
    known = HubFile(file.path, file.size, file.oid)
    pointer = known.pointer
    in_git = IndexedFile(file.path, len(pointer), known.git_oid, "", ())
    headers = file_headers(Found(found.revision, found.files, in_git), is_download=flag(request, "download"))
    headers["Content-Type"] = "text/plain; charset=utf-8"
    return send_bytes(request, pointer, headers)


def _find_now(hub: Hub, target: Target) -> Found | None:
    """Return a file of a known revision whose file index is in memory."""
    if hub.repo_index.refreshed is None:
        return None
    revision = hub.repo_index.known(target.repo_type or "model", target.repo_id, target.revision)
    files = hub.repo_index.files_now(revision) if revision else None
    return _found(revision, files, target) if revision and files else None


def _find(hub: Hub, target: Target) -> Found:
    revision = hub.repo_index.revision(target.repo_type or "model", target.repo_id, target.revision)
    return _found(revision, hub.repo_index.files(revision), target)


def _found(revision: Revision, files: Files, target: Target) -> Found:
    file = files.files.get(target.path)
    if file is None and revision.needs_extract and not files.files:
        raise needs_extract(revision.repo_id, target.path, revision.image)
    if file is None:
        raise entry_not_found(revision.repo_id, target.path, revision.commit)
    check_readable(revision, files, file)
    return Found(revision, files, file)


def file_headers(found: Found, *, is_download: bool = False) -> dict[str, str]:
    """Return a file's headers: those of the Hub, and those that keep browsers from running the file."""
    file = found.file
    etag = f'"{file.oid}"'
    name = quote(posixpath.basename(file.path), safe="", errors="replace")
    headers = {
        "X-Repo-Commit": found.revision.commit,
        "ETag": etag,
        "X-Linked-Etag": etag,
        "Accept-Ranges": "bytes",
        "Content-Type": content_type(file.path),
        "Content-Disposition": f"{'attachment' if is_download else 'inline'}; filename*=UTF-8''{name}",
        # An SVG that is opened as a document may have styles, but no scripts and no requests.
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    }
    if file.size <= MAX_HTTP_SIZE:
        headers["X-Linked-Size"] = str(file.size)
    return headers


def content_type(path: str) -> str:
    """Return a file's content type: text and images are shown, all others are downloads; nothing is HTML."""
    suffix = posixpath.splitext(path)[1].lower()
    if suffix in _TEXT or posixpath.basename(path) in {"LICENSE", "NOTICE", ".gitattributes"}:
        return "text/plain; charset=utf-8"
    return _IMAGES.get(suffix, "application/octet-stream")


def asked_range(request: Headers, etag: str, size: int) -> tuple[int, int] | None:
    """Return the requested range as start and end (RFC 9110, section 14); None for the complete file.

    Several ranges, other units, invalid ranges and an If-Range that does not match mean the complete file. Raises
    AnswerError (416) for a range beyond the end. The range from the start of an empty file is the file.
    """
    match = _RANGE.fullmatch(request.get("Range", "").strip())
    if not match or match[0] == "bytes=-" or request.get("If-Range", etag) != etag:
        return None
    first, last = match[1], match[2]
    if first:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if (last and int(last) < start) or (not size and not start):
            return None
    else:
        start, stop = max(0, size - int(last)), size
    if start >= stop:
        raise AnswerError(
            416, "RangeNotSatisfiable", f"the file has {size} bytes", {"Content-Range": f"bytes */{size}"}
        )
    return start, stop


def is_unchanged(request: Headers, etag: str) -> bool:
    """Tell whether the client has the file with this ETag (If-None-Match)."""
    tags = [tag.strip().removeprefix("W/") for tag in request.get("If-None-Match", "").split(",")]
    return etag in tags or tags == ["*"]
