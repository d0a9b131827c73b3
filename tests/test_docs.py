"""The docs and README say what the code does: commands and options exist, schema and tables are current."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import typer
import yaml

import llmstack
from llmstack import errors
from llmstack.cli.app import app
from llmstack.settings import Settings
from tests.support.hub import Hub

ROOT = Path(__file__).parents[1]
COMMANDS = typer.main.get_command(app).commands
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("images/*/README.md")])
# A command line of a code block, with its continuation lines.
LINE = re.compile(r"^(?: {4}|\$ )(?:[A-Z_]+=\S+ )*llmstack ((?:.*\\\n)*.*)$", re.MULTILINE)


def command_lines() -> list[tuple[str, str]]:
    found = [
        (page.relative_to(ROOT).as_posix(), match[1]) for page in PAGES for match in LINE.finditer(page.read_text())
    ]
    assert len(found) > 50
    return sorted(set(found))


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_documented_command_exists_with_its_options(page: str, line: str):
    words = shlex.split(line.replace("\\\n", " "), comments=True)
    # What follows is for another program.
    words = words[: words.index("--")] if "--" in words else words
    command = COMMANDS[words[0]] if words[0] in COMMANDS else typer.main.get_command(app)
    if hasattr(command, "commands") and command.name != "llmstack":
        command = command.commands[words[1]]
    options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    assert not [word for word in words if word.startswith("-") and word.partition("=")[0] not in options], page


def test_schema_for_editors_is_current():
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    try:
        import settings_schema
    finally:
        sys.path.pop(0)
    assert settings_schema.SCHEMA.read_text() == settings_schema.text(), "run: make schema"


def test_documented_settings_are_in_the_schema():
    page = (ROOT / "docs/reference/settings.md").read_text()
    example = yaml.safe_load(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1])
    assert example.keys() <= set(Settings.__dataclass_fields__)


def test_table_of_exit_codes_is_complete():
    page = (ROOT / "docs/reference/exit-codes.md").read_text()
    documented = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", page, re.MULTILINE) for code in row.split(",")}
    classes = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, Exception)]
    codes = {item.exit_code for item in classes} | {errors.EXIT_BUG, errors.EXIT_INTERRUPTED, errors.EXIT_TERMINATED}
    assert documented == codes | {0}


def test_each_command_has_a_page():
    pages = "".join(page.read_text() for page in (ROOT / "docs/reference/commands").glob("*.md"))
    for name, command in COMMANDS.items():
        for full in [f"{name} {child}" for child in getattr(command, "commands", {})] or [name]:
            assert f"{{command}} {full}\n" in pages


def test_every_recipe_has_a_page():
    recipes = {path.parent.name for path in ROOT.glob("images/*/README.md")}
    assert {path.stem for path in (ROOT / "docs/reference/recipes").glob("*.md")} == recipes | {"index"}


@pytest.mark.parametrize(
    "result",
    [
        "CopyResult",
        "PruneResult",
        "ExtractResult",
        "FerryResult",
        "ImageDetails",
        "ListedImage",
        "LoadResult",
        "SaveResult",
        "VerifyResult",
    ],
)
def test_documented_json_fields_are_complete(result: str):
    page = (ROOT / "docs/reference/json.md").read_text()
    documented = set(re.findall(r"[`\"](\w+)[`\"]", page))
    hidden = {"FerryResult": {"layers", "exit_code"}, "LoadResult": {"exit_code"}}.get(result, set())
    assert {field.name for field in fields(getattr(llmstack, result))} - hidden <= documented


def test_examples_of_the_python_api_run(tmp_path: Path):
    page = (ROOT / "docs/reference/python-api.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 3
    with Hub() as hub:
        hub.add_repo("facebook/opt-125m", {"config.json": b"{}", "model.safetensors": bytes(1000)})
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "LLMSTACK_BASE": "scratch"}
        outputs = []
        for example in examples:
            command = [sys.executable, "-c", example]
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            outputs.append(done.stdout)
    assert outputs[0].startswith("carried ")
    assert outputs[1].endswith("2 files in opt-125m\n")
    assert outputs[2] == "facebook/opt-125m OK\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_named_paths_of_the_repository_exist(page: Path):
    users_own = {"get_hf/prepare.sh"}
    names = re.findall(r"`((?:src|docs|tests|tools|images|example|benchmarks|get_hf)/[\w./-]+)`", page.read_text())
    if page.name == "CHANGELOG.md":
        return
    assert [name for name in names if not (ROOT / name).exists() and "NAME" not in name and name not in users_own] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_named_make_targets_exist(page: Path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^    )make ([a-z-]+)", page.read_text(), re.MULTILINE)) <= targets
