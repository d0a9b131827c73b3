"""Output for GitHub Actions: annotations of lines that failed, and a table in the job summary."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from llmstack.errors import UnavailableError
from llmstack.ferrying.ferry import FerryResult
from llmstack.lists.catalogue import escape
from llmstack.lists.wish_list import ListProblem
from llmstack.reporting import human_size, printable

_HEADS = ("Repo", "Commit", "Size", "Uploaded", "Reused", "Seconds", "Image", "Error")


def annotate(message: str, file: str | None = None, line: int = 0) -> None:
    """Print an error annotation when running in a workflow (GitHub docs, "Workflow commands for GitHub Actions")."""
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return
    place = f" file={_property(_in_workspace(file))},line={line}" if file else ""
    # The runner reads both streams; stdout may be a JSON document.
    sys.stderr.write(f"::error{place}::{_data(printable(message))}\n")
    sys.stderr.flush()


def append_summary(results: Sequence[FerryResult], problems: Sequence[ListProblem]) -> None:
    """Append a table of all results to the file $GITHUB_STEP_SUMMARY, if set; raises UnavailableError."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    rows = [_row(result) for result in results]
    rows += [(f"{_in_workspace(problem.file)}:{problem.line}", *[""] * 6, problem.message) for problem in problems]
    lines = ["| " + " | ".join(cells) + " |" for cells in (_HEADS, *([escape(cell) for cell in row] for row in rows))]
    lines.insert(1, "|---|---|---:|---:|---:|---:|---|---|")
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n\n")
    except OSError as error:
        raise UnavailableError(f"GITHUB_STEP_SUMMARY={path}: cannot write: {error.strerror}") from error


def _row(result: FerryResult) -> tuple[str, ...]:
    name = result.repo_id if result.revision == "main" else f"{result.repo_id}@{result.revision}"
    seconds = f"{result.seconds:.0f}"
    if result.commit is None:
        return name, "", "", "", "", seconds, "", result.error or ""
    sizes = map(human_size, (result.bytes_total, result.bytes_transferred, result.bytes_reused))
    digest = f"@{result.digest}" if result.digest else ""
    return name, result.commit[:12], *sizes, seconds, f"{result.image}{digest}", ""


def _in_workspace(file: str) -> str:
    """Return a path relative to the checkout, as annotations need it."""
    workspace = os.environ.get("GITHUB_WORKSPACE")
    if workspace and Path(file).is_relative_to(workspace):
        return str(Path(file).relative_to(workspace))
    return file


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
