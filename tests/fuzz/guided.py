"""One target driven by its coverage of llmstack, in a process of its own: `python -m tests.fuzz.guided TARGET …`."""

from __future__ import annotations

import sys

import atheris

# What is imported in here is what is watched.
with atheris.instrument_imports(include=["llmstack"]):
    from tests.fuzz.targets import TARGETS


if __name__ == "__main__":
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()
