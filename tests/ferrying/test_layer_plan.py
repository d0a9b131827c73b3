"""The layer plan: every file once, at most the allowed layers, and few changed layers after a small change."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.errors import UsageError
from llmstack.ferrying.layer_plan import MAX_LAYERS, Limits, PlannedLayer, plan
from llmstack.hf.snapshot import HubFile
from llmstack.oci.tar_writer import TarFile

MiB = 1024 * 1024
LIMITS = Limits()
SMALL = Limits(large=100, bundle=10_000, layers=6)

FILES = st.lists(
    st.builds(
        HubFile,
        path=st.text(st.sampled_from("abcé/-."), min_size=1, max_size=8),
        size=st.integers(0, 400),
        oid=st.just("a" * 40),
    ),
    min_size=1,
    max_size=60,
    unique_by=lambda file: file.path,
)


def file(path: str, size: int) -> HubFile:
    return HubFile(path, size, "a" * 40)


def many(count: int, size: int | None = None, seed: int = 1) -> list[HubFile]:
    """Return files of `size` bytes, or of sizes from 1 kB to 15 MB."""
    rng = random.Random(seed)
    return [
        file(f"data/{number:06}", rng.randrange(1000, 15_000_000) if size is None else size) for number in range(count)
    ]


def contents(layers: Sequence[PlannedLayer]) -> set[tuple[tuple[str, str], ...]]:
    return {layer.content for layer in layers}


@given(FILES, st.integers(2, 12), st.integers(0, 300), st.integers(1, 50_000))
def test_every_file_is_in_one_layer_and_the_layer_limit_holds(
    files: list[HubFile], layers: int, large: int, bundle: int
):
    planned = plan(files, Limits(large, bundle, layers))
    assert sorted(found.path for layer in planned for found in layer.files) == sorted(one.path for one in files)
    assert len(planned) <= layers
    assert all(layer.files for layer in planned)


@given(FILES, st.randoms(use_true_random=False))
def test_the_order_of_the_file_list_does_not_matter(files: list[HubFile], rng: random.Random):
    shuffled = list(files)
    rng.shuffle(shuffled)
    assert plan(shuffled, SMALL) == plan(files, SMALL)


@given(FILES)
def test_large_files_come_first_and_groups_are_sorted_by_path(files: list[HubFile]):
    planned = plan(files, SMALL)
    large = [one.path for layer in planned for one in layer.files if one.size >= SMALL.large]
    small = [one.path for layer in planned for one in layer.files if one.size < SMALL.large]
    assert [one.path for layer in planned for one in layer.files] == large + small
    for paths in (large, small):
        assert paths == sorted(paths, key=str.encode)
    # Large and small files do not share a layer.
    assert all(len({one.size >= SMALL.large for one in layer.files}) == 1 for layer in planned)


def test_a_typical_model():
    files = [
        file(".gitattributes", 1500),
        file("README.md", 9000),
        file("config.json", 700),
        file("model-00001-of-00002.safetensors", 5_000_000_000),
        file("model-00002-of-00002.safetensors", 4_000_000_000),
        file("tokenizer.json", 17 * MiB),
    ]
    assert [[one.path for one in layer.files] for layer in plan(files, LIMITS)] == [
        ["model-00001-of-00002.safetensors"],
        ["model-00002-of-00002.safetensors"],
        ["tokenizer.json"],
        [".gitattributes", "README.md", "config.json"],
    ]


def test_bundles_respect_a_small_layer_limit():
    layers = plan([file(f"{number:03}", 1_000_000) for number in range(600)], Limits(layer_size=50_000_000))
    assert max(layer.size for layer in layers) <= 50_000_000
    assert len(layers) < 60


def test_parts_leave_layers_for_large_and_small_files_or_planning_fails():
    files = [file("huge", 55_000_000), file("large", 17_000_000), file("small", 1)]
    limits = Limits(layer_size=20_000_000, split_large=True, layers=5)
    assert sum(len(layer.layer_sizes) for layer in plan(files, limits)) == 5
    with pytest.raises(UsageError, match="do not fit into 4 layers"):
        plan(files, replace(limits, layers=4))


@pytest.mark.slow
@pytest.mark.parametrize("room", [2, 5, 117, 118])
@pytest.mark.parametrize("small", [0, 1, 5000])
@pytest.mark.parametrize("large", [1, 118, 300, 3000])
def test_many_large_files_are_grouped_evenly(large: int, small: int, room: int):
    files = [file(f"model-{number:05}", 5_000_000_000) for number in range(large)] + many(small)
    planned = plan(files, Limits(layers=room))
    assert len(planned) <= room <= MAX_LAYERS
    groups = [len(layer.files) for layer in planned if layer.files[0].size == 5_000_000_000]
    if large <= room - (len(planned) - len(groups)):
        assert set(groups) == {1}
    else:
        assert max(groups) <= -(-large // (room // 2)) + 1


@pytest.mark.slow
def test_planning_a_hundred_thousand_files_is_fast():
    files = many(100_000, 50_000)
    began = time.process_time()
    planned = plan(files, LIMITS)
    offsets = sum(len(layer.offsets) for layer in planned)
    assert time.process_time() - began < 30
    assert offsets == 100_000
    assert len(planned) <= LIMITS.layers


@pytest.mark.slow
@pytest.mark.parametrize(("count", "size"), [(16_000, 200), (4000, 50_000), (1000, 5_000_000), (500, None)])
def test_adding_or_removing_a_small_file_changes_few_bundles(count: int, size: int | None):
    """On average over many positions. Boundaries by size would change every later bundle."""
    files = many(count, size)
    before = plan(files, LIMITS)
    assert len(before) < LIMITS.layers, "a plan that is grouped is another matter"
    moved = []
    for number in range(0, count, count // 20):
        added = contents(plan([*files, file(f"data/{number:06}-new", 2000)], LIMITS))
        removed = contents(plan([*files[:number], *files[number + 1 :]], LIMITS))
        moved += [len(added - contents(before)), len(removed - contents(before))]
    assert sum(moved) / len(moved) <= 2
    assert max(moved) <= 8


@pytest.mark.slow
@pytest.mark.parametrize(("count", "size"), [(60_000, 100), (4000, 50_000), (1000, 5_000_000)])
def test_bundle_sizes(count: int, size: int):
    planned = plan(many(count, size), LIMITS)
    assert all(layer.size <= LIMITS.bundle + 2 * MiB for layer in planned)
    assert all(layer.size >= LIMITS.bundle // 5 for layer in planned[:-1])


def test_a_changed_file_changes_only_its_bundle():
    files = many(4000, 50_000)
    before = plan(files, LIMITS)
    files[2000] = HubFile(files[2000].path, 50_000, "b" * 40)
    assert len(contents(plan(files, LIMITS)) - contents(before)) == 1


def test_offsets_and_sizes_match_the_tar():
    layer = PlannedLayer((file("a", 3), file("b" * 200, 600), file("c", 0)), "REPO")
    assert layer.offsets == [512, 512 + 512 + 1536, 512 + 512 + 1536 + 1024 + 512]
    assert layer.size == layer.offsets[-1] + 1024
    assert layer.tar_files[0] == TarFile("REPO/a", 3)


def test_models_have_a_hard_link_after_each_file():
    layer = PlannedLayer((file("a", 3), file("b" * 90, 600), file("c", 0)), "models")
    # The name and the target of the second link have less than 100 characters.
    assert layer.offsets == [512, 512 + 512 + 512 + 512, 4 * 512 + 1024 + 512 + 512]
    assert layer.size == layer.offsets[-1] + 512 + 1024
    assert layer.tar_files[0] == TarFile("models/a", 3, ("REPO/a",))


@pytest.mark.parametrize("root", ["models", "REPO"])
def test_bundles_of_many_small_files_fit_into_a_small_layer(root: str):
    limits = Limits(layer_size=1_000_000, root=root)
    assert len(plan(many(10_000, 100), limits)) > 10
