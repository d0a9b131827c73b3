"""example/start.py on converted models: from a directory, and offline from a Hugging Face cache."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from llama_cases import EXAMPLE, ROOT

from llmstack.llama.conversion_plan import ConversionRequest, plan_conversion
from llmstack.llama.convert import convert
from llmstack.reporting import make_reporter

pytestmark = pytest.mark.xdist_group("llama")


@pytest.fixture(scope="module")
def make(checkpoints, tmp_path_factory):
    """Return a function that converts a checkpoint to a directory."""

    def make_folder(name, **options):
        folder = tmp_path_factory.mktemp("example") / "output"
        reporter = make_reporter("none", quiet=True)
        convert(plan_conversion(ConversionRequest(checkpoints[name].folder, folder, **options), reporter), reporter)
        return folder

    return make_folder


def start(*arguments, cwd=ROOT, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "MODEL_"))}
    return subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments, "--max-new-tokens", "8"],
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
        cwd=cwd,
        env=environment | variables,
    )


def test_a_directory_is_loaded_and_the_text_streamed(make):
    folder = make("v1", dtype="bfloat16")
    done = start("Hello world", MODEL_LLAMA="./output", cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Hello world")
    assert re.search(r"Loaded \./output: .* billion parameters, bfloat16, on c\w+, in [\d.]+ s\n", done.stderr)
    assert re.search(r"\n[1-8] tokens in [\d.]+ s, [\d.]+ tokens/s\n", done.stderr)


def test_a_repo_is_loaded_offline_from_an_extracted_cache(make, tmp_path):
    """Arrange a converted model as a Hugging Face cache: `snapshots/COMMIT` and `refs/main`."""
    repo = tmp_path / "hub/models--meta-llama--tiny"
    commit = "a" * 40
    shutil.copytree(make("v3"), repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(commit)
    done = start("--device", "cpu", MODEL_LLAMA="meta-llama/tiny", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The capital of France is")
    assert "Loaded meta-llama/tiny: " in done.stderr
    assert "float32, on cpu, in " in done.stderr


def test_a_chat_model_gets_the_prompt_as_a_user_turn(make, tmp_path):
    (tmp_path / "chat.jinja").write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }} [/]{% endfor %}")
    folder = make("v3", instruct=True, chat_template=tmp_path / "chat.jinja")
    done = start("Hello", "--model", str(folder))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[user] Hello [/]")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "./nowhere"], 2, "error: ./nowhere: no such directory"),
        (["--model", "nobody/nothing"], 1, "error: nobody/nothing cannot be loaded: "),
        ([], 2, "no model: set MODEL_LLAMA or --model"),
    ],
)
def test_a_mistake_gives_one_line_and_no_traceback(arguments, code, message):
    done = start(*arguments, HF_HUB_OFFLINE="1")
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_example_fits_one_screen():
    code = EXAMPLE.read_text().splitlines()
    assert len(code) <= 80
    assert max(map(len, code)) <= 120
