"""The output of `llmstack save`, `load`, `copy` and `prune`: tables, or one JSON document."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmstack.cli.tables import print_table
from llmstack.reporting import human_size, human_time, printable

if TYPE_CHECKING:
    from llmstack.bundles.copying import CopyResult
    from llmstack.bundles.load import LoadResult
    from llmstack.bundles.prune import PruneResult
    from llmstack.bundles.save import SaveResult


_PRUNED = ("planned", "deleted", "refused", "kept")


def print_saved(result: SaveResult, *, as_json: bool, quiet: bool) -> None:
    """Print the result of save."""
    if as_json:
        sys.stdout.write(json.dumps(result.to_json(), indent=2) + "\n")
        return
    if quiet:
        return
    rows = [(image.image, human_size(image.size), image.digest) for image in result.images]
    print_table(("image", "size", "digest"), rows, right=(1,))
    for name in result.deletions:
        sys.stdout.write(f"gone at the source: {printable(name)}\n")
    volumes = "" if result.volumes == 1 else f" in {result.volumes} volumes"
    name = f"bundle {_short(result.bundle)}" if result.bundle else "bundle"
    number = f" (number {result.number})" if result.number else ""
    size = human_size(result.bytes_total - result.bytes_presupposed)
    left_out = f", {human_size(result.bytes_presupposed)} left out" if result.bytes_presupposed else ""
    sys.stdout.write(
        f"{name}{number}: {result.status}: {size}{volumes}{left_out} in {printable(result.destination)}, "
        f"{human_time(result.seconds)}\n"
    )


def print_loaded(results: Sequence[LoadResult], *, as_json: bool, quiet: bool) -> None:
    """Print the result for every bundle."""
    if as_json:
        sys.stdout.write(json.dumps({"results": [result.to_json() for result in results]}, indent=2) + "\n")
        return
    if quiet:
        return
    rows = [(image.image, image.status, image.digest) for result in results for image in result.images]
    if rows:
        print_table(("image", "status", "digest"), rows)
    for result in results:
        _print_bundle(result)


def print_copied(result: CopyResult, *, as_json: bool, quiet: bool) -> None:
    """Print the result of copy."""
    if as_json:
        sys.stdout.write(json.dumps(result.to_json(), indent=2) + "\n")
    elif not quiet:
        rows = [(image.image, image.status, image.digest) for image in result.images]
        print_table(("image", "status", "digest"), rows)
        sizes = f"{human_size(result.bytes_transferred)} of {human_size(result.bytes_total)} transferred"
        sys.stdout.write(f"{len(rows)} images: {sizes}, {human_time(result.seconds)}\n")


def print_pruned(result: PruneResult, *, as_json: bool, quiet: bool) -> None:
    """Print the plan or the result of prune."""
    if as_json:
        sys.stdout.write(json.dumps(result.to_json(), indent=2) + "\n")
        return
    if quiet:
        return
    rows = [(image.image, (image.created or "")[:10], image.status, image.reason) for image in result.images]
    print_table(("image", "date", "status", "reason"), rows)
    counts = {status: sum(image.status == status for image in result.images) for status in _PRUNED}
    facts = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    sys.stdout.write(f"{facts or 'no versions found'}\n")
    if result.hint:
        sys.stdout.write(f"{result.hint}\n")


def _print_bundle(result: LoadResult) -> None:
    for name in result.deletions:
        done = "deleted" if result.pruned else "gone at the source; delete it with --prune"
        sys.stdout.write(f"{printable(name)}: {done}\n")
    older = sum(image.status == "older" for image in result.images)
    if older:
        images = "1 image is" if older == 1 else f"{older} images are"
        sys.stdout.write(f"{images} older than what the destination has, and not loaded; see --allow-older\n")
    number = f" (number {result.number})" if result.number else ""
    sizes = f"{human_size(result.bytes_transferred)} of {human_size(result.bytes_total)} transferred"
    facts = f": {sizes}, {human_time(result.seconds)}" if result.bytes_total else ""
    name = f"bundle {_short(result.bundle)}{number}" if result.bundle else "damaged volume"
    sys.stdout.write(f"{name}: {result.status}{facts}\n")


def _short(bundle: str | None) -> str:
    return (bundle or "").removeprefix("sha256:")[:12]
