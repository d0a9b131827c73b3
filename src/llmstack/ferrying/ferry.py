"""A whole run of ferry: every entry in turn, failures noted and passed by, the catalogue kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from llmstack.carried_image.naming import Namespace, tag_for
from llmstack.carried_image.stores import open_store
from llmstack.errors import LlmstackError, UsageError
from llmstack.ferrying.base_image import Base, load_base
from llmstack.ferrying.file_source import FileSource
from llmstack.ferrying.repo_ferry import Carried, Carrier, LayerPlan
from llmstack.hf.hub_client import Hub
from llmstack.hf.snapshot import RepoType
from llmstack.image_builds.build_environment import BuildEnvironment
from llmstack.lists.catalogue import FILE_NAMES, CatalogueRow, record
from llmstack.lists.wish_list import RepoRequest, WishList, read_wishlist
from llmstack.net import Client
from llmstack.oci.profiles import profile_of
from llmstack.oci.repository import Registries
from llmstack.reporting import Reporter

DEFAULT_BUILD_ENVIRONMENT = BuildEnvironment()
LISTS: dict[RepoType, str] = {"model": "to_get_models.txt", "dataset": "to_get_datasets.txt"}


@dataclass(frozen=True, slots=True)
class FerryOptions:
    """How a run carries: where to, on which base, how many layers at a time.

    `max_layer` is how many bytes a layer may have there, None for what is known of the registry; with `split_large`
    larger files are carried in parts. `lists` is the folder of the wish lists and the catalogue, None where there is
    none. `build_environment` is for the images in which scripts prepare repos.
    """

    target: Namespace
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
    """What became of one entry; the fields of `ferry --json`. Sizes are bytes of files."""

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
    layers: tuple[LayerPlan, ...] = field(default=(), repr=False)
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the object that `ferry --json` lists."""
        return {name: value for name, value in asdict(self).items() if name not in {"layers", "exit_code"}}


def find_lists(start: Path) -> Path | None:
    """Return the nearest get_hf folder from `start` upwards."""
    return next((path / "get_hf" for path in (start, *start.parents) if (path / "get_hf").is_dir()), None)


def read_lists(folder: Path | None) -> WishList:
    """Read both wish lists of a get_hf folder; raises UsageError where there is none."""
    lists = (
        [read_wishlist(folder / name, kind) for kind, name in LISTS.items() if (folder / name).exists()]
        if folder
        else []
    )
    if not lists:
        raise UsageError(
            "no repo is named and there is no wish list here",
            hint="name a repo, or list some in get_hf/to_get_models.txt or get_hf/to_get_datasets.txt",
        )
    return WishList(
        tuple(entry for found in lists for entry in found.entries),
        tuple(problem for found in lists for problem in found.problems),
    )


def ferry(
    entries: Sequence[RepoRequest],
    options: FerryOptions,
    client: Client,
    registries: Registries,
    reporter: Reporter,
    failed: Callable[[RepoRequest, LlmstackError], None],
) -> list[FerryResult]:
    """Carry every entry in turn; `failed` hears of an entry's error at once, and the next entry goes on."""
    hub = Hub(client)
    most = options.max_layer or profile_of(options.target.registry or "").max_layer
    carrier = Carrier(client, reporter, options.jobs, most, split_large=options.split_large)

    @lru_cache(maxsize=1)
    def base() -> Base:
        return load_base(options.base, registries)

    def carry(entry: RepoRequest) -> FerryResult:
        began = time.monotonic()
        try:
            tag = tag_for(entry.repo_id, entry.revision)
            image = options.target.image(entry.repo_type, tag)
            store = open_store(options.target, entry.repo_type, registries)
            with _source(entry, hub, options.build_environment, reporter) as (source, wanted):
                carried = carrier.carry(wanted, source, store, base, force=options.force, dry_run=options.dry_run)
            if options.lists and carried.digest:
                record(options.lists / FILE_NAMES[entry.repo_type], _row(carried, image))
        except LlmstackError as error:
            failed(entry, error)
            return _failure(entry, error, time.monotonic() - began)
        return _success(carried, image, time.monotonic() - began)

    return [carry(entry) for entry in entries]


@contextmanager
def _source(
    entry: RepoRequest, hub: Hub, environment: BuildEnvironment, reporter: Reporter
) -> Iterator[tuple[FileSource, RepoRequest]]:
    """Open where an entry's files come from; what is to be carried names the script too, where there is one."""
    if entry.prepare is None:
        yield hub, entry
        return
    from llmstack.ferrying.prepared_repo import PreparedRepo, script_digest

    # A list names scripts from the folder that get_hf/ is in; a person from where they are.
    folder = Path(entry.file).resolve().parent.parent if entry.file else Path.cwd()
    script = folder / entry.prepare
    selection = replace(entry.selection, prepare=script_digest(script))
    with PreparedRepo(hub, script, environment, reporter) as prepared:
        yield prepared, replace(entry, selection=selection)


def exit_code(results: Sequence[FerryResult], problems: int) -> int:
    """Return a run's exit code: its error's own when a single entry failed, 1 when some of several did.

    `problems` is how many lines of the wish lists are wrong; 2 where there was nothing else.
    """
    failed = [result for result in results if result.status == "failed"]
    if len(failed) == 1 and len(results) == 1 and not problems:
        return failed[0].exit_code
    if problems and not results:
        return UsageError.exit_code
    return 1 if failed or problems else 0


def _success(carried: Carried, image: str, seconds: float) -> FerryResult:
    return FerryResult(
        repo_id=carried.info.repo_id,
        repo_type=carried.info.repo_type,
        revision=carried.info.revision,
        commit=carried.info.commit,
        image=image,
        digest=carried.digest,
        status=carried.status,
        bytes_total=carried.bytes_total,
        bytes_transferred=carried.bytes_transferred,
        bytes_reused=carried.bytes_total - carried.bytes_transferred,
        seconds=round(seconds, 3),
        error=None,
        layers=carried.layers,
    )


def _failure(entry: RepoRequest, error: LlmstackError, seconds: float) -> FerryResult:
    return FerryResult(
        repo_id=entry.repo_id,
        repo_type=entry.repo_type,
        revision=entry.revision,
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


def _row(carried: Carried, image: str) -> CatalogueRow:
    if carried.digest is None:
        raise ValueError("a planned repo has no row")
    return CatalogueRow(
        repo_id=carried.info.repo_id,
        repo_type=carried.info.repo_type,
        revision=carried.info.revision,
        commit=carried.info.commit,
        created=carried.created,
        size=carried.bytes_total,
        license=carried.info.license,
        image=image,
        digest=carried.digest,
    )
