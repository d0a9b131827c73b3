"""The directive `command`: one command of llmstack, with its usage, arguments and options, read from Typer.

A command that no page documents is a warning, and a warning ends the build.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import typer
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from typer.core import TyperArgument, TyperCommand, TyperGroup

from llmstack.cli.app import app as llmstack_app

log = logging.getLogger(__name__)


def commands() -> dict[str, TyperCommand]:
    """Return all commands that can be run, by their names after `llmstack`."""
    return dict(_walk("", typer.main.get_command(llmstack_app)))


def _walk(name: str, command: TyperGroup) -> Iterator[tuple[str, TyperCommand]]:
    for key, child in getattr(command, "commands", {}).items():
        full = f"{name} {key}".strip()
        if hasattr(child, "commands"):
            yield from _walk(full, child)
        else:
            yield full, child


class Command(SphinxDirective):
    """`{command} ferry`: usage, description, arguments and options."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Return the nodes of the command that the argument names."""
        name = self.arguments[0]
        command = commands().get(name)
        if command is None:
            raise self.error(f"llmstack has no command {name!r}")
        self.env.metadata[self.env.docname]["command"] = name
        context = command.context_class(command, info_name=f"llmstack {name}")
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        options = [one for one in command.params if one.param_type_name == "option"]
        usage = " ".join([f"llmstack {name}", *command.collect_usage_pieces(context)])
        block = nodes.container("", nodes.literal_block(usage, usage, language="text"), classes=["usage"])
        found: list[nodes.Node] = [*_paragraphs(command.help), block]
        if arguments:
            items = [(_metavar(one), one.help or "") for one in arguments]
            found += [nodes.rubric("", "Arguments"), _definitions(items)]
        if options:
            records = [one.get_help_record(context) for one in options]
            found += [nodes.rubric("", "Options"), _definitions([record for record in records if record])]
        return found


def _metavar(argument: TyperArgument) -> str:
    return str(argument.metavar or argument.name.upper())


def _paragraphs(text: str) -> list[nodes.Node]:
    return [nodes.paragraph("", "", *_inline(each)) for each in re.split(r"\n\s*\n", inspect.cleandoc(text or ""))]


def _inline(text: str) -> list[nodes.Node]:
    """Return a text with `code` between backticks as nodes."""
    pieces = re.split(r"`+([^`]+)`+", " ".join(text.split()))
    return [nodes.literal(piece, piece) if number % 2 else nodes.Text(piece) for number, piece in enumerate(pieces)]


def _definitions(items: list[tuple[str, str]]) -> nodes.definition_list:
    found = nodes.definition_list()
    for term, text in items:
        body = nodes.definition("", nodes.paragraph("", "", *_inline(text)))
        found += nodes.definition_list_item("", nodes.term("", "", nodes.literal(term, term)), body)
    return found


def _warn_of_gaps(_: Sphinx, env: BuildEnvironment) -> None:
    documented = {data.get("command") for data in env.metadata.values()}
    for name in commands():
        if name not in documented:
            log.warning("no page documents `llmstack %s`", name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("command", Command)
    app.connect("env-check-consistency", _warn_of_gaps)
    return {"parallel_read_safe": True}
