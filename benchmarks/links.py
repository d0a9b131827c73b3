"""Compare ferry and extract with other tools over a link that limits each connection, and one file with many.

    python -m benchmarks.links            a link of 25 MB/s a connection, 200 MB/s in all, 60 ms; then loopback
    python -m benchmarks.links --quick    a fiftieth of the size, to check the benchmark itself

Needs the programs of the tests (make system), curl, and Debian's aria2. Prints a Markdown table with the medians of the
rounds; each round runs all candidates. `--write` puts it into the documentation. On a shared machine, compare only the
ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.support.process import Daemon, free_port, need
from tests.support.registry import Registry, plain_registry

from benchmarks.carry import layers_of
from benchmarks.measure import Measured, measure, median
from benchmarks.shaper import Link, shaped

BIN = Path(sys.executable).parent
LINK = Link(connection=25e6, total=200e6, round_trip=0.06)
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/_results/links.md"
HEAD = "| | time | compared | goal |\n|---|---:|---:|---:|"
TITLE = "25 MB/s a connection, 200 MB/s in all, 60 ms"


class Row(NamedTuple):
    """One comparison: the first candidate is compared with the second one; at most `limit` times as long is good."""

    title: str
    limit: float
    candidates: Mapping[str, Callable[[], Measured]]


@dataclass(frozen=True, slots=True)
class Rig:
    """The servers, directly and over the link (`far_…`), and a work directory."""

    hub: str
    far_hub: str
    registry: Registry
    far_registry: str
    work: Path

    def shell(self, script: str, hub: str = "") -> Callable[[], Measured]:
        """Return a function that measures a bash script in an empty folder, with an empty registry for ferry."""
        folder = self.work / "run"
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub or self.hub,
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }

        def run() -> Measured:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(self.registry.root / "docker/registry/v2/repositories/new", ignore_errors=True)
            folder.mkdir()
            return measure(["bash", "-euo", "pipefail", "-c", f"cd {folder}; {script}"], env=environment)

        return run


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="run with a fiftieth of the size, one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", metavar="WORD", help="only rows with this word in their title")
    parser.add_argument("--write", action="store_true", help=f"write the table to {RESULTS.relative_to(ROOT)}")
    options = parser.parse_args()
    scale, rounds = (50, 1) if options.quick else (1, options.rounds)
    with tempfile.TemporaryDirectory(prefix="llmstack-bench-") as folder, _rig(Path(folder), scale) as rig:
        table = [HEAD]
        print(HEAD, flush=True)
        for row in _rows(rig):
            if options.only in row.title:
                table.append(_compare(row, rounds))
                print(table[-1], flush=True)
        if options.write:
            RESULTS.write_text("\n".join(table) + "\n")


def _rows(rig: Rig) -> Iterator[Row]:
    yield Row(
        f"ferry a file, {TITLE}",
        1.25,
        {
            "llmstack ferry": _ferry(rig, "one", rig.far_hub),
            "aria2c -x16": _aria(rig, f"{rig.far_hub}/bench/one/resolve/main/1.bin"),
        },
    )
    [digest] = _carry(rig, "one")
    yield Row(
        f"extract a file, {TITLE}",
        1.25,
        {
            "llmstack extract": _extract(rig, "one", rig.far_registry),
            "aria2c -x16": _aria(rig, f"http://{rig.far_registry}/v2/carried/models/blobs/{digest}"),
        },
    )
    yield Row(
        f"ferry small files, {TITLE}",
        0.2,
        {
            "llmstack ferry": _ferry(rig, "small", rig.far_hub),
            "hf download": rig.shell("hf download bench/small --local-dir out", rig.far_hub),
        },
    )
    yield Row(
        "ferry one large file, the same bytes in four",
        1.15,
        {"one file": _ferry(rig, "big", rig.hub), "four files": _ferry(rig, "four", rig.hub)},
    )
    _carry(rig, "big")
    digests = _carry(rig, "four")
    yield Row(
        "extract one large file, the same bytes in four",
        1.15,
        {"one file": _extract(rig, "big", rig.registry.host), "four files": _extract(rig, "four", rig.registry.host)},
    )
    yield Row(
        "extract four large files",
        1.05,
        {
            "llmstack extract": _extract(rig, "four", rig.registry.host),
            "curl | cat > file, 2 in parallel, no verification": rig.shell(
                f"echo {' '.join(digests)} | xargs -n1 -P2 bash -c "
                f"'curl -sS -f {rig.registry.url}/v2/carried/models/blobs/$0 | cat > $0'"
            ),
        },
    )


def _ferry(rig: Rig, name: str, hub: str) -> Callable[[], Measured]:
    return rig.shell(f"llmstack ferry bench/{name} --to {rig.registry.host}/new --base scratch --quiet", hub)


def _carry(rig: Rig, name: str) -> list[str]:
    """Ferry a repo for extract; return the digests of its large layers."""
    rig.shell(f"llmstack ferry bench/{name} --to {rig.registry.host}/carried --base scratch --quiet")()
    return list(layers_of(f"{rig.registry.host}/carried/models:bench--{name}").values())


def _extract(rig: Rig, name: str, host: str) -> Callable[[], Measured]:
    return rig.shell(f"llmstack extract docker://{host}/carried/models:bench--{name} out --quiet")


def _aria(rig: Rig, url: str) -> Callable[[], Measured]:
    command = f"{need('aria2c', 'aria2')} -q -x16 -s16 -k1M --file-allocation=none --no-conf"
    return rig.shell(f"{command} -d out -o file {url}")


def _compare(row: Row, rounds: int) -> str:
    runs: dict[str, list[Measured]] = {name: [] for name in row.candidates}
    for _ in range(rounds):
        for name, run in row.candidates.items():
            runs[name].append(run())
    (ours, found), (other, reference) = ((name, median(each)) for name, each in runs.items())
    beside = other.replace("|", "\\|")
    return (
        f"| {row.title}: {ours}; {beside} | {found.seconds:.1f} s; {reference.seconds:.1f} s |"
        f" {found.seconds / reference.seconds:.2f} | {row.limit} |"
    )


@contextlib.contextmanager
def _rig(work: Path, scale: int) -> Iterator[Rig]:
    giga = 1_000_000_000 // scale
    repos = {
        "one": _write(work / "one", 1, giga),
        "small": _write(work / "small", 1500 // scale, 1000),
        "big": _write(work / "big", 1, 2 * giga),
        "four": _write(work / "four", 4, giga // 2),
    }
    port = free_port()
    models = [f"--model=bench/{name}={folder}" for name, folder in repos.items()]
    command = [sys.executable, "-m", "tests.support.hub", "--no-cdn", "--port", str(port), *models]
    hub = Daemon(command, work / "hub.log")
    try:
        hub.wait_until(lambda: "http" in (work / "hub.log").read_text())
        with (
            plain_registry(work / "registry") as registry,
            shaped(f"127.0.0.1:{port}", LINK) as far_hub,
            shaped(registry.host, LINK) as far_registry,
        ):
            yield Rig(f"http://127.0.0.1:{port}", f"http://{far_hub}", registry, far_registry, work)
    finally:
        hub.stop()


def _write(folder: Path, count: int, size: int) -> Path:
    folder.mkdir()
    for number in range(1, count + 1):
        with (folder / f"{number}.bin").open("wb") as file:
            for start in range(0, size, 1_000_000):
                file.write(os.urandom(min(1_000_000, size - start)))
    return folder


if __name__ == "__main__":
    main()
