"""Build the configs, manifests and index of a carried image from its layers; pure and deterministic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmstack.carried_image import annotation_keys
from llmstack.carried_image.file_index import FileIndex
from llmstack.carried_image.spdx import spdx_expression
from llmstack.ferrying.base_image import BaseImage, BasePlatform
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
class AssembledImage:
    """The config blob and manifest of each platform, and the image index that lists the manifests."""

    configs: tuple[bytes, ...]
    manifests: tuple[RawManifest, ...]
    index: RawManifest


def assemble(index: FileIndex, base: BaseImage, layers: Sequence[Descriptor]) -> AssembledImage:
    """Return the image of `layers` on `base`; the last layer holds the file index."""
    annotations = image_annotations(index, base)
    configs, manifests = [], []
    for entry in base.platforms:
        config = canonical_json(_config(entry, index, layers, annotations))
        base_layers = tuple(replace(layer, media_type=_oci_type(layer), annotations={}) for layer in entry.layers)
        manifest = Manifest(Descriptor(CONFIG, Digest.of(config), len(config)), (*base_layers, *layers), annotations)
        configs.append(config)
        manifests.append(manifest.to_raw())
    descriptors = tuple(
        replace(manifest.descriptor, platform=entry.platform)
        for entry, manifest in zip(base.platforms, manifests, strict=True)
    )
    return AssembledImage(tuple(configs), tuple(manifests), Index(descriptors, annotations).to_raw())


def image_annotations(index: FileIndex, base: BaseImage) -> dict[str, str]:
    """Return the annotations of manifests and index, which are also the config's labels (image-spec annotations.md).

    The source is always the page on huggingface.co: a commit fetched from a mirror gives the same image. Local files
    have no source.
    """
    annotations = {
        annotation_keys.TITLE: index.repo_id,
        annotation_keys.SOURCE: repo_url(index.repo_id, index.repo_type),
        annotation_keys.COMMIT: index.commit,
        annotation_keys.REVISION: index.revision,
        annotation_keys.CREATED: index.created,
        annotation_keys.REPO_ID: index.repo_id,
        annotation_keys.REPO_TYPE: index.repo_type,
        annotation_keys.FORMAT: index.format,
    }
    if index.local:
        del annotations[annotation_keys.SOURCE]
    if index.incomplete:
        annotations[annotation_keys.INCOMPLETE] = "true"
    if any(file.is_split for file in index.files):
        annotations[annotation_keys.SPLIT] = "true"
    if index.license:
        annotations[annotation_keys.LICENSE] = index.license
    if expression := spdx_expression(index.license):
        annotations[annotation_keys.LICENSES] = expression
    if base.name:
        annotations[annotation_keys.BASE_NAME] = base.name
    if base.digest:
        annotations[annotation_keys.BASE_DIGEST] = base.digest
    return annotations


def _config(
    entry: BasePlatform, index: FileIndex, layers: Sequence[Descriptor], labels: dict[str, str]
) -> dict[str, Any]:
    raw = entry.config.raw
    container: dict[str, Any] = dict(raw.get("config") or {})
    container["Labels"] = dict(sorted({**entry.config.labels, **labels}.items()))
    os_details = {name: raw[name] for name in ("os.version", "os.features") if name in raw}
    return {
        "created": index.created,
        **entry.platform.to_json(),
        **os_details,
        "config": container,
        "rootfs": {"type": "layers", "diff_ids": [*entry.config.diff_ids, *(layer.digest for layer in layers)]},
        "history": [*_base_history(entry), *(_history(index, layer) for layer in layers)],
    }


def _base_history(entry: BasePlatform) -> list[dict[str, Any]]:
    """Return the base's history if it matches its layers, else one entry per layer: Docker pairs them up."""
    history = entry.config.raw.get("history")
    if isinstance(history, list):
        steps = [step for step in history if isinstance(step, dict)]
        if sum(1 for step in steps if not step.get("empty_layer")) == len(entry.layers):
            return steps
    return [{"created_by": "base image"} for _ in entry.layers]


def _history(index: FileIndex, layer: Descriptor) -> dict[str, Any]:
    annotations = layer.annotations
    if annotation_keys.LAYER in annotations:
        content = "file index"
    elif annotation_keys.PART_OF in annotations:
        content = f"part of {annotations[annotation_keys.PART_OF]}"
    else:
        content = annotations.get(annotation_keys.FILEPATH, "small files")
    return {"created": index.created, "created_by": f"llmstack ferry {index.repo_id}@{index.commit[:12]}: {content}"}


def _oci_type(layer: Descriptor) -> str:
    return _OCI_LAYER.get(layer.media_type, layer.media_type)
