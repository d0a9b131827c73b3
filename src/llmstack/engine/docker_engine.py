"""The Docker Engine's API through docker-py: one connection, and what its errors mean."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import urllib3

from llmstack.disk import exists
from llmstack.errors import LlmstackError, NotFoundError, UnavailableError
from llmstack.oci.spec import Platform

if TYPE_CHECKING:
    from docker.errors import APIError

_DEFAULT_HOST = "unix:///var/run/docker.sock"
# For an answer, and between two chunks of one: a busy engine may take its time over a large folder.
_TIMEOUT = 300
_QUICK = 2


class Engine:
    """A connection to the engine that DOCKER_HOST names; close it after use."""

    def __init__(self, timeout: float = _TIMEOUT) -> None:
        """Connect and agree on an API version; raises UnavailableError."""
        # docker-py takes as long to import as all the rest: only who talks to an engine pays for it.
        import docker

        with engine_errors("connecting to the Docker engine"):
            try:
                self.client = docker.from_env(timeout=int(timeout))
            except ValueError as error:
                raise UnavailableError(
                    f"connecting to the Docker engine: DOCKER_HOST is {_host()}, which is no address ({error})",
                    hint="write it as unix:///var/run/docker.sock or tcp://HOST:PORT",
                ) from error

    def __enter__(self) -> Engine:
        """Return the engine itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.client.close()

    @contextlib.contextmanager
    def unhurried(self) -> Iterator[None]:
        """Wait for answers in here however long they take, as docker-py does for those of a build."""
        api = self.client.api
        timeout = api.timeout
        api.timeout = None  # type: ignore[assignment]  # which its types do not know
        try:
            yield
        finally:
            api.timeout = timeout

    def has_image(self, image: str) -> bool:
        """Tell whether the engine holds an image; raises UnavailableError."""
        try:
            self.inspect(image)
        except NotFoundError:
            return False
        return True

    def inspect(self, image: str) -> dict[str, Any]:
        """Return what the engine says of an image (`docker image inspect`); raises NotFoundError."""
        with engine_errors(f"looking for the image {image}", "see which there are: docker image ls"):
            found: dict[str, Any] = self.client.images.get(image).attrs
        return found

    def platform(self, image: str) -> Platform:
        """Return what an image that the engine holds is for; raises NotFoundError."""
        found = self.inspect(image)
        return Platform(found["Os"], found["Architecture"], found.get("Variant") or None)

    @contextlib.contextmanager
    def container(self, image: str) -> Iterator[str]:
        """Create a container of an image, never started, and remove it in the end; yields its id."""
        with engine_errors(f"creating a container of {image}"):
            # An image without a command needs one, be it one that does not exist.
            created = self.client.api.create_container(image, command=["-"], labels={"dev.llmstack": "extract"})
        try:
            yield created["Id"]
        finally:
            with engine_errors(f"removing the container of {image}"):
                self.client.api.remove_container(created["Id"], force=True, v=True)

    def read_tar(self, container: str, path: str) -> Generator[bytes, None, None]:
        """Yield a tar of a file or a folder in a container; its entries' names begin with the last part of `path`.

        Raises NotFoundError where there is no such path, UnavailableError.
        """
        with engine_errors(f"reading {path}"):
            chunks, _ = self.client.api.get_archive(container, path)
            try:
                yield from chunks
            finally:
                chunks.close()


def local_engine_holds(image: str) -> bool:
    """Tell whether a Docker engine answers at once and holds an image; any trouble with it means no."""
    host = _host()
    if host.startswith("unix://") and not exists(Path(host.removeprefix("unix://"))):
        return False
    try:
        with Engine(_QUICK) as engine:
            return engine.has_image(image)
    except LlmstackError:
        return False


@contextlib.contextmanager
def engine_errors(what: str, hint: str | None = None) -> Iterator[None]:
    """Turn what docker-py raises into errors that a person can act on; `what` is the operation and its object."""
    from docker.errors import APIError, DockerException, NotFound

    try:
        yield
    except NotFound as error:
        raise NotFoundError(f"{what}: {_explanation(error)}", hint=hint) from error
    except APIError as error:
        raise UnavailableError(f"{what}: the Docker engine answers: {_explanation(error)}") from error
    except (DockerException, OSError, urllib3.exceptions.HTTPError) as error:
        host = _host()
        raise UnavailableError(
            f"{what}: the Docker engine at {host} does not answer ({_cause(error)})",
            hint="start it (systemctl start docker), or name another one in DOCKER_HOST",
        ) from error


def _host() -> str:
    return os.environ.get("DOCKER_HOST") or _DEFAULT_HOST


def _explanation(error: APIError) -> str:
    # The error's own text names the address, in which a build's arguments stand: a proxy's password, say.
    answer = error.response
    return (error.explanation or "").strip() or (f"{answer.status_code} {answer.reason}" if answer is not None else "")


def _cause(error: BaseException) -> str:
    """Return the innermost reason: docker-py, requests and urllib3 wrap one another, and name the address."""
    reason, cause = "", error
    while True:
        if isinstance(cause, OSError) and cause.strerror:
            reason = cause.strerror
        inner = cause.__cause__ or cause.__context__
        if inner is None:
            return reason or str(cause)[:200]
        cause = inner
