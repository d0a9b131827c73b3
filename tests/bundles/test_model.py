"""A model of both sides: whatever is saved, lost, replayed or loaded late, load converges or refuses."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llmstack.errors import LlmstackError, NotFoundError
from llmstack.oci.layout import Layout
from llmstack.oci.layout_garbage import remove_unreferenced
from tests.bundles.support import Gap

REPOS = ("org/a", "org/b")
# The files of all versions: most are shared between versions.
POOL = {f"{name}.bin": [random.Random(f"{name}{n}").randbytes(70_000) for n in range(3)] for name in "xy"}


class Sides(RuleBasedStateMachine):
    """`version` is what the near side has, `saved` are bundles with the versions in them, in order."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.home = Path.cwd()
        self.gap = Gap(self.folder)
        self.version: dict[str, tuple[int, int]] = {}
        self.saved: list[tuple[str, dict[str, tuple[int, int]]]] = []
        # The number of the last bundle that brought each repo, and its version.
        self.loaded: dict[str, tuple[int, tuple[int, int]]] = {}
        self.commits = 0

    def teardown(self) -> None:
        os.chdir(self.home)
        shutil.rmtree(self.folder, ignore_errors=True)

    @rule(repo=st.sampled_from(REPOS), x=st.integers(0, 2), y=st.integers(0, 2))
    def change(self, repo: str, x: int, y: int) -> None:
        self.commits += 1
        files = {"x.bin": POOL["x.bin"][x], "y.bin": POOL["y.bin"][y]}
        self.gap.carry(repo, files, commit=f"{self.commits:040x}")
        self.version[repo] = (x, y)

    @precondition(lambda self: self.version)
    @rule(how=st.sampled_from(["all", "since", "have"]), split=st.booleans())
    def save(self, how: str, split: bool) -> None:
        name = f"b{len(self.saved) + 1}"
        options = {"have": self.gap.inventory()} if how == "have" and (self.folder / "far").exists() else {}
        self.gap.save(
            name,
            ledger=self.folder / "ledger.json",
            since=how == "since",
            volume_size="1MB" if split else None,
            **options,
        )
        self.saved.append((name, dict(self.version)))

    @precondition(lambda self: self.saved)
    @rule(data=st.data(), allow_older=st.booleans())
    def load(self, data: st.DataObject, allow_older: bool) -> None:
        number = data.draw(st.integers(1, len(self.saved)))
        name, versions = self.saved[number - 1]
        try:
            self.gap.load(name, allow_older=allow_older, missing=self.folder / "missing.json")
        except NotFoundError:
            # A delta without its base.
            return
        for repo, version in versions.items():
            before = self.loaded.get(repo)
            if before is None or number >= before[0]:
                self.loaded[repo] = number, version
            elif allow_older:
                # The record keeps the newest bundle.
                self.loaded[repo] = before[0], version

    @precondition(lambda self: (self.folder / "missing.json").exists())
    @rule()
    def send_missing(self) -> None:
        name = f"m{random.randrange(10**9)}"
        # The near side may have deleted nothing: its layout keeps all blobs.
        self.gap.save(name, missing=self.folder / "missing.json")
        self.gap.load(name)
        (self.folder / "missing.json").unlink()

    @precondition(lambda self: self.loaded)
    @rule()
    def lose_unreferenced(self) -> None:
        """The far registry collects its garbage."""
        remove_unreferenced(Layout(self.folder / "far/models"))

    @invariant()
    def far_side_is_what_was_loaded(self) -> None:
        if not getattr(self, "loaded", None):
            return
        for repo, (_, (x, y)) in self.loaded.items():
            with contextlib.suppress(LlmstackError):
                shutil.rmtree(self.folder / "out", ignore_errors=True)
            self.gap.session.extract(repo, self.folder / "out", source=self.gap.far)
            assert (self.folder / "out/x.bin").read_bytes() == POOL["x.bin"][x]
            assert (self.folder / "out/y.bin").read_bytes() == POOL["y.bin"][y]


TestSides = Sides.TestCase
TestSides.settings = settings(
    max_examples=8, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSides.pytestmark = [pytest.mark.slow]
