"""Load an image from a layout or an archive into the Docker Engine, as a stream in the format of `docker save`."""

from __future__ import annotations

from collections.abc import Iterator

from llmstack.carried_image.image import Image
from llmstack.engine.docker_engine import Engine
from llmstack.errors import on_side
from llmstack.oci import tar_writer
from llmstack.oci.spec import MAX_CONFIG_SIZE, Descriptor, canonical_json
from llmstack.oci.store import read_verified, verified
from llmstack.oci.tar_writer import TarFile
from llmstack.reporting import Reporter

_REPOSITORY = "llmstack-loaded"


def load_image(engine: Engine, image: Image, reporter: Reporter) -> str:
    """Load an image and return its name in the engine, which contains its digest: it is loaded once.

    Raises IntegrityError, UnavailableError.
    """
    name = f"{_REPOSITORY}:{image.digest.hex}"
    if engine.has_image(name):
        return name
    layers = {layer.digest: layer for layer in image.layers}
    reporter.begin(f"load {image.name}", sum(layer.size for layer in layers.values()))
    try:
        engine.load(_saved(image, name, list(layers.values()), reporter), f"loading {image.name}")
    finally:
        reporter.end()
    return name


def _saved(image: Image, name: str, layers: list[Descriptor], reporter: Reporter) -> Iterator[bytes]:
    with on_side("source", image.name):
        config = read_verified(image.reader, image.manifest.config, MAX_CONFIG_SIZE)
    config_path = f"{image.manifest.config.digest.hex}.json"
    entry = {"Config": config_path, "RepoTags": [name], "Layers": [_path(layer) for layer in image.layers]}
    manifest = canonical_json([entry])
    files = [
        TarFile("manifest.json", len(manifest)),
        TarFile(config_path, len(config)),
        *(TarFile(_path(layer), layer.size) for layer in layers),
    ]
    contents = [[manifest], [config], *(_content(image, layer, reporter) for layer in layers)]
    return tar_writer.layer(files, contents)


def _path(layer: Descriptor) -> str:
    return f"{layer.digest.hex}.tar"


def _content(image: Image, layer: Descriptor, reporter: Reporter) -> Iterator[bytes]:
    task = reporter.task(layer.digest.hex[:12], layer.size)
    with on_side("source", image.name):
        for chunk in verified(image.reader.read_blob(layer), layer, image.name):
            task.advance(len(chunk))
            yield chunk
    task.done()
