"""A connection to the Docker Engine through docker-py, with its errors as LlmstackErrors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import urllib3

from llmstack.disk import exists
from llmstack.errors import LlmstackError, NotFoundError, UnavailableError
from llmstack.oci.spec import Platform

if TYPE_CHECKING:
    from docker.errors import APIError

_DEFAULT_HOST = "unix:///var/run/docker.sock"
# In seconds, for an answer and between its chunks. A busy engine may take long to read a large directory.
_TIMEOUT = 300
_QUICK_TIMEOUT = 2


class Engine:
    """A connection to the engine at DOCKER_HOST. Close it after use."""

    def __init__(self, timeout: float = _TIMEOUT) -> None:
        """Connect and agree on an API version; raises UnavailableError."""
        # docker-py takes as long to import as everything else: import it only where it is used.
        import docker

        with engine_errors():
            try:
                self.client = docker.from_env(timeout=int(timeout))
            except ValueError as error:
                raise UnavailableError(
                    f"connecting to the Docker Engine: invalid DOCKER_HOST {engine_host()}: {error}",
                    hint="use a URL such as unix:///var/run/docker.sock or tcp://HOST:PORT",
                ) from error

    def __enter__(self) -> Engine:
        """Return the engine itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.client.close()

    @contextlib.contextmanager
    def no_timeout(self) -> Iterator[None]:
        """Wait for answers without a timeout, as docker-py does for builds."""
        api = self.client.api
        timeout = api.timeout
        api.timeout = None  # type: ignore[assignment]  # missing in its types
        try:
            yield
        finally:
            api.timeout = timeout

    def has_image(self, image: str) -> bool:
        """Tell whether the engine has an image; raises UnavailableError."""
        try:
            self.inspect(image)
        except NotFoundError:
            return False
        return True

    def inspect(self, image: str) -> dict[str, Any]:
        """Return the details of an image, as `docker image inspect` prints them; raises NotFoundError."""
        from docker.errors import ImageNotFound

        with engine_errors(f"inspecting the image {image}"):
            try:
                found: dict[str, Any] = self.client.images.get(image).attrs
            except ImageNotFound as error:
                raise NotFoundError(
                    f"image {image}: not found in the Docker Engine", hint="list the images: docker image ls"
                ) from error
        return found

    def load(self, chunks: Iterable[bytes], what: str) -> None:
        """Load a tar in the format of `docker save`; `what` is the operation for messages. Raises UnavailableError."""
        with self.no_timeout(), engine_errors(what):
            events = self.client.api.load_image(chunks)  # type: ignore[no-untyped-call]  # missing in its types
            for item in events:
                if error := item.get("error"):
                    raise engine_failed(what, str(error))

    def platform(self, image: str) -> Platform:
        """Return the platform of an image; raises NotFoundError."""
        found = self.inspect(image)
        return Platform(found["Os"], found["Architecture"], found.get("Variant") or None)

    @contextlib.contextmanager
    def container(self, image: str) -> Iterator[str]:
        """Create a container without starting it, and remove it at the end. Yields its id."""
        with engine_errors(f"creating a container of {image}"):
            # An image without a command needs one. It is never run, so it need not exist.
            created = self.client.api.create_container(image, command=["-"], labels={"dev.llmstack": "extract"})
        try:
            yield created["Id"]
        finally:
            with engine_errors(f"removing the container of {image}"):
                self.client.api.remove_container(created["Id"], force=True, v=True)

    def read_tar(self, container: str, path: str) -> Generator[bytes, None, None]:
        """Yield a tar of a file or directory in a container; entry names start with the last component of `path`.

        Raises NotFoundError if the path does not exist, UnavailableError.
        """
        with engine_errors(f"reading {path}"):
            chunks, _ = self.client.api.get_archive(container, path)
            try:
                yield from chunks
            finally:
                chunks.close()


def local_engine_has(image: str) -> bool:
    """Tell whether a Docker Engine answers quickly and has an image. Any error means no."""
    host = engine_host()
    if host.startswith("unix://") and not exists(Path(host.removeprefix("unix://"))):
        return False
    try:
        with Engine(_QUICK_TIMEOUT) as engine:
            return engine.has_image(image)
    except LlmstackError:
        return False


@contextlib.contextmanager
def engine_errors(what: str = "") -> Iterator[None]:
    """Turn errors of docker-py into LlmstackErrors. `what` is the operation and its object; empty: to connect."""
    from docker.errors import APIError, DockerException, NotFound

    prefix = f"{what}: " if what else ""
    try:
        yield
    except NotFound as error:
        raise NotFoundError(f"{prefix}{_explanation(error)}") from error
    except APIError as error:
        raise engine_failed(what, _explanation(error)) from error
    except (DockerException, OSError, urllib3.exceptions.HTTPError) as error:
        host = engine_host()
        raise UnavailableError(
            f"{prefix}the Docker Engine at {host} does not answer: {_cause(error)}",
            hint="start it (systemctl start docker), or set DOCKER_HOST to another one",
        ) from error


def engine_failed(what: str, answer: str) -> UnavailableError:
    """Return the error for what the engine answered to an operation; its hint tells what to do about a full disk."""
    hint = "free some space on the disk of the Docker Engine: docker system df, docker system prune"
    message = f"{what}: the Docker Engine answered: {answer}".removeprefix(": ")
    return UnavailableError(message, hint=hint if is_disk_full_answer(answer) else None)


def is_disk_full_answer(answer: str) -> bool:
    """Tell whether the engine has answered that its disk is full."""
    return "no space left on device" in answer


def engine_host() -> str:
    """Return the address of the Docker Engine."""
    return os.environ.get("DOCKER_HOST") or _DEFAULT_HOST


def _explanation(error: APIError) -> str:
    # str(error) shows the URL, which holds the build arguments, for example a proxy's password.
    answer = error.response
    return (error.explanation or "").strip() or (f"{answer.status_code} {answer.reason}" if answer is not None else "")


def _cause(error: BaseException) -> str:
    """Return the innermost cause: docker-py, requests and urllib3 wrap each other's errors, and show the URL."""
    reason, cause = "", error
    while True:
        if isinstance(cause, OSError) and cause.strerror:
            reason = cause.strerror
        inner = cause.__cause__ or cause.__context__
        if inner is None:
            return reason or str(cause)[:200]
        cause = inner
