"""Read the files of an image in the Docker Engine: they are streamed from a container that is never started.

`docker save` is not used: it first writes the complete image to the engine's disk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llmstack.engine.docker_engine import Engine
from llmstack.errors import NotFoundError
from llmstack.oci.reference import Digest
from llmstack.oci.tar_reader import TarReader


@dataclass(frozen=True)
class EngineImage:
    """An image in the engine, and a container to read from. Created by `open_engine_image`."""

    engine: Engine
    image: str
    container: str

    @property
    def name(self) -> str:
        """The image's name with skopeo's transport: `docker-daemon:IMAGE`."""
        return f"docker-daemon:{self.image}"

    @cached_property
    def details(self) -> dict[str, Any]:
        """The details of the image, as `docker image inspect` prints them."""
        return self.engine.inspect(self.image)

    @property
    def labels(self) -> dict[str, str]:
        """The labels of its config."""
        return (self.details.get("Config") or {}).get("Labels") or {}

    @property
    def top_layer(self) -> Digest | None:
        """The diff id of the top layer."""
        layers = (self.details.get("RootFS") or {}).get("Layers") or []
        return Digest.parse(layers[-1]) if layers else None

    @contextlib.contextmanager
    def open_tar(self, path: str) -> Iterator[TarReader]:
        """Read a file or directory as a tar; raises NotFoundError if the path does not exist."""
        with contextlib.closing(self._chunks(path)) as chunks:
            yield TarReader(chunks, f"{self.name}: the engine's answer")

    def read_file(self, path: str, limit: int) -> bytes | None:
        """Return a file's bytes; None if it does not exist or is larger than `limit` bytes."""
        try:
            with self.open_tar(path) as tar:
                for entry in tar:
                    if entry.kind == "file" and entry.size <= limit:
                        return b"".join(tar.content())
        except NotFoundError:
            pass
        return None

    def _chunks(self, path: str) -> Generator[bytes, None, None]:
        return self.engine.read_tar(self.container, path)


@contextlib.contextmanager
def open_engine_image(image: str) -> Iterator[EngineImage]:
    """Open an image in the engine; its container is removed at the end.

    Raises NotFoundError, UnavailableError.
    """
    with Engine() as engine:
        engine.inspect(image)
        with engine.container(image) as container:
            yield EngineImage(engine, image, container)
