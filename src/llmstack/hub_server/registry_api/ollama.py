"""Manifests of ollama from a file index, with what llama.cpp and RamaLama read from them on the Hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmstack.carried_image.file_index import IndexedFile
from llmstack.carried_image.gguf_files import GgufModel
from llmstack.hf.snapshot import HubFile
from llmstack.hub_server.registry_api.artifact import Artifact, make_artifact
from llmstack.hub_server.registry_api.chat_templates import go_template
from llmstack.hub_server.registry_api.model_facts import ModelFacts, short_number
from llmstack.oci.reference import Digest
from llmstack.oci.spec import DOCKER_CONFIG, DOCKER_MANIFEST, Descriptor, RawManifest, canonical_json

_LAYER = "application/vnd.ollama.image.{}"


@dataclass(frozen=True, slots=True)
class Customization:
    """The files of a repo that configure ollama: `template`, `params` and `system`, and a license; None if missing."""

    template: IndexedFile | None = None
    params: IndexedFile | None = None
    system: IndexedFile | None = None
    license: IndexedFile | None = None


def ollama_artifact(
    model: GgufModel[IndexedFile], projector: IndexedFile | None, custom: Customization, facts: ModelFacts
) -> Artifact:
    """Return the artifact of a model; the bytes depend on the arguments only. All files must have a known hash.

    The template comes from the GGUF file if the repo has none.
    """
    layers = [_file_layer("model", file) for file in model.files]
    if projector:
        layers.append(_file_layer("projector", projector))
    generated: list[bytes] = []
    known = go_template(facts.chat_template or "")
    if custom.template:
        layers.append(_file_layer("template", custom.template))
    elif known:
        layers.append(_layer("template", known.text.encode(), generated))
    if custom.params:
        layers.append(_file_layer("params", custom.params))
    elif known and not custom.template:
        layers.append(_layer("params", canonical_json({"stop": list(known.stop)}), generated))
    for kind, file in (("system", custom.system), ("license", custom.license)):
        if file:
            layers.append(_file_layer(kind, file))
    config = canonical_json(_config(facts, layers))
    value = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": Descriptor(DOCKER_CONFIG, Digest.of(config), len(config)).to_json(),
        "layers": [layer.to_json() for layer in layers],
        "ggufFile": _hub_file(model.files[0]),
    }
    if projector:
        value["mmprojFile"] = _hub_file(projector)
    return make_artifact(RawManifest(DOCKER_MANIFEST, canonical_json(value)), config, *generated)


def _file_layer(kind: str, file: IndexedFile) -> Descriptor:
    return Descriptor(_LAYER.format(kind), Digest(f"sha256:{file.sha256}"), file.size)


def _layer(kind: str, data: bytes, generated: list[bytes]) -> Descriptor:
    """Return a layer of bytes that no file has; add them to `generated`."""
    generated.append(data)
    return Descriptor(_LAYER.format(kind), Digest.of(data), len(data))


def _config(facts: ModelFacts, layers: list[Descriptor]) -> dict[str, Any]:
    """Return the config: what `ollama show` prints. The platform is the one that ollama writes, on any machine."""
    family = facts.architecture or ""
    return {
        "model_format": "gguf",
        "model_family": family,
        "model_families": [family] if family else [],
        "model_type": short_number(facts.parameters) if facts.parameters else "",
        "file_type": facts.quantization or "",
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }


def _hub_file(file: IndexedFile) -> dict[str, Any]:
    """Return a file as the Hub describes it to llama.cpp."""
    pointer = HubFile(file.path, file.size, file.sha256).pointer
    return {
        "rfilename": file.path,
        "blobId": f"sha256:{file.sha256}",
        "size": file.size,
        "lfs": {"sha256": file.sha256, "size": file.size, "pointerSize": len(pointer)},
    }
