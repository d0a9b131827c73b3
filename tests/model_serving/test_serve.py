"""`llmstack serve` with a Docker Engine. The server answers with the SHA-256 of the file that it has loaded."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llmstack.engine.containers import mounts_images
from llmstack.engine.docker_engine import Engine as OurEngine
from llmstack.oci.layout import Layout
from tests.model_serving.support import FILES, Bench, chat, content, sha256
from tests.support.carried import carry
from tests.support.cli import run_llmstack
from tests.support.ferry import wait_until
from tests.support.process import free_port
from tests.support.serving import repository, serving


def names(bench: Bench) -> list[str]:
    return [server["name"] for server in bench.servers()]


def test_a_model_is_served_until_ctrl_c(bench: Bench):
    running = bench.start("org/gguf")
    running.wait_ready()
    assert content(running.url) == sha256("org/gguf", "a-Q4_K_M.gguf")
    [server] = bench.servers()
    assert (server["model"], server["server"], server["url"], server["running"]) == (
        "org/gguf",
        "llama.cpp",
        running.url,
        True,
    )
    running.process.send_signal(signal.SIGINT)
    code, stderr = running.end()
    assert (code, stderr.splitlines()[-1]) == (0, "stopped")
    assert names(bench) == []


def test_ctrl_c_stops_a_server_whose_url_nobody_reads_yet(bench: Bench):
    """The signal arrives while it prints the URL: a full pipe holds it there."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    running = bench.start("org/gguf", stdout=writer)
    os.close(writer)
    wait_channel = Path(f"/proc/{running.process.pid}/wchan")
    wait_until(lambda: "pipe_write" in wait_channel.read_text(), running.process)
    running.process.send_signal(signal.SIGINT)
    with os.fdopen(reader, "rb") as pipe:
        assert running.url.encode() in pipe.read()
    assert running.end()[0] == 0
    assert names(bench) == []


def test_detached_servers_are_listed_and_stopped(bench: Bench):
    """Two models at once; the second start of a model copies nothing."""
    ports = [str(free_port()) for _ in range(2)]
    first = bench.serve("org/gguf", "--file", "q8_0", "--detach", "--port", ports[0], "--", "--ctx-size", "64")
    assert first.code == 0, first.stderr
    second = bench.serve("org/safe", "--detach", "--port", ports[1], "--json")
    assert second.code == 0, second.stderr
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    assert first.stdout.splitlines()[0] == f"org/gguf: {urls[0]}"
    assert second.json["url"] == urls[1]
    assert content(urls[0]) == sha256("org/gguf", "a-Q8_0.gguf")
    assert content(urls[1]) == sha256("org/safe", "config.json")
    assert [(each["model"], each["url"]) for each in bench.servers()] == [("org/gguf", urls[0]), ("org/safe", urls[1])]
    again = bench.serve("org/gguf", "--detach", "--port", ports[0])
    assert (again.code, f"is served already at {urls[0]}" in again.stderr) == (2, True)
    stopped = bench.serve("--stop", "org/gguf")
    assert stopped.stdout == f"stopped llmstack-org--gguf-{ports[0]}\n"
    assert names(bench) == [f"llmstack-org--safe-{ports[1]}"]
    once_more = bench.serve("org/gguf", "--detach", "--port", ports[0])
    assert (once_more.code, "copying" in once_more.stderr) == (0, False)
    for model in ("org/gguf", "org/safe"):
        assert bench.serve("--stop", "--rm", model).code == 0
    assert bench.volumes() == set()
    missing = bench.serve("--stop", "org/gguf")
    assert (missing.code, "no server of this model" in missing.stderr) == (3, True)


def test_an_interrupted_copy_is_made_again(bench: Bench, engine):
    with OurEngine() as ours:
        if mounts_images(ours):
            return
    assert bench.serve("org/gguf", "--detach").code == 0
    [volume] = bench.volumes()
    assert bench.serve("--stop", "org/gguf").code == 0
    # As if the first run had been killed: the volume has half of the model, and no container vouches for it.
    engine.docker("rm", volume)
    mount = f"{volume}:/REPO"
    engine.docker("run", "--rm", "--volume", mount, f"{bench.namespace}/models:org--gguf", "rm", "/REPO/a-Q4_K_M.gguf")
    port = str(free_port())
    assert bench.serve("org/gguf", "--detach", "--port", port).code == 0
    assert content(f"http://127.0.0.1:{port}") == sha256("org/gguf", "a-Q4_K_M.gguf")
    assert bench.volumes() == {volume}


def test_a_copy_without_a_server_is_removed(bench: Bench):
    with OurEngine() as ours:
        if mounts_images(ours):
            return
    running = bench.start("org/gguf")
    running.wait_ready()
    running.process.send_signal(signal.SIGINT)
    assert running.end()[0] == 0
    [volume] = bench.volumes()
    removed = bench.serve("--stop", "org/gguf", "--rm")
    assert (removed.code, removed.stdout) == (0, f"removed the volume {volume}\n"), removed.stderr
    assert bench.volumes() == set()
    assert bench.serve("--stop", "org/gguf", "--rm").code == 3


def test_a_server_that_cannot_load_shows_its_last_lines(bench: Bench):
    done = bench.serve("org/gguf", "--port", str(free_port()), "--", "--die-with", "3")
    assert done.code == 1
    assert "org/gguf: llama.cpp has ended: exit code 3\n  loading /model/a-Q4_K_M.gguf\n" in done.stderr
    assert "  error: not enough memory\n" in done.stderr
    assert names(bench) == []


def test_a_killed_server_is_an_error(bench: Bench):
    running = bench.start("org/gguf", "--", "--die-when-asked")
    running.wait_ready()
    with contextlib.suppress(OSError, http.client.HTTPException):
        chat(running.url)
    code, stderr = running.end()
    assert code == 1
    assert "org/gguf: llama.cpp has ended: exit code 143\n" in stderr
    assert names(bench) == []


def test_a_server_that_somebody_stops_has_ended(bench: Bench):
    running = bench.start("org/gguf")
    running.wait_ready()
    assert bench.serve("--stop", "org/gguf").code == 0
    assert running.end()[0] == 0


def test_a_container_that_has_ended_is_replaced(bench: Bench, engine):
    port = str(free_port())
    assert bench.serve("org/gguf", "--detach", "--port", port).code == 0
    engine.docker("kill", f"llmstack-org--gguf-{port}")
    [ended] = bench.servers()
    assert (ended["running"], ended["status"].startswith("Exited (137)")) == (False, True)
    assert bench.serve("org/gguf", "--detach", "--port", port).code == 0
    assert content(f"http://127.0.0.1:{port}")


def test_a_busy_port_is_reported_before_anything_is_pulled(bench: Bench):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        done = bench.serve("org/safe", "--port", str(port))
    assert (done.code, f"port {port}: is in use" in done.stderr, "pull" in done.stderr) == (2, True, False)


def test_missing_images_name_the_next_step(bench: Bench, engine):
    engine.docker("image", "rm", f"{bench.namespace}/llama.cpp:cpu")
    port = ("--port", str(free_port()))
    done = bench.serve("org/gguf", *port, env={"LLMSTACK_NAMESPACE": bench.namespace})
    if f"{bench.namespace}/llama.cpp:cpu, llama.cpp:cpu" in done.stderr:
        # Otherwise this machine's engine has one without a namespace.
        assert done.code == 3
        assert "llmstack build llama.cpp --variant cpu" in done.stderr
    done = bench.serve("org/none", *port)
    assert (done.code, "llmstack list" in done.stderr) == (3, True)


@pytest.mark.parametrize("model", [("org/gguf", "--from", "{}"), ("{}/models:org--gguf",)])
def test_the_server_is_looked_for_where_the_model_is(
    bench: Bench, engine, monkeypatch: pytest.MonkeyPatch, model: tuple[str, ...]
):
    engine.docker("image", "rm", f"{bench.namespace}/llama.cpp:cpu")
    monkeypatch.delenv("LLMSTACK_NAMESPACE")
    arguments = [each.format(bench.namespace) for each in model]
    printed = bench.serve(*arguments, "--gpus", "0", "--print", "compose")
    assert (printed.code, f"{bench.namespace}/llama.cpp:cpu" in printed.stdout) == (0, True), printed.stderr
    done = bench.serve(*arguments, "--port", str(free_port()))
    assert "docker.io" not in done.stderr + printed.stdout
    if done.code:
        # Otherwise this machine's engine has one without a namespace.
        assert (done.code, f"not found: {bench.namespace}/llama.cpp:cpu" in done.stderr) == (3, True), done.stderr
        assert "llmstack build llama.cpp --variant cpu --push" in done.stderr


def test_a_missing_image_of_the_user_is_not_one_to_build(bench: Bench):
    done = bench.serve("org/gguf", "--port", str(free_port()), "--server-image", "nope-of-the-tests:1")
    assert (done.code, "nope-of-the-tests:1" in done.stderr) == (3, True), done.stderr
    assert "hint: docker pull nope-of-the-tests:1; or leave --server-image out" in done.stderr
    assert "--variant" not in done.stderr


@pytest.mark.parametrize("option", [("--port", "70000"), ("--shm-size", "much")])
def test_invalid_options_are_reported_before_a_model_is_looked_for(option: tuple[str, str]):
    """Nothing listens at the registry."""
    done = run_llmstack("serve", "org/gguf", "--from", "127.0.0.1:1/llm", *option)
    assert (done.code, option[0] in done.stderr) == (2, True), done.stderr


def test_without_an_engine(bench: Bench):
    done = bench.serve("org/safe", env={"DOCKER_HOST": "unix:///nowhere/docker.sock"})
    assert (done.code, "systemctl start docker" in done.stderr) == (6, True)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("org/pickle",), "its weights are pickles only"),
        (("org/safe", "--engine", "llama.cpp"), "no GGUF file"),
        (("org/gguf", "--engine", "vllm"), "cannot be served by vllm: no safetensors files"),
        (("org/gguf", "--port", "70000"), "--port 70000: must be"),
        (("org/gguf", "--shm-size", "much"), "--shm-size must be"),
        (("org/gguf", "--hub", "http://127.0.0.1:1", "--from", "a.lab/b"), "leave one out"),
        (("org/gguf", "--native"), "--native: needs --print kserve"),
        (("--list", "--stop", "org/gguf"), "--list and --stop: --list lists all servers"),
        (("--list", "org/gguf"), "--list and org/gguf: --list lists all servers"),
        (("org/gguf", "org/safe"), "org/safe: one model at a time"),
        ((), "no model"),
    ],
)
def test_what_cannot_be_served(bench: Bench, arguments: tuple[str, ...], reason: str):
    done = bench.serve(*arguments)
    assert (done.code, reason in done.stderr) == (2, True), done.stderr


def test_a_model_in_a_layout_is_loaded_once(bench: Bench, busybox_base: Path, tmp_path: Path):
    base = f"oci:{busybox_base}:latest"
    carry(Layout(tmp_path / "models"), "org--gguf", FILES["org/gguf"], repo_id="org/gguf", base=base)
    port = str(free_port())
    arguments = ("org/gguf", "--from", f"oci:{tmp_path}", "--detach", "--port", port, "--rm")
    first = bench.serve(*arguments)
    assert first.code == 0, first.stderr
    assert content(f"http://127.0.0.1:{port}") == sha256("org/gguf", "a-Q4_K_M.gguf")
    assert bench.serve("--stop", "org/gguf").code == 0
    again = bench.serve(*arguments)
    assert ("load oci:" in first.stderr, "load oci:" in again.stderr) == (True, False)
    printed = bench.serve("org/gguf", "--from", f"oci:{tmp_path}", "--print", "compose")
    assert (printed.code, "in a directory or archive" in printed.stderr) == (2, True)


def test_a_dataset_is_not_served(bench: Bench, tmp_path: Path):
    store = repository(bench.namespace, "dataset")
    carry(store, "org--set", {"a.parquet": b"a"}, repo_id="org/set", repo_type="dataset", base="scratch")
    done = bench.serve(f"{bench.namespace}/datasets:org--set")
    assert (done.code, "holds the dataset org/set" in done.stderr) == (2, True)
    with serving(tmp_path, bench.namespace) as hub:
        for source in ((), ("--hub", hub.url, "--print", "compose")):
            by_id = bench.serve("org/set", *source)
            assert by_id.code == 2
            assert "org/set: is a dataset, which no server can serve" in by_id.stderr


def test_clients_of_an_exposed_server_send_the_key(bench: Bench):
    port = str(free_port())
    arguments = ("org/gguf", "--detach", "--port", f"0.0.0.0:{port}")
    done = bench.serve(*arguments, env={"LLAMA_API_KEY": "key-of-the-tests"})
    assert done.code == 0, done.stderr
    assert "key-of-the-tests" not in done.stdout + done.stderr
    assert '-H "Authorization: Bearer $LLAMA_API_KEY"' in done.stdout
    url = f"http://127.0.0.1:{port}"
    assert chat(url)[0] == 401
    assert content(url, "key-of-the-tests") == sha256("org/gguf", "a-Q4_K_M.gguf")
    assert bench.serve("--stop", "org/gguf").code == 0
    done = bench.serve(*arguments)
    assert "without a key: set LLAMA_API_KEY" in done.stderr


def test_models_are_loaded_through_a_hub(bench: Bench, tmp_path: Path):
    """Their images are not in the engine."""
    with serving(tmp_path, bench.namespace) as hub:
        for repo_id, path in (("org/gguf", "a-Q8_0.gguf"), ("org/safe", "config.json")):
            port = str(free_port())
            file = ("--file", path) if path.endswith(".gguf") else ()
            arguments = (repo_id, "--hub", hub.url, *file, "--network", "host", "--detach", "--port", port)
            done = bench.serve(*arguments)
            assert done.code == 0, done.stderr
            assert content(f"http://127.0.0.1:{port}") == sha256(repo_id, path)
            image = f"{bench.namespace}/models:{repo_id.replace('/', '--')}"
            assert bench.engine.docker("image", "inspect", image, check=False).returncode != 0
        refused = bench.serve("org/safe", "--hub", hub.url)
    assert (refused.code, "is the container itself" in refused.stderr) == (2, True)


def test_an_interrupted_start_leaves_nothing(bench: Bench):
    """SIGINT while the server loads: it never answers, because it waits for a file."""
    port = str(free_port())
    command = [sys.executable, "-m", "llmstack", "serve", "org/gguf", "--network", bench.network, "--port", port]
    process = subprocess.Popen(
        [*command, "--progress", "plain", "--", "--load-forever"],
        env=dict(os.environ),
        stderr=subprocess.PIPE,
        text=True,
    )
    while not names(bench):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert (process.returncode, stderr.splitlines()[-2:]) == (
        130,
        ["error: interrupted", "  hint: the server was stopped and removed"],
    )
    assert names(bench) == []
