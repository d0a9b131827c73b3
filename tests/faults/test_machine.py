"""Read-only directories, full disks, concurrent runs, expired tokens, lost blobs, deleted commits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.bench import QUICK, Bench, bench
from tests.faults.cases import FILES, Case
from tests.faults.reading import Carried, placed
from tests.faults.stored import layout_files
from tests.support.cli import Run, run_llmstack
from tests.support.process import need
from tests.support.proxy import Rule, Seen
from tests.support.registry import Registry

# The capabilities that let root write anywhere.
POWERS = "-dac_override,-dac_read_search,-fowner"
Tell = Callable[[str, Case], None]


@pytest.fixture
def made(registry: Registry, tmp_path: Path) -> Iterator[Bench]:
    with bench(registry, tmp_path / "bench") as made:
        made.hub.add_repo("org/tiny", FILES)
        yield made


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A read-only directory."""
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o500)
    yield folder
    folder.chmod(0o700)


def without_powers(*command: str | Path, cwd: Path, env: dict[str, str]) -> Run:
    """Run llmstack so that file permissions apply, also to root."""
    drop = [need("setpriv", "util-linux"), f"--bounding-set={POWERS}", f"--inh-caps={POWERS}"]
    full = [*(drop if os.geteuid() == 0 else []), sys.executable, "-m", "llmstack", *map(str, command)]
    done = subprocess.run(
        full, env={**os.environ, **QUICK, **env}, cwd=cwd, capture_output=True, text=True, check=False
    )
    return Run(done.returncode, done.stdout, done.stderr)


def filled(disk: Path, room: int) -> Path:
    """Fill a disk with one file, except for `room` bytes; return the file."""
    other = disk / "other"
    with other.open("wb") as file:
        state = os.statvfs(disk)
        file.write(bytes(state.f_bavail * state.f_frsize - room))
    return other


def refused(run: Run, code: int, *words: str) -> None:
    assert run.code == code, run.stderr
    assert "Traceback" not in run.stderr
    for word in words:
        assert word in run.stderr


def test_a_read_only_layout(made: Bench, closed: Path, tell: Tell):
    command = ["ferry", "org/tiny", "--base", "scratch", "--to", f"oci:{closed}/carried"]
    run = without_powers(*command, cwd=made.folder, env={"HF_ENDPOINT": made.hub.url})
    refused(run, 6, "destination: 3 files, config.json", f"writing to oci:{closed}/carried/models: Permission denied")
    closed.chmod(0o700)
    assert made.ferry("org/tiny", env=QUICK, to=f"oci:{closed}/carried").code == 0
    assert layout_files(closed / "carried/models", "org--tiny") == FILES
    tell("ferry to a layout", Case("closed", "the machine", code=6))


def test_a_read_only_catalogue(made: Bench, tell: Tell):
    """The image is published; the next run adds its row."""
    lists = made.folder / "get_hf"
    lists.mkdir(mode=0o500)
    command = ["ferry", "org/tiny", "--base", "scratch", "--to", made.target]
    run = without_powers(*command, cwd=made.folder, env={"HF_ENDPOINT": made.hub.url})
    refused(run, 6, f"catalogue {lists}/models.md: ", "Permission denied")
    assert made.stored.files("org--tiny") == FILES
    lists.chmod(0o700)
    assert made.ferry("org/tiny", env=QUICK).code == 0
    assert "org/tiny" in (lists / "models.md").read_text()
    tell("ferry to a registry", Case("catalogue", "the machine", code=6))


@pytest.mark.parametrize("verb", ["dir", "hf-cache"])
def test_extract_into_a_read_only_directory(registry: Registry, closed: Path, tmp_path: Path, verb, tell: Tell):
    carried = Carried(registry, tmp_path)
    run = without_powers(*carried.command(verb, closed / "out", registry.host), cwd=tmp_path, env={})
    refused(run, 2, f"destination: writing to {closed}/out", "Permission denied")
    closed.chmod(0o700)
    assert carried.read(verb, closed / "out", registry.host, QUICK).code == 0
    assert placed(closed / "out", verb) == FILES
    tell("extract to a folder" if verb == "dir" else "extract to a cache", Case("closed", "the machine", code=2))


@pytest.mark.parametrize("room", [0, 100_000])
def test_a_layout_on_a_full_disk(made: Bench, tiny_disk: Path, room: int, tell: Tell):
    other = filled(tiny_disk, room)
    to = f"oci:{tiny_disk}/carried"
    refused(made.ferry("org/tiny", env=QUICK, to=to), 6, f"writing to {to}/models: the disk is full")
    assert not (tiny_disk / "carried/models/index.json").exists()
    other.unlink()
    assert made.ferry("org/tiny", env=QUICK, to=to).code == 0
    assert layout_files(tiny_disk / "carried/models", "org--tiny") == FILES
    tell("ferry to a layout", Case(f"full-{room}", "the machine", code=6))


@pytest.mark.parametrize("verb", ["dir", "hf-cache"])
@pytest.mark.parametrize("room", [0, 100_000])
def test_extract_onto_a_full_disk(registry: Registry, tiny_disk: Path, tmp_path: Path, verb, room: int, tell: Tell):
    carried = Carried(registry, tmp_path)
    other = filled(tiny_disk, room)
    run = carried.read(verb, tiny_disk / "out", registry.host, QUICK)
    refused(run, 6, f"writing to {tiny_disk}/out", "bytes are needed")
    assert placed(tiny_disk / "out", verb) == {}
    other.unlink()
    assert carried.read(verb, tiny_disk / "out", registry.host, QUICK).code == 0
    assert placed(tiny_disk / "out", verb) == FILES
    tell("extract to a folder" if verb == "dir" else "extract to a cache", Case(f"full-{room}", "the machine", code=6))


def test_a_catalogue_on_a_full_disk(made: Bench, tiny_disk: Path, tell: Tell):
    """The image is published, and the catalogue unchanged; the next run adds the row."""
    lists = tiny_disk / "get_hf"
    lists.mkdir()
    (lists / "models.md").write_text(old := "# Models\n\nMine.\n" * 300)
    other = filled(tiny_disk, 0)
    command = ["ferry", "org/tiny", "--base", "scratch", "--to", made.target]
    run = run_llmstack(*command, cwd=tiny_disk, env={**QUICK, "HF_ENDPOINT": made.hub.url})
    refused(run, 6, f"catalogue {lists}/models.md: ", "the disk is full")
    assert ((lists / "models.md").read_text(), sorted(lists.iterdir())) == (old, [lists / "models.md"])
    other.unlink()
    run = run_llmstack(*command, cwd=tiny_disk, env={**QUICK, "HF_ENDPOINT": made.hub.url})
    assert run.code == 0, run.stderr
    assert "org/tiny" in (lists / "models.md").read_text()
    tell("ferry to a registry", Case("catalogue-full", "the machine", code=6))


def test_concurrent_ferries_into_one_layout(made: Bench, tmp_path: Path, tell: Tell):
    """Two of the same repo, and two of others with the same layers."""
    for number in (1, 2):
        made.hub.add_repo(f"org/other{number}", {**FILES, "number.txt": b"%d" % number})
    repos = ["org/tiny", "org/tiny", "org/other1", "org/other2"]
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda repo: made.ferry(repo, env=QUICK, to=f"oci:{tmp_path}/carried"), repos))
    assert [run.code for run in runs] == [0] * 4, [run.stderr for run in runs]
    layout = tmp_path / "carried/models"
    assert layout_files(layout, "org--tiny") == FILES
    assert [layout_files(layout, f"org--other{number}")["number.txt"] for number in (1, 2)] == [b"1", b"2"]
    assert not list(layout.glob("**/.*part*"))
    tell("ferry to a layout", Case("together", "the machine"))


def test_a_blob_that_is_lost_before_the_manifest(made: Bench, tell: Tell):
    def lose() -> None:
        made.stored.lose_blob(max(made.stored.blobs(), key=made.stored.size))

    made.proxy.rules = [Rule("HEAD", "/blobs/sha256:", then=lose)]
    run = made.ferry("org/tiny", env=QUICK)
    refused(run, 3, "destination: ", "the registry lost a blob: rerun to upload it again")
    assert made.stored.tags() == set()
    assert made.ferry("org/tiny", env=QUICK).code == 0
    assert made.stored.files("org--tiny") == FILES
    tell("ferry to a registry", Case("vanished", "registry", code=3))


def test_a_branch_that_changes_during_a_ferry(made: Bench, tell: Tell):
    """The commit that was resolved first is ferried."""
    repo = made.hub.repos["model", "org/tiny"]
    first = repo.sha

    def move(seen: Seen) -> None:
        if "/tree/" in seen.target and repo.sha == first:
            repo.commit({"weights.bin": bytes(90_000)})

    made.hub_proxy.watch = move
    run = made.ferry("org/tiny", "--json", env=QUICK)
    assert run.code == 0
    assert run.json["results"][0]["commit"] == first != repo.sha
    assert made.stored.files("org--tiny") == FILES
    tell("ferry to a registry", Case("moved", "hub"))


@pytest.mark.parametrize("moment", ["/tree/", "/resolve/"])
def test_a_commit_that_is_deleted_during_a_ferry(made: Bench, moment: str, tell: Tell):
    """As after a force push and a garbage collection on the Hub."""
    repo = made.hub.repos["model", "org/tiny"]
    first = repo.sha

    def push(seen: Seen) -> None:
        if moment in seen.target and first in repo.commits:
            repo.commit({"weights.bin": bytes(90_000)})
            del repo.commits[first]

    made.hub_proxy.watch = push
    run = made.ferry("org/tiny", env=QUICK)
    refused(run, 3, "source: ", f"not found at commit {first[:12]}", "the repo has changed on the Hub")
    assert made.stored.tags() == set()
    assert made.stored.uploads() == set()
    assert made.ferry("org/tiny", env=QUICK).code == 0
    assert made.stored.files("org--tiny") == {**FILES, "weights.bin": bytes(90_000)}
    tell("ferry to a registry", Case("gone", "hub", code=3))


TOKENS = {
    "earlier": ("GET", "/manifests/org--tiny--partial$", 0),
    "open": ("POST", "/blobs/uploads/", 0),
    "stream": ("PATCH", "/blobs/uploads/", 0),
    "commit": ("PUT", "/blobs/uploads/", 0),
    "look": ("HEAD", "/blobs/sha256:", 0),
    "manifest": ("PUT", "/manifests/sha256:", 1),
    "tag": ("PUT", "/manifests/org--tiny$", 0),
}


@pytest.mark.parametrize("moment", TOKENS)
def test_an_expired_token(token_registry: Registry, tmp_path: Path, moment: str, tell: Tell):
    """A new token is fetched, and no upload session is left."""
    tokens = token_registry.tokens
    challenge = {"WWW-Authenticate": f'Bearer realm="{tokens.url}/token",service="{tokens.service}"'}
    with bench(token_registry, tmp_path / "bench") as made:
        made.hub.add_repo("org/tiny", FILES)
        login = token_registry.docker_config(tmp_path / "docker")
        config = json.loads((login / "config.json").read_text())
        (login / "config.json").write_text(json.dumps({"auths": {made.proxy.host: config["auths"].popitem()[1]}}))
        method, target, skip = TOKENS[moment]
        rule = Rule(method, target, skip, status=401, headers=challenge)
        made.proxy.rules = [rule]
        run = made.ferry("org/tiny", env={**QUICK, "DOCKER_CONFIG": str(login)})
        assert run.code == 0, run.stderr
        assert rule.fired
        assert made.stored.files("org--tiny") == FILES
        assert made.stored.uploads() == set()
    tell("ferry to a registry", Case(f"token-{moment}", "registry"))


@pytest.mark.parametrize("status", [400, 403, 404, 405, 500])
def test_a_base_image_that_is_not_mounted(made: Bench, registry: Registry, tmp_path: Path, status, tell: Tell):
    """Its layers are copied."""
    base = Carried(registry, tmp_path)
    rule = Rule("POST", "mount=", times=None, status=status)
    made.proxy.rules = [rule]
    name = f"{made.proxy.host}/{base.space.partition('/')[2]}/models:org--model"
    run = made.ferry("org/tiny", "--base", name, env=QUICK)
    assert run.code == 0, run.stderr
    assert rule.fired
    assert made.stored.files("org--tiny") == FILES
    assert made.stored.uploads() == set()
    tell("ferry to a registry", Case(f"mount-{status}", "registry"))
