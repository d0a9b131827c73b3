"""Every fuzz target over its seeds, among them whatever was found once, and over what a few cuts make of them."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.targets import TARGETS, seeds


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name):
    found = seeds(name)
    assert found
    for seed in found:
        TARGETS[name](seed)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_that_are_damaged(name):
    rng = random.Random(name)
    for seed in seeds(name):
        for _ in range(20):
            start, stop = sorted(rng.choices(range(len(seed) + 1), k=2))
            noise = rng.randbytes(rng.randrange(4))
            TARGETS[name](seed[:start] + noise + rng.choice([seed[stop:], seed[start:], b""]))
