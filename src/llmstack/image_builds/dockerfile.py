"""Render a planned image: its Dockerfile, the origin of each instruction, and its build context."""

from __future__ import annotations

import re
import shlex
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from llmstack import __version__
from llmstack.disk import exists
from llmstack.errors import UsageError
from llmstack.image_builds.build_environment import CONTEXT_FOLDER, IMAGE_FOLDER, SECRET_PATHS
from llmstack.image_builds.build_plan import ImagePlan
from llmstack.image_builds.package_lock import pins, read_lock
from llmstack.image_builds.recipe import TEMPLATE_FILE, images_folder
from llmstack.settings import expand_home

# The lock in the build context.
PACKAGES_FILE = "packages.txt"

_INSTRUCTIONS = (
    "ADD|ARG|CMD|COPY|ENTRYPOINT|ENV|EXPOSE|FROM|HEALTHCHECK|LABEL|ONBUILD|RUN|SHELL|STOPSIGNAL|USER|VOLUME|WORKDIR"
)
_INSTRUCTION = re.compile(rf"^(?={_INSTRUCTIONS}\b)", re.MULTILINE)
# Two control characters carry an instruction's origin through the rendering. No template contains them.
_ORIGIN = re.compile("\x01([^\x02]*):([0-9]+)\x02")


@dataclass(frozen=True, slots=True)
class Origin:
    """The template (`images/hf/Dockerfile.j2`, or a private one's path) and the line (from 1) of an instruction."""

    template: str
    line: int

    def __str__(self) -> str:
        return f"{self.template}, line {self.line}"


@dataclass(frozen=True, slots=True)
class RenderedImage:
    """A Dockerfile, the origin of each instruction in order, and the other files of the build context.

    A context file is its content, or the path of a local file or directory.
    """

    dockerfile: str
    origins: tuple[Origin, ...]
    files: Mapping[str, bytes | Path]


def render(image: ImagePlan, *, buildkit: bool = False) -> RenderedImage:
    """Render a planned image, with cache and secret mounts if `buildkit`.

    Raises UsageError with the template and the line.
    """
    recipe, variant, environment = image.recipe, image.variant, image.environment
    args, local = _arguments(image)
    environment_files = environment.files()
    lock = read_lock(recipe, variant)
    values = {
        "name": recipe.name,
        # Not the path: a Dockerfile is the same wherever it is rendered.
        "folder": recipe.folder.parent.name,
        "variant": variant.name,
        "description": recipe.description,
        "base": image.base,
        "stages": image.stages,
        "args": args,
        "defaults": variant.args,
        "local": local,
        "packages": variant.packages,
        "excluded": variant.excluded,
        "lock": lock is not None,
        "unlocked": pins(variant) if lock is None else lock.unlocked,
        "ports": recipe.ports,
        "labels": recipe.labels,
        "environment_folder": IMAGE_FOLDER if environment_files else "",
        "has_ca_cert": bool(environment.settings.ca_cert),
        "apt_get": f"{IMAGE_FOLDER}/apt-get" if environment.uses_apt else "apt-get",
        "pip_config": f"PIP_CONFIG_FILE={IMAGE_FOLDER}/pip.conf " if environment.uses_pip else "",
        "buildkit": buildkit,
        "secrets": {name: SECRET_PATHS[name] for name in environment.secret_files} if buildkit else {},
        "version": __version__,
    }
    jinja = _jinja_environment((recipe.folder.parent, images_folder()))
    marked = _fill(jinja, f"{recipe.name}/{TEMPLATE_FILE}", values)
    origins = tuple(Origin(template, int(line)) for template, line in _ORIGIN.findall(marked))
    files = dict(image.files)
    if lock is not None:
        files[PACKAGES_FILE] = lock.content
    for name in recipe.files:
        if name.endswith(".j2"):
            template = f"{recipe.name}/{name}" if (recipe.folder / name).is_file() else name
            files[name.removesuffix(".j2")] = _ORIGIN.sub("", _fill(jinja, template, values)).encode()
        elif path := recipe.file(name):
            files[name] = path.read_bytes()
    files |= {f"{CONTEXT_FOLDER}/{name}": content for name, content in environment_files.items()}
    files |= {name: Path(args[key]) for key, name in local.items()}
    dockerfile = re.sub(r"\n{3,}", "\n\n", _ORIGIN.sub("", marked)).strip() + "\n"
    return RenderedImage(dockerfile, origins, files)


def _arguments(image: ImagePlan) -> tuple[dict[str, str], dict[str, str]]:
    """Return the arguments, and the path in the build context of each one that is a local file or directory."""
    recipe, defaults = image.recipe, image.variant.args
    args = {**defaults, **{name: value for name, value in image.args.items() if name in defaults}}
    local = {}
    for name in recipe.local:
        value = args.get(name, "")
        if value.startswith(("/", "./", "../", "~")):
            path = expand_home(value, f"{recipe.name}: {name}")
            if not exists(path):
                raise UsageError(f"{recipe.name}: {name}: {value}: not found")
            args[name] = str(path)
            local[name] = f"local/{name}/{path.name}" if path.is_file() else f"local/{name}"
        elif value and name in image.args and exists(Path(value)):
            raise UsageError(
                f"{recipe.name}: {name}: {value} is ambiguous: it is also a local path", hint=f"write it as ./{value}"
            )
    return args, local


class _Loader(jinja2.FileSystemLoader):
    """Load templates, with an origin mark before each instruction."""

    def get_source(self, environment: jinja2.Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        source, path, is_current = super().get_source(environment, template)
        lines = source.split("\n")
        shown = _shown(path)
        marked = [
            f"\x01{shown}:{number}\x02{line}" if _INSTRUCTION.match(line) else line
            for number, line in enumerate(lines, 1)
        ]
        return "\n".join(marked), path, is_current


def _shown(template: str) -> str:
    """Return a template's path for messages: shipped ones are in images/."""
    path = Path(template)
    return f"images/{path.relative_to(images_folder())}" if path.is_relative_to(images_folder()) else template


def _jinja_environment(folders: Sequence[Path]) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=_Loader(folders),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - a Dockerfile is not HTML; values in shell commands go through `quote`
    )
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    environment.filters["dockerquote"] = _dockerquote
    return environment


def _dockerquote(value: object) -> str:
    """Quote a value for LABEL and ENV, where Docker expands variables."""
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'


def _fill(environment: jinja2.Environment, name: str, values: Mapping[str, object]) -> str:
    try:
        return environment.get_template(name).render(values)
    except jinja2.TemplateSyntaxError as error:
        raise UsageError(f"{_shown(error.filename or name)}, line {error.lineno}: {error.message}") from error
    except jinja2.TemplateNotFound as error:
        raise UsageError(f"{name}: template not found: {error.name}") from error
    except jinja2.TemplateError as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(".j2")]
        where = f"{_shown(frames[-1].filename)}, line {frames[-1].lineno}" if frames else name
        raise UsageError(f"{where}: {error.message}") from error
