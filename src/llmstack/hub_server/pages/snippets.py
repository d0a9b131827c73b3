"""The commands and code on a repo's page. Pure."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from urllib.parse import urlsplit

from llmstack.carried_image.gguf_files import LATEST, find_model, gguf_models
from llmstack.carried_image.naming import DEFAULT_REVISION, Namespace
from llmstack.errors import LlmstackError, UsageError
from llmstack.hub_server.repo_facts import Facts
from llmstack.hub_server.repos import Files, Revision
from llmstack.model_serving.kubernetes import kubernetes_objects, mounting_pod
from llmstack.model_serving.serve_plan import ServedModel, ServeRequest, make_plan

# The Python code that loads a model, by the library in its card.
_LOADERS = {
    "transformers": """\
from transformers import {auto}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({arguments})
model = {auto}.from_pretrained({arguments})
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
# The class of transformers for a task; AutoModel for others.
_AUTO = {
    "text-generation": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "fill-mask": "AutoModelForMaskedLM",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "image-text-to-text": "AutoModelForImageTextToText",
    "image-classification": "AutoModelForImageClassification",
    "automatic-speech-recognition": "AutoModelForSpeechSeq2Seq",
}
# These read images and audio by a processor, not by a tokenizer.
_PROCESSED = frozenset({"image-text-to-text", "image-classification", "automatic-speech-recognition"})
_VLLM_TASKS = frozenset({"text-generation", "image-text-to-text"})
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


def snippets(revision: Revision, files: Files, facts: Facts, endpoint: str | None, *, token: bool) -> list[Snippet]:
    """Return the snippets for a revision of a hub with or without a token.

    `endpoint` is the hub's URL; None if clients cannot load the revision.
    """
    found = []
    if endpoint:
        found.append(Snippet("shell", _shell(revision, endpoint, token=token)))
        found.append(Snippet("python", _python(revision, files, facts)))
        if facts.library == "transformers" and facts.pipeline_tag in _VLLM_TASKS:
            found.append(Snippet("vllm", _vllm(revision, endpoint, token=token)))
        if command := _llama(revision, files, endpoint, token=token):
            found.append(Snippet("llama", command))
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
    namespace = namespace_of(revision)
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


def _exports(endpoint: str, *, token: bool) -> list[str]:
    lines = [f"export HF_ENDPOINT={shlex.quote(endpoint)}"]
    return [*lines, "export HF_TOKEN=YOUR-TOKEN"] if token else lines


def _vllm(revision: Revision, endpoint: str, *, token: bool) -> str:
    command = ["vllm", "serve", revision.repo_id]
    if revision.name != DEFAULT_REVISION:
        command += ["--revision", revision.name]
    return "\n".join([*_exports(endpoint, token=token), shlex.join(command)]) + "\n"


def _llama(revision: Revision, files: Files, endpoint: str, *, token: bool) -> str | None:
    """Return the command that serves a repo with llama.cpp, which loads the default revision only."""
    model = find_model(gguf_models(files.in_order()), LATEST)
    if revision.repo_type != "model" or revision.name != DEFAULT_REVISION or model is None or model.missing:
        return None
    name = f"{revision.repo_id}:{model.label}" if model.label else revision.repo_id
    return "\n".join([*_exports(endpoint, token=token), shlex.join(["llama-server", "-hf", name])]) + "\n"


def _shell(revision: Revision, endpoint: str, *, token: bool) -> str:
    command = ["hf", "download", revision.repo_id]
    if revision.repo_type == "dataset":
        command += ["--repo-type", "dataset"]
    if revision.name != DEFAULT_REVISION:
        command += ["--revision", revision.name]
    return "\n".join([*_exports(endpoint, token=token), shlex.join(command)]) + "\n"


def _ollama(revision: Revision, files: Files, endpoint: str) -> str | None:
    """Return the command that pulls a repo with ollama; None if ollama cannot."""
    models = [model for model in gguf_models(files.in_order()) if not model.is_sharded]
    host = on_registry(endpoint)
    if revision.name != DEFAULT_REVISION or revision.repo_type != "model" or not models or host is None:
        return None
    return f"ollama pull {host[0]}{shlex.quote(f'{host[1]}/{revision.repo_id}')}\n"


def on_registry(endpoint: str) -> tuple[str, str] | None:
    """Return ollama's option for the hub's scheme, and its host; None below a path: a registry is at a host's root."""
    url = urlsplit(endpoint)
    return None if url.path.strip("/") else ("--insecure " if url.scheme == "http" else "", url.netloc)


def namespace_of(revision: Revision) -> Namespace:
    """Return the namespace of a revision's image."""
    return Namespace.parse(revision.image.rpartition("/")[0])


def _python(revision: Revision, files: Files, facts: Facts) -> str:
    arguments = json.dumps(revision.repo_id)
    if revision.name != DEFAULT_REVISION:
        arguments += f", revision={json.dumps(revision.name)}"
    if revision.repo_type == "dataset":
        return _DATASET.format(arguments=arguments)
    library = facts.library or ("transformers" if "config.json" in files.files else "")
    # Files of GGUF have no config that transformers loads.
    if library == "transformers" and "config.json" not in files.files:
        library = ""
    code = _LOADERS.get(library, _FILES)
    if facts.pipeline_tag in _PROCESSED:
        code = code.replace("AutoTokenizer", "AutoProcessor").replace("tokenizer", "processor")
    return code.format(arguments=arguments, auto=_AUTO.get(facts.pipeline_tag or "", "AutoModel"))


def _push(revision: Revision) -> str:
    _, _, tag = revision.image.rpartition(":")
    target = f"docker://YOUR-REGISTRY/{revision.repo_type}s:{tag}"
    return f"skopeo copy --all --preserve-digests {shlex.quote(revision.image)} {target}\n"


def _folder(revision: Revision) -> str:
    return f"./{revision.repo_id.rpartition('/')[2]}"
