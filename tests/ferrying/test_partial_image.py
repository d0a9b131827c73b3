"""The partial image of an unfinished ferry: the next run reuses its layers, other commands reject it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from llmstack.carried_image.image import open_image
from llmstack.carried_image.image_location import parse_location
from llmstack.carried_image.open_location import open_reader
from llmstack.errors import NotFoundError
from llmstack.net import Client
from llmstack.oci.repository import Registries
from llmstack.oci.store import BlobReader
from tests.support import registry as registries
from tests.support.cli import run_llmstack
from tests.support.sink import Sink

# Each file has its own layer. The largest is uploaded first: `a.bin`, and `j.bin` last.
FILES = {f"{name}.bin": name.encode() * (17_000_000 - 1000 * place) for place, name in enumerate("abcdefghij")}
TIMEOUT = 120.0
PARTIAL = "org--ten--partial"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run llmstack in a directory without a catalogue."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=["registry", "layout"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "layout":
        return f"oci:{tmp_path / 'carried'}"
    return request.getfixturevalue("registry").namespace()


def models(target: str) -> BlobReader:
    """Return the repository or layout of a target's models."""
    registries_ = Registries(Client(), lambda _: None)
    place = f"{target}/models:x" if not target.startswith("oci:") else f"{target}/models"
    return open_reader(parse_location(place), registries_)[0]


def named(target: str, tag: str = PARTIAL) -> set[str]:
    """Return the files of an image, or none if there is no image."""
    try:
        index = open_image(models(target), tag).index
    except NotFoundError:
        return set()
    return {file.path for file in index.files} if index else set()


def start(target: str, base: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "llmstack", "ferry", "org/ten", "--to", target, "--base", f"oci:{base}", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(ready, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def fetched(hub) -> set[str]:
    """Return the files that were requested from the hub."""
    return {name for name in FILES if hub.log.files(f"*{name}*")}


def carry_again(hub, target: str, base: Path, folder: Path):
    """Run with another home and working directory, as on another machine."""
    hub.faults.clear()
    hub.log.clear()
    (folder / "home").mkdir(parents=True)
    (folder / "work").mkdir()
    return run_llmstack(
        "ferry",
        *("org/ten", "--to", target, "--base", f"oci:{base}", "--json"),
        env={"HOME": str(folder / "home")},
        cwd=folder / "work",
    )


def test_a_killed_ferry_uploads_only_unfinished_layers_again(hub, target, busybox_base, tmp_path):
    hub.add_repo("org/ten", FILES)
    for name in ("i.bin", "j.bin"):
        hub.fault(f"*/{name}", stall_after=1_000_000, times=None)
    process = start(target, busybox_base, "--jobs", "2")
    complete = set(FILES) - {"i.bin", "j.bin"}
    wait_until(lambda: named(target) == complete, process)
    process.kill()
    process.communicate()

    image = f"{target}/models:{PARTIAL}"
    for verb in (["extract", image, tmp_path / "out"], ["inspect", image], ["verify", image]):
        refused = run_llmstack(*verb)
        assert refused.code == 3
        assert "is a partial image" in refused.stderr
    assert not (tmp_path / "out").exists()
    assert run_llmstack("extract", "org/ten", tmp_path / "out", "--from", target).code == 3
    (listed,) = run_llmstack("list", "--from", target, "--json").json
    assert (listed["incomplete"], listed["repo_id"]) == (True, "org/ten")
    assert "(incomplete)" in run_llmstack("list", "--from", target).stdout

    again = carry_again(hub, target, busybox_base, tmp_path / "elsewhere")
    assert again.code == 0, again.stderr
    assert fetched(hub) == {"i.bin", "j.bin"}
    (result,) = again.json["results"]
    assert result["bytes_transferred"] == len(FILES["i.bin"]) + len(FILES["j.bin"])
    assert models(target).tags() == ["org--ten"]
    assert run_llmstack("verify", "org/ten", "--from", target).code == 0
    fresh = carry_again(hub, f"oci:{tmp_path / 'fresh'}", busybox_base, tmp_path / "third")
    assert fresh.json["results"][0]["digest"] == result["digest"]


def test_a_kill_loses_at_most_one_layer_per_worker(hub, registry, busybox_base, tmp_path):
    """Killed when another file is requested: layers that were finished before are not uploaded again."""
    hub.add_repo("org/ten", FILES)
    target = registry.namespace()
    moved: list[str] = []
    for _ in range(2):
        hub.log.clear()
        process = start(target, busybox_base, "--jobs", "2")
        wait_until(lambda: len(fetched(hub)) >= 4, process)
        process.kill()
        process.communicate()
        asked = fetched(hub)
        lost = asked - named(target)
        assert len(lost) <= 2
        # A later run does not request files of layers that an earlier run finished.
        assert not asked & set(moved)
        moved += asked - lost
    assert len(moved) >= 4
    again = carry_again(hub, target, busybox_base, tmp_path / "elsewhere")
    assert again.code == 0, again.stderr
    assert fetched(hub) == set(FILES) - set(moved)
    assert again.json["results"][0]["bytes_transferred"] == sum(len(FILES[name]) for name in set(FILES) - set(moved))
    assert run_llmstack("verify", "org/ten", "--from", target).code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_an_interrupted_ferry_saves_the_partial_image(hub, target, busybox_base, tmp_path, number):
    hub.add_repo("org/ten", FILES)
    hub.fault("*/j.bin", bytes_per_second=100_000, times=None)
    process = start(target, busybox_base, "--jobs", "1")
    wait_until(lambda: hub.log.files("*j.bin*"), process)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert named(target) == set(FILES) - {"j.bin"}
    assert carry_again(hub, target, busybox_base, tmp_path / "elsewhere").code == 0
    assert fetched(hub) == {"j.bin"}


def test_a_failed_ferry_saves_the_partial_image(hub, target, busybox_base, tmp_path):
    hub.add_repo("org/ten", FILES)
    hub.fault("*/resolve/*/j.bin", status=404, times=None)
    process = start(target, busybox_base, "--jobs", "1")
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode != 0
    assert "j.bin" in err
    assert named(target) == set(FILES) - {"j.bin"}
    assert carry_again(hub, target, busybox_base, tmp_path / "elsewhere").code == 0
    assert fetched(hub) == {"j.bin"}
    assert models(target).tags() == ["org--ten"]


@pytest.mark.registry
def test_without_deletion_the_partial_tag_points_at_the_finished_image(hub, busybox_base, tmp_path, monkeypatch):
    monkeypatch.setenv("REGISTRY_STORAGE_DELETE_ENABLED", "false")
    with registries.plain_registry(tmp_path / "registry") as registry:
        target = registry.namespace()
        ferry = ("org/ten", "--to", target, "--base", f"oci:{busybox_base}")
        repo = hub.add_repo("org/ten", {name: FILES[name] for name in ("a.bin", "b.bin")})
        for update in ("one", "two"):
            hub.fault("*/resolve/*/b.bin", status=404, times=None)
            assert run_llmstack("ferry", *ferry, "--jobs", "1").code != 0
            assert carry_again(hub, target, busybox_base, tmp_path / update).code == 0
            reader = models(target)
            assert reader.manifest(PARTIAL).digest == reader.manifest("org--ten").digest
            (listed,) = run_llmstack("list", "--from", target, "--json").json
            assert listed["image"].endswith("models:org--ten")
            # Both files change, so that the next round has a partial image again.
            repo.commit({name: update.encode() * 6_000_000 for name in ("a.bin", "b.bin")})


def test_the_image_of_another_repo_is_not_replaced(hub, registry, busybox_base):
    """The image of `ten/partial` has the tag of the partial image of `ten`."""
    hub.add_repo("ten/partial", {"config.json": b"{}"})
    hub.add_repo("ten", {name: FILES[name] for name in ("a.bin", "j.bin")})
    target = registry.namespace()
    assert run_llmstack("ferry", "ten/partial", "--to", target, "--base", f"oci:{busybox_base}").code == 0
    digest = models(target).manifest("ten--partial").digest
    hub.fault("*/resolve/*/j.bin", status=404, times=None)
    assert run_llmstack("ferry", "ten", "--to", target, "--base", f"oci:{busybox_base}", "--jobs", "1").code != 0
    hub.faults.clear()
    assert models(target).manifest("ten--partial").digest == digest
    assert run_llmstack("ferry", "ten", "--to", target, "--base", f"oci:{busybox_base}").code == 0
    assert models(target).manifest("ten--partial").digest == digest
    assert len(run_llmstack("list", "--from", target, "--json").json) == 2


@pytest.mark.parametrize("names", ["a", "abc"])
def test_the_partial_image_is_written_at_most_once_per_layer_and_not_for_the_last(hub, registry, busybox_base, names):
    hub.add_repo("org/ten", {f"{name}.bin": FILES[f"{name}.bin"] for name in names})
    target = registry.namespace()
    registry.served()
    assert run_llmstack("ferry", "org/ten", "--to", target, "--base", f"oci:{busybox_base}").code == 0
    found, *others = [request.method for request in registry.served() if PARTIAL in request.target]
    # HEAD: whether the tag is deleted.
    assert (found, set(others)) == ("GET", {"PUT", "HEAD"} if len(names) > 1 else set())
    assert others.count("PUT") < len(names)
    assert models(target).tags() == ["org--ten"]


@pytest.mark.parametrize("deletable", [True, False])
def test_a_registry_that_keeps_tags_does_not_keep_the_partial_image(hub, busybox_base, deletable):
    """A tag that cannot be deleted refers to the finished image afterwards."""
    hub.add_repo("org/ten", {name: FILES[name] for name in ("a.bin", "b.bin")})
    with Sink() as sink:
        sink.keep_tags = True
        sink.refuse = [] if deletable else [(f"DELETE .*/{PARTIAL}", 405)]
        assert run_llmstack("ferry", "org/ten", "--to", sink.host, "--base", f"oci:{busybox_base}").code == 0
        store = models(sink.host)
        assert store.tags() == (["org--ten"] if deletable else ["org--ten", PARTIAL])
        assert deletable or store.manifest(PARTIAL) == store.manifest("org--ten")


@pytest.mark.parametrize("status", [401, 403, 418])
def test_a_registry_that_refuses_to_delete_does_not_keep_the_partial_image(hub, busybox_base, status):
    """The tag refers to the finished image, whatever the refusal; the warning is for a refused PUT only."""
    hub.add_repo("org/ten", {name: FILES[name] for name in ("a.bin", "b.bin")})
    with Sink() as sink:
        sink.refuse = [("DELETE .*", status)] * 50
        ferry = run_llmstack("ferry", "org/ten", "--to", sink.host, "--base", f"oci:{busybox_base}")
        assert ferry.code == 0, ferry.stderr
        assert "could not be removed" not in ferry.stderr
        store = models(sink.host)
        assert store.manifest(PARTIAL) == store.manifest("org--ten")


def test_the_tag_refers_to_the_finished_image_if_looking_after_the_deletion_fails(hub, busybox_base):
    hub.add_repo("org/ten", {name: FILES[name] for name in ("a.bin", "b.bin")})
    with Sink() as sink:
        sink.keep_tags = True
        sink.refuse = [(f"HEAD .*/{PARTIAL}", 403)] * 50
        ferry = run_llmstack("ferry", "org/ten", "--to", sink.host, "--base", f"oci:{busybox_base}")
        assert ferry.code == 0, ferry.stderr
        store = models(sink.host)
        assert store.manifest(PARTIAL) == store.manifest("org--ten")


@pytest.mark.parametrize("kind", ["registry", "token_registry"])
def test_deleting_a_manifest(kind, request, monkeypatch, tmp_path):
    """Deletion needs a separate permission from the token server."""
    from llmstack.engine.credentials import lookup
    from llmstack.oci.reference import Reference
    from tests.support.carried import carry

    registry = request.getfixturevalue(kind)
    if registry.user:
        monkeypatch.setenv("DOCKER_CONFIG", str(registry.docker_config(tmp_path / "docker")))
    with closing(Client()) as client:
        repository = Registries(client, lookup).repository(
            Reference.parse(f"{registry.namespace()}/models"), write=True
        )
        carry(repository, "gone", {"config.json": b"{}"})
        carry(repository, "kept", {"config.json": b"[]"})
        digest = repository.manifest("gone").digest
        assert repository.delete_manifest(digest, "gone")
        assert repository.tags() == ["kept"]
        assert repository.delete_manifest(digest, "gone")
