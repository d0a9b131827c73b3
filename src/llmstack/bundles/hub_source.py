"""`save --from-hub`: repos that are in no registry yet are ferried into the directory of the bundle first.

The layers are written once: when the bundle is made, the files of the blobs are renamed. Ferry resumes by its own means
until the plan of the bundle exists; from then on, the bundle is resumed.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Generator
from pathlib import Path

from llmstack.bundles.unfinished import STATE, complete_bundle
from llmstack.bundles.volume_writer import disk_errors
from llmstack.errors import LlmstackError, UsageError
from llmstack.hf.snapshot import REPO_TYPES
from llmstack.lists.wish_list import RepoRequest
from llmstack.oci.layout import blob_path
from llmstack.oci.reference import Digest

# The namespace that ferry writes to, in the directory of the bundle.
FOLDER = "hub"

OnFailure = Callable[[RepoRequest, LlmstackError], None]


@contextlib.contextmanager
def ferried(destination: Path, ferry: Callable[[str, OnFailure], object]) -> Generator[str, None, None]:
    """Ferry repos into the directory of a bundle, and remove what is left of it at the end.

    Yields the namespace to save. `ferry` gets the namespace to write to. Raises the first error of a repo.
    """
    if done := complete_bundle(destination):
        raise UsageError(
            f"{destination}: holds the complete bundle {done.contents.id}", hint="choose an empty directory"
        )
    namespace = f"oci:{destination / FOLDER}"
    errors: list[LlmstackError] = []
    if not (destination / STATE).exists():
        ferry(namespace, lambda _, error: errors.append(error))
        if errors:
            raise errors[0]
    yield namespace
    with disk_errors(destination):
        shutil.rmtree(destination / FOLDER)


def take_blob(destination: Path, digest: Digest, target: Path) -> bool:
    """Move a blob that ferry wrote and verified to its place in the bundle; tell whether there is one."""
    for repo_type in REPO_TYPES:
        path = destination / FOLDER / f"{repo_type}s" / blob_path(digest)
        with contextlib.suppress(FileNotFoundError):
            path.rename(target)
            return True
    return False
