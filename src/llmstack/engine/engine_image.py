"""An image that the Docker engine holds, as a source of files: they are streamed out of a container never started.

`docker save` is not used: it would write the whole image to the engine's disk first, and unsorted.
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
    """An image in the engine, with a container of it to read from; made by `open_engine_image`."""

    engine: Engine
    image: str
    container: str

    @property
    def name(self) -> str:
        """Return the image as skopeo names it: `docker-daemon:IMAGE`."""
        return f"docker-daemon:{self.image}"

    @cached_property
    def details(self) -> dict[str, Any]:
        """What the engine says of the image."""
        return self.engine.inspect(self.image)

    @property
    def labels(self) -> dict[str, str]:
        """The labels of its config."""
        return (self.details.get("Config") or {}).get("Labels") or {}

    @property
    def top_layer(self) -> Digest | None:
        """The digest of the uppermost layer's tar."""
        layers = (self.details.get("RootFS") or {}).get("Layers") or []
        return Digest.parse(layers[-1]) if layers else None

    @contextlib.contextmanager
    def open_tar(self, path: str) -> Iterator[TarReader]:
        """Read a file or a folder as a tar; raises NotFoundError where the image has no such path."""
        with contextlib.closing(self._chunks(path)) as chunks:
            yield TarReader(chunks, f"{self.name}: the engine's answer")

    def read_file(self, path: str, limit: int) -> bytes | None:
        """Return a small file; None where there is none, or it is larger than `limit` bytes."""
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
    """Open an image that the engine holds; its container is removed in any case.

    Raises NotFoundError, UnavailableError.
    """
    with Engine() as engine:
        engine.inspect(image)
        with engine.container(image) as container:
            yield EngineImage(engine, image, container)
