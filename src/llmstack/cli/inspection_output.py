"""The output of `llmstack list` and `inspect`: tables, or one JSON document."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from llmstack.carried_image.file_index import FileIndex
from llmstack.cli.tables import print_table
from llmstack.inspection import ImageDetails, ListedImage
from llmstack.reporting import human_size, printable


def print_list(images: Sequence[ListedImage], *, as_json: bool) -> None:
    """Print the images of a namespace."""
    if as_json:
        sys.stdout.write(json.dumps([asdict(image) for image in images], indent=2) + "\n")
        return
    rows = [
        (
            image.repo_id or "?",
            image.repo_type or "",
            "" if image.revision in {None, "main"} else str(image.revision),
            (image.commit or "")[:12],
            "" if image.size is None else human_size(image.size),
            image.license or "",
            image.image + (f": {image.error}" if image.error else " (incomplete)" if image.incomplete else ""),
        )
        for image in images
    ]
    print_table(("repo", "type", "revision", "commit", "size", "license", "image"), rows, right=(4,))


def print_details(details: ImageDetails, *, as_json: bool) -> None:
    """Print one image."""
    if as_json:
        value = {**asdict(details), "labels": dict(details.labels)}
        if details.index:
            value["index"]["files"] = [file.to_json() for file in details.files]
        sys.stdout.write(json.dumps(value, indent=2) + "\n")
        return
    for name, text in _facts(details):
        sys.stdout.write(f"{name + ':':<10} {printable(text)}\n")
    if details.layers:
        sys.stdout.write("\n")
        layers = [(layer.digest, human_size(layer.size), str(layer.files or "")) for layer in details.layers]
        print_table(("layer", "size", "files"), layers, right=(1, 2))
    if details.index:
        sys.stdout.write("\n")
        files = [(file.path, human_size(file.size), file.sha256) for file in details.files]
        print_table(("file", "size", "sha256"), files, right=(1,))


def _origin(index: FileIndex) -> str:
    return "(a digest of local files)" if index.local else f"of {index.created}"


def _facts(details: ImageDetails) -> list[tuple[str, str]]:
    facts = [("image", details.image)]
    if details.digest:
        facts.append(("digest", details.digest))
    facts.append(("platforms", ", ".join(details.platforms)))
    index = details.index
    if index is None:
        return [*facts, ("files", "unknown: the image has no file index")]
    facts += [
        (
            "repo",
            f"{index.repo_id} ({index.repo_type})"
            + ("" if details.confirmed else ", but its tag is not of that repo and revision"),
        ),
        ("revision", index.revision),
        ("commit", f"{index.commit} {_origin(index)}"),
        ("license", index.license or "not stated"),
        ("files", f"{len(index.files)}, {human_size(index.size)}"),
        ("format", index.format),
    ]
    if index.selection.include or index.selection.exclude:
        globs = [f"--include {glob}" for glob in index.selection.include]
        facts.append(("selection", " ".join([*globs, *(f"--exclude {glob}" for glob in index.selection.exclude)])))
    return facts
