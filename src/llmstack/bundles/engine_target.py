"""The Docker Engine as a target of `load`: each image is streamed to it as an archive, which names the image."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from threading import Event
from types import MappingProxyType

from llmstack.bundles.document import BundledImage, Contents, StoredBlob
from llmstack.bundles.load_plan import TargetImage
from llmstack.bundles.load_records import TagRecord
from llmstack.bundles.volume_reader import BundleReader
from llmstack.carried_image.image import for_platform, host_platform
from llmstack.carried_image.naming import Namespace
from llmstack.engine.docker_engine import Engine, engine_errors
from llmstack.errors import NotFoundError, on_side
from llmstack.oci import tar_writer
from llmstack.oci.graph import ImageGraph, read_graph
from llmstack.oci.layout import LAYOUT_FILE, REF_NAME, blob_path
from llmstack.oci.reference import Digest
from llmstack.oci.spec import INDEX_TYPES, Descriptor, Index, Manifest, RawManifest
from llmstack.oci.store import BlobReader
from llmstack.reporting import Reporter, Task
from llmstack.reporting.reporter import SilentTask

_CONTAINERD_NAME = "io.containerd.image.name"


class _NoRecords:
    """The engine keeps no record of what bundles wrote."""

    def read(self) -> MappingProxyType[str, TagRecord]:
        """Return nothing."""
        return MappingProxyType({})

    def add(self, contents: Contents, names: object) -> None:
        """Do nothing."""


class EngineTarget:
    """Loads images of this host's platform into the engine; implements what load needs of Target.

    `reader` is the bundle; None if volumes are missing.
    """

    can_stage = False

    def __init__(self, namespace: Namespace, reader: BundleReader | None) -> None:
        self._namespace = namespace
        self._reader = reader
        self._reporter: Reporter | None = None
        self.records = _NoRecords()

    def image(self, repository: str) -> str:
        """Return the name of a repository."""
        return f"docker-daemon:{self._namespace}/{repository}"

    def name_of(self, image: BundledImage) -> str:
        """Return the name of an image."""
        return f"{self.image(image.repository)}{':' if image.tag else '@'}{image.tag or image.manifest.digest}"

    def current(self, images: Sequence[BundledImage], jobs: int, cancel: Event) -> dict[str, TargetImage]:  # noqa: ARG002 - as Target
        """Return what the engine has under the names of images. What refers to an image is not loaded."""
        with on_side("destination"), Engine() as engine:
            return {image.name: self._current(engine, image) for image in images}

    def without(self, blobs: Iterable[StoredBlob], jobs: int, cancel: Event) -> list[StoredBlob]:  # noqa: ARG002 - as Target
        """Return all blobs: the engine does not tell which layers it has."""
        return list(blobs)

    def upload(
        self,
        blobs: Sequence[StoredBlob],  # noqa: ARG002 - as Target
        supply: BundleReader,  # noqa: ARG002 - as Target
        jobs: int,  # noqa: ARG002 - as Target
        cancel: Event,  # noqa: ARG002 - as Target
        reporter: Reporter,
    ) -> None:
        """Remember the reporter: blobs are sent with their image."""
        self._reporter = reporter

    def write_manifests(self, image: BundledImage, graph: ImageGraph, reader: BlobReader) -> None:
        """Do nothing: manifests are sent with their image."""

    def tag(self, image: BundledImage) -> None:
        """Send an image under its name. The engine names it after the last byte."""
        name = f"{self._namespace}/{image.repository}:{image.tag}"
        if self._reporter:
            self._reporter.begin(name, sum(blob.size for blob in self._manifest(image)[1].layers))
        try:
            with on_side("destination"), Engine() as engine, engine_errors(f"loading {name}"), engine.no_timeout():
                engine.client.images.load(self._archive(image, name))  # type: ignore[arg-type]  # it sends iterables too
        finally:
            if self._reporter:
                self._reporter.end()

    def existing(self, names: Sequence[str]) -> list[str]:  # noqa: ARG002 - as Target
        """Return nothing: images of the engine are not deleted."""
        return []

    def delete(self, names: Sequence[str], reporter: Reporter) -> None:
        """Do nothing."""

    def remove_staging(self, contents: Contents) -> None:
        """Do nothing: volumes are not kept in the engine."""

    def record_in_catalogue(self, lists: Path, images: Sequence[BundledImage]) -> None:
        """Do nothing: the catalogue lists images that others can pull."""

    def _current(self, engine: Engine, image: BundledImage) -> TargetImage:
        if image.tag is None:
            return TargetImage(image.manifest.digest)
        try:
            details = engine.inspect(f"{self._namespace}/{image.repository}:{image.tag}")
        except NotFoundError:
            return TargetImage(None)
        # Docker's own store names an image by its config, containerd's by its manifest.
        ids = {image.manifest.digest}
        if self._reader:
            raw, manifest = self._manifest(image)
            ids |= {raw.digest, manifest.config.digest}
        same = details["Id"] in ids
        return TargetImage(image.manifest.digest if same else Digest(details["Id"]), str(details.get("Created") or ""))

    def _manifest(self, image: BundledImage) -> tuple[RawManifest, Manifest]:
        """Return the manifest of this host's platform."""
        assert self._reader
        top = self._reader.manifest(image.manifest.digest)
        manifest, _ = for_platform(self._reader, top, host_platform())
        candidates = [self._reader.manifest(each.digest) for each in read_graph(self._reader, top).manifests]
        raws = [raw for raw in candidates if raw.media_type not in INDEX_TYPES and Manifest.parse(raw) == manifest]
        return raws[0], manifest

    def _archive(self, image: BundledImage, name: str) -> Generator[bytes, None, None]:
        """Yield an archive for all versions of Docker: manifest.json for its own store, index.json for containerd's."""
        assert self._reader
        raw, manifest = self._manifest(image)
        layers = list({layer.digest: layer for layer in manifest.layers}.values())
        index = Index((Descriptor(raw.media_type, raw.digest, len(raw.data), _names(name, image)),)).to_raw()
        listed = {
            "Config": blob_path(manifest.config.digest),
            "RepoTags": [name],
            "Layers": [blob_path(layer.digest) for layer in manifest.layers],
        }
        small = {
            "oci-layout": LAYOUT_FILE,
            "index.json": index.data,
            "manifest.json": json.dumps([listed]).encode(),
            blob_path(raw.digest): raw.data,
        }
        blobs = [manifest.config, *layers]
        files = [tar_writer.TarFile(path, len(data)) for path, data in small.items()]
        files += [tar_writer.TarFile(blob_path(blob.digest), blob.size) for blob in blobs]
        contents = [*([data] for data in small.values()), *(self._counted(blob) for blob in blobs)]
        yield from tar_writer.layer(files, contents, ("blobs", "blobs/sha256"))

    def _counted(self, blob: Descriptor) -> Generator[bytes, None, None]:
        assert self._reader
        task: Task = self._reporter.task(blob.digest.hex[:12], blob.size) if self._reporter else SilentTask()
        try:
            with on_side("source"):
                for chunk in self._reader.verified_blob(blob):
                    task.advance(len(chunk))
                    yield chunk
        finally:
            task.done()


def _names(name: str, image: BundledImage) -> dict[str, str]:
    return {_CONTAINERD_NAME: name, REF_NAME: image.tag or ""}
