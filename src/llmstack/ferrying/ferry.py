"""Ferry several repos one after another, report each failure, and record the images in the catalogue."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from llmstack.carried_image.naming import Namespace, tag_for
from llmstack.carried_image.open_location import open_store
from llmstack.carried_image.selection import NO_SELECTION
from llmstack.errors import EXIT_BUG, InternalError, LlmstackError, UsageError
from llmstack.ferrying.base_image import BaseImage, load_base
from llmstack.ferrying.repo_ferry import LayerDecision, RepoFerry, RepoFerryResult
from llmstack.ferrying.upload import FileSource
from llmstack.hf.hub_client import HubClient
from llmstack.hf.snapshot import RepoType
from llmstack.image_builds.build_environment import BuildEnvironment
from llmstack.lists.catalogue import FILE_NAMES, CatalogueRow, record
from llmstack.lists.wish_list import NO_SCRIPT, RepoRequest, WishList, read_wishlist, with_default_script
from llmstack.net import Client
from llmstack.oci.profiles import profile_of
from llmstack.oci.reference import Digest
from llmstack.oci.repository import Registries
from llmstack.reporting import Reporter

DEFAULT_BUILD_ENVIRONMENT = BuildEnvironment()
LISTS: dict[RepoType, str] = {"model": "to_get_models.txt", "dataset": "to_get_datasets.txt"}
# If it exists, it prepares the entries of the lists that name no script.
DEFAULT_SCRIPT = "get_hf/prepare.sh"


@dataclass(frozen=True, slots=True)
class FerryOptions:
    """Destination and options of a run.

    `jobs` is the number of parallel uploads. `max_layer` is the largest layer of the destination in bytes, by default
    what is known of the registry; with `split_large`, larger files are split into parts. `lists` is the folder of the
    catalogue (None: no catalogue). `build_environment` is for the images that run --prepare scripts.
    """

    destination: Namespace
    base: str
    jobs: int
    max_layer: int | None = None
    split_large: bool = False
    force: bool = False
    dry_run: bool = False
    lists: Path | None = None
    build_environment: BuildEnvironment = DEFAULT_BUILD_ENVIRONMENT


@dataclass(frozen=True, slots=True)
class FerryResult:
    """The result for one repo, with the fields of `ferry --json`. Sizes are bytes of files.

    `limited_by` is "upload" if the run mostly waited for the destination: more connections to the Hub would not help.
    """

    repo_id: str
    repo_type: RepoType
    revision: str
    commit: str | None
    image: str | None
    digest: str | None
    status: str
    bytes_total: int
    bytes_transferred: int
    bytes_reused: int
    seconds: float
    error: str | None
    renamed_to: str | None = None
    prepare: str | None = None
    layers: tuple[LayerDecision, ...] = field(default=(), repr=False)
    exit_code: int = 0
    limited_by: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the object for `ferry --json`."""
        names = (field.name for field in fields(self) if field.name not in {"layers", "exit_code"})
        return {name: getattr(self, name) for name in names}


def find_lists(start: Path) -> Path | None:
    """Return the folder get_hf in `start` or in its nearest parent that has one."""
    return next((path / "get_hf" for path in (start, *start.parents) if (path / "get_hf").is_dir()), None)


def read_lists(folder: Path | None, script: str | None = None) -> WishList:
    """Read the wish lists in a get_hf folder; raises UsageError if there are none.

    `script` is for the entries that name none; by default get_hf/prepare.sh, if it exists.
    """
    paths = {repo_type: folder / name for repo_type, name in LISTS.items()} if folder else {}
    lists = [read_wishlist(path, repo_type) for repo_type, path in paths.items() if path.exists()]
    if not lists:
        raise UsageError(
            "no repo is given, and no wish list was found",
            hint="give a repo id, or write repo ids to get_hf/to_get_models.txt or get_hf/to_get_datasets.txt",
        )
    read = WishList(
        tuple(entry for wish_list in lists for entry in wish_list.entries),
        tuple(problem for wish_list in lists for problem in wish_list.problems),
    )
    if script is None and folder and (folder.parent / DEFAULT_SCRIPT).exists():
        script = DEFAULT_SCRIPT
    return with_default_script(read, script) if script else read


def ferry(
    requests: Sequence[RepoRequest],
    options: FerryOptions,
    client: Client,
    registries: Registries,
    reporter: Reporter,
    on_failure: Callable[[RepoRequest, LlmstackError], None],
) -> list[FerryResult]:
    """Ferry all requests; after a failure, call `on_failure` and continue with the next request.

    An unexpected exception is reported as InternalError: a bug must not stop the other requests.
    """
    # Local files need neither a token nor a network.
    hub = None if all(request.path for request in requests) else HubClient(client)
    max_layer = options.max_layer or profile_of(options.destination.registry or "").max_layer
    repo_ferry = RepoFerry(client, reporter, options.jobs, max_layer, split_large=options.split_large)

    @lru_cache(maxsize=1)
    def base() -> BaseImage:
        return load_base(options.base, registries)

    def ferry_one(request: RepoRequest) -> FerryResult:
        started = time.monotonic()
        try:
            tag = tag_for(request.repo_id, request.revision)
            image = options.destination.image(request.repo_type, tag)
            store = open_store(options.destination, request.repo_type, registries)
            if script := _script_of(request):
                instead = "; --prepare none carries the repo's own files" if script == DEFAULT_SCRIPT else ""
                reporter.note(f"{request.repo_id}: prepared by {script}{instead}")
            with _open_source(request, hub, options, client, reporter) as (source, resolved):
                result = repo_ferry.ferry(resolved, source, store, base, force=options.force, dry_run=options.dry_run)
            if options.lists and result.digest:
                record(options.lists / FILE_NAMES[request.repo_type], _catalogue_row(result, image, result.digest))
        except Exception as error:
            failure = error if isinstance(error, LlmstackError) else InternalError.of(error)
            on_failure(request, failure)
            return _failure(request, failure, time.monotonic() - started)
        return _success(result, image, time.monotonic() - started)

    for request in requests:
        if request.path is None and request.file is None and Path(request.repo_id).is_dir():
            reporter.note(f"{request.repo_id}: carrying the repo of the Hub; to carry the directory, add --as")
    return [replace(ferry_one(request), prepare=_script_of(request)) for request in requests]


def _script_of(request: RepoRequest) -> str | None:
    return None if request.prepare == NO_SCRIPT else request.prepare


@contextmanager
def _open_source(
    request: RepoRequest, hub: HubClient | None, options: FerryOptions, client: Client, reporter: Reporter
) -> Iterator[tuple[FileSource, RepoRequest]]:
    """Open the source of a request's files; with --prepare, the digest of the script joins the selection."""
    if request.path is not None or hub is None:
        yield _open_local(request, options, client, reporter), replace(request, selection=NO_SELECTION)
        return
    named = _script_of(request)
    if named is None:
        yield hub, request
        return
    from llmstack.ferrying.prepared_repo import PreparedRepo, script_digest

    # Paths in a wish list are relative to the parent of get_hf/; on the command line, to the current directory.
    folder = Path(request.file).resolve().parent.parent if request.file else Path.cwd()
    script = folder / named
    selection = replace(request.selection, prepare=script_digest(script))
    with PreparedRepo(hub, script, options.build_environment, reporter) as prepared:
        yield prepared, replace(request, selection=selection)


def _open_local(request: RepoRequest, options: FerryOptions, client: Client, reporter: Reporter) -> FileSource:
    """Open local files. The commit is a digest of the selected ones, so the image has no other selection."""
    from llmstack.ferrying.local_repo import LocalRepo

    path = Path(request.path or "")
    if options.destination.registry is None:
        layout = options.destination.layout(request.repo_type)
        if path.is_dir() and layout.resolve().is_relative_to(path.resolve()):
            raise UsageError(f"{options.destination}: the destination is inside of {path}", hint="choose another --to")
    return LocalRepo(path, request.selection, options.jobs, client.cancel, reporter)


def exit_code(results: Sequence[FerryResult], problems: int) -> int:
    """Return the exit code of a run: that of the error if the only repo failed, or 1 if any of several failed.

    `problems` is the number of invalid lines in the wish lists: 2 if there were no other lines. A bug in llmstack
    always gives EXIT_BUG.
    """
    failed = [result for result in results if result.status == "failed"]
    if any(result.exit_code == EXIT_BUG for result in failed):
        return EXIT_BUG
    if len(failed) == 1 and len(results) == 1 and not problems:
        return failed[0].exit_code
    if problems and not results:
        return UsageError.exit_code
    return 1 if failed or problems else 0


def _success(result: RepoFerryResult, image: str, seconds: float) -> FerryResult:
    return FerryResult(
        repo_id=result.info.repo_id,
        repo_type=result.info.repo_type,
        revision=result.info.revision,
        commit=result.info.commit,
        image=image,
        digest=result.digest,
        status=result.status,
        bytes_total=result.bytes_total,
        bytes_transferred=result.bytes_transferred,
        bytes_reused=result.bytes_total - result.bytes_transferred,
        seconds=round(seconds, 3),
        error=None,
        renamed_to=result.info.renamed_to,
        layers=result.layers,
        limited_by="upload" if result.limited_by_destination else None,
    )


def _failure(request: RepoRequest, error: LlmstackError, seconds: float) -> FerryResult:
    return FerryResult(
        repo_id=request.repo_id,
        repo_type=request.repo_type,
        revision=request.revision,
        commit=None,
        image=None,
        digest=None,
        status="failed",
        bytes_total=0,
        bytes_transferred=0,
        bytes_reused=0,
        seconds=round(seconds, 3),
        error=str(error),
        exit_code=error.exit_code,
    )


def _catalogue_row(result: RepoFerryResult, image: str, digest: Digest) -> CatalogueRow:
    return CatalogueRow(
        repo_id=result.info.repo_id,
        repo_type=result.info.repo_type,
        revision=result.info.revision,
        commit=result.info.commit,
        created=result.created,
        size=result.bytes_total,
        license=result.info.license,
        image=image,
        digest=digest,
        renamed_to=result.info.renamed_to,
        local=result.info.local,
    )
