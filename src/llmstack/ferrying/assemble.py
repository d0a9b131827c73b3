"""From layers to documents: configs, manifests and the index of a carried image. Pure, and the same every time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmstack.carried_image import annotation_keys
from llmstack.carried_image.file_index import FileIndex
from llmstack.ferrying.base_image import Base, BasePlatform
from llmstack.hf.hub_urls import repo_url
from llmstack.oci.reference import Digest
from llmstack.oci.spec import (
    CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_TAR,
    LAYER_GZIP,
    LAYER_TAR,
    Descriptor,
    Index,
    Manifest,
    RawManifest,
    canonical_json,
)

_OCI_LAYER = {DOCKER_LAYER_GZIP: LAYER_GZIP, DOCKER_LAYER_TAR: LAYER_TAR}


@dataclass(frozen=True, slots=True)
class Assembled:
    """The documents of a carried image: per platform a config blob and a manifest, and the index over them."""

    configs: tuple[bytes, ...]
    manifests: tuple[RawManifest, ...]
    index: RawManifest


def assemble(index: FileIndex, base: Base, layers: Sequence[Descriptor]) -> Assembled:
    """Return the documents of the image that has these data layers, the file index last, on `base`."""
    notes = image_annotations(index, base)
    configs, manifests = [], []
    for entry in base.platforms:
        config = canonical_json(_config(entry, index, layers, notes))
        below = tuple(replace(layer, media_type=_oci_type(layer), annotations={}) for layer in entry.layers)
        manifest = Manifest(Descriptor(CONFIG, Digest.of(config), len(config)), (*below, *layers), notes)
        configs.append(config)
        manifests.append(manifest.to_raw())
    listed = tuple(
        replace(document.descriptor, platform=entry.platform)
        for entry, document in zip(base.platforms, manifests, strict=True)
    )
    return Assembled(tuple(configs), tuple(manifests), Index(listed, notes).to_raw())


def image_annotations(index: FileIndex, base: Base) -> dict[str, str]:
    """Return what manifests, the index and the config's labels say of a carried image (image-spec annotations.md).

    The source is always the public hub's page: the same commit fetched through a mirror gives the same image.
    """
    notes = {
        annotation_keys.TITLE: index.repo_id,
        annotation_keys.SOURCE: repo_url(index.repo_id, index.repo_type),
        annotation_keys.COMMIT: index.commit,
        annotation_keys.REVISION: index.revision,
        annotation_keys.CREATED: index.created,
        annotation_keys.REPO_ID: index.repo_id,
        annotation_keys.REPO_TYPE: index.repo_type,
        annotation_keys.FORMAT: index.format,
    }
    if index.incomplete:
        notes[annotation_keys.INCOMPLETE] = "true"
    if index.license:
        notes[annotation_keys.LICENSES] = index.license
    if base.name:
        notes[annotation_keys.BASE_NAME] = base.name
    if base.digest:
        notes[annotation_keys.BASE_DIGEST] = base.digest
    return notes


def _config(
    entry: BasePlatform, index: FileIndex, layers: Sequence[Descriptor], labels: dict[str, str]
) -> dict[str, Any]:
    raw = entry.config.raw
    run: dict[str, Any] = dict(raw.get("config") or {})
    run["Labels"] = dict(sorted({**entry.config.labels, **labels}.items()))
    kept = {name: raw[name] for name in ("os.version", "os.features") if name in raw}
    return {
        "created": index.created,
        **entry.platform.to_json(),
        **kept,
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [*entry.config.diff_ids, *(layer.digest for layer in layers)]},
        "history": [*_base_history(entry), *(_history(index, layer) for layer in layers)],
    }


def _base_history(entry: BasePlatform) -> list[dict[str, Any]]:
    """Return the base's history where it agrees with its layers, else a line per layer: readers pair them up."""
    history = entry.config.raw.get("history")
    if isinstance(history, list):
        lines = [line for line in history if isinstance(line, dict)]
        if sum(1 for line in lines if not line.get("empty_layer")) == len(entry.layers):
            return lines
    return [{"created_by": "base image"} for _ in entry.layers]


def _history(index: FileIndex, layer: Descriptor) -> dict[str, Any]:
    notes = layer.annotations
    what = "file index" if annotation_keys.LAYER in notes else notes.get(annotation_keys.FILEPATH, "small files")
    if annotation_keys.PART_OF in notes:
        what = f"part of {notes[annotation_keys.PART_OF]}"
    return {"created": index.created, "created_by": f"llmstack ferry {index.repo_id}@{index.commit[:12]}: {what}"}


def _oci_type(layer: Descriptor) -> str:
    return _OCI_LAYER.get(layer.media_type, layer.media_type)
