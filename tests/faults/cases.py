"""What a case of the fault matrix is: one thing that goes wrong at one moment, and how it must end."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.proxy import Rule

SEED = int(os.environ.get("FAULTS_SEED", "6"))

_random = random.Random(SEED)
# A bundle of three, one of them an LFS file on the CDN; nothing needs more.
FILES = {
    "config.json": b'{"model_type": "opt"}',
    "onnx/vocab.txt": _random.randbytes(7_000),
    "weights.bin": _random.randbytes(180_000),
}
WEIGHTS = len(FILES["weights.bin"])


@dataclass(frozen=True)
class Case:
    """`hub`, `cdn` and `registry` go wrong; `code` is the exit code of a run that carries just this (0: survived).

    `hub` are rules of a proxy before the hub, `registry` of one before the registry, `cdn` faults of the hub's storage.
    `words` must stand in the error. `leaves`: the registry cannot be told of the upload that was given up. `named`: it
    has the tag although the answer that says so was lost. `slow` cases wait for timeouts, and get a short one.
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
    slow: bool = False

    def __str__(self) -> str:
        return self.name


def place(name: str, size: int = WEIGHTS) -> int:
    """Return a byte of something, by the seed and a name."""
    return random.Random(f"{SEED} {name}").randrange(1, size)


# What a server answers that may be better the next time.
PASSING = (408, 429, 500, 502, 503, 504)
AT_ONCE = {"Retry-After": "0"}
