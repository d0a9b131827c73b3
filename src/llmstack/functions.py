"""The Python API: a function for each single call, with the settings of this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llmstack.session import OnProgress, Session

if TYPE_CHECKING:
    from llmstack.bundles.copying import CopyResult
    from llmstack.bundles.known_blobs import Inventory
    from llmstack.bundles.load import LoadResult
    from llmstack.bundles.prune import PruneResult
    from llmstack.bundles.save import SaveResult
    from llmstack.errors import LlmstackError
    from llmstack.extraction.extract import ExtractResult
    from llmstack.ferrying.ferry import FerryResult
    from llmstack.hf.snapshot import RepoType
    from llmstack.inspection import ImageDetails, ListedImage, VerifyResult


def ferry(
    repo: str | Path,
    *,
    to: str | None = None,
    as_repo: str | None = None,
    repo_type: RepoType = "model",
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    prepare: str | Path | None = None,
    base: str | None = None,
    force: bool = False,
    split_large: bool | None = None,
    jobs: int | None = None,
    dry_run: bool = False,
    plain_http: bool = False,
    on_progress: OnProgress | None = None,
) -> FerryResult:
    """Carry one repo into a namespace: Session.ferry with the settings of this machine."""
    with Session.from_settings(on_progress=on_progress, plain_http=plain_http) as session:
        return session.ferry(
            repo,
            to=to,
            as_repo=as_repo,
            repo_type=repo_type,
            include=include,
            exclude=exclude,
            prepare=prepare,
            base=base,
            force=force,
            split_large=split_large,
            jobs=jobs,
            dry_run=dry_run,
        )


def extract(
    image: str,
    destination: str | Path | None = None,
    *,
    source: str | None = None,
    repo_type: RepoType = "model",
    layout: Literal["dir", "hf-cache"] = "dir",
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    trust: str | Path | None = None,
    bundle: bool = False,
    jobs: int | None = None,
    plain_http: bool = False,
    on_progress: OnProgress | None = None,
) -> ExtractResult:
    """Write an image's files into a directory: Session.extract with the settings of this machine."""
    with Session.from_settings(on_progress=on_progress, plain_http=plain_http) as session:
        return session.extract(
            image,
            destination,
            source=source,
            repo_type=repo_type,
            layout=layout,
            include=include,
            exclude=exclude,
            trust=trust,
            bundle=bundle,
            jobs=jobs,
        )


def verify(
    image: str,
    *,
    source: str | None = None,
    repo_type: RepoType = "model",
    trust: str | Path | None = None,
    jobs: int | None = None,
    plain_http: bool = False,
    on_progress: OnProgress | None = None,
) -> VerifyResult:
    """Read every byte of an image: Session.verify with the settings of this machine."""
    with Session.from_settings(on_progress=on_progress, plain_http=plain_http) as session:
        return session.verify(image, source=source, repo_type=repo_type, trust=trust, jobs=jobs)


def inspect(
    image: str, *, source: str | None = None, repo_type: RepoType = "model", plain_http: bool = False
) -> ImageDetails:
    """Return what an image is: Session.inspect with the settings of this machine."""
    with Session.from_settings(plain_http=plain_http) as session:
        return session.inspect(image, source=source, repo_type=repo_type)


def list_images(
    source: str | None = None,
    *,
    repo_type: RepoType | None = None,
    jobs: int | None = None,
    plain_http: bool = False,
) -> list[ListedImage]:
    """Return the images of a namespace: Session.list_images with the settings of this machine."""
    with Session.from_settings(plain_http=plain_http) as session:
        return session.list_images(source, repo_type=repo_type, jobs=jobs)


def save(
    images: str | Sequence[str],
    destination: str | Path,
    *,
    source: str | None = None,
    repo_type: RepoType = "model",
    volume_size: str | None = None,
    have: str | Path | None = None,
    ledger: str | Path | None = None,
    since: bool = False,
    missing: str | Path | None = None,
    prune: bool = False,
    from_hub: bool = False,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    base: str | None = None,
    with_llmstack: bool = False,
    pythons: Sequence[str] = (),
    platforms: Sequence[str] = (),
    jobs: int | None = None,
    dry_run: bool = False,
    plain_http: bool = False,
    on_progress: OnProgress | None = None,
) -> SaveResult:
    """Save images into a bundle: Session.save with the settings of this machine."""
    with Session.from_settings(on_progress=on_progress, plain_http=plain_http) as session:
        return session.save(
            images,
            destination,
            source=source,
            repo_type=repo_type,
            volume_size=volume_size,
            have=have,
            ledger=ledger,
            since=since,
            missing=missing,
            prune=prune,
            from_hub=from_hub,
            include=include,
            exclude=exclude,
            base=base,
            with_llmstack=with_llmstack,
            pythons=pythons,
            platforms=platforms,
            jobs=jobs,
            dry_run=dry_run,
        )


def load(
    bundles: str | Path | Sequence[str | Path],
    *,
    to: str | None = None,
    allow_older: bool = False,
    prune: bool = False,
    missing: str | Path | None = None,
    lists: Path | None = None,
    jobs: int | None = None,
    dry_run: bool = False,
    plain_http: bool = False,
    on_failure: Callable[[LlmstackError], None] | None = None,
    on_progress: OnProgress | None = None,
) -> list[LoadResult]:
    """Load bundles into a namespace: Session.load with the settings of this machine."""
    with Session.from_settings(on_progress=on_progress, plain_http=plain_http) as session:
        return session.load(
            bundles,
            to=to,
            allow_older=allow_older,
            prune=prune,
            missing=missing,
            lists=lists,
            jobs=jobs,
            dry_run=dry_run,
            on_failure=on_failure,
        )


def inventory(
    source: str | None = None,
    *,
    repositories: Sequence[str] = (),
    jobs: int | None = None,
    plain_http: bool = False,
) -> Inventory:
    """Return which blobs a namespace has: Session.inventory with the settings of this machine."""
    with Session.from_settings(plain_http=plain_http) as session:
        return session.inventory(source, repositories=repositories, jobs=jobs)


def copy(
    source: str,
    destination: str,
    *,
    jobs: int | None = None,
    dry_run: bool = False,
    plain_http: bool = False,
    on_progress: OnProgress | None = None,
) -> CopyResult:
    """Copy an image or a namespace: Session.copy with the settings of this machine."""
    with Session.from_settings(on_progress=on_progress, plain_http=plain_http) as session:
        return session.copy(source, destination, jobs=jobs, dry_run=dry_run)


def prune(
    source: str | None = None,
    *,
    repositories: Sequence[str] = (),
    keep: int | None = None,
    older_than: str | None = None,
    jobs: int | None = None,
    dry_run: bool = False,
    plain_http: bool = False,
    confirm: Callable[[PruneResult], bool] = lambda _: True,
) -> PruneResult:
    """Delete old versions from a namespace: Session.prune with the settings of this machine."""
    with Session.from_settings(plain_http=plain_http) as session:
        return session.prune(
            source,
            repositories=repositories,
            keep=keep,
            older_than=older_than,
            jobs=jobs,
            dry_run=dry_run,
            confirm=confirm,
        )
