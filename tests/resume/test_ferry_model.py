"""Interrupt and disturb ferry in any order: a tag names a complete image or is unchanged, and a rerun completes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import closing

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from llmstack.carried_image.image import open_image
from llmstack.errors import LlmstackError, NotFoundError
from llmstack.ferrying.base_image import scratch
from llmstack.ferrying.layer_plan import Limits
from llmstack.ferrying.repo_ferry import RepoFerry
from llmstack.hf.hub_client import HubClient
from llmstack.lists.wish_list import RepoRequest
from llmstack.net import Client
from llmstack.oci.reference import Reference
from llmstack.oci.repository import Repository
from tests.extraction.support import RecordingReporter, registries
from tests.hf.support import point_at
from tests.resume.support import Stopped, StoppingReporter
from tests.support.hub import Generated, Hub
from tests.support.sink import Sink

pytestmark = pytest.mark.slow

# Large enough for its own layer, so that an interrupted run has a partial image.
LARGE = Limits().large + 7
OFFSETS = st.integers(0, LARGE)
# No shrinking: it would take minutes, and a run has only eight steps.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
ENTRY = RepoRequest("org/model", "model")


Fault = Callable[[Hub, Sink, int], None]
# Faults that the next run survives.
PASSING: dict[str, Fault] = {
    "the hub drops": lambda hub, _, offset: hub.fault("*.bin", host="cdn", drop_after=offset, times=1 + offset % 3),
    "the hub ignores ranges": lambda hub, _, offset: [
        hub.fault("*.bin", host="cdn", drop_after=offset),
        hub.fault("*.bin", host="cdn", ignore_range=True),
    ],
    "a signed address expires": lambda hub, _, offset: hub.fault("*.bin", host="cdn", drop_after=offset, expire=True),
    "the registry drops an upload": lambda _, sink, offset: sink.break_after.append(offset),
    "the registry has lost an upload": lambda _, sink, __: sink.refuse.append(("PATCH", 404)),
    "the registry is down for a moment": lambda _, sink, __: sink.refuse.append(("PUT .*/blobs/", 503)),
    "the registry deletes nothing": lambda _, sink, __: sink.refuse.append(("DELETE .*/manifests/", 405)),
}
# Faults that end the next run with an error.
FATAL: dict[str, Fault] = {
    "the hub sends a wrong byte": lambda hub, _, offset: hub.fault("*.bin", host="cdn", corrupt_at=offset),
    "the hub sends too little": lambda hub, _, offset: hub.fault("*.bin", host="cdn", truncate_to=offset),
    "the hub has lost a file": lambda hub, *_: hub.fault("*/resolve/*.bin", status=404),
    "the registry does not take a manifest": lambda _, sink, __: sink.refuse.append(("PUT .*/manifests/", 413)),
}
WRONG = PASSING | FATAL


class Ferrying(RuleBasedStateMachine):
    """A repo that is ferried repeatedly, while it changes and hub and registry fail."""

    def __init__(self, hub: Hub, sink: Sink) -> None:
        super().__init__()
        self.hub, self.sink = hub, sink
        hub.faults.clear()
        sink.heal()
        sink.repositories.clear()
        sink.blobs.clear()
        self.lost = False
        # What the tag has named so far.
        self.complete: list[dict[str, bytes]] = []
        self.seeds = itertools.count(4)
        files = {"a.bin": Generated(LARGE, 1), "b.bin": Generated(LARGE, 2), "config.json": Generated(100, 3)}
        self.repo = hub.add_repo("org/model", files)

    @rule(name=st.sampled_from(["a.bin", "b.bin", "config.json"]))
    def a_file_changes(self, name: str) -> None:
        seed = next(self.seeds)
        self.repo.commit({name: Generated(LARGE if name != "config.json" else seed, seed)})

    @rule(number=st.integers(0, 20))
    def a_file_is_again_what_it_was(self, number: int) -> None:
        if self.complete:
            name = ["a.bin", "b.bin"][number % 2]
            self.repo.commit({name: self.complete[number % len(self.complete)][name]})

    @rule(name=st.sampled_from(["a.bin", "b.bin"]), what=st.sampled_from(sorted(WRONG)), offset=OFFSETS)
    def a_file_changes_and_something_goes_wrong(self, name: str, what: str, offset: int) -> None:
        self.a_file_changes(name)
        WRONG[what](self.hub, self.sink, offset)
        self.carry(may_fail=what in FATAL)
        self.hub.faults.clear()
        self.sink.heal()

    @rule(number=st.integers(0, 20))
    def the_registry_loses_a_blob(self, number: int) -> None:
        if self.sink.blobs:
            del self.sink.blobs[sorted(self.sink.blobs, key=self.size)[-1 - number % len(self.sink.blobs)]]
            self.lost = True

    @rule(number=st.integers(0, 20))
    def the_registry_loses_a_blob_and_a_file_changes(self, number: int) -> None:
        """The lost blob may be a reused layer."""
        self.the_registry_loses_a_blob(number)
        self.a_file_changes("config.json")
        self.carry()

    @rule(after=st.integers(0, 2 * LARGE))
    def carry_and_stop(self, after: int) -> None:
        self.carry(StoppingReporter(after))

    @rule()
    def carry(self, reporter: RecordingReporter | None = None, *, force: bool = False, may_fail: bool = False) -> None:
        with closing(Client(retry_wait=0.001)) as client:
            repository = Reference.parse(f"{self.sink.host}/llm/models")
            store = registries(client).repository(repository, write=True)
            before = self.held(store)
            try:
                repo_ferry = RepoFerry(client, reporter or RecordingReporter(), jobs=2)
                result = repo_ferry.ferry(ENTRY, HubClient(client), store, scratch, force=force)
            except LlmstackError:
                assert may_fail
                self.check_as_before(store, before)
            except Stopped:
                self.check_as_before(store, before)
            else:
                self.lost = self.lost and result.status == "up-to-date"
                if not self.lost:
                    assert self.held(store) == self.listed()
                    self.complete.append(self.listed())

    def check_as_before(self, store: Repository, before: dict[str, bytes] | None) -> None:
        """The tag is unchanged, but the run may have uploaded a blob that the registry had lost."""
        after = self.held(store)
        assert after == before or (self.lost and before is None and after in self.complete)

    def held(self, store: Repository) -> dict[str, bytes] | None:
        """Return the files under the tag, or None if there is no tag; a tag never names an incomplete image."""
        try:
            image = open_image(store, "org--model")
            assert image.index is not None
            blobs = {file.path: (self.sink.blobs[file.ranges[0].layer], file) for file in image.index.files}
        except (NotFoundError, KeyError):
            assert self.lost or "org--model" not in store.tags()
            return None
        starts = {path: file.ranges[0].offset for path, (_, file) in blobs.items()}
        return {
            path: b"".join(blob.read(starts[path], starts[path] + file.size)) for path, (blob, file) in blobs.items()
        }

    def size(self, digest: str) -> int:
        return self.sink.blobs[digest].size

    def listed(self) -> dict[str, bytes]:
        return {path: file.read(0, file.size) for path, file in self.repo.head().files.items()}

    def teardown(self) -> None:
        self.carry(force=self.lost)


def test_ferry(sink: Sink, hub: Hub, monkeypatch: pytest.MonkeyPatch):
    point_at(monkeypatch, hub.url)
    run_state_machine_as_test(
        lambda: Ferrying(hub, sink),
        settings=settings(
            max_examples=12, stateful_step_count=8, suppress_health_check=list(HealthCheck), phases=PHASES
        ),
    )
