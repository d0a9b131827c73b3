"""The GGUF files of a repo, by quantization: what a tag of ollama and llama.cpp names, as on the Hub."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

LATEST = "latest"
_SUFFIX = ".gguf"
_SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE | re.DOTALL)
# llama.cpp's names of file types, and those of Unsloth.
_LABEL = re.compile(
    r"(?<![A-Z0-9])(?:(?:UD-)?(?:IQ|TQ|Q)[1-9](?:_(?:K|NL|XXS|XS|S|M|L|XL|XXL|[0-9]))+"
    r"|BF16|FP?16|FP?32|MXFP4(?:_MOE)?|NVFP4)(?![A-Z0-9])"
)
# What `latest` names: a good quality in little memory first. The Hub prefers Q4_K_M, too.
_PREFERRED = (
    *("Q4_K_M", "Q4_K_S", "UD-Q4_K_XL", "Q4_K_L", "Q4_0", "IQ4_XS", "IQ4_NL", "Q4_1", "MXFP4_MOE", "MXFP4"),
    *("Q5_K_M", "Q5_K_S", "Q5_0", "Q6_K", "Q8_0", "Q3_K_M", "Q3_K_L", "Q3_K_S", "IQ3_M", "Q2_K"),
)


class RepoFile(Protocol):
    """A file of a repo: in a file index, or on a hub."""

    @property
    def path(self) -> str:
        """The path in the repo."""

    @property
    def size(self) -> int:
        """The size in bytes."""


F = TypeVar("F", bound=RepoFile)


@dataclass(frozen=True)
class GgufModel(Generic[F]):
    """A model as one GGUF file, or in shards. `label` is the quantization in its name; "" if it has none."""

    label: str
    files: tuple[F, ...]

    @property
    def name(self) -> str:
        """The name of the first file, without its directory."""
        return posixpath.basename(self.files[0].path)

    @property
    def size(self) -> int:
        """The size of all files, in bytes."""
        return sum(file.size for file in self.files)

    @property
    def missing(self) -> list[str]:
        """The paths of the shards that were not carried."""
        shard = _SHARD.fullmatch(self.files[0].path)
        if shard is None:
            return []
        numbers = range(1, int(shard["count"]) + 1)
        expected = [f"{shard['name']}-{number:05}-of-{shard['count']}{_SUFFIX}" for number in numbers]
        return sorted(set(expected) - {file.path for file in self.files})

    @property
    def is_sharded(self) -> bool:
        """Tell whether the model is in several files, all carried or not."""
        shard = _SHARD.fullmatch(self.files[0].path)
        return shard is not None and int(shard["count"]) > 1


def gguf_models(files: Iterable[F]) -> list[GgufModel[F]]:
    """Return the models, sorted by path; projectors and importance matrices are none."""
    groups: dict[str, list[F]] = defaultdict(list)
    for file in files:
        if _is_gguf(file) and not _is_projector(file) and "imatrix" not in posixpath.basename(file.path).lower():
            shard = _SHARD.fullmatch(file.path)
            groups[f"{shard['name']} {shard['count']}" if shard else file.path].append(file)
    models = [GgufModel(_label(found[0].path), tuple(found)) for found in map(_by_path, groups.values())]
    return sorted(models, key=lambda model: (model.files[0].path.count("/"), model.files[0].path))


def projector(files: Iterable[F]) -> F | None:
    """Return the multimodal projector; of several, the one in 16 bits."""
    found = _by_path(file for file in files if _is_gguf(file) and _is_projector(file))
    order = {"F16": 0, "FP16": 0, "BF16": 1}
    return min(found, key=lambda file: order.get(_label(file.path), 2), default=None)


def is_of_other(file: F, model: GgufModel[F]) -> bool:
    """Tell whether a file is a GGUF file of another model."""
    return _is_gguf(file) and not _is_projector(file) and file not in model.files


def find_model(models: Iterable[GgufModel[F]], tag: str) -> GgufModel[F] | None:
    """Return the model with this quantization or file name, ignoring case; `latest` is the preferred one."""
    found = list(models)
    if tag == LATEST:
        return min(found, key=_preference, default=None)
    wanted = tag.casefold()
    named = (model for model in found if model.name.casefold() == wanted)
    labeled = (model for model in found if model.label and model.label.casefold() == wanted)
    return next(named, None) or next(labeled, None)


def labels(models: Iterable[GgufModel[F]]) -> list[str]:
    """Return the tags that name the models: quantizations, and the file names of models without one of their own.

    A model in a directory has no tag if another model has the same file name.
    """
    found = list(models)
    first: dict[str, GgufModel[F]] = {}
    for model in found:
        for tag in (model.label, model.name):
            first.setdefault(tag.casefold(), model)
    own = ([tag for tag in (model.label, model.name) if tag and first[tag.casefold()] is model] for model in found)
    return sorted(tags[0] for tags in own if tags)


def _preference(model: GgufModel[F]) -> tuple[int, int]:
    known = model.label in _PREFERRED
    return (_PREFERRED.index(model.label) if known else len(_PREFERRED), model.size)


def _label(path: str) -> str:
    """Return the last quantization in the name of a file; else in that of its directory."""
    folder, name = posixpath.split(path)
    shard = _SHARD.fullmatch(name)
    for text in (shard["name"] if shard else name[: -len(_SUFFIX)], posixpath.basename(folder)):
        if found := _LABEL.findall(text.upper()):
            return str(found[-1])
    return ""


def _by_path(files: Iterable[F]) -> list[F]:
    return sorted(files, key=lambda file: file.path)


def _is_gguf(file: RepoFile) -> bool:
    return file.path.lower().endswith(_SUFFIX)


def _is_projector(file: RepoFile) -> bool:
    return "mmproj" in posixpath.basename(file.path).lower()
