"""Errors of `llmstack ferry`: exit code, message and hint, without a traceback or a secret."""

from __future__ import annotations

import base64
import json
import resource
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from tests.support.cli import Run, run_llmstack
from tests.support.ferry import Port, moving
from tests.support.registry import Registry
from tests.support.sink import Sink

TOKEN = "hf_s3cr3tT0kenOfTheTest"
NOWHERE = "127.0.0.1:1"


def check(run: Run, code: int, *words: str) -> None:
    """Check the exit code and the words of the error."""
    assert run.code == code, run.stderr
    assert "Traceback" not in run.stderr
    assert TOKEN not in run.stdout + run.stderr
    for word in words:
        assert word in run.stderr, run.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["org/tiny", "--to", "registry.local/Upper"], ["registry.local/Upper", "lower-case"]),
        (["org/tiny", "--to", "registry.local/models:tag"], ["is an image, not a namespace"]),
        (["org/tiny", "--to", "oci:"], ["has no directory after"]),
        (["org/tiny", "--to", "./out"], ["'./out' is not a namespace", "write a directory as oci:./out"]),
        (["not a repo"], ["'not a repo' is not a Hugging Face repo id"]),
        (["org/tiny@"], ["has no revision after @"]),
        (["org/" + "n" * 80 + "@" + "r" * 60], ["would have 147 characters", "name the commit"]),
        (["org/tiny", "--base", "UPPER"], ["'library/UPPER' is not a repository name"]),
        (["org/tiny", "--base", "docker-daemon:busybox"], ["a base image cannot be read from Docker Engine"]),
        ([], ["no wish list was found", "get_hf/to_get_models.txt"]),
        (["--include", "*.json"], ["--include, --exclude and --prepare require a REPO_ID"]),
        (["org/tiny", "--jobs", "0"], ["--jobs"]),
        (["org/tiny", "--type", "space"], ["--type"]),
        (["org/tiny", "--nonsense"], ["--nonsense"]),
    ],
)
def test_an_invalid_command_line(port: Port, arguments: list[str], words: list[str]):
    port.hub.add_repo("org/tiny", {"config.json": b"{}"})
    check(port.ferry(*arguments), 2, *words)
    assert not moving(port.registry.served())


def test_no_destination(port: Port):
    check(run_llmstack("ferry", "org/tiny", cwd=port.folder), 2, "no destination namespace", "--to oci:DIR")


def test_an_unknown_repo_or_revision(port: Port):
    port.hub.add_repo("org/tiny", {"config.json": b"{}"})
    check(port.ferry("org/none"), 3, "source: model org/none: not found on", "check the spelling", "--type dataset")
    check(port.ferry("org/tiny@v9"), 3, "source: model org/tiny has no revision v9", "/org/tiny/tree/main")
    assert port.tags() == []


def test_two_revisions_with_one_tag(port: Port):
    """The image of the first revision is not replaced without --force."""
    repo = port.hub.add_repo("org/tiny", {"config.json": b"{}"})
    repo.commit({"config.json": b"1"}, branch="feature/x")
    repo.commit({"config.json": b"2"}, branch="feature_x")
    assert port.ferry("org/tiny@feature/x").code == 0
    wrong = ["the tag org--tiny--feature_x holds org/tiny@feature/x", "use the commit as the revision", "--force"]
    check(port.ferry("org/tiny@feature_x"), 2, *wrong)
    assert port.files("org--tiny--feature_x")["config.json"] == b"1"
    assert port.ferry("org/tiny@feature_x", "--force").code == 0
    assert port.files("org--tiny--feature_x")["config.json"] == b"2"


def test_a_gated_repo(port: Port):
    port.hub.add_repo("org/gated", {"config.json": b"{}"}, gated="manual")
    page = f"{port.hub.url}/org/gated"
    check(port.ferry("org/gated"), 4, "source: model org/gated is gated", page, "HF_TOKEN")
    env = {"HF_TOKEN": port.hub.add_token(TOKEN)}
    check(port.ferry("org/gated", env=env), 4, page, "with the account of your token")
    check(port.ferry("org/gated", env={"HF_TOKEN": TOKEN + "x"}), 4, "the token is invalid", "HF_TOKEN")
    assert port.tags() == []
    assert port.uploads() == []


def test_the_token_is_sent_to_the_hub_only(port: Port):
    port.hub.add_repo("org/gated", {"config.json": b"{}", "weights.bin": bytes(50_000)}, gated="auto")
    env = {"HF_TOKEN": port.hub.add_token(TOKEN, access={"org/gated"})}
    run = port.ferry("org/gated", "--debug", env=env)
    check(run, 0)
    assert [entry.token for entry in port.hub.log.all(host="cdn")] == [None]
    assert TOKEN not in port.registry.daemon.log.read_text()
    assert all(TOKEN.encode() not in data for data in port.files("org--gated").values())
    port.hub.fault("*/weights.bin", host="cdn", status=400, times=None)
    run = port.ferry("org/gated", "--force", "--debug", env=env)
    assert run.code == 6
    assert "Traceback" in run.stderr
    assert TOKEN not in run.stderr


def test_a_registry_that_requires_authentication(
    port: Port, secure_registry: Registry, token_registry: Registry, secrets: Path
):
    port.hub.add_repo("org/tiny", {"config.json": b"{}"})
    env = {"SSL_CERT_FILE": str(secure_registry.ca_file)}
    for registry in (secure_registry, token_registry):
        to = ["--to", registry.namespace()]
        check(port.ferry("org/tiny", *to, env=env), 4, registry.host, f"log in with: docker login {registry.host}")
        auth = base64.b64encode(f"carrier:{TOKEN}".encode()).decode()
        (secrets / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))
        check(port.ferry("org/tiny", *to, env=env), 4, registry.host)
        (secrets / "config.json").write_text("{}")


def test_an_invalid_credential_helper(port: Port, secure_registry: Registry, secrets: Path):
    port.hub.add_repo("org/tiny", {"config.json": b"{}"})
    (secrets / "config.json").write_text(json.dumps({"credHelpers": {secure_registry.host: "nonsense"}}))
    env = {"SSL_CERT_FILE": str(secure_registry.ca_file)}
    run = port.ferry("org/tiny", "--to", secure_registry.namespace(), env=env)
    check(run, 2, "credential helper not found on PATH")


def test_a_registry_whose_ca_is_unknown(port: Port, secure_registry: Registry):
    port.hub.add_repo("org/tiny", {"config.json": b"{}"})
    run = port.ferry("org/tiny", "--to", secure_registry.namespace())
    check(run, 6, "destination: ", "TLS", "SSL_CERT_FILE")


def test_hosts_and_base_images_that_do_not_exist(port: Port):
    port.hub.add_repo("org/tiny", {"config.json": b"{}"})
    check(port.ferry("org/tiny", "--to", f"{NOWHERE}/x"), 6, f"destination: http://{NOWHERE}/v2/: connection refused")
    check(port.ferry("org/tiny", env={"HF_ENDPOINT": f"http://{NOWHERE}"}), 6, "source: ", "refused")
    check(port.ferry("org/tiny", "--base", f"{port.space}/busybox:none"), 3, "base image: ", "busybox:none")
    check(port.ferry("org/tiny", "--base", "oci:/nowhere"), 3, "base image: ", "/nowhere")
    assert port.tags() == []


@pytest.mark.parametrize(
    "endpoint",
    ["nonsense", "http://", "http://[::1", "ftp://127.0.0.1", "http://127.0.0.1:port", "http://127.0.0.1:1/\tx"],
)
def test_an_invalid_hub_url(port: Port, endpoint: str):
    check(port.ferry("org/tiny", env={"HF_ENDPOINT": endpoint}), 2, "HF_ENDPOINT")


@pytest.mark.parametrize("name", ["ALL_PROXY", "https_proxy"])
def test_an_unsupported_proxy(port: Port, name: str):
    port.hub.add_repo("org/tiny", {"config.json": b"{}"})
    run = port.ferry("org/tiny", env={name: f"socks5://me:{TOKEN}@127.0.0.1:1"})
    check(run, 2, f"{name.lower().removesuffix('_proxy')}_proxy", "socks5 proxies are not supported", "http://")


def test_a_token_with_invalid_characters(port: Port):
    port.hub.add_repo("org/tiny", {"config.json": b"{}"})
    check(port.ferry("org/tiny", env={"HF_TOKEN": f"{TOKEN[:9]}…"}), 2, "token", "HF_TOKEN", "hf auth login")
    assert not port.hub.log


def test_a_stored_token_that_is_not_readable(port: Port, tmp_path: Path):
    port.hub.add_repo("org/tiny", {"config.json": b"{}"})
    run = port.ferry("org/tiny", env={"HF_TOKEN_PATH": str(tmp_path)})
    check(run, 2, "the stored Hub token cannot be read", str(tmp_path), "HF_TOKEN_PATH")


def test_a_wish_list_without_a_valid_line(port: Port):
    (port.folder / "get_hf").mkdir()
    (port.folder / "get_hf/to_get_models.txt").write_text("org/tiny --inclde x\n")
    check(port.ferry(), 2, "to_get_models.txt:1", "--inclde")


def test_no_files(port: Port):
    port.hub.add_repo("org/empty", {})
    check(port.ferry("org/empty"), 3, "source: model org/empty has no files")
    port.hub.add_repo("org/tiny", {"config.json": b"{}"})
    run = port.ferry("org/tiny", "--include", "*.bin")
    check(run, 2, "no file of the repo is selected", "--include")
    assert "destination" not in run.stderr


def test_a_full_disk(port: Port, tiny_disk: Path):
    port.hub.add_repo("org/tiny", {"weights.bin": bytes(3_000_000)})
    run = port.ferry("org/tiny", "--to", f"oci:{tiny_disk}/carried", "--base", "scratch")
    check(run, 6, "destination: weights.bin: writing to oci:", "the disk is full", "free some space")
    assert not [path for path in tiny_disk.rglob("*") if "part" in path.name]
    assert not (tiny_disk / "carried/models/index.json").exists()


def test_a_limit_on_the_size_of_files(port: Port, tmp_path: Path):
    port.hub.add_repo("org/tiny", {"weights.bin": bytes(3_000_000)})
    target = f"oci:{tmp_path / 'carried'}"
    with port.start("org/tiny", "--to", target) as process:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        out, err = process.communicate(timeout=60)
    check(Run(process.returncode, out, err), 6, "destination: weights.bin: writing to oci:", "File too large")


def test_a_file_at_the_path_of_the_layout(port: Port, tmp_path: Path):
    port.hub.add_repo("org/tiny", {"config.json": b"{}"})
    (tmp_path / "carried").write_text("not a folder")
    check(port.ferry("org/tiny", "--to", f"oci:{tmp_path / 'carried'}"), 6, "destination: ", "Not a directory")


@pytest.mark.parametrize("path", ["../climbs", "a//b", "/absolute", "a/./b"])
def test_invalid_paths_in_the_file_list(port: Port, path: str):
    port.hub.add_repo("org/evil", {"config.json": b"{}", path: b"x"})
    check(port.ferry("org/evil"), 5, "source: ", "is not a valid path of a file in a repo")
    assert port.tags() == []


def test_a_file_name_that_marks_a_deletion(port: Port):
    port.hub.add_repo("org/odd", {"config.json": b"{}", "a/.wh.config.json": b"x"})
    check(port.ferry("org/odd"), 2, "'a/.wh.config.json' cannot be stored in an image", "--exclude")
    assert port.results("org/odd", "--exclude", "*.wh.*")[0]["status"] == "carried"


def test_terminal_escapes_in_file_names_are_not_printed(port: Port):
    port.hub.add_repo("org/odd", {"\x1b[31mred\x07.bin": bytes(40_000)})
    run = port.ferry("org/odd", "--dry-run")
    check(run, 0)
    assert "\x1b" not in run.stdout + run.stderr
    port.hub.fault("*red*", corrupt_at=3)
    run = port.ferry("org/odd")
    check(run, 5, "\\x1b[31mred\\x07.bin")
    assert "\x1b" not in run.stdout + run.stderr


def test_a_failed_repo_stops_no_other(port: Port):
    port.hub.add_repo("org/one", {"config.json": b"{}"})
    port.hub.add_repo("org/broken", {"weights.bin": bytes(50_000)})
    port.hub.add_repo("org/two", {"config.json": b"{}"})
    port.hub.fault("*/weights.bin", corrupt_at=1)
    run = port.ferry("org/one", "org/broken", "org/none", "org/two", "--json")
    check(run, 1, "org/broken: source: weights.bin: the bytes", "org/none: source: model org/none")
    assert [result["status"] for result in run.json["results"]] == ["carried", "failed", "failed", "carried"]
    assert port.tags() == ["org--one", "org--two"]


# Adds a bug that only one repo has.
BUGGY = """
import sys
from llmstack.hf.hub_client import HubClient

snapshot = HubClient.snapshot

def buggy_snapshot(self, info):
    if info.repo_id == "org/two":
        raise ZeroDivisionError("hf_s3cr3t")
    return snapshot(self, info)

HubClient.snapshot = buggy_snapshot
from llmstack.cli.app import main
sys.exit(main())
"""


def test_a_bug_in_one_repo_stops_no_other(port: Port):
    for name in ("one", "two", "three"):
        port.hub.add_repo(f"org/{name}", {"config.json": name.encode()})
    repos = ["org/one", "org/two", "org/three"]

    def ferry(*flags: str) -> Run:
        command = [sys.executable, "-c", BUGGY, *port.command(*repos, "--json", *flags)]
        done = subprocess.run(command, cwd=port.folder, capture_output=True, text=True, timeout=120, check=False)
        return Run(done.returncode, done.stdout, done.stderr)

    run = ferry()
    check(run, 70, "org/two: a bug in llmstack: ZeroDivisionError", "rerun with --debug")
    assert "Traceback" not in run.stderr
    assert "s3cr3t" not in run.stderr + run.stdout
    assert [result["status"] for result in run.json["results"]] == ["carried", "failed", "carried"]
    assert run.json["results"][1]["error"] == "a bug in llmstack: ZeroDivisionError"
    assert port.tags() == ["org--one", "org--three"]
    debug = ferry("--debug")
    assert (debug.code, [result["status"] for result in debug.json["results"]][1]) == (70, "failed")
    assert "Traceback" in debug.stderr
    assert "in buggy_snapshot" in debug.stderr


@pytest.mark.parametrize("date", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"])
def test_a_commit_date_that_does_not_exist_in_utc_stops_no_repo(port: Port, date: str):
    for name in ("one", "two", "three"):
        port.hub.add_repo(f"org/{name}", {"config.json": name.encode()})
    port.hub.repos["model", "org/two"].commit({"config.json": b"2"}, date=datetime.fromisoformat(date))
    run = port.ferry("org/one", "org/two", "org/three", "--json")
    # An invalid commit date is treated as a missing one. The date of the repo is the same here, and is required.
    check(run, 1, "org/two: source: model org/two: ", "sent an invalid response")
    assert [result["status"] for result in run.json["results"]] == ["carried", "failed", "carried"]


@pytest.mark.parametrize(("flags", "prints"), [([], True), (["--json"], True), (["--quiet"], False)])
def test_quiet_prints_no_warning(port: Port, flags: list[str], prints: bool):
    """The partial image of two layers cannot be saved: a warning, not an error."""
    port.hub.add_repo("org/tiny", {"config.json": b"{}", "large.bin": bytes(17_000_000)})
    with Sink() as sink:
        sink.refuse = [("PUT .*/manifests/org--tiny--partial", 413)]
        run = port.ferry("org/tiny", "--to", f"{sink.host}/llm", "--base", "scratch", "--progress", "none", *flags)
    assert run.code == 0, run.stderr
    assert ("warning: org/tiny: the partial image could not be saved" in run.stderr) == prints
    assert prints or run.stderr == ""
