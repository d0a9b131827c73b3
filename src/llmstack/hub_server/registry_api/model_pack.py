"""ModelPack manifests (CNCF model-spec 0.0.7) from a file index: each file is a raw layer."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from typing import Any

from llmstack.carried_image import annotation_keys
from llmstack.carried_image.file_index import IndexedFile
from llmstack.carried_image.spdx import spdx_expression
from llmstack.hf.hub_urls import repo_url
from llmstack.hf.snapshot import parse_date
from llmstack.hub_server.registry_api.artifact import Artifact, make_artifact
from llmstack.hub_server.registry_api.model_facts import ModelFacts, short_number
from llmstack.hub_server.repos import Revision
from llmstack.oci.reference import Digest
from llmstack.oci.spec import MANIFEST, Descriptor, RawManifest, canonical_json

ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
_LAYER = "application/vnd.cncf.model.{}.v1.raw"
_METADATA = "org.cncf.model.file.metadata+json"
_UNTESTED = "org.cncf.model.file.mediatype.untested"
# oras names files by it.
_TITLE = annotation_keys.TITLE

# The formats of weights by suffix, as config.format names them. With several, the first is the model's.
_FORMATS = {
    ".gguf": "gguf",
    ".safetensors": "safetensors",
    ".onnx": "onnx",
    ".pt": "pt",
    ".pth": "pt",
    ".bin": "pt",
    ".ckpt": "pt",
}
_WEIGHTS = {
    *_FORMATS,
    *(".ggml", ".h5", ".joblib", ".keras", ".mlmodel", ".msgpack", ".npy", ".npz", ".onnx_data", ".ot", ".pickle"),
    *(".pkl", ".pt2", ".pte", ".ptl", ".tflite", ".engine", ".llamafile", ".mar", ".weights"),
}
_CODE = frozenset({".c", ".cc", ".cpp", ".cu", ".h", ".hpp", ".ipynb", ".js", ".py", ".rs", ".sh", ".ts"})
_DOCS = frozenset({".gif", ".jpeg", ".jpg", ".md", ".pdf", ".png", ".rst", ".svg", ".webp"})
_DOC_NAMES = re.compile(r"(LICENSE|LICENCE|README|NOTICE|USE_POLICY|USAGE_POLICY|COPYING)", re.IGNORECASE)


def model_pack(revision: Revision, files: Sequence[IndexedFile], facts: ModelFacts) -> Artifact:
    """Return the artifact of files of a repo; the bytes depend on the arguments only.

    All files must have a known hash.
    """
    date = _rfc3339(revision.created)
    layers = [_layer(revision, file, date) for file in files]
    config = canonical_json(_config(revision, files, facts, date))
    value = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": Descriptor(CONFIG_TYPE, Digest.of(config), len(config)).to_json(),
        "layers": [layer.to_json() for layer in layers],
        "annotations": _annotations(revision, date),
    }
    return make_artifact(RawManifest(MANIFEST, canonical_json(value)), config)


def layer_type(revision: Revision, path: str) -> str:
    """Return the media type of a file's layer, judged by its name."""
    name = posixpath.basename(path)
    suffix = posixpath.splitext(name)[1].lower()
    if suffix in _DOCS or _DOC_NAMES.match(name):
        return _LAYER.format("doc")
    if suffix in _CODE:
        return _LAYER.format("code")
    if revision.repo_type == "dataset":
        return _LAYER.format("dataset")
    return _LAYER.format("weight" if suffix in _WEIGHTS else "weight.config")


def _layer(revision: Revision, file: IndexedFile, date: str) -> Descriptor:
    metadata = {
        "name": posixpath.basename(file.path),
        "mode": 0o644,
        "uid": 0,
        "gid": 0,
        "size": file.size,
        "mtime": date,
        "typeflag": 0,
    }
    annotations = {
        _METADATA: canonical_json(metadata).decode(),
        _UNTESTED: "true",
        annotation_keys.FILEPATH: file.path,
        _TITLE: file.path,
    }
    return Descriptor(layer_type(revision, file.path), Digest(f"sha256:{file.sha256}"), file.size, annotations)


def _config(revision: Revision, files: Sequence[IndexedFile], facts: ModelFacts, date: str) -> dict[str, Any]:
    owner, _, name = revision.repo_id.rpartition("/")
    descriptor = {
        "createdAt": date,
        "vendor": owner,
        "name": name,
        "version": revision.name,
        "title": revision.repo_id,
        "sourceURL": _source(revision),
        "revision": revision.commit,
        "licenses": [expression] if (expression := spdx_expression(revision.license)) else None,
    }
    config = {
        "architecture": facts.architecture,
        "format": _format(file.path for file in files),
        "paramSize": short_number(facts.parameters) if facts.parameters else None,
        "precision": facts.precision,
        "quantization": facts.quantization,
    }
    return {
        "descriptor": {key: value for key, value in descriptor.items() if value},
        "config": {key: value for key, value in config.items() if value},
        "modelfs": {"type": "layers", "diffIds": [f"sha256:{file.sha256}" for file in files]},
    }


def _format(paths: Iterable[str]) -> str | None:
    suffixes = {posixpath.splitext(path)[1].lower() for path in paths}
    return next((name for suffix, name in _FORMATS.items() if suffix in suffixes), None)


def _annotations(revision: Revision, date: str) -> dict[str, str]:
    annotations = {
        annotation_keys.CREATED: date,
        annotation_keys.COMMIT: revision.commit,
        annotation_keys.SOURCE: _source(revision),
        annotation_keys.TITLE: revision.repo_id,
        annotation_keys.REVISION: revision.name,
        annotation_keys.LICENSES: spdx_expression(revision.license),
    }
    return {key: value for key, value in annotations.items() if value}


def _source(revision: Revision) -> str | None:
    """Return the page of a repo; None if the files did not come from the Hub: these have no date."""
    return repo_url(revision.repo_id, revision.repo_type) if revision.created else None


def _rfc3339(created: str | None) -> str:
    """Return a commit's date in the form of RFC 3339; the file index has checked it."""
    return parse_date(created or "1970-01-01T00:00:00Z").isoformat(timespec="seconds").replace("+00:00", "Z")
