"""`llmstack prune`: delete old versions of carried repos and built images from a namespace, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from threading import Event
from typing import Any, Literal

from llmstack.bundles.document import RESERVED_REPOSITORY
from llmstack.bundles.prune_plan import (
    PruneDecision,
    PruneRules,
    TaggedImage,
    built_version,
    carried_version,
    decide,
    spare,
)
from llmstack.bundles.repositories import Repositories
from llmstack.carried_image.naming import Namespace, is_referrer_tag, type_of_path
from llmstack.errors import LlmstackError, UsageError, on_side
from llmstack.inspection.namespace_list import describe
from llmstack.net.parallel import run_all
from llmstack.oci.graph import ImageGraph, read_graph
from llmstack.oci.layout import Layout
from llmstack.oci.layout_garbage import remove_unreferenced
from llmstack.oci.reference import Digest
from llmstack.oci.repository import Registries
from llmstack.oci.store import BlobStore
from llmstack.reporting import Reporter

# The registry alone can free the space of deleted manifests.
REGISTRY_HINT = (
    "the registry frees the space when its garbage collection runs, for distribution: registry garbage-collect CONFIG"
)


@dataclass(frozen=True, slots=True)
class PrunedImage:
    """A version of a repo or a built image, and what was done.

    `reason` says why it was kept or refused. `created` is the commit's date, or that of the build.
    """

    image: str
    digest: str
    created: str | None
    status: Literal["planned", "deleted", "kept", "refused"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PruneResult:
    """The result of prune, with the fields of `prune --json`. `hint` says what is left to do to free the space."""

    images: tuple[PrunedImage, ...]
    hint: str = ""

    @property
    def exit_code(self) -> int:
        """1 if an image that was to be deleted is still there."""
        return int(any(image.status == "refused" for image in self.images))

    def to_json(self) -> dict[str, Any]:
        """Return the object for `prune --json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """The decisions for the repositories of a namespace; `graphs` has what each image to delete consists of."""

    decisions: tuple[PruneDecision, ...]
    graphs: dict[Digest, ImageGraph]
    kept: frozenset[Digest]

    @property
    def result(self) -> PruneResult:
        """The plan as a result."""
        return PruneResult(
            tuple(
                _pruned(each, "kept" if each.kept_because else "planned", each.kept_because) for each in self.decisions
            )
        )


class Pruner:
    """Plans and deletes in the repositories of one namespace."""

    def __init__(
        self, namespace: Namespace, registries: Registries, jobs: int, cancel: Event, reporter: Reporter
    ) -> None:
        self._repositories = Repositories(namespace, registries)
        self._jobs = jobs
        self._cancel = cancel
        self._reporter = reporter

    def plan(self, repositories: Sequence[str], rules: PruneRules) -> PrunePlan:
        """Return what is to be deleted in these repositories, or in all; raises LlmstackError."""
        if rules.keep is None and rules.older_than is None:
            raise UsageError("nothing says what to delete", hint="add --keep NUMBER or --older-than AGE, or both")
        if RESERVED_REPOSITORY in repositories:
            raise UsageError(f"{RESERVED_REPOSITORY}: llmstack load keeps its records in this repository")
        decisions: list[PruneDecision] = []
        graphs: dict[Digest, ImageGraph] = {}
        kept: set[Digest] = set()
        for name in repositories or self._repositories.names()[0]:
            images = self._images(name)
            found = decide(images, rules, datetime.now(UTC))
            if any(not each.kept_because for each in found):
                known = self._graphs(name, images)
                needed = _needed(images, found, known)
                found = spare(found, needed)
                kept |= needed.keys()
                graphs |= {each.image.digest: known[each.image.digest] for each in found if not each.kept_because}
            decisions += found
        return PrunePlan(tuple(decisions), graphs, frozenset(kept))

    def delete(self, plan: PrunePlan) -> PruneResult:
        """Delete what is planned, unless its tag has moved since; return what was done."""
        done = []
        for each in plan.decisions:
            if each.kept_because:
                done.append(_pruned(each, "kept", each.kept_because))
                continue
            store = self._open(each.image.repository)
            try:
                reason = self._delete(store, each.image, plan)
            except LlmstackError as error:
                reason = error.message
            if reason:
                self._reporter.warn(f"{store.name}:{each.image.tag}: was not deleted: {reason}")
            done.append(_pruned(each, "refused" if reason else "deleted", reason))
        changed = {image.image.rpartition(":")[0] for image in done if image.status == "deleted"}
        if not self._repositories.is_directory:
            return PruneResult(tuple(done), REGISTRY_HINT if changed else "")
        for name in sorted(changed):
            if isinstance(store := self._open(name), Layout):
                remove_unreferenced(store)
        return PruneResult(tuple(done))

    def _images(self, name: str) -> list[TaggedImage]:
        store = self._open(name)
        with on_side("source", store.name):
            tags = store.digests(None, self._jobs)
            ours = [tag for tag in tags if not is_referrer_tag(tag)]
            if type_of_path(name) is None:
                return [built_version(name, tag, tags[tag], tags) for tag in ours]
            return run_all(lambda tag: self._carried(name, store, tag, tags[tag]), ours, self._jobs, self._cancel)

    def _carried(self, name: str, store: BlobStore, tag: str, digest: Digest) -> TaggedImage:
        """Return a carried image; a partial one, or one that cannot be read as carried, is never pruned."""
        listed = describe(store, tag, type_of_path(name))
        if listed is None or listed.incomplete or listed.error or not listed.repo_id or not listed.revision:
            return TaggedImage(name, tag, digest)
        return carried_version(name, tag, digest, listed.repo_id, listed.revision, listed.created)

    def _graphs(self, name: str, images: Sequence[TaggedImage]) -> dict[Digest, ImageGraph]:
        """Return what all images of a repository consist of: nothing may be deleted that one of them needs."""
        store = self._open(name)
        digests = list(dict.fromkeys(image.digest for image in images))
        with on_side("source", store.name):
            graphs = run_all(
                lambda digest: read_graph(store, store.manifest(digest)), digests, self._jobs, self._cancel
            )
        return dict(zip(digests, graphs, strict=True))

    def _delete(self, store: BlobStore, image: TaggedImage, plan: PrunePlan) -> str:
        """Delete an image, its other manifests and what refers to them; return why the registry did not."""
        if store.digests([image.tag]).get(image.tag) not in {image.digest, None}:
            return "its tag names another image now"
        manifests = [manifest.digest for manifest in plan.graphs[image.digest].manifests]
        referrers = [item.digest for digest in manifests for item in store.referrers(digest)]
        if not store.delete_manifest(image.digest, image.tag):
            return "the registry does not allow it"
        signatures = {digest.replace(":", "-") for digest in manifests}
        for tag, digest in store.digests(None, self._jobs).items():
            if is_referrer_tag(tag) and tag.partition(".")[0] in signatures:
                store.delete_manifest(digest, tag)
        for digest in (*referrers, *manifests):
            if digest not in plan.kept and digest != image.digest:
                store.delete_manifest(digest, digest)
        return ""

    def _open(self, name: str) -> BlobStore:
        return self._repositories.open(name, write=True)


def _needed(
    images: Sequence[TaggedImage], decisions: Sequence[PruneDecision], graphs: dict[Digest, ImageGraph]
) -> dict[Digest, str]:
    """Return the manifests that stay, each with the tag that needs it."""
    gone = {each.image.tag for each in decisions if not each.kept_because}
    return {
        manifest.digest: image.tag
        for image in images
        if image.tag not in gone
        for manifest in graphs[image.digest].manifests
    }


def _pruned(
    decision: PruneDecision, status: Literal["planned", "deleted", "kept", "refused"], reason: str
) -> PrunedImage:
    image = decision.image
    created = image.created.isoformat() if image.created else None
    return PrunedImage(image.name, image.digest, created, status, reason)
