"""What the API says of a repo, as JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from llmstack.carried_image.file_index import IndexedFile
from llmstack.hf.snapshot import HubFile, RepoType, parse_date
from llmstack.hub_server.error_answers import AnswerError
from llmstack.hub_server.repo_facts import Facts, Json, Weights
from llmstack.hub_server.repos import Files, Revision

ALWAYS = frozenset({"_id", "id", "modelId"})
DECLARED = frozenset({"tags", "pipeline_tag", "library_name"})
FROM_CARD = frozenset({"cardData", "config", "model-index"})
FROM_WEIGHTS = frozenset({"safetensors", "gguf"})
SIBLINGS = frozenset({"siblings"})
BASIC = frozenset(
    ["author", "createdAt", "disabled", "downloads", "gated", "lastModified", "likes", "private", "sha", "usedStorage"]
)
# What clients may ask for by `expand`. This hub does not know all of it: the field is left out then.
_COMMON = {*BASIC, "cardData", "downloadsAllTime", "resourceGroup", "siblings", "tags", "trendingScore", "xetEnabled"}
_OF_MODELS = """baseModels childrenModelCount config evalResults gguf gitalyUid inference inferenceProviderMapping
library_name mask_token model-index pipeline_tag safetensors securityStatus spaces transformersInfo widgetData"""
_OF_DATASETS = "citation description gitalyUid mainSize paperswithcode_id"
EXPANDABLE: Mapping[RepoType, frozenset[str]] = {
    "model": frozenset({*_COMMON, *_OF_MODELS.split()}),
    "dataset": frozenset({*_COMMON, *_OF_DATASETS.split()}),
}


def expanded(repo_type: RepoType, names: list[str]) -> frozenset[str]:
    """Return the fields that `expand` names, empty if it names none; raises AnswerError for unknown ones."""
    if unknown := sorted({*names} - EXPANDABLE[repo_type] - ALWAYS):
        known = ", ".join(sorted(EXPANDABLE[repo_type]))
        raise AnswerError(400, "BadRequest", f"expand: {unknown[0]!r} is unknown; known are {known}")
    return frozenset(names)


def basic(revision: Revision) -> Json:
    """Return the fields of a repo that need none of its files."""
    value: Json = {
        "_id": revision.commit[:24],
        "id": revision.repo_id,
        "author": revision.repo_id.partition("/")[0] if "/" in revision.repo_id else None,
        "sha": revision.commit,
        "private": False,
        # The index does not say whether access is granted automatically.
        "gated": "manual" if revision.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "usedStorage": revision.size,
    }
    if date := hub_date(revision.created):
        value["lastModified"] = value["createdAt"] = date
    if revision.repo_type == "model":
        value["modelId"] = revision.repo_id
    else:
        value["mainSize"] = revision.size
    return value


def declared(facts: Facts) -> Json:
    """Return what a repo's card and config declare."""
    value: Json = {"tags": list(facts.tags), "cardData": facts.card}
    if facts.pipeline_tag:
        value["pipeline_tag"] = facts.pipeline_tag
    if facts.library:
        value["library_name"] = facts.library
    if facts.config:
        value["config"] = facts.config
    if isinstance(facts.card.get("model-index"), list):
        value["model-index"] = facts.card["model-index"]
    return value


def weighed(weights: Weights) -> Json:
    """Return what the headers of a repo's weight files say."""
    value: Json = {}
    if (counts := weights.safetensors) is not None:
        value["safetensors"] = {"parameters": dict(counts), "total": sum(counts.values())}
    if gguf := weights.gguf:
        known = {"total": gguf.total, "architecture": gguf.architecture, "context_length": gguf.context_length}
        value["gguf"] = {name: item for name, item in known.items() if item is not None}
        if gguf.chat_template:
            value["gguf"]["chat_template"] = gguf.chat_template
    return value


def siblings(files: Files, *, blobs: bool) -> Json:
    """Return the files of a repo."""
    return {"siblings": [_sibling(files, file, blobs=blobs) for file in files.in_order()]}


def entry(files: Files, file: IndexedFile) -> Json:
    """Return a file's entry in a tree."""
    known = HubFile(file.path, file.size, file.oid)
    value: Json = {"type": "file", "oid": known.git_oid, "size": file.size, "path": file.path}
    if files.is_lfs(file):
        value["lfs"] = {"oid": file.oid, "size": file.size, "pointerSize": len(known.pointer)}
    return value


def _sibling(files: Files, file: IndexedFile, *, blobs: bool) -> Json:
    value: Json = {"rfilename": file.path}
    if blobs:
        known = entry(files, file)
        value |= {"size": file.size, "blobId": known["oid"]}
        if lfs := known.get("lfs"):
            value["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
    return value


def hub_date(created: str | None) -> str | None:
    """Return an ISO 8601 time in the form that Hub clients parse; None if it is invalid."""
    try:
        return parse_date(created or "").strftime("%Y-%m-%dT%H:%M:%S.000Z")
    except ValueError:
        return None
