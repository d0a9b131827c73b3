"""The cases of the fault matrix: one fault at one moment, and the expected result."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.proxy import Rule

SEED = int(os.environ.get("FAULTS_SEED", "6"))

_random = random.Random(SEED)
# A bundle of three files, one of them an LFS file on the CDN.
FILES = {
    "config.json": b'{"model_type": "opt"}',
    "onnx/vocab.txt": _random.randbytes(7_000),
    "weights.bin": _random.randbytes(180_000),
}
WEIGHTS = len(FILES["weights.bin"])


@dataclass(frozen=True)
class Case:
    """Faults, and the exit code of a run with them (0: the run survives).

    `hub` and `registry` are rules of the proxies in front of them, `cdn` faults of the hub's storage. `words` must be
    in the error. `leaves`: the aborted upload cannot be cancelled. `named`: the tag exists although the response was
    lost. `late`: the run may finish before the fault. `slow` cases wait for timeouts, and have a short one.
    """

    name: str
    group: str
    hub: tuple[Rule, ...] = ()
    cdn: tuple[Mapping[str, Any], ...] = ()
    registry: tuple[Rule, ...] = ()
    refuse: bool = False
    code: int = 0
    words: tuple[str, ...] = ()
    leaves: bool = False
    named: bool = False
    late: bool = False
    slow: bool = False

    def __str__(self) -> str:
        return self.name


def place(name: str, size: int = WEIGHTS) -> int:
    """Return a byte offset, by the seed and a name."""
    return random.Random(f"{SEED} {name}").randrange(1, size)


# Responses that are retried.
PASSING = (408, 429, 500, 502, 503, 504)
AT_ONCE = {"Retry-After": "0"}
