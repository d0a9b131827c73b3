"""Every fuzz target over its seeds and earlier findings, complete and damaged."""

from __future__ import annotations

import random
import time

import pytest

from tests.fuzz.targets import TARGETS, seeds


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name):
    found = seeds(name)
    assert found
    for seed in found:
        TARGETS[name](seed)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_seeds(name):
    rng = random.Random(name)
    for seed in seeds(name):
        for _ in range(20):
            start, stop = sorted(rng.choices(range(len(seed) + 1), k=2))
            noise = rng.randbytes(rng.randrange(4))
            TARGETS[name](seed[:start] + noise + rng.choice([seed[stop:], seed[start:], b""]))


@pytest.mark.parametrize("seed", seeds("headers"), ids=repr)
def test_a_long_header_takes_linear_time(seed):
    """The seed and each of its bytes, repeated to 64 KiB, the limit of a header line: quadratic time takes minutes."""
    began = time.process_time()
    for unit in (seed, *(bytes([byte]) for byte in set(seed))):
        TARGETS["headers"](unit * (65536 // len(unit)))
    assert time.process_time() - began < 20
