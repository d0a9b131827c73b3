"""Settings: flags, then LLMSTACK_* variables, then llmstack.yaml, then defaults.

The file is $LLMSTACK_CONFIG, else the nearest llmstack.yaml from the working directory upwards. Each field of Settings
is a setting: its name is the key in the file, LLMSTACK_ and the name in capitals the variable.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NewType, get_type_hints

from llmstack.errors import UsageError, did_you_mean

FILE_NAME = "llmstack.yaml"
FILE_VARIABLE = "LLMSTACK_CONFIG"
# Existing images on Docker Hub: the default to read from, never a default to write to.
DEFAULT_NAMESPACE = "docker.io/hgfkeep"

Size = NewType("Size", int)
_SIZE = re.compile(r"(\d{1,15}) ?([KMGT]?)(i?)B?")


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """How images are built.

    `builder` is auto, classic or buildx. `pip_config` and `netrc` are files with credentials of private indexes; as
    secrets of build steps, they need buildx.

    Package sources (URLs without credentials), the proxies of build steps, a PEM file with the certificate authorities
    to trust, Docker's network mode for build steps, and directories with recipes of your own. Paths in llmstack.yaml
    are relative to that file.
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
    recipes: tuple[Path, ...] = ()
    builder: str = "auto"
    pip_config: Path | None = None
    netrc: Path | None = None


def default_jobs() -> int:
    """Return the number of parallel transfers for this machine: each one hashes, which keeps a processor busy.

    Fewer than four would not hide the time between two transfers, and more than eight need too much memory.
    """
    return min(8, max(4, len(os.sched_getaffinity(0))))


@dataclass(frozen=True, slots=True)
class Settings(BuildSettings):
    """All settings of a command.

    `namespace` is where images are written to and read from (None: not set), `base` the base image of carried images,
    `jobs` the largest number of parallel transfers, `plain_http` the registries (host or host:port) to use without TLS.
    `timeout` is the seconds without data after which a connection is lost, `retry_wait` the seconds before the second
    try; each further wait is twice as long. `max_layer` is the largest layer in bytes that the destination accepts
    (None: the registry's known limit); `split_large` carries larger files in parts. `hub_refresh` is the seconds
    between two listings of the hub's source, `hub_trusted_proxies` the addresses and networks of the reverse proxies
    whose X-Forwarded headers the hub believes. `trust` is the trust file: only images that its signers signed are used.
    """

    namespace: str | None = None
    base: str = "docker.io/library/busybox:stable"
    jobs: int = field(default_factory=default_jobs)
    plain_http: tuple[str, ...] = ()
    timeout: float = 90.0
    retry_wait: float = 0.5
    max_layer: Size | None = None
    split_large: bool = False
    hub_refresh: int = 60
    hub_trusted_proxies: tuple[str, ...] = ("127.0.0.0/8", "::1")
    trust: Path | None = None


def load_settings(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] = os.environ,
    folder: Path | None = None,
) -> Settings:
    """Return the settings for a command started in `folder` (default: the working directory).

    Flags that are None or () were not given; an empty variable is not set. Raises UsageError that names the file,
    variable or flag if a key is unknown, a value is invalid, or the file cannot be read.
    """
    values: dict[str, Any] = {}
    path = _find_file(environ, folder or _working_directory())
    if path is not None:
        for key, value in _read_file(path).items():
            values[key] = _relative_to(path.parent, _convert(key, value, f"{path}: {key}"))
    for key in _TYPES:
        variable = f"LLMSTACK_{key.upper()}"
        if text := environ.get(variable):
            values[key] = _convert(key, _from_text(key, text, variable), variable)
    return override(Settings(**values), flags or {})


def override(settings: Settings, options: Mapping[str, object]) -> Settings:
    """Return `settings` with the options that were given: neither None nor an empty tuple; raises UsageError."""
    given = {key: value for key, value in options.items() if value is not None and value != ()}
    values: dict[str, Any] = {key: _convert(key, value, f"--{key.replace('_', '-')}") for key, value in given.items()}
    return replace(settings, **values)


def expand_home(path: str | Path, place: str) -> Path:
    """Replace `~` at the start of a path; raises UsageError, with `place` as where the path was written."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{place}: unknown home directory in {str(path)!r}") from error


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        raise UsageError("the working directory no longer exists", hint="change to another directory") from error


def _find_file(environ: Mapping[str, str], folder: Path) -> Path | None:
    if named := environ.get(FILE_VARIABLE):
        path = Path(named)
        if not _is_file(path):
            raise UsageError(f"{FILE_VARIABLE}: {named[:200]!r} is not a file")
        return path
    start = folder.resolve()
    return next((path for place in (start, *start.parents) if _is_file(path := place / FILE_NAME)), None)


def _is_file(path: Path) -> bool:
    """Tell whether a file exists; one in an unreadable directory does not."""
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
        raise UsageError(f"{path}: must be a mapping", hint="for example: namespace: registry.local:5000/llm")
    for key in value:
        if key not in _TYPES:
            raise UsageError(f"{path}: {key!r} is not a setting", hint=did_you_mean(str(key), "settings", _TYPES))
    return value


def _from_text(key: str, text: str, variable: str) -> object:
    """Return the value of a variable as it would be in the file; lists are separated by commas."""
    if (number := _TYPES[key]) in {int, float}:
        try:
            return number(text)
        except ValueError as error:
            raise UsageError(f"{variable} must be {_CONVERSIONS[number][1]}") from error
    if _TYPES[key] in {tuple[str, ...], tuple[Path, ...]}:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _convert(key: str, value: object, place: str) -> object:
    if key not in _TYPES:
        raise UsageError(f"{key!r} is not a setting", hint=f"the settings are: {', '.join(_TYPES)}")
    convert, expected = _CONVERSIONS[_TYPES[key]]
    try:
        converted = convert(value)
    except ValueError as error:
        # Without the value: it may contain a password.
        raise UsageError(f"{place} must be {expected}") from error
    if isinstance(converted, tuple):
        return tuple(expand_home(item, place) if isinstance(item, Path) else item for item in converted)
    return expand_home(converted, place) if isinstance(converted, Path) else converted


def _relative_to(folder: Path, value: object) -> object:
    """Return paths, alone or in a tuple, relative to a folder."""
    if isinstance(value, tuple):
        return tuple(_relative_to(folder, item) for item in value)
    return folder / value if isinstance(value, Path) else value


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


def _paths(value: object) -> tuple[Path, ...]:
    if isinstance(value, list | tuple):
        return tuple(map(_path, value))
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


def parse_size(text: str, place: str) -> Size:
    """Read a size such as `16G` or `20 GiB`, which was written at `place`; raises UsageError."""
    try:
        return _size(text.strip().upper().replace("IB", "iB"))
    except ValueError as error:
        raise UsageError(f"{place} must be {_CONVERSIONS[Size | None][1]}") from error


def _count(value: object) -> int:
    if type(value) is not int or value < 1:
        raise ValueError
    return value


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError
    return float(value)


_CONVERSIONS: dict[Any, tuple[Callable[[object], object], str]] = {
    str: (_text, "a string"),
    str | None: (_text, "a string"),
    int: (_count, "an integer of 1 or more"),
    float: (_seconds, "a number of seconds greater than 0"),
    Path | None: (_path, "a path"),
    tuple[str, ...]: (_texts, "a list of strings"),
    tuple[Path, ...]: (_paths, "a list of paths"),
    Size | None: (_size, "a size in bytes, or a size such as 5 GB or 20 GiB"),
    bool: (_flag, "true or false"),
}
_TYPES: dict[str, Any] = {field.name: get_type_hints(Settings)[field.name] for field in fields(Settings)}
