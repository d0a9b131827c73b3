"""From a recipe to a Dockerfile and its build context: Jinja with StrictUndefined, and where each line came from."""

from __future__ import annotations

import re
import shlex
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jinja2

from llmstack import __version__
from llmstack.disk import exists
from llmstack.errors import UsageError
from llmstack.image_builds.recipe import TEMPLATE_FILE, Recipe, Variant
from llmstack.image_builds.site_settings import SITE_FOLDER, Site
from llmstack.settings import expand_home

_INSTRUCTIONS = (
    "ADD|ARG|CMD|COPY|ENTRYPOINT|ENV|EXPOSE|FROM|HEALTHCHECK|LABEL|ONBUILD|RUN|SHELL|STOPSIGNAL|USER|VOLUME|WORKDIR"
)
_INSTRUCTION = re.compile(rf"^(?={_INSTRUCTIONS}\b)", re.MULTILINE)
# Two characters that no template holds: they carry an instruction's origin through the rendering.
_ORIGIN = re.compile("\x01([^\x02]*):([0-9]+)\x02")


@dataclass(frozen=True, slots=True)
class Origin:
    """The template and the line that an instruction of the Dockerfile was written in, counted from 1."""

    template: str
    line: int

    def __str__(self) -> str:
        return f"images/{self.template}, line {self.line}"


@dataclass(frozen=True, slots=True)
class Rendered:
    """A Dockerfile, the origin of each of its instructions in order, and the other files of the build context.

    A file of the context is its bytes, or a file or folder on this machine.
    """

    dockerfile: str
    origins: tuple[Origin, ...]
    files: Mapping[str, bytes | Path]


@dataclass(frozen=True, slots=True)
class RenderInputs:
    """What a rendering depends on besides the recipe: what FROM names, changed arguments, the site.

    `base` is the image that the last stage starts from, `stages` the images of the others by name. `args` replace the
    variant's. `files` come along in the context.
    """

    base: str
    stages: Mapping[str, str]
    args: Mapping[str, str]
    site: Site
    files: Mapping[str, bytes | Path]


def render(recipe: Recipe, variant: Variant, inputs: RenderInputs) -> Rendered:
    """Render a recipe; raises UsageError that names the template and the line if that cannot be done."""
    args, local = _arguments(recipe, variant, inputs.args)
    site_files = inputs.site.files()
    values = {
        "name": recipe.name,
        "variant": variant.name,
        "description": recipe.description,
        "base": inputs.base,
        "stages": {**variant.stages, **inputs.stages},
        "args": args,
        "defaults": variant.args,
        "local": local,
        "packages": variant.packages,
        "ports": recipe.ports,
        "labels": recipe.labels,
        "site": {"files": bool(site_files), "ca": "ca.crt" in site_files, "pip": inputs.site.uses_pip},
        "apt_get": f"{SITE_FOLDER}/apt-get" if inputs.site.uses_apt else "apt-get",
        "pip_config": f"PIP_CONFIG_FILE={SITE_FOLDER}/pip.conf " if inputs.site.uses_pip else "",
        "site_folder": SITE_FOLDER,
        "version": __version__,
    }
    environment = _environment(recipe.folder.parent)
    marked = _fill(environment, f"{recipe.name}/{TEMPLATE_FILE}", values)
    origins = tuple(Origin(template, int(line)) for template, line in _ORIGIN.findall(marked))
    files = dict(inputs.files)
    for name in recipe.files:
        folder = recipe.name if (recipe.folder / name).is_file() else "."
        path = f"{folder}/{name}".removeprefix("./")
        if name.endswith(".j2"):
            files[name.removesuffix(".j2")] = _ORIGIN.sub("", _fill(environment, path, values)).encode()
        else:
            files[name] = (recipe.folder.parent / path).read_bytes()
    files |= {f"site/{name}": data for name, data in site_files.items()}
    files |= {name: Path(args[key]) for key, name in local.items()}
    dockerfile = re.sub(r"\n{3,}", "\n\n", _ORIGIN.sub("", marked)).strip() + "\n"
    return Rendered(dockerfile, origins, files)


def _arguments(recipe: Recipe, variant: Variant, changed: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the arguments, and for those whose value is a file or folder here, its name in the context."""
    args = {**variant.args, **{name: value for name, value in changed.items() if name in variant.args}}
    local = {}
    for name in recipe.local:
        value = args.get(name, "")
        if value.startswith(("/", "./", "../", "~")):
            path = expand_home(value, f"{recipe.name}: {name}")
            if not exists(path):
                raise UsageError(f"{recipe.name}: {name} names {value}, which does not exist")
            args[name] = str(path)
            local[name] = f"local/{name}/{path.name}" if path.is_file() else f"local/{name}"
        elif value and name in changed and exists(Path(value)):
            raise UsageError(f"{recipe.name}: {name} names {value}, which is here, too", hint=f"write it as ./{value}")
    return args, local


class _Loader(jinja2.FileSystemLoader):
    """Loads templates, and marks each line that starts an instruction with where it is."""

    def get_source(self, environment: jinja2.Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        source, path, fresh = super().get_source(environment, template)
        lines = source.split("\n")
        marked = [_INSTRUCTION.sub(f"\x01{template}:{number}\x02", line) for number, line in enumerate(lines, 1)]
        return "\n".join(marked), path, fresh


def _environment(folder: Path) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=_Loader(folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - a Dockerfile is no HTML; values that reach a shell go through `quote`
    )
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    environment.filters["dockerquote"] = _dockerquote
    return environment


def _dockerquote(value: object) -> str:
    """Quote a value for LABEL and ENV, where Docker itself expands variables."""
    text = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{text}"'


def _fill(environment: jinja2.Environment, name: str, values: Mapping[str, object]) -> str:
    try:
        return environment.get_template(name).render(values)
    except jinja2.TemplateSyntaxError as error:
        raise UsageError(f"images/{error.name}, line {error.lineno}: {error.message}") from error
    except jinja2.TemplateError as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(".j2")]
        place = f"{Path(frames[-1].filename).parent.name}/{Path(frames[-1].filename).name}" if frames else name
        line = f", line {frames[-1].lineno}" if frames else ""
        raise UsageError(f"images/{place}{line}: {error.message}") from error
