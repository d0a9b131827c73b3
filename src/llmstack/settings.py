"""Settings: flags, then LLMSTACK_* variables, then llmstack.yaml, then defaults.

The file is $LLMSTACK_CONFIG, else the nearest llmstack.yaml from the working folder upwards. A setting is a field of
Settings: its name is the file's key, LLMSTACK_ and the name in capitals its variable, its type what it may be.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NewType, get_type_hints

from llmstack.errors import UsageError

FILE_NAME = "llmstack.yaml"
FILE_VARIABLE = "LLMSTACK_CONFIG"
# The images that are already on Docker Hub; read from when no namespace is set, never written to by default.
DEFAULT_NAMESPACE = "docker.io/hgfkeep"

Size = NewType("Size", int)
_SIZE = re.compile(r"(\d{1,15}) ?([KMGT]?)(i?)B?")


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """What the building of images is set to.

    Where packages come from (addresses without credentials), the proxies of build steps, a PEM file of the site's
    certificate authorities (in the file: relative to it), and Docker's network mode for build steps.
    """

    pip_index: str = ""
    pip_extra_index: tuple[str, ...] = ()
    pip_trusted_host: tuple[str, ...] = ()
    apt_mirror: str = ""
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    ca_cert: Path | None = None
    build_network: str = ""


@dataclass(frozen=True, slots=True)
class Settings(BuildSettings):
    """What a command works with.

    `namespace` is where images go and come from (None: not set), `base` the base image of carried images, `jobs` how
    many files move at a time, `plain_http` the registries (host or host:port) that are spoken to without TLS.
    `timeout` is after how many seconds of silence a connection counts as lost, `retry_wait` how many seconds pass
    before the second try; each further wait is twice as long. `max_layer` is the bytes that the target takes in one
    layer (None: what is known of it), `split_large` whether larger files are carried in parts. `hub_refresh` is how
    many seconds lie between two looks of the hub at what is there.
    """

    namespace: str | None = None
    base: str = "docker.io/library/busybox:stable"
    jobs: int = 4
    plain_http: tuple[str, ...] = ()
    timeout: float = 90.0
    retry_wait: float = 0.5
    max_layer: Size | None = None
    split_large: bool = False
    hub_refresh: int = 60


def load_settings(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] = os.environ,
    folder: Path | None = None,
) -> Settings:
    """Return the settings for a command started in `folder` (the working folder by default).

    A flag that is None or an empty tuple was not given; an empty variable is not set. Raises UsageError that names the
    file, variable or flag and the key when a value is not allowed, a key is not known, or the file cannot be read.
    """
    values: dict[str, Any] = {}
    path = _find_file(environ, folder or _working_folder())
    if path is not None:
        for key, value in _read_file(path).items():
            values[key] = _convert(key, value, f"{path}: {key}")
        if "ca_cert" in values:
            values["ca_cert"] = path.parent / values["ca_cert"]
    for key in _TYPES:
        variable = f"LLMSTACK_{key.upper()}"
        if text := environ.get(variable):
            values[key] = _convert(key, _from_text(key, text, variable), variable)
    for key, value in (flags or {}).items():
        if value is not None and value != ():
            values[key] = _convert(key, value, f"--{key.replace('_', '-')}")
    return Settings(**values)


def expand_home(path: str | Path, place: str) -> Path:
    """Put in the home folder that a path may begin with (`~`); raises UsageError that names the path's place."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{place}: the home folder in {str(path)!r} is not known") from error


def _working_folder() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        raise UsageError("the working folder is not there any more", hint="change to one that is") from error


def _find_file(environ: Mapping[str, str], folder: Path) -> Path | None:
    if named := environ.get(FILE_VARIABLE):
        path = Path(named)
        if not _is_file(path):
            raise UsageError(f"{FILE_VARIABLE} names {named!r}, which is not a file")
        return path
    start = folder.resolve()
    return next((path for place in (start, *start.parents) if _is_file(path := place / FILE_NAME)), None)


def _is_file(path: Path) -> bool:
    """Tell whether a file is there; in a folder that may not be looked into there is none for us."""
    try:
        return path.is_file()
    except OSError:
        return False


def _read_file(path: Path) -> dict[str, object]:
    from llmstack.safe_yaml import read_yaml

    value = read_yaml(path)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageError(f"{path}: it must hold keys and values, as in `namespace: registry.local:5000/llm`")
    for key in value:
        if key not in _TYPES:
            nearest = difflib.get_close_matches(str(key), _TYPES, n=1, cutoff=0.0)[0]
            raise UsageError(
                f"{path}: {key!r} is not a setting", hint=f"did you mean {nearest}? There are: {', '.join(_TYPES)}"
            )
    return value


def _from_text(key: str, text: str, variable: str) -> object:
    """Return a variable's text as a file would hold it; lists are separated by commas."""
    if (number := _TYPES[key]) in {int, float}:
        try:
            return number(text)
        except ValueError as error:
            raise UsageError(f"{variable} must be {_CONVERSIONS[number][1]}") from error
    if _TYPES[key] == tuple[str, ...]:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _convert(key: str, value: object, place: str) -> object:
    convert, expected = _CONVERSIONS[_TYPES[key]]
    try:
        converted = convert(value)
    except ValueError as error:
        # The value itself is left out: a later setting may hold a password.
        raise UsageError(f"{place} must be {expected}") from error
    return expand_home(converted, place) if isinstance(converted, Path) else converted


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _path(value: object) -> Path:
    return value if isinstance(value, Path) else Path(_text(value))


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, list | tuple):
        return tuple(map(_text, value))
    raise ValueError


def _flag(value: object) -> bool:
    text = str(value).lower() if isinstance(value, bool | str) else ""
    if text not in {"true", "false"}:
        raise ValueError
    return text == "true"


def _size(value: object) -> Size:
    match = _SIZE.fullmatch(str(value)) if type(value) in {int, str} else None
    if not match or not int(match[1]):
        raise ValueError
    return Size(int(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index(match[2] or " "))


def _count(value: object) -> int:
    if type(value) is not int or value < 1:
        raise ValueError
    return value


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError
    return float(value)


_CONVERSIONS: dict[Any, tuple[Callable[[object], object], str]] = {
    str: (_text, "text"),
    str | None: (_text, "text"),
    int: (_count, "a whole number, 1 or more"),
    float: (_seconds, "a number of seconds, more than 0"),
    Path | None: (_path, "a path"),
    tuple[str, ...]: (_texts, "a list of texts"),
    Size | None: (_size, "a size in bytes, or one such as 5 GB or 20 GiB"),
    bool: (_flag, "true or false"),
}
_TYPES: dict[str, Any] = {field.name: get_type_hints(Settings)[field.name] for field in fields(Settings)}
