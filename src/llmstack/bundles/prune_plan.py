"""Which images of a namespace are no longer kept. Pure: it decides by names, dates and digests."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from llmstack.carried_image.naming import DEFAULT_REVISION
from llmstack.errors import UsageError
from llmstack.oci.reference import Digest

# What `build --push` appends to the tag of a variant.
_DATED = re.compile(r"(?P<moving>.+)-(?P<time>\d{8}-\d{6})", re.ASCII)
_AGE = re.compile(r"(?P<count>\d{1,5})(?P<unit>[dwmy])", re.ASCII)
_DAYS = {"d": 1, "w": 7, "m": 30, "y": 365}


@dataclass(frozen=True, slots=True)
class PruneRules:
    """How many images of a repo or variant are kept at least, and the age at which the others go.

    Without `keep`, age alone decides; without `older_than`, all others go.
    """

    keep: int | None = None
    older_than: timedelta | None = None


@dataclass(frozen=True, slots=True)
class TaggedImage:
    """An image of a repository with one of its tags.

    `versions_of` names what it is a version of: a repo, or the moving tag of a built image; None for images that are
    never pruned. `created` is unknown for some. A `current` version is never pruned.
    """

    repository: str
    tag: str
    digest: Digest
    versions_of: str | None = None
    created: datetime | None = None
    current: bool = False

    @property
    def name(self) -> str:
        """The name in the namespace."""
        return f"{self.repository}:{self.tag}"


@dataclass(frozen=True, slots=True)
class PruneDecision:
    """A version of a repo or a built image; `kept_because` is empty if it is to be deleted."""

    image: TaggedImage
    kept_because: str = ""


def parse_age(text: str, option: str) -> timedelta:
    """Read an age, such as `90d`, `12w`, `6m` or `1y`; a month has 30 days, a year 365. Raises UsageError."""
    match = _AGE.fullmatch(text)
    if match is None:
        raise UsageError(f"{option} {text}: is not an age", hint="as in 90d, 12w, 6m or 1y")
    return timedelta(days=int(match["count"]) * _DAYS[match["unit"]])


def carried_version(
    repository: str, tag: str, digest: Digest, repo_id: str, revision: str, created: str | None
) -> TaggedImage:
    """Return a carried image as a version of its repo; `main` is the current one. `created` is the commit's date."""
    is_main = revision == DEFAULT_REVISION
    return TaggedImage(repository, tag, digest, repo_id, _date(created), is_main)


def built_version(repository: str, tag: str, digest: Digest, tags: dict[str, Digest]) -> TaggedImage:
    """Return an image of `build --push` by its dated tag; the one that the moving tag names is the current one."""
    match = _DATED.fullmatch(tag)
    if match is None or match["moving"] not in tags:
        return TaggedImage(repository, tag, digest)
    try:
        created = datetime.strptime(match["time"], "%Y%m%d-%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return TaggedImage(repository, tag, digest)
    moving = match["moving"]
    return TaggedImage(repository, tag, digest, f"{repository}:{moving}", created, tags[moving] == digest)


def decide(images: Iterable[TaggedImage], rules: PruneRules, now: datetime) -> list[PruneDecision]:
    """Return a decision for each version, those of one repo together, the newest first."""
    groups: dict[tuple[str, str], list[TaggedImage]] = defaultdict(list)
    for image in images:
        if image.versions_of is not None:
            groups[image.repository, image.versions_of].append(image)
    return [each for _, group in sorted(groups.items()) for each in _decide_group(group, rules, now)]


def _decide_group(group: Sequence[TaggedImage], rules: PruneRules, now: datetime) -> list[PruneDecision]:
    oldest = datetime.min.replace(tzinfo=UTC)
    ordered = sorted(group, key=lambda image: (image.current, image.created or oldest, image.tag), reverse=True)
    decisions = []
    for place, image in enumerate(ordered):
        if image.current:
            why = "is the current version"
        elif image.created is None:
            why = "has no date"
        elif rules.keep is not None and place < rules.keep:
            why = f"is one of the newest {rules.keep}"
        elif rules.older_than is not None and now - image.created <= rules.older_than:
            why = "is not old enough"
        else:
            why = ""
        decisions.append(PruneDecision(image, why))
    return decisions


def spare(decisions: Sequence[PruneDecision], needed: dict[Digest, str]) -> list[PruneDecision]:
    """Keep what others need: `needed` has the digests of manifests that stay, with the tag that needs each."""
    return [
        PruneDecision(decision.image, f"is a part of {needed[decision.image.digest]}")
        if not decision.kept_because and decision.image.digest in needed
        else decision
        for decision in decisions
    ]


def _date(text: str | None) -> datetime | None:
    try:
        found = datetime.fromisoformat(text or "")
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
