"""The Python API: a session for several calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from llmstack.bundles.bundle_methods import BundleMethods
from llmstack.reporting.callback import CallbackReporter, ProgressEvent
from llmstack.signing.signing_methods import SigningMethods

if TYPE_CHECKING:
    from llmstack.carried_image.naming import Namespace
    from llmstack.carried_image.selection import Selection
    from llmstack.errors import LlmstackError
    from llmstack.extraction.extract import ExtractResult
    from llmstack.ferrying.ferry import FerryResult
    from llmstack.hf.snapshot import RepoType
    from llmstack.inspection import ImageDetails, ListedImage, VerifyResult
    from llmstack.lists.wish_list import RepoRequest
    from llmstack.net import RetryPolicy
    from llmstack.reporting import Reporter
    from llmstack.settings import Settings

# Connections that are kept for reading ahead: of small files, and of large ones.
_READ_AHEAD = 64

OnProgress = Callable[[ProgressEvent], None]
OnFailure = Callable[["RepoRequest", "LlmstackError"], None]


class Session(BundleMethods, SigningMethods):
    """Settings, connections and registry credentials for several calls; use it from one thread at a time.

    Options have the names of the command line's flags, with `source` for `--from`. None means the value of the
    settings. Nothing is printed: messages go to the logger "llmstack", progress to a callback. All methods raise
    LlmstackError or one of its subclasses. As a context manager, a session closes its connections at the end.
    """

    def __init__(
        self,
        settings: Settings,
        reporter: Reporter,
        *,
        plain_http: bool = False,
        connections: int = 0,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        """Open nothing yet; `connections` are kept in addition to those that `settings.jobs` needs."""
        from llmstack.engine.credentials import lookup
        from llmstack.net import DEFAULT_RETRY_POLICY, Client
        from llmstack.oci.repository import Registries

        self.settings = settings
        self.reporter = reporter
        self.client = Client(
            connections=settings.jobs + _READ_AHEAD + connections,
            note=reporter.note,
            timeout=settings.timeout,
            retry_wait=settings.retry_wait,
            retry_policy=retry_policy or DEFAULT_RETRY_POLICY,
        )
        self.registries = Registries(self.client, lookup, ("*",) if plain_http else settings.plain_http)

    @classmethod
    def from_settings(
        cls, *, on_progress: OnProgress | None = None, plain_http: bool = False, **settings: object
    ) -> Self:
        """Read LLMSTACK_* variables and the nearest llmstack.yaml; `settings` override both."""
        from llmstack.settings import load_settings

        return cls(load_settings(settings), CallbackReporter(on_progress), plain_http=plain_http)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are kept for further requests."""
        self.client.close()

    @property
    def namespace(self) -> Namespace:
        """The namespace that images are read from if no source is given."""
        from llmstack.carried_image.naming import Namespace
        from llmstack.settings import DEFAULT_NAMESPACE

        return Namespace.parse(self.settings.namespace or DEFAULT_NAMESPACE)

    def ferry(
        self,
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
    ) -> FerryResult:
        """Carry one repo (`REPO_ID[@REVISION]`) from the Hugging Face Hub into the namespace `to`.

        With `as_repo` (`--as`), `repo` is a local directory or file, and `as_repo` the repo id and revision of its
        image. `include` and `exclude` are globs as in `hf download`, `prepare` is a script whose output is carried
        instead of the repo's files. With `dry_run`, the script does not run.
        """
        from llmstack.errors import InternalError
        from llmstack.lists.wish_list import named_entries

        _check_repo_type(repo_type)
        selection = _selection(include, exclude)
        requests = named_entries([str(repo)], repo_type, selection, str(prepare) if prepare else None, as_repo)
        errors: list[LlmstackError] = []
        [result] = self.ferry_all(
            requests,
            to=to,
            base=base,
            force=force,
            split_large=split_large,
            jobs=jobs,
            dry_run=dry_run,
            on_failure=lambda _, error: errors.append(error),
        )
        for error in errors:
            # An exception of `on_progress` passes unchanged.
            raise error.__cause__ if isinstance(error, InternalError) and error.__cause__ else error
        return result

    def ferry_all(
        self,
        requests: Sequence[RepoRequest],
        *,
        to: str | None = None,
        base: str | None = None,
        force: bool = False,
        split_large: bool | None = None,
        jobs: int | None = None,
        dry_run: bool = False,
        lists: Path | None = None,
        on_failure: OnFailure = lambda _request, _error: None,
    ) -> list[FerryResult]:
        """Carry several repos, one after the other; a failed one is a result with status "failed".

        `lists` is the get_hf directory whose catalogue is updated. `on_failure` gets each error when it happens.
        """
        from llmstack.hf.hub_urls import check_endpoint

        # Before huggingface_hub is imported: its import fails on an invalid one.
        check_endpoint(os.environ)
        from llmstack.carried_image.naming import Namespace
        from llmstack.errors import UsageError
        from llmstack.ferrying.ferry import FerryOptions, ferry
        from llmstack.image_builds.build_environment import BuildEnvironment

        settings = self._settings(namespace=to, base=base, split_large=split_large, jobs=jobs)
        if settings.namespace is None:
            raise UsageError("no destination namespace", hint="add --to registry/path or --to oci:DIR")
        options = FerryOptions(
            destination=Namespace.parse(settings.namespace),
            base=settings.base,
            jobs=settings.jobs,
            max_layer=settings.max_layer,
            split_large=settings.split_large,
            force=force,
            dry_run=dry_run,
            lists=lists,
            build_environment=BuildEnvironment.from_settings(settings),
        )
        self.client.cancel.clear()
        return ferry(requests, options, self.client, self.registries, self.reporter, on_failure)

    def extract(
        self,
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
    ) -> ExtractResult:
        """Write the files of a carried repo (`REPO_ID[@REVISION]`) or of any image into a directory, verified.

        With layout "hf-cache" the destination is a Hugging Face cache, HF_HUB_CACHE if it is None. With `trust`, a
        trust file or a public key, only images that are signed accordingly are extracted; `bundle` writes model.sig.
        """
        from llmstack.errors import UsageError
        from llmstack.extraction.extract import ExtractRequest, extract

        _check_repo_type(repo_type)
        if layout not in {"dir", "hf-cache"}:
            raise UsageError(f"layout: must be 'dir' or 'hf-cache', not {layout!r}")
        request = ExtractRequest(
            argument=image,
            destination=None if destination is None else Path(destination),
            namespace=self.namespace,
            source=source,
            repo_type=repo_type,
            selection=_selection(include, exclude),
            layout=layout,
            jobs=self._settings(jobs=jobs).jobs,
            trust=self._trust(trust),
            bundle=bundle,
        )
        self.client.cancel.clear()
        return extract(request, self.registries, self.client.cancel, self.reporter)

    def verify(
        self,
        image: str,
        *,
        source: str | None = None,
        repo_type: RepoType = "model",
        trust: str | Path | None = None,
        jobs: int | None = None,
    ) -> VerifyResult:
        """Read every byte of an image and compare it with its digests and its file index.

        Look at `ok` and `problems` of the result: wrong bytes raise no error. With `trust`, a trust file or a public
        key, an image without valid signatures raises IntegrityError.
        """
        from llmstack.carried_image.image_location import locate
        from llmstack.carried_image.open_location import open_requested
        from llmstack.inspection import verify

        _check_repo_type(repo_type)
        self.client.cancel.clear()
        request = locate(image, source, repo_type, self.namespace)
        # The image that was asked for is verified, not a local one of the same name.
        with open_requested(request, self.registries, self.reporter.note, prefer_engine=False) as opened:
            jobs = self._settings(jobs=jobs).jobs
            return verify(opened, self.reporter, self.client.cancel, jobs, self._trust(trust))

    def inspect(self, image: str, *, source: str | None = None, repo_type: RepoType = "model") -> ImageDetails:
        """Return what an image is: commit, license, layers and files."""
        from llmstack.carried_image.image_location import locate
        from llmstack.carried_image.open_location import open_requested
        from llmstack.inspection import inspect

        _check_repo_type(repo_type)
        self.client.cancel.clear()
        request = locate(image, source, repo_type, self.namespace)
        with open_requested(request, self.registries, self.reporter.note) as opened:
            return inspect(opened)

    def list_images(
        self, source: str | None = None, *, repo_type: RepoType | None = None, jobs: int | None = None
    ) -> list[ListedImage]:
        """Return the images of a namespace, of both repo types if none is given, sorted by name."""
        from llmstack.hf.snapshot import REPO_TYPES
        from llmstack.inspection import list_images

        if repo_type:
            _check_repo_type(repo_type)
        self.client.cancel.clear()
        types = (repo_type,) if repo_type else REPO_TYPES
        jobs = self._settings(jobs=jobs).jobs
        return list_images(source, self.namespace, types, self.registries, self.client.cancel, jobs)

    def _settings(self, **options: object) -> Settings:
        from llmstack.settings import override

        return override(self.settings, options)


def _selection(include: str | Sequence[str], exclude: str | Sequence[str]) -> Selection:
    from llmstack.carried_image.selection import Selection

    return Selection(_globs(include), _globs(exclude))


def _globs(given: str | Sequence[str]) -> tuple[str, ...]:
    # As a sequence, a string would be one glob for each character.
    return (given,) if isinstance(given, str) else tuple(given)


def _check_repo_type(repo_type: str) -> None:
    from llmstack.errors import UsageError
    from llmstack.hf.snapshot import REPO_TYPES

    if repo_type not in REPO_TYPES:
        raise UsageError(f"repo_type: must be {' or '.join(map(repr, REPO_TYPES))}, not {repo_type!r}")
