"""The output of `llmstack ferry`: a table or one JSON document on stdout, errors on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from llmstack.cli.github_actions import annotate
from llmstack.cli.runner import show_error
from llmstack.cli.tables import print_table
from llmstack.errors import LlmstackError, UsageError
from llmstack.ferrying.ferry import FerryResult
from llmstack.ferrying.layer_plan import SplitFile
from llmstack.ferrying.repo_ferry import LayerDecision
from llmstack.lists.wish_list import ListProblem, RepoRequest
from llmstack.reporting import human_size, human_time


def show_problem(problem: ListProblem) -> None:
    """Print an invalid line of a wish list."""
    show_error(UsageError(str(problem), hint=problem.hint))
    annotate(problem.message, problem.file, problem.line)


def show_failure(entry: RepoRequest, error: LlmstackError, *, debug: bool) -> None:
    """Print the error of a failed entry, with the line of the list that it is in."""
    where = f"{entry.file}:{entry.line}: " if entry.file else ""
    show_error(error, about=f"{where}{entry.repo_id}", debug=debug)
    annotate(f"{entry.repo_id}: {error}", entry.file, entry.line)


def print_results(results: Sequence[FerryResult], *, as_json: bool, dry_run: bool, quiet: bool) -> None:
    """Print the result of every entry."""
    if as_json:
        sys.stdout.write(json.dumps({"results": [result.to_json() for result in results]}, indent=2) + "\n")
        return
    if quiet:
        return
    if dry_run:
        for result in results:
            _print_plan(result)
    rows = [
        (
            _name(result),
            result.status,
            *_sizes(result),
            human_time(result.seconds),
            result.image or "",
        )
        for result in results
    ]
    print_table(("repo", "status", "size", "uploaded", "reused", "time", "image"), rows, right=(2, 3, 4, 5))
    for result in results:
        if result.limited_by:
            sys.stdout.write(f"{_name(result)}: limited by: {result.limited_by}\n")


def _sizes(result: FerryResult) -> tuple[str, str, str]:
    # The files are not known after a failure, nor before a script has made them.
    if result.commit is None or (result.status == "planned" and result.prepare):
        return "", "", ""
    sizes = (result.bytes_total, result.bytes_transferred, result.bytes_reused)
    total, transferred, reused = map(human_size, sizes)
    return total, transferred, reused


def _print_plan(result: FerryResult) -> None:
    if result.status == "planned" and result.prepare:
        sys.stdout.write(f"{_name(result)} at commit {result.commit}: {result.prepare} prepares its files\n\n")
    if not result.layers:
        return
    sys.stdout.write(f"{_name(result)} at commit {result.commit}:\n")
    rows = [_plan_row(decision) for decision in result.layers]
    print_table(("files", "size", "action"), rows, right=(1,))
    sys.stdout.write("\n")


def _plan_row(decision: LayerDecision) -> tuple[str, str, str]:
    layer = decision.layer
    name = layer.files[0].path if layer.is_single else f"{len(layer.files)} files: {_some(layer.files)}"
    parts = f" in {len(layer.layer_sizes)} parts" if isinstance(layer, SplitFile) else ""
    reason = f", stored in format {decision.earlier_format} before" if decision.earlier_format else ""
    return name, human_size(layer.size), ("reuse" if decision.reused else "upload") + parts + reason


def _some(files: Sequence[object]) -> str:
    names = [str(getattr(file, "path", "")) for file in files[:3]]
    return ", ".join(names) + (", …" if len(files) > 3 else "")


def _name(result: FerryResult) -> str:
    return result.repo_id if result.revision == "main" else f"{result.repo_id}@{result.revision}"
