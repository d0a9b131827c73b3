"""The commands and code on a repo's page. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from llmstack.carried_image.gguf_files import gguf_models
from llmstack.carried_image.naming import DEFAULT_REVISION, Namespace
from llmstack.errors import LlmstackError, UsageError
from llmstack.hub_server.repos import Files, Revision
from llmstack.model_serving.kubernetes import kubernetes_objects, mounting_pod
from llmstack.model_serving.serve_plan import ServedModel, ServeRequest, make_plan

# The Python code that loads a model, by the library in its card.
_LOADERS = {
    "transformers": """\
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({arguments})
model = AutoModel.from_pretrained({arguments})
""",
    "sentence-transformers": """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer({arguments})
""",
    "diffusers": """\
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained({arguments})
""",
}
_DATASET = """\
from datasets import load_dataset

dataset = load_dataset({arguments})
"""
_FILES = """\
from huggingface_hub import snapshot_download

folder = snapshot_download({arguments})
"""


@dataclass(frozen=True, slots=True)
class Snippet:
    """One snippet; `name` is the key of its caption."""

    name: str
    text: str


def snippets(
    revision: Revision, files: Files, card: Mapping[str, Any], endpoint: str | None, *, token: bool
) -> list[Snippet]:
    """Return the snippets for a revision of a hub with or without a token.

    `endpoint` is the hub's URL; None if clients cannot load the revision.
    """
    found = []
    if endpoint:
        found.append(Snippet("shell", _shell(revision, endpoint, token=token)))
        found.append(Snippet("python", _python(revision, files, card)))
        if (command := _ollama(revision, files, endpoint)) and not token:
            found.append(Snippet("ollama", command))
    found.append(
        Snippet("extract", f"llmstack extract {shlex.quote(revision.image)} {shlex.quote(_folder(revision))}\n")
    )
    if revision.image.startswith("oci:"):
        found.append(Snippet("push", _push(revision)))
    else:
        found.append(Snippet("docker", _docker(revision)))
        found += _serving(revision, files)
    return found


def _serving(revision: Revision, files: Files) -> list[Snippet]:
    """Return how to serve a model; for what no server can serve, how to mount it."""
    namespace = Namespace.parse(revision.image.rpartition("/")[0])
    model = ServedModel(
        name=revision.repo_id,
        revision=revision.name,
        files=tuple(files.in_order()),
        in_parts=frozenset(path for path, file in files.files.items() if file.is_split),
        image=revision.image,
        has_base=revision.has_base,
    )
    try:
        if revision.repo_type != "model":
            raise UsageError("no server serves datasets")
        manifest = kubernetes_objects(make_plan(model, ServeRequest(), [namespace], gpus=1))
    except LlmstackError:
        return [Snippet("kubernetes", mounting_pod(revision.repo_type, revision.image))]
    repo = revision.repo_id if revision.name == DEFAULT_REVISION else f"{revision.repo_id}@{revision.name}"
    command = shlex.join(["llmstack", "serve", repo, "--from", str(namespace)])
    return [Snippet("serve", f"{command}\n"), Snippet("kubernetes_serve", manifest)]


def _docker(revision: Revision) -> str:
    image = shlex.quote(revision.image)
    if revision.has_base:
        return f"docker run --rm {image} ls -l /REPO\n"
    # It has no programs. A container that never runs needs a command, which need not exist.
    name = f"carried-{revision.digest.hex[:12]}"
    copy = f"docker cp {name}:/REPO/. {shlex.quote(_folder(revision))}"
    return f"docker create --name {name} {image} -\n{copy}\ndocker rm {name}\n"


def _shell(revision: Revision, endpoint: str, *, token: bool) -> str:
    lines = [f"export HF_ENDPOINT={shlex.quote(endpoint)}"]
    if token:
        lines.append("export HF_TOKEN=YOUR-TOKEN")
    command = ["hf", "download", revision.repo_id]
    if revision.repo_type == "dataset":
        command += ["--repo-type", "dataset"]
    if revision.name != DEFAULT_REVISION:
        command += ["--revision", revision.name]
    return "\n".join([*lines, shlex.join(command)]) + "\n"


def _ollama(revision: Revision, files: Files, endpoint: str) -> str | None:
    """Return the command that pulls a repo with ollama; None if ollama cannot."""
    url = urlsplit(endpoint)
    models = [model for model in gguf_models(files.in_order()) if not model.is_sharded]
    # A registry is at the root of a host.
    if revision.name != DEFAULT_REVISION or revision.repo_type != "model" or not models or url.path.strip("/"):
        return None
    command = ["ollama", "pull", *(["--insecure"] if url.scheme == "http" else [])]
    return shlex.join([*command, f"{url.netloc}/{revision.repo_id}"]) + "\n"


def _python(revision: Revision, files: Files, card: Mapping[str, Any]) -> str:
    arguments = json.dumps(revision.repo_id)
    if revision.name != DEFAULT_REVISION:
        arguments += f", revision={json.dumps(revision.name)}"
    if revision.repo_type == "dataset":
        return _DATASET.format(arguments=arguments)
    library = str(card.get("library_name") or ("transformers" if "config.json" in files.files else ""))
    return _LOADERS.get(library, _FILES).format(arguments=arguments)


def _push(revision: Revision) -> str:
    _, _, tag = revision.image.rpartition(":")
    target = f"docker://YOUR-REGISTRY/{revision.repo_type}s:{tag}"
    return f"skopeo copy --all --preserve-digests {shlex.quote(revision.image)} {target}\n"


def _folder(revision: Revision) -> str:
    return f"./{revision.repo_id.rpartition('/')[2]}"
