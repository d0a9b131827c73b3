"""Read what a person typed for an image: a repo id, a repo's URL, an image reference, or a transport and a path.

Each string is parsed here, once, into a typed location. Transports have skopeo's names. The file system is only asked
where `PATH:TAG` could also be a path with a colon, and whether a directory is a namespace or a layout.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from llmstack.carried_image.naming import DEFAULT_REVISION, Namespace, parse_repo, tag_for, type_of_path
from llmstack.disk import exists
from llmstack.errors import NotFoundError, UsageError
from llmstack.hf.hub_urls import ENDPOINT_VARIABLE
from llmstack.hf.snapshot import RepoType
from llmstack.oci.reference import Reference, is_registry

ArchiveTransport = Literal["docker-archive", "oci-archive"]
_ARCHIVES: tuple[ArchiveTransport, ...] = get_args(ArchiveTransport)
_DOCKER, _ENGINE, _LAYOUT = "docker://", "docker-daemon:", "oci:"
_DIRECTORY_HINT = "is it the directory that ferry --to named?"
_PREFIXES = (_DOCKER, _ENGINE, _LAYOUT, *(f"{transport}:" for transport in _ARCHIVES))


@dataclass(frozen=True, slots=True)
class RegistryLocation:
    """An image in a registry; `name` is the reference as typed."""

    name: str
    reference: Reference

    @property
    def tag(self) -> str:
        """The tag; empty if a digest is given."""
        return "" if self.reference.digest else self.reference.locator

    @property
    def repo_type(self) -> RepoType | None:
        """The type of the images in the repository, if its name tells."""
        return type_of_path(self.reference.repository)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class EngineLocation:
    """An image in the local Docker Engine: a reference, or an image id."""

    name: str

    @property
    def tag(self) -> str:
        """The tag; empty if a digest or an image id is given."""
        if self.name.startswith("sha256:"):
            return ""
        reference = Reference.parse(self.name)
        return "" if reference.digest else reference.locator

    @property
    def repo_type(self) -> RepoType | None:
        """The type of the images in the repository, if its name tells."""
        return None if self.name.startswith("sha256:") else type_of_path(Reference.parse(self.name).repository)

    def __str__(self) -> str:
        return f"{_ENGINE}{self.name}"


@dataclass(frozen=True, slots=True)
class LayoutLocation:
    """A directory with an OCI layout, and a tag or a digest in it; empty for the only image."""

    path: str
    reference: str = ""

    @property
    def tag(self) -> str:
        """The tag; empty if a digest or nothing is given."""
        return "" if self.reference.startswith("sha256:") else self.reference

    @property
    def repo_type(self) -> RepoType | None:
        """The type of the images in the layout, if its name tells."""
        return type_of_path(self.path)

    def __str__(self) -> str:
        return f"{_LAYOUT}{self.path}" + (f":{self.reference}" if self.reference else "")


@dataclass(frozen=True, slots=True)
class ArchiveLocation:
    """An archive file, and a tag, a name or a digest in it; empty for the only image."""

    transport: ArchiveTransport
    path: str
    reference: str = ""

    @property
    def tag(self) -> str:
        """The tag; empty if a digest or nothing is given."""
        return "" if self.reference.startswith("sha256:") else self.reference.rpartition(":")[2]

    @property
    def repo_type(self) -> RepoType | None:
        """The type of the images in the repository that `docker save` read, if its name tells."""
        return type_of_path(self.reference.rpartition(":")[0])

    def __str__(self) -> str:
        return f"{self.transport}:{self.path}" + (f":{self.reference}" if self.reference else "")


Location = RegistryLocation | EngineLocation | LayoutLocation | ArchiveLocation


@dataclass(frozen=True, slots=True)
class EngineNamespace:
    """The local Docker Engine; its images are named as in `namespace`, None for the configured one."""

    namespace: Namespace | None


# What `--from` can name. The path of a LayoutLocation may also be a namespace's directory.
ImageSource = Namespace | EngineNamespace | LayoutLocation | ArchiveLocation


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """The image that was asked for, with the repo if a repo was named.

    `source` is `--from`, if it was given with a repo id. `anywhere` means that no transport and no `--from` was given:
    the local Docker Engine may hold the image.
    """

    location: Location
    repo_id: str | None = None
    repo_type: RepoType = "model"
    revision: str = DEFAULT_REVISION
    source: str | None = None
    anywhere: bool = False


def locate(argument: str, source: str | None, repo_type: RepoType, namespace: Namespace) -> ImageRequest:
    """Read `REPO_ID[@REVISION]|IMAGE` and its `--from` (None: `namespace`).

    Raises UsageError, NotFoundError if the directory in `--from` is neither a namespace nor a layout.
    """
    if has_transport(argument):
        if source is not None:
            raise UsageError(f"both {argument} and --from {source} say where the image is", hint="leave one out")
        return ImageRequest(parse_location(argument))
    if is_image(argument):
        return _locate_image(argument, source)
    hint = f"add --type {'model' if repo_type == 'dataset' else 'dataset'}"
    repo_id, revision = parse_repo(argument, repo_type, hint, os.environ.get(ENDPOINT_VARIABLE))
    origin = namespace if source is None else parse_source(source)
    location = _in_source(origin, repo_type, tag_for(repo_id, revision), namespace)
    return ImageRequest(location, repo_id, repo_type, revision, source, anywhere=source is None)


def parse_location(text: str) -> Location:
    """Read an image with or without a transport; raises UsageError."""
    if text.startswith(_ENGINE):
        name = _not_empty(text.removeprefix(_ENGINE), text)
        if not name.startswith("sha256:"):
            Reference.parse(name)
        return EngineLocation(name)
    if location := _parse_path(text):
        return location
    name = _not_empty(text.removeprefix(_DOCKER), text)
    return RegistryLocation(name, Reference.parse(name))


def parse_source(text: str) -> ImageSource:
    """Read the value of `--from`; raises UsageError."""
    if text.startswith(_ENGINE):
        rest = text.removeprefix(_ENGINE)
        return EngineNamespace(Namespace.parse(rest) if rest else None)
    return _parse_path(text) or Namespace.parse(text)


def require_directory(path: str) -> None:
    """Raise NotFoundError unless the directory of a namespace or a layout exists."""
    if not exists(Path(path)):
        raise NotFoundError(f"{_LAYOUT}{path} not found", hint=_DIRECTORY_HINT)


def has_transport(text: str) -> bool:
    """Tell whether `text` starts with a transport."""
    return text.startswith(_PREFIXES)


def is_image(text: str) -> bool:
    """Tell whether `text` is an image: it has a transport, a tag or a digest, or starts with a registry."""
    name, at, digest = text.partition("@")
    if has_transport(text):
        return True
    if "://" in text:
        return False
    return (
        (bool(at) and digest.startswith("sha256:"))
        or ":" in name.rpartition("/")[2]
        or ("/" in name and is_registry(name.partition("/")[0]))
    )


def _parse_path(text: str) -> LayoutLocation | ArchiveLocation | None:
    """Read `oci:PATH[:TAG]` or an archive; None for anything else."""
    if text.startswith(_LAYOUT):
        return LayoutLocation(*_split_path(_not_empty(text.removeprefix(_LAYOUT), text)))
    for transport in _ARCHIVES:
        if text.startswith(f"{transport}:"):
            return ArchiveLocation(transport, *_split_path(_not_empty(text.removeprefix(f"{transport}:"), text)))
    return None


def _not_empty(rest: str, text: str) -> str:
    if not rest:
        raise UsageError(f"{text!r} has nothing after the transport", hint="for example oci:./carried")
    return rest


def _split_path(text: str) -> tuple[str, str]:
    """Split `PATH[:TAG]` at the first colon, as skopeo does, unless all of it is an existing path."""
    path, _, tag = text.partition(":")
    return (text, "") if not tag or exists(Path(text)) else (path, tag)


def _locate_image(argument: str, source: str | None) -> ImageRequest:
    if source is None:
        return ImageRequest(parse_location(argument), anywhere=True)
    if source == _ENGINE:
        return ImageRequest(parse_location(f"{_ENGINE}{argument}"))
    if location := _parse_path(source):
        return ImageRequest(replace(location, reference=argument))
    raise UsageError(
        f"{argument} is an image, so --from {source} does not apply", hint="name a repo id, or leave --from out"
    )


def _in_source(source: ImageSource, repo_type: RepoType, tag: str, default: Namespace) -> Location:
    """Return where a source has the image of a tag."""
    if isinstance(source, ArchiveLocation):
        return replace(source, reference=source.reference or tag)
    if isinstance(source, EngineNamespace):
        return EngineLocation((source.namespace or default).image(repo_type, tag))
    if isinstance(source, LayoutLocation):
        return _in_directory(source.path, source.reference, repo_type, tag)
    if source.registry is None:
        return _in_directory(source.path, "", repo_type, tag)
    name = source.image(repo_type, tag)
    return RegistryLocation(name, replace(source.reference(repo_type), tag=tag))


def _in_directory(path: str, named: str, repo_type: RepoType, tag: str) -> LayoutLocation:
    """Find the layout in a directory that is a layout itself, or a namespace (`models/`, `datasets/`)."""
    if exists(Path(path) / "index.json"):
        return LayoutLocation(path, named or tag)
    layout = Namespace(None, path).layout(repo_type)
    require_directory(path)
    if not exists(layout / "index.json"):
        raise NotFoundError(f"oci:{path} holds no {repo_type}s", hint=_DIRECTORY_HINT)
    return LayoutLocation(str(layout), tag)
