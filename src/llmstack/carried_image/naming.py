"""How repos are named as images: tags, and the namespace that images lie in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from llmstack.errors import UsageError
from llmstack.hf.hub_urls import parse_repo_url
from llmstack.hf.snapshot import RepoType
from llmstack.oci.reference import DOCKER_HUB, Reference, is_registry

DEFAULT_REVISION = "main"
MAX_TAG = 128
# No repo id holds `--`; a revision of that name is told from this by the file index.
PARTIAL = "--partial"
MAX_REPO_ID = 96

_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPO_ID = re.compile(rf"(?:{_NAME}/)?{_NAME}")
# git-check-ref-format(1)
_NOT_IN_REVISION = re.compile(r"[\s~^:?*\[\\]|\.\.|@\{|^[-/.]|/$|//")
_NOT_IN_TAG = re.compile(r"[^A-Za-z0-9._-]")


def check_repo_id(repo_id: str) -> str:
    """Return `repo_id` if it is `owner/name` or `name` as the Hub allows them; raises UsageError."""
    wrong = "--" in repo_id or ".." in repo_id or repo_id.endswith(".git") or len(repo_id) > MAX_REPO_ID
    if wrong or not _REPO_ID.fullmatch(repo_id):
        raise UsageError(
            f"{repo_id!r} is not a Hugging Face repo id",
            hint="it is owner/name, as in facebook/opt-125m; a revision follows after @",
        )
    return repo_id


def parse_repo(text: str, repo_type: RepoType, type_hint: str, endpoint: str | None = None) -> tuple[str, str]:
    """Read `REPO_ID[@REVISION]` or a repo's URL, which must be of `repo_type`; return repo id and revision.

    `type_hint` says what to do if the URL is of the other type; `endpoint` is HF_ENDPOINT. Raises UsageError.
    """
    if "://" in text:
        url = parse_repo_url(text, endpoint)
        if url.repo_type != repo_type:
            raise UsageError(f"this is the URL of a {url.repo_type}, not of a {repo_type}", hint=type_hint)
        repo_id, revision = check_repo_id(url.repo_id), url.revision or DEFAULT_REVISION
    else:
        repo_id, revision = split_revision(text)
    if _NOT_IN_REVISION.search(revision) or not revision.isprintable():
        raise UsageError(f"{revision!r} is not a branch, tag or commit")
    return repo_id, revision


def split_revision(text: str) -> tuple[str, str]:
    """Split `REPO_ID[@REVISION]`; the revision is `main` when none is given. Raises UsageError."""
    repo_id, at, revision = text.partition("@")
    if at and not revision:
        raise UsageError(f"{text!r} has no revision after @")
    return check_repo_id(repo_id), revision or DEFAULT_REVISION


def tag_for(repo_id: str, revision: str = DEFAULT_REVISION) -> str:
    """Return the tag that a repo is carried under; raises UsageError if it would be longer than 128 characters."""
    tag = _join(repo_id, revision)
    if len(tag) > MAX_TAG:
        raise UsageError(
            f"{repo_id}@{revision}: the tag {tag[:40]}… has {len(tag)} characters, a tag has at most {MAX_TAG}",
            hint="name the commit instead of the branch",
        )
    return tag


def repo_of(tag: str) -> tuple[str, str]:
    """Read a tag as `tag_for` writes it: the repo id and the revision, as far as a tag tells it.

    A tag of two parts is read as owner and name. Raises UsageError where that makes no repo id.
    """
    owner, dashes, rest = tag.partition("--")
    name, more, revision = rest.partition("--")
    return check_repo_id(f"{owner}/{name}" if dashes else owner), revision if more else DEFAULT_REVISION


def is_leftover(tag: str, repo_id: str, revision: str) -> bool:
    """Tell whether a whole image under `tag` only stands where a registry would not let a partial one be deleted."""
    own = _join(repo_id, revision)
    return tag != own and tag == partial_tag(own)


def partial_tag(tag: str) -> str:
    """Return the tag that names what is complete of `tag` while the rest is still being carried."""
    return tag[: MAX_TAG - len(PARTIAL)] + PARTIAL


def _join(repo_id: str, revision: str) -> str:
    tag = repo_id.replace("/", "--")
    return tag if revision == DEFAULT_REVISION else f"{tag}--{_NOT_IN_TAG.sub('_', revision)}"


@dataclass(frozen=True, slots=True)
class Namespace:
    """Where images go: `docker.io/hgfkeep`, `registry.local:5000/llm`, or a folder `oci:./carried`.

    Models lie in its repository (or OCI layout) `models`, datasets in `datasets`.
    """

    registry: str | None
    path: str

    @classmethod
    def parse(cls, text: str) -> Namespace:
        """Read a namespace; raises UsageError."""
        if text.startswith("oci:"):
            if not text[4:]:
                raise UsageError(f"{text!r} names no folder", hint="write it as oci:./carried")
            return cls(None, text[4:])
        if text.startswith((".", "/", "~")):
            raise UsageError(f"{text!r} is not a namespace", hint=f"a folder is written as oci:{text}")
        rest = text.removeprefix("docker://").rstrip("/")
        if re.match(r"[a-z-]+:(?![0-9]+(/|$))", rest):
            raise UsageError(f"{text!r} is not a namespace", hint="it is registry/path or oci:FOLDER")
        first, _, path = rest.partition("/")
        registry, path = (first, path) if is_registry(first) else (DOCKER_HUB, rest)
        namespace = cls(registry, path)
        if registry == DOCKER_HUB and not path:
            raise UsageError(f"{text!r} is not a namespace", hint="on Docker Hub it is docker.io/YOUR-NAME")
        if ":" in path or "@" in path:
            raise UsageError(
                f"{text!r} is an image, not a namespace", hint="leave the tag out: it is made from the repo id"
            )
        namespace.reference("model")
        return namespace

    def __str__(self) -> str:
        return f"oci:{self.path}" if self.registry is None else "/".join(filter(None, (self.registry, self.path)))

    def reference(self, repo_type: RepoType) -> Reference:
        """Return the repository of this type's images in the registry."""
        return Reference.parse(f"{self}/{repo_type}s")

    def layout(self, repo_type: RepoType) -> Path:
        """Return the directory of the OCI layout with this type's images."""
        return Path(self.path) / f"{repo_type}s"

    def image(self, repo_type: RepoType, tag: str) -> str:
        """Return the image of a tag as people name it."""
        repository = f"oci:{self.layout(repo_type)}" if self.registry is None else f"{self}/{repo_type}s"
        return f"{repository}:{tag}"
