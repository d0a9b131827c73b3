"""Names: repo ids, the tags of their images, and the namespace of images."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from llmstack.errors import UsageError
from llmstack.hf.hub_urls import parse_repo_url
from llmstack.hf.snapshot import REPO_TYPES, RepoType
from llmstack.oci.reference import DOCKER_HUB, Reference, is_registry

DEFAULT_REVISION = "main"
MAX_TAG = 128
# No repo id contains `--`. A revision of this name differs by its file index.
PARTIAL = "--partial"
# Of owner and of name; the Hub's own limits are 42 and 96.
MAX_REPO_NAME = 96

_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPO_ID = re.compile(rf"(?:{_NAME}/)?{_NAME}")
# git-check-ref-format(1)
_NOT_IN_REVISION = re.compile(r"[\s~^:?*\[\\]|\.\.|@\{|^[-/.]|/$|//")
# distribution-spec, "Referrers Tag Schema"; cosign adds .sig, .att or .sbom.
_REFERRER_TAG = re.compile(r"sha(?:256|512)-[0-9a-f]{64,128}(?:\.[a-z]+)?")
_NOT_IN_TAG = re.compile(r"[^A-Za-z0-9._-]")


def check_repo_id(repo_id: str) -> str:
    """Return `repo_id` if it is `owner/name` or `name` as the Hub allows them; raises UsageError."""
    if not _is_repo_id(repo_id):
        raise UsageError(
            f"{repo_id!r} is not a Hugging Face repo id",
            hint=f"write owner/name or owner/name@revision; the name has at most {MAX_REPO_NAME} characters",
        )
    return repo_id


def _is_repo_id(repo_id: str) -> bool:
    wrong = "--" in repo_id or ".." in repo_id or repo_id.endswith(".git")
    return not wrong and bool(_REPO_ID.fullmatch(repo_id)) and max(map(len, repo_id.split("/"))) <= MAX_REPO_NAME


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
    """Split `REPO_ID[@REVISION]`; the default revision is `main`. Raises UsageError."""
    repo_id, at, revision = text.partition("@")
    if at and not revision:
        raise UsageError(f"{text!r} has no revision after @")
    return check_repo_id(repo_id), revision or DEFAULT_REVISION


def tag_for(repo_id: str, revision: str = DEFAULT_REVISION) -> str:
    """Return the tag of a repo's image; raises UsageError if it would have more than 128 characters."""
    tag = tag_of(repo_id, revision)
    if len(tag) > MAX_TAG:
        shorter = len(tag_of(repo_id, "0" * 40)) <= MAX_TAG
        raise UsageError(
            f"{repo_id}@{revision}: the tag {tag[:40]}… would have {len(tag)} characters, the limit is {MAX_TAG}",
            hint="name the commit instead of the branch" if shorter else "no registry takes a longer tag",
        )
    return tag


def repo_of(tag: str) -> tuple[str, str]:
    """Return the repo id and the revision of a tag, with `_` for characters that a tag cannot contain.

    A tag of two parts is read as owner and name. Raises UsageError if the result is not a repo id.
    """
    owner, dashes, rest = tag.partition("--")
    name, more, revision = rest.partition("--")
    return check_repo_id(f"{owner}/{name}" if dashes else owner), revision if more else DEFAULT_REVISION


def is_tag_of(tag: str, repo_id: str, revision: str) -> bool:
    """Tell whether `tag` is the tag of this repo and revision, or of its partial image; never of an invalid id."""
    own = tag_of(repo_id, revision)
    return _is_repo_id(repo_id) and tag in {own, partial_tag(own)}


def type_of_path(path: str) -> RepoType | None:
    """Return the type of the images in a repository or layout named `models` or `datasets`, None for other names."""
    last = re.split("[/:]", path.rstrip("/"))[-1]
    return next((repo_type for repo_type in REPO_TYPES if last == f"{repo_type}s"), None)


def is_leftover(tag: str, repo_id: str, revision: str) -> bool:
    """Tell whether a complete image has the tag of a partial one, which a registry did not delete."""
    own = tag_of(repo_id, revision)
    return tag != own and tag == partial_tag(own)


def is_referrer_tag(tag: str) -> bool:
    """Tell whether a tag names what refers to an image by digest: signatures of cosign, referrers of oras."""
    return _REFERRER_TAG.fullmatch(tag) is not None


def partial_tag(tag: str) -> str:
    """Return the tag of the partial image while `tag` is being carried."""
    return tag[: MAX_TAG - len(PARTIAL)] + PARTIAL


def tag_of(repo_id: str, revision: str) -> str:
    """Return the tag of a repo's image, of any length."""
    tag = repo_id.replace("/", "--")
    return tag if revision == DEFAULT_REVISION else f"{tag}--{_NOT_IN_TAG.sub('_', revision)}"


@dataclass(frozen=True, slots=True)
class Namespace:
    """Where images are kept: `docker.io/hgfkeep`, `registry.local:5000/llm`, or a directory `oci:./carried`.

    Its repository (or OCI layout) `models` holds models, `datasets` holds datasets.
    """

    registry: str | None
    path: str

    @classmethod
    def parse(cls, text: str) -> Namespace:
        """Read a namespace; raises UsageError."""
        if text.startswith("oci:"):
            if not text[4:]:
                raise UsageError(f"{text!r} has no directory after oci:", hint="for example oci:./carried")
            return cls(None, text[4:])
        if text.startswith((".", "/", "~")):
            raise UsageError(f"{text!r} is not a namespace", hint=f"write a directory as oci:{text}")
        rest = text.removeprefix("docker://").rstrip("/")
        if re.match(r"[a-z-]+:(?![0-9]+(/|$))", rest):
            raise UsageError(f"{text!r} is not a namespace", hint="write registry/path or oci:DIR")
        first, _, path = rest.partition("/")
        registry, path = (first, path) if is_registry(first) else (DOCKER_HUB, rest)
        namespace = cls(registry, path)
        if registry == DOCKER_HUB and not path:
            raise UsageError(f"{text!r} is not a namespace", hint="for Docker Hub, write docker.io/YOUR-NAME")
        if ":" in path or "@" in path:
            raise UsageError(
                f"{text!r} is an image, not a namespace", hint="leave the tag out: llmstack makes it from the repo id"
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
        """Return the reference of a tag's image, with oci: for a layout."""
        repository = f"oci:{self.layout(repo_type)}" if self.registry is None else f"{self}/{repo_type}s"
        return f"{repository}:{tag}"
