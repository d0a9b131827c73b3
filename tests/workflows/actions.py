"""A minimal GitHub Actions runner for our workflows: it runs the `run` steps of a job in order, in their shell.

Expressions are looked up in a context. An unknown expression is an error, and so is any expression in a script.
"""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
FORMAT = re.compile(r"format\('([^']*)', ([a-z_.]+)\)")
BRANCH = "refs/heads/main"
# GitHub's shell commands: only an explicit `bash` sets pipefail.
SHELLS = {None: ["bash", "-e"], "bash": ["bash", "--noprofile", "--norc", "-eo", "pipefail"]}


@dataclass(frozen=True)
class Step:
    """A finished step."""

    name: str
    code: int
    output: str


@dataclass
class Job:
    """A job on its own machine: `context` has the values of expressions, `shell` runs the scripts."""

    steps: list[dict[str, Any]]
    variables: dict[str, str]
    context: Mapping[str, str]
    machine: Machine
    shell: str | None
    done: list[Step] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return any(step.code for step in self.done)

    @property
    def log(self) -> str:
        return "\n".join(f"[{step.name}: {step.code}]\n{step.output}" for step in self.done)

    def run(self, until: str | None = None) -> Job:
        """Run the remaining steps, up to but excluding the step `until`."""
        while self.steps and (until is None or self.steps[0].get("name") != until):
            self._step(self.steps.pop(0))
        return self

    def _step(self, step: dict[str, Any]) -> None:
        if step.get("if") not in {None, "always()"}:
            raise ValueError(f"unknown condition {step['if']!r}")
        if self.failed and step.get("if") is None:
            return
        if "uses" in step:
            self.machine.use(step["uses"].partition("@")[0], step.get("with", {}))
            return
        script = step["run"]
        if EXPRESSION.search(script):
            raise ValueError(f"expression in a script (injection): {script}")
        given = {name: evaluate(str(value), self.context) for name, value in step.get("env", {}).items()}
        done = self.machine.run(script, {**self.variables, **given}, SHELLS[step.get("shell", self.shell)])
        if "id" in step:
            outputs = {f"steps.{step['id']}.outputs.{key}": text for key, text in self.machine.outputs().items()}
            self.context = {**self.context, **outputs}
        self.done.append(Step(step.get("name", ""), done.returncode, done.stdout))


class Machine:
    """A fresh runner with its own home, checkout and Python."""

    def __init__(self, folder: Path, remote: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.workspace = folder / "work"
        self.summary = folder / "summary.md"
        self.output = folder / "output"
        self._remote = remote
        (folder / "home").mkdir(parents=True)
        for file in (self.summary, self.output):
            file.touch()
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}},
            **environment,
            "HOME": str(folder / "home"),
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTOR": "octocat",
            "GITHUB_OUTPUT": str(self.output),
            "GITHUB_REF": BRANCH,
            "GITHUB_REF_NAME": BRANCH.removeprefix("refs/heads/"),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_WORKSPACE": str(self.workspace),
        }

    def use(self, action: str, settings: Mapping[str, Any]) -> None:
        """Do what the action does."""
        if action == "actions/checkout":
            if settings.get("persist-credentials") is not False:
                raise ValueError("checkout must not persist credentials")
            subprocess.run(["git", "clone", "-q", self._remote, self.workspace], check=True)
        elif action == "actions/upload-artifact":
            if settings["if-no-files-found"] == "error" and not (self.workspace / settings["path"]).exists():
                raise ValueError(f"upload-artifact: {settings['path']}: not found")
        elif action == "actions/setup-python":
            self._set_up_python()
        else:
            raise ValueError(f"unknown action {action}")

    def run(self, script: str, variables: Mapping[str, str], shell: Sequence[str]) -> subprocess.CompletedProcess[str]:
        path = self.folder / "step.sh"
        path.write_text(script)
        return subprocess.run(
            [*shell, str(path)],
            cwd=self.workspace,
            env={**self.environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def outputs(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.output.read_text().splitlines())

    def _set_up_python(self) -> None:
        """Create a virtual environment that imports pip and all dependencies from this process's environment."""
        folder = self.folder / "python"
        venv.EnvBuilder(symlinks=True).create(folder)
        packages = next((folder / "lib").glob("python3*/site-packages"))
        ours = Path(sysconfig.get_path("purelib"))
        (packages / "ours.pth").write_text(f"{ours}\n")
        self.environment["PATH"] = f"{folder / 'bin'}{os.pathsep}{self.environment['PATH']}"


def load(path: Path) -> dict[str, Any]:
    """Read a workflow; in YAML 1.1, the key `on` is the value True."""
    workflow = dict(yaml.safe_load(path.read_text()))
    workflow["on"] = workflow.pop(True)
    return workflow


def job(workflow: Mapping[str, Any], name: str, context: Mapping[str, str], machine: Machine) -> Job:
    """Return a job of a workflow, to run on a machine."""
    found = workflow["jobs"][name]
    variables = {key: evaluate(str(value), context) for key, value in found.get("env", {}).items()}
    defaults = {**workflow.get("defaults", {}).get("run", {}), **found.get("defaults", {}).get("run", {})}
    return Job(list(found["steps"]), variables, context, machine, defaults.get("shell"))


def evaluate(text: str, context: Mapping[str, str]) -> str:
    """Replace expressions: names, `format('…{0}…', name)`, and `||` (the first operand that is not empty)."""

    def term(word: str) -> str:
        if match := FORMAT.fullmatch(word):
            return match[1].replace("{0}", context[match[2]])
        return context[word]

    def value(match: re.Match[str]) -> str:
        values = [term(word.strip()) for word in match[1].split("||")]
        return next((one for one in values if one), "")

    return EXPRESSION.sub(value, text)
