"""The command line of the conversion: output, exit codes, and signals during writing."""

import json
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from llama_cases import ROOT, SCRIPT

import llmstack

pytestmark = pytest.mark.xdist_group("llama")


def script(*arguments):
    return [sys.executable, str(SCRIPT), *map(str, arguments)]


def run(*arguments, **options):
    return subprocess.run(script(*arguments), check=False, capture_output=True, text=True, timeout=240, **options)


@pytest.fixture
def llama(checkpoints, tmp_path):
    """Arrange a checkpoint in the layout of the first Llama: LLaMA/7B/..., with the tokenizer next to 7B."""
    folder = shutil.copytree(checkpoints["v1-two-shards"].folder, tmp_path / "LLaMA/7B")
    (folder / "tokenizer.model").rename(folder.parent / "tokenizer.model")
    return folder.parent


@pytest.fixture
def large(sentencepiece_model, tmp_path):
    """Write a checkpoint of a few bytes with tensors of 400 MB: each is one number, repeated by strides."""
    folder = tmp_path / "large"
    folder.mkdir()
    dim, ffn, layers = 512, 2048, 24
    tensors = {"tok_embeddings": (700, dim), "output": (700, dim), "norm": (dim,)}
    for layer in range(layers):
        tensors |= {f"layers.{layer}.attention.{name}": (dim, dim) for name in ("wq", "wk", "wv", "wo")}
        tensors |= {f"layers.{layer}.feed_forward.{name}": (ffn, dim) for name in ("w1", "w3")}
        tensors |= {f"layers.{layer}.{name}": (dim,) for name in ("attention_norm", "ffn_norm")}
        tensors[f"layers.{layer}.feed_forward.w2"] = (dim, ffn)
    torch.save(
        {f"{name}.weight": torch.ones(1).expand(shape) for name, shape in tensors.items()},
        folder / "consolidated.00.pth",
    )
    params = {"dim": dim, "n_layers": layers, "n_heads": 8, "multiple_of": 1024, "norm_eps": 1e-6, "vocab_size": -1}
    (folder / "params.json").write_text(json.dumps(params))
    shutil.copy(sentencepiece_model, folder / "tokenizer.model")
    return folder


@pytest.mark.usefixtures("llama")
def test_the_documented_command(tmp_path):
    done = run("--input_dir", "LLaMA", "--model_size", "7B", "--output_dir", "output", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("Fetching parameters from LLaMA/7B (2 shards, ")
    assert lines[1].startswith("Detected Llama 1 ")
    assert lines[2].startswith("Loading checkpoint shards: ")
    assert lines[-2:] == ["Saving tokenizer and configuration to output", "Done: output"]
    assert done.stdout == ""
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]


@pytest.mark.usefixtures("llama")
def test_the_script_finds_its_source_without_an_installed_package(tmp_path):
    """Run a copy of the checkout without the installed package on the path."""
    for part in ("tools", "src"):
        shutil.copytree(ROOT / part, tmp_path / "checkout" / part)
    installed = str(Path(llmstack.__file__).resolve().parents[1])
    code = f"""
import runpy, sys
sys.path = [path for path in sys.path if path != {installed!r}]
runpy.run_path({str(tmp_path / "checkout/tools/convert_llama_weights_to_hf.py")!r}, run_name="__main__")
"""
    starter = tmp_path / "starter.py"
    starter.write_text(f"import atexit, sys\natexit.register(lambda: print(sys.modules['llmstack'].__file__))\n{code}")
    arguments = ["--input_dir", "LLaMA", "--model_size", "7B", "--output_dir", "output", "--dry_run"]
    done = subprocess.run(
        [sys.executable, starter, *arguments], check=False, capture_output=True, text=True, timeout=240, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "version: 1" in done.stdout
    assert str(tmp_path / "checkout/src/llmstack") in done.stdout


def test_a_dry_run_prints_the_plan_and_writes_nothing(llama, tmp_path):
    done = run("--input_dir", llama, "--model_size", "7B", "--output_dir", tmp_path / "output", "--dry_run")
    assert done.returncode == 0, done.stderr
    for part in ("version: 1", "tokenizer: SentencePiece, 700 tokens", "model.safetensors: ", "as float32 in 1 file"):
        assert part in done.stdout
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model_size", "13B"], 3, "\n  hint: found: --model_size 7B"),
        (["--model_size", "7B", "--num_shards", "3"], 3, "missing: consolidated.02.pth"),
        (["--model_size", "7B", "--llama_version", "3"], 2, "does not match tokenizer.model"),
        (["--model_size", "7B", "--llama_version", "4"], 2, "invalid choice"),
    ],
)
def test_a_mistake_gives_one_line_and_its_exit_code(arguments, code, message, llama, tmp_path):
    done = run("--input_dir", llama, "--output_dir", tmp_path / "output", *arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert sum(line.startswith("error: ") for line in done.stderr.splitlines()) == (code != 2 or "4" not in arguments)
    assert not (tmp_path / "output").exists()


def test_a_write_error_leaves_no_output(large, tmp_path):
    """The kernel refuses files over 64 MB."""

    def limit_file_size():
        resource.setrlimit(resource.RLIMIT_FSIZE, (64_000_000, 64_000_000))

    done = run("--input_dir", large, "--output_dir", tmp_path / "output", preexec_fn=limit_file_size)
    assert done.returncode == 1
    assert "output: cannot be written: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "output").exists()


# Runs the script and stops it where it opens its third output file: it reports that on a pipe, then waits for a signal.
# A loop, because a signal may arrive just before a blocking call.
STOPPED = """
import os, runpy, signal, sys, time
pipe, *sys.argv = sys.argv[1:]

def stop(event, arguments):
    if event == "open" and "/.part/model-00003-" in str(arguments[0]):
        os.write(int(pipe), b"stopped")
        while True:
            time.sleep(0.01)

# A shell starts background jobs with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.addaudithook(stop)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_an_interrupted_conversion_publishes_nothing_and_a_rerun_completes(number, code, large, tmp_path):
    output = tmp_path / "output"
    command = script("--input_dir", large, "--output_dir", output, "--max_shard_size", "20MB")
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(writer), *command[1:]], stderr=subprocess.DEVNULL, pass_fds=(writer,)
    )
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read(7) == b"stopped"
    assert (output / ".part/model-00002-of-00024.safetensors").is_file()
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    left = [path.name for path in output.iterdir()] if output.exists() else []
    assert left == ([".part"] if number == signal.SIGKILL else [])
    again = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)
    assert again.returncode == 0, again.stderr
    assert len(list(output.glob("model-*-of-00024.safetensors"))) == 24
    assert not (output / ".part").exists()


def test_a_terminal_shows_a_progress_bar(large, tmp_path):
    main, terminal = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    with subprocess.Popen(
        script("--input_dir", large, "--output_dir", tmp_path / "output"), stderr=terminal, env=environment
    ) as process:
        os.close(terminal)
        shown = b""
        while True:
            try:
                shown += os.read(main, 65536)
            except OSError:  # the other end is closed
                break
    os.close(main)
    assert process.returncode == 0
    text = shown.decode()
    assert "Loading checkpoint shards" in text
    assert "MB/s" in text
    assert "━" in text
