"""Fuzz one target, guided by its coverage of llmstack: `python -m tests.fuzz.guided TARGET …`."""

from __future__ import annotations

import sys

import atheris

# Only modules imported here are instrumented.
with atheris.instrument_imports(include=["llmstack"]):
    from tests.fuzz.targets import TARGETS


if __name__ == "__main__":
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()
