"""Interrupt and disturb extract in any order: every run ends with correct bytes or an error, and a rerun completes."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from llmstack.errors import LlmstackError
from llmstack.extraction.destination import WORK_DIRECTORY
from llmstack.net import Client
from llmstack.oci.reference import Digest, Reference
from tests.extraction.support import RecordingReporter, contents, registries, run
from tests.resume.support import Stopped, StoppingReporter
from tests.support.carried import carry
from tests.support.sink import Blob, Sink

pytestmark = pytest.mark.slow

BIG = 150_000
VERSIONS = [
    {
        "big.bin": bytes([number]) * BIG,
        "other.bin": bytes([7, number]) * (BIG // 2),
        "same.bin": b"same" * (BIG // 4),
        "config.json": b"%d" % number * 50,
        "sub/empty": b"",
        f"sub/only-in-{number}": b"x" * (100 * number),
    }
    for number in range(3)
]
OFFSETS = st.integers(0, BIG)
# No shrinking: it would take minutes, and a run has only fifteen steps.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)


class Extracting(RuleBasedStateMachine):
    """A directory that is extracted into repeatedly, while image, registry and directory change."""

    def __init__(self, sink: Sink, folder: Path) -> None:
        super().__init__()
        self.sink = sink
        self.out = folder / "out"
        shutil.rmtree(self.out, ignore_errors=True)
        sink.heal()
        self.damaged: dict[str, Blob] = {}
        # The allowed bytes of each path: every carried version, and what the rules below wrote.
        self.known: dict[str, set[bytes]] = {}
        self.carry(0)

    @rule(number=st.integers(0, len(VERSIONS) - 1))
    def carry(self, number: int) -> None:
        self.repair()
        self.files = VERSIONS[number]
        for path, data in self.files.items():
            self.known.setdefault(path, set()).add(data)
        with closing(Client()) as client:
            repository = Reference.parse(f"{self.sink.host}/llm/models")
            self.index = carry(registries(client).repository(repository, write=True), "org--model", self.files)

    @rule(offsets=st.lists(OFFSETS, min_size=1, max_size=8))
    def connections_drop(self, offsets: list[int]) -> None:
        self.sink.drop_after += offsets

    @rule(times=st.integers(1, 3))
    def range_is_ignored(self, times: int) -> None:
        self.sink.ignore_range += times

    @rule(name=st.sampled_from(["big.bin", "config.json"]), offset=OFFSETS, vanish=st.booleans())
    def a_layer_is_damaged(self, name: str, offset: int, vanish: bool) -> None:
        digest = next(str(file.ranges[0].layer) for file in self.index.files if file.path == name)
        blob = self.damaged.setdefault(digest, self.sink.blobs.get(digest) or self.damaged[digest])
        if vanish:
            self.sink.blobs.pop(digest, None)
            return
        data = bytearray(b"".join(blob.read(0, blob.size)))
        data[offset % len(data)] ^= 0x55
        self.sink.blobs[digest] = Blob(self.sink.block_cache)
        self.sink.blobs[digest].append(bytes(data))

    @rule(number=st.integers(0, len(VERSIONS) - 1), name=st.sampled_from(["big.bin", "config.json"]), offset=OFFSETS)
    def a_damaged_version_is_extracted(self, number: int, name: str, offset: int) -> None:
        self.carry(number)
        self.a_layer_is_damaged(name, offset, vanish=False)
        self.extract()

    @rule()
    def repair(self) -> None:
        self.sink.blobs |= self.damaged
        self.damaged.clear()

    @rule(number=st.integers(0, 20), offset=OFFSETS, what=st.sampled_from(["cut", "flip", "append", "remove"]))
    def a_file_or_a_partial_file_is_changed(self, number: int, offset: int, what: str) -> None:
        self.change(number, offset, what, "*")

    @rule(after=OFFSETS, number=st.integers(0, 20), offset=OFFSETS, what=st.sampled_from(["cut", "flip", "append"]))
    def a_partial_file_is_left_and_changed(self, after: int, number: int, offset: int, what: str) -> None:
        self.carry(number % len(VERSIONS))
        self.extract(StoppingReporter(after))
        self.change(number, offset, what, "*.part")
        self.extract()

    def change(self, number: int, offset: int, what: str, pattern: str) -> None:
        files = sorted(path for path in self.out.rglob(pattern) if path.is_file())
        if not files:
            return
        path = files[number % len(files)]
        old = bytearray(path.read_bytes())
        if what == "flip" and old:
            old[offset % len(old)] ^= 0x55
        new = {"cut": old[:offset], "append": old + b"more" * BIG}.get(what, old)
        if what == "remove":
            path.unlink()
        else:
            path.write_bytes(new)
            self.known.setdefault(str(path.relative_to(self.out)), set()).add(bytes(new))

    @rule(after=st.integers(0, 2 * BIG))
    def extract_and_stop(self, after: int) -> None:
        self.extract(StoppingReporter(after))

    @rule()
    def extract(self, reporter: RecordingReporter | None = None) -> None:
        disturbed = bool(self.damaged or self.sink.drop_after)
        try:
            run("org/model", self.out, source=f"{self.sink.host}/llm", reporter=reporter, jobs=2)
        except LlmstackError:
            assert disturbed
        except Stopped:
            pass
        else:
            found = contents(self.out)
            assert {path: found.get(path) for path in self.files} == self.files
            assert not (self.out / WORK_DIRECTORY).exists()
        for path, data in contents(self.out).items() if self.out.exists() else ():
            assert path.startswith(WORK_DIRECTORY) or data in self.known[path], path

    def teardown(self) -> None:
        self.repair()
        self.sink.heal()
        self.extract()


def test_extract(sink: Sink, tmp_path: Path):
    run_state_machine_as_test(
        lambda: Extracting(sink, tmp_path),
        settings=settings(
            max_examples=40, stateful_step_count=15, suppress_health_check=list(HealthCheck), phases=PHASES
        ),
    )
    assert all(Digest.parse(digest) == blob.digest for digest, blob in sink.blobs.items())
