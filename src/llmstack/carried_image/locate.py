"""How people name an image on the command line: a repo id in a namespace, an image, or a transport and a place.

Transports keep skopeo's names. What a text means is told by its form alone, except that a file is looked for where
`PATH:TAG` could also be a path with a colon in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from llmstack.carried_image.naming import DEFAULT_REVISION, Namespace, split_revision, tag_for
from llmstack.disk import exists
from llmstack.errors import NotFoundError, UsageError
from llmstack.hf.snapshot import RepoType
from llmstack.oci.reference import Reference, is_registry

Transport = Literal["docker", "docker-daemon", "docker-archive", "oci", "oci-archive"]
_TRANSPORTS: tuple[Transport, ...] = get_args(Transport)
_FILES = frozenset({"docker-archive", "oci-archive"})


@dataclass(frozen=True, slots=True)
class Location:
    """Where an image is: the transport, and what it calls the place.

    `place` is an image reference (docker, docker-daemon) or a path; `reference` is the image's name or tag in a file
    or a layout, empty for the only one that it holds.
    """

    transport: Transport
    place: str
    reference: str = ""

    def __str__(self) -> str:
        if self.transport == "docker":
            return self.place
        return f"{self.transport}:{self.place}" + (f":{self.reference}" if self.reference else "")


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """What a person asked for: where to look, and the repo id if that is what they named.

    `anywhere` says that they did not say where: the local Docker engine may hold it already.
    """

    location: Location
    repo_id: str | None = None
    revision: str = DEFAULT_REVISION
    anywhere: bool = False


def locate(argument: str, source: str | None, repo_type: RepoType, namespace: Namespace) -> ImageRequest:
    """Read `REPO_ID[@REVISION]|IMAGE` and the `--from` that goes with it (None: `namespace`).

    Raises UsageError, NotFoundError if a folder given as `--from` is neither a namespace nor a layout.
    """
    if transport_of(argument):
        if source is not None:
            raise UsageError(f"{argument} says where the image is, and so does --from {source}", hint="leave one out")
        return ImageRequest(parse_location(argument))
    if is_image(argument):
        return _image(argument, source)
    repo_id, revision = split_revision(argument)
    tag = tag_for(repo_id, revision)
    if source is None or transport_of(source) in {None, "docker"}:
        where = namespace if source is None else Namespace.parse(source)
        return ImageRequest(_in_namespace(where, repo_type, tag), repo_id, revision, anywhere=source is None)
    transport, place = _split(source)
    if transport == "docker-daemon":
        where = Namespace.parse(place) if place else namespace
        location = Location("docker-daemon", where.image(repo_type, tag))
    elif transport == "oci":
        location = _in_folder(place, repo_type, tag)
    else:
        location = parse_location(source)
        location = Location(location.transport, location.place, location.reference or tag)
    return ImageRequest(location, repo_id, revision)


def is_image(text: str) -> bool:
    """Tell whether `text` is an image: it has a transport, a tag, a digest, or begins with a registry."""
    name, at, digest = text.partition("@")
    return (
        transport_of(text) is not None
        or (bool(at) and digest.startswith("sha256:"))
        or ":" in name.rpartition("/")[2]
        or ("/" in name and is_registry(name.partition("/")[0]))
    )


def transport_of(text: str) -> Transport | None:
    """Return the transport that `text` begins with; None if it begins with none."""
    for transport in _TRANSPORTS:
        if text.startswith("docker://" if transport == "docker" else f"{transport}:"):
            return transport
    return None


def parse_location(text: str) -> Location:
    """Read an image with or without a transport; raises UsageError."""
    transport, place = _split(text)
    if not place:
        raise UsageError(f"{text!r} names no image after {transport}:")
    if transport in {"docker", "docker-daemon"}:
        if transport == "docker" or not place.startswith("sha256:"):
            Reference.parse(place)
        return Location(transport, place)
    path, reference = _split_path(place)
    return Location(transport, path, reference)


def _split(text: str) -> tuple[Transport, str]:
    transport = transport_of(text)
    if transport in {None, "docker"}:
        return "docker", text.removeprefix("docker://")
    return transport or "docker", text.partition(":")[2]


def _split_path(text: str) -> tuple[str, str]:
    """Split `PATH[:NAME]` at the first colon, as skopeo does, unless all of it is a path that exists."""
    path, colon, name = text.partition(":")
    return (text, "") if not colon or exists(Path(text)) else (path, name)


def _image(argument: str, source: str | None) -> ImageRequest:
    if source is None:
        return ImageRequest(parse_location(argument), anywhere=True)
    transport, place = _split(source)
    if transport == "docker-daemon" and not place:
        return ImageRequest(parse_location(f"docker-daemon:{argument}"))
    if transport in _FILES or transport == "oci":
        return ImageRequest(Location(transport, place, argument))
    raise UsageError(
        f"{argument} is an image, so --from {source} does not apply", hint="name a repo id, or leave --from out"
    )


def _in_namespace(namespace: Namespace, repo_type: RepoType, tag: str) -> Location:
    if namespace.registry is None:
        return _in_folder(namespace.path, repo_type, tag)
    return Location("docker", namespace.image(repo_type, tag))


def _in_folder(place: str, repo_type: RepoType, tag: str) -> Location:
    """Find a tag's layout in a folder that is a namespace (`models/`, `datasets/`) or a layout itself."""
    path, reference = _split_path(place)
    if exists(Path(path) / "index.json"):
        return Location("oci", path, reference or tag)
    inner = Namespace(None, path).repository(repo_type)
    if not exists(Path(inner) / "index.json"):
        raise NotFoundError(f"oci:{path} holds no {repo_type}s", hint="is it the folder that ferry --to named?")
    return Location("oci", inner, tag)
