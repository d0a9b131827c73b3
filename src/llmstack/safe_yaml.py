"""YAML from strangers and from users: one loader with limits, one error with the line. YAML for users."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from llmstack.errors import UsageError

# Limits on a document once its aliases are expanded: a few aliases can stand for billions of nodes.
MAX_NODES = 100_000
MAX_DEPTH = 100
_SURROGATE = re.compile("[\ud800-\udfff]")


class YamlError(Exception):
    """A document that is not YAML, or has a value that its tag does not allow; `line` counts from 1."""

    def __init__(self, problem: str, line: int | None) -> None:
        super().__init__(f"line {line}: {problem}" if line else problem)
        self.problem = problem
        self.line = line


class _Loader(yaml.SafeLoader):
    """A SafeLoader whose only error is YAMLError."""

    def __init__(self, stream: bytes | str) -> None:
        super().__init__(stream)
        self._depth = 0
        # The number of nodes and the depth below each node, aliases expanded.
        self._sizes: dict[yaml.Node, tuple[int, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if parent and self._depth == MAX_DEPTH:
            raise _error(f"nested deeper than {MAX_DEPTH} levels", parent)
        is_alias = self.check_event(yaml.AliasEvent)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node and parent and is_alias and node not in self._sizes:
            raise _error("an alias inside the node that it names", parent)
        if node and not is_alias:
            self._sizes[node] = self._size(node)
        return node

    def _size(self, node: yaml.Node) -> tuple[int, int]:
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in children for child in pair]
        sizes = [self._sizes[child] for child in children]
        count = 1 + sum(nodes for nodes, _ in sizes)
        depth = 1 + max((below for _, below in sizes), default=0)
        if count > MAX_NODES or depth > MAX_DEPTH:
            raise _error(f"more than {MAX_NODES} nodes or {MAX_DEPTH} levels, aliases expanded", node)
        return count, depth

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        try:
            value: object = super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:
            # PyYAML's constructors raise KeyError, IndexError, AttributeError and others for a value that is not of
            # its tag: `!!bool foo`, `!!int ""`, `!!timestamp x`, 2024-99-99.
            raise _error(f"invalid value for {node.tag.removeprefix('tag:yaml.org,2002:')}", node) from error
        if isinstance(value, str) and _SURROGATE.search(value):
            raise _error("a character that is not Unicode", node)
        return value


def _error(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def parse_yaml(data: bytes | str) -> object:
    """Return the value of a YAML document; raises YamlError."""
    try:
        loader = _Loader(data)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise YamlError(error.problem or "", line) from error
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split()), None) from error


def read_yaml(path: Path) -> object:
    """Return the value of a YAML file; raises UsageError that names the file and the line."""
    try:
        return parse_yaml(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except YamlError as error:
        place = f"{path}:{error.line}" if error.line else str(path)
        raise UsageError(f"{place}: invalid YAML: {error.problem}") from error


class _Dumper(yaml.SafeDumper):
    """Writes no aliases, and indents lists below their key."""

    def ignore_aliases(self, _data: object) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002 - PyYAML's names
        super().increase_indent(flow, indentless=False)


def write_yaml(*documents: object) -> str:
    """Return documents as YAML for people: keys in the order of the dictionaries."""
    return "---\n".join(
        yaml.dump(each, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100) for each in documents
    )
