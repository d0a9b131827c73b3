"""The methods of a session for bundles."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmstack.bundles.copying import CopyResult
    from llmstack.bundles.found_images import ImagesRequest
    from llmstack.bundles.known_blobs import Inventory
    from llmstack.bundles.load import LoadResult
    from llmstack.bundles.prune import PruneResult
    from llmstack.bundles.save import SaveResult
    from llmstack.carried_image.image_location import EngineNamespace
    from llmstack.carried_image.naming import Namespace
    from llmstack.errors import LlmstackError
    from llmstack.ferrying.ferry import FerryResult
    from llmstack.hf.snapshot import RepoType
    from llmstack.lists.wish_list import RepoRequest
    from llmstack.net import Client
    from llmstack.oci.repository import Registries
    from llmstack.reporting import Reporter
    from llmstack.settings import Settings


class BundleMethods:
    """save, load, inventory, copy and prune; Session has the attributes."""

    settings: Settings
    reporter: Reporter
    client: Client
    registries: Registries
    ferry_all: Callable[..., list[FerryResult]]

    def save(
        self,
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
    ) -> SaveResult:
        """Save images (`REPO_ID[@REVISION]`, `NAME:TAG`) of a namespace into a bundle; all of them if none is named.

        With `from_hub`, the images are repos of the Hugging Face Hub; `include`, `exclude` and `base` are those of
        ferry. With `with_llmstack`, the directory `llmstack`
        in the bundle's has llmstack and its dependencies, for these Python versions and platform tags (default: those
        of this Python). A run that is interrupted is resumed by the same call.
        """
        from llmstack.bundles.installer import write_installer
        from llmstack.bundles.save import SaveOptions, SaveRequest, save
        from llmstack.carried_image.selection import NO_SELECTION, Selection
        from llmstack.errors import UsageError
        from llmstack.image_builds.build_environment import BuildEnvironment
        from llmstack.lists.wish_list import named_entries

        options = SaveOptions(
            destination=Path(destination),
            jobs=jobs or self.settings.jobs,
            volume_size=volume_size,
            have=_path(have),
            ledger=_path(ledger),
            since=since,
            prune=prune,
            dry_run=dry_run,
        )
        if (pythons or platforms) and not with_llmstack:
            raise UsageError("--python and --platform require --with-llmstack")
        selection = Selection(_words(include), _words(exclude))
        if (selection != NO_SELECTION or base) and not from_hub:
            raise UsageError("--include, --exclude and --base require --from-hub", hint="a bundle has complete images")
        with contextlib.ExitStack() as stack:
            if from_hub:
                if source or missing or dry_run:
                    raise UsageError("--from-hub excludes --from, --missing and --dry-run", hint="leave them out")
                requests = named_entries(_words(images), repo_type, selection)
                # Of an earlier run, the directory may have other repos.
                images = [f"{each.repo_id}@{each.revision}" for each in requests]
                source = stack.enter_context(self._ferried(requests, options.destination, base, jobs))
            wanted = self._images(images, source, repo_type)
            request = SaveRequest(wanted, _path(missing), selection if from_hub else None)
            self.client.cancel.clear()
            result = save(request, options, self.registries, self.client.cancel, self.reporter)
        if with_llmstack and not dry_run:
            environment = BuildEnvironment.from_settings(self.settings)
            write_installer(options.destination, tuple(pythons), tuple(platforms), environment, self.reporter)
        return result

    def load(
        self,
        bundles: str | Path | Sequence[str | Path],
        *,
        to: str | None = None,
        allow_older: bool = False,
        prune: bool = False,
        missing: str | Path | None = None,
        lists: Path | None = None,
        jobs: int | None = None,
        dry_run: bool = False,
        on_failure: Callable[[LlmstackError], None] | None = None,
    ) -> list[LoadResult]:
        """Load bundles into a namespace, in the order in which they were made.

        Without `on_failure`, the first error is raised after all bundles were tried. `lists` is the get_hf directory
        whose catalogue is updated.
        """
        from llmstack.bundles.load import LoadOptions, load
        from llmstack.errors import InternalError

        paths = [Path(bundles)] if isinstance(bundles, (str, Path)) else [Path(bundle) for bundle in bundles]
        options = LoadOptions(jobs or self.settings.jobs, allow_older, prune, _path(missing), lists, dry_run)
        errors: list[LlmstackError] = []
        self.client.cancel.clear()
        results = load(
            paths,
            self._destination(to),
            options,
            self.registries,
            self.client.cancel,
            self.reporter,
            on_failure or errors.append,
        )
        for error in errors:
            raise error.__cause__ if isinstance(error, InternalError) and error.__cause__ else error
        return results

    def copy(self, source: str, destination: str, *, jobs: int | None = None, dry_run: bool = False) -> CopyResult:
        """Copy an image, or all images of a namespace, with everything that refers to them."""
        from llmstack.bundles.copying import copy

        self.client.cancel.clear()
        jobs = jobs or self.settings.jobs
        return copy(source, destination, self.registries, self.client.cancel, self.reporter, jobs=jobs, dry_run=dry_run)

    def inventory(
        self, source: str | None = None, *, repositories: Sequence[str] = (), jobs: int | None = None
    ) -> Inventory:
        """Return which blobs a namespace has, in all of its repositories or in these."""
        from llmstack.bundles.inventory import take_inventory

        self.client.cancel.clear()
        request = self._images(repositories, source, "model")
        jobs = jobs or self.settings.jobs
        return take_inventory(request, self.registries, self.client.cancel, self.reporter, jobs)

    def prune(
        self,
        source: str | None = None,
        *,
        repositories: Sequence[str] = (),
        keep: int | None = None,
        older_than: str | None = None,
        jobs: int | None = None,
        dry_run: bool = False,
        confirm: Callable[[PruneResult], bool] = lambda _: True,
    ) -> PruneResult:
        """Delete old versions of carried repos and built images from a namespace.

        `keep` is how many of each stay at least, `older_than` an age such as `90d`. `confirm` gets the plan, and tells
        whether to carry it out.
        """
        from llmstack.bundles.prune import Pruner
        from llmstack.bundles.prune_plan import PruneRules, parse_age
        from llmstack.carried_image.naming import Namespace
        from llmstack.errors import UsageError

        if keep is not None and keep < 1:
            raise UsageError(f"--keep {keep}: must be at least 1")
        rules = PruneRules(keep, parse_age(older_than, "--older-than") if older_than is not None else None)
        namespace = Namespace.parse(source) if source else self._own_namespace("source", "--from")
        self.client.cancel.clear()
        pruner = Pruner(namespace, self.registries, jobs or self.settings.jobs, self.client.cancel, self.reporter)
        plan = pruner.plan(repositories, rules)
        deletes = any(image.status == "planned" for image in plan.result.images)
        return pruner.delete(plan) if deletes and not dry_run and confirm(plan.result) else plan.result

    def _ferried(
        self, requests: Sequence[RepoRequest], destination: Path, base: str | None, jobs: int | None
    ) -> AbstractContextManager[str]:
        from llmstack.bundles.hub_source import OnFailure, ferried

        def ferry(namespace: str, on_failure: OnFailure) -> object:
            return self.ferry_all(requests, to=namespace, base=base, jobs=jobs, on_failure=on_failure)

        return ferried(destination, ferry)

    def _destination(self, to: str | None) -> Namespace | EngineNamespace:
        from llmstack.carried_image.image_location import EngineNamespace, parse_source
        from llmstack.carried_image.naming import Namespace

        if to is None:
            return self._own_namespace("destination", "--to")
        if not to.startswith("docker-daemon:"):
            return Namespace.parse(to)
        source = parse_source(to)
        named = source.namespace if isinstance(source, EngineNamespace) else None
        own = Namespace.parse(self.settings.namespace) if self.settings.namespace else None
        return EngineNamespace(named or own)

    def _images(self, images: str | Sequence[str], source: str | None, repo_type: RepoType) -> ImagesRequest:
        from llmstack.bundles.found_images import ImagesRequest

        return ImagesRequest(_words(images), source, self._own_namespace("source", "--from", given=source), repo_type)

    def _own_namespace(self, role: str, option: str, *, given: str | None = None) -> Namespace:
        """Return the namespace of the settings; raises UsageError if none is set and none is given."""
        from llmstack.carried_image.naming import Namespace
        from llmstack.errors import UsageError
        from llmstack.settings import DEFAULT_NAMESPACE

        if self.settings.namespace is None and given is None:
            raise UsageError(f"no {role} namespace", hint=f"add {option} registry/path or {option} oci:DIR")
        return Namespace.parse(self.settings.namespace or DEFAULT_NAMESPACE)


def _words(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
