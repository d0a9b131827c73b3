"""Making the artifacts of a revision: reads what they say about the model, and refuses what cannot be one."""

from __future__ import annotations

from dataclasses import dataclass

from llmstack.carried_image import gguf_files
from llmstack.carried_image.file_index import IndexedFile
from llmstack.carried_image.gguf_files import GgufModel
from llmstack.errors import IntegrityError
from llmstack.hub_server.registry_api.artifact import Artifact
from llmstack.hub_server.registry_api.model_facts import FactsReader
from llmstack.hub_server.registry_api.model_pack import model_pack
from llmstack.hub_server.registry_api.ollama import Customization, ollama_artifact
from llmstack.hub_server.registry_api.registry_errors import no_ollama, unsupported
from llmstack.hub_server.repos import Files, Revision
from llmstack.oci.spec import MAX_MANIFEST_SIZE, parse_object

# No layer takes less in a manifest, in bytes.
_SMALLEST_LAYER = 400
# The layers of the artifacts of all quantizations: making them takes time.
_MAX_LAYERS = 20_000
# ollama keeps these in memory.
_MAX_CUSTOM = 1024 * 1024
_MAX_PARAMS = 64 * 1024
_LICENSES = ("LICENSE", "LICENSE.txt", "LICENSE.md")


@dataclass(frozen=True, slots=True)
class Kind:
    """Which artifact of a revision: for ollama, or a ModelPack; `path` is the first file of its one GGUF model.

    A ModelPack without `path` has all files.
    """

    path: str = ""
    is_ollama: bool = False


def obstacle(revision: Revision) -> str | None:
    """Return why the files of an image cannot be blobs; None if they can."""
    if revision.files is None:
        return "llmstack did not write this image, so the hashes of its files are not known"
    if revision.needs_extract:
        return "files are in compressed layers"
    return None if revision.files else "it has no files"


def kinds_of(files: Files, models: list[GgufModel[IndexedFile]]) -> list[Kind]:
    """Return the artifacts that a revision has."""
    found = [Kind()]
    for model in models:
        found.append(Kind(model.files[0].path, is_ollama=True))
        if len(models) * len(files.files) <= _MAX_LAYERS:
            found.append(Kind(model.files[0].path))
    return found


def make(reader: FactsReader, revision: Revision, models: list[GgufModel[IndexedFile]], kind: Kind) -> Artifact:
    """Return an artifact; raises AnswerError if it cannot be made, and what reading raises."""
    files = reader.repo_index.files(revision)
    if kind not in kinds_of(files, models):
        raise unsupported(revision, f"{len(models):,} GGUF models are too many for a manifest of each")
    model = next((model for model in models if model.files[0].path == kind.path), None)
    return (
        _ollama(reader, revision, files, model) if model and kind.is_ollama else _pack(reader, revision, files, model)
    )


def check_custom(reader: FactsReader, revision: Revision) -> None:
    """Raise AnswerError if ollama cannot have a file that configures the models of this revision."""
    files = reader.repo_index.files(revision).files
    for path, limit in (("template", _MAX_CUSTOM), ("system", _MAX_CUSTOM), ("params", _MAX_PARAMS)):
        if (file := files.get(path)) and file.size > limit:
            raise no_ollama(
                f"{revision.repo_id}: {path} has {file.size:,} bytes, more than the {limit:,} that ollama gets"
            )
    data = reader.repo_index.read(revision, "params", _MAX_PARAMS)
    try:
        parse_object(data or b"{}", "params")
    except IntegrityError as error:
        raise no_ollama(f"{revision.repo_id}: {error}") from error


def _pack(reader: FactsReader, revision: Revision, files: Files, model: GgufModel[IndexedFile] | None) -> Artifact:
    chosen = [file for file in files.in_order() if not model or not gguf_files.is_of_other(file, model)]
    too_many = unsupported(revision, f"{len(chosen):,} files are too many for one manifest")
    if len(chosen) * _SMALLEST_LAYER > MAX_MANIFEST_SIZE:
        raise too_many
    facts = reader.of_model(revision, model) if model else reader.of_repo(revision)
    artifact = model_pack(revision, chosen, facts)
    if len(artifact.manifest.data) > MAX_MANIFEST_SIZE:
        raise too_many
    return artifact


def _ollama(reader: FactsReader, revision: Revision, files: Files, model: GgufModel[IndexedFile]) -> Artifact:
    licenses = (_small(files, name) for name in _LICENSES)
    custom = Customization(
        template=_small(files, "template"),
        params=_small(files, "params", _MAX_PARAMS),
        system=_small(files, "system"),
        license=next(filter(None, licenses), None),
    )
    projector = gguf_files.projector(files.in_order())
    return ollama_artifact(model, projector, custom, reader.of_model(revision, model))


def _small(files: Files, path: str, limit: int = _MAX_CUSTOM) -> IndexedFile | None:
    file = files.files.get(path)
    return file if file and 0 < file.size <= limit else None
