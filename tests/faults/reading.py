"""`llmstack extract` and `verify` of an image in a registry, with a faulty proxy in front of it."""

from __future__ import annotations

import itertools
import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmstack.net import Client
from llmstack.oci.reference import Reference
from llmstack.oci.repository import Registries
from tests.faults.bench import IMPATIENT, QUICK
from tests.faults.cases import FILES, Case
from tests.faults.read_cases import Verb, with_digests
from tests.faults.stored import Stored
from tests.support.carried import COMMIT, carry
from tests.support.cli import Run, run_llmstack
from tests.support.proxy import Proxy
from tests.support.registry import Registry


class Carried:
    """An image of FILES in a registry, with three layers: the large file, the small files, the file index."""

    def __init__(self, registry: Registry, folder: Path) -> None:
        self.registry = registry
        self.space = registry.namespace()
        self.digests: dict[str, str] = {}
        self._folder = folder
        self._numbers = itertools.count()
        with closing(Client()) as client:
            store = Registries(client, lambda _: None).repository(Reference.parse(f"{self.space}/models"), write=True)
            carry(store, "org--model", FILES)
        stored = Stored(registry, f"{self.space.partition('/')[2]}/models")
        index = stored.document("org--model")
        manifest = stored.blob_json(index["manifests"][0]["digest"])
        weights, bundle, file_index = (layer["digest"] for layer in manifest["layers"])
        self.digests = {
            "platform": "sha256:",
            "config": manifest["config"]["digest"],
            "index": file_index,
            "weights": weights,
            "bundle": bundle,
        }

    def place(self) -> Path:
        """Return a path that does not exist yet."""
        return self._folder / f"out-{next(self._numbers)}"

    def command(self, verb: Verb, out: Path, host: str) -> list[str]:
        source = ["--from", f"{host}/{self.space.partition('/')[2]}"]
        if verb == "verify":
            return ["verify", "org/model", *source]
        return ["extract", "org/model", str(out), "--layout", verb, *source]

    def read(self, verb: Verb, out: Path, host: str, env: dict[str, str]) -> Run:
        return run_llmstack(*self.command(verb, out, host), env=env)


@dataclass
class Ended:
    """The result of a run with a fault, the files after it, and the result of the next run without it."""

    case: Case
    fired: bool
    first: Run
    left: dict[str, bytes]
    second: Run | None
    files: dict[str, bytes]


def attempt(carried: Carried, verb: Verb, case: Case) -> Ended:
    """Read the image with a fault and, if that failed, again without it."""
    out = carried.place()
    made = with_digests(case, carried.digests)
    with Proxy(carried.registry.url) as proxy:
        proxy.rules = made.registry
        if case.refuse:
            proxy.refuse()
        first = carried.read(verb, out, proxy.host, IMPATIENT if case.slow else QUICK)
        fired = all(rule.fired for rule in made.registry)
    left = placed(out, verb)
    second = carried.read(verb, out, carried.registry.host, QUICK) if first.code else None
    return Ended(case, fired, first, left, second, placed(out, verb))


def placed(out: Path, verb: Verb) -> dict[str, bytes]:
    """Return the files with their final name, by their paths in the repo."""
    root = out / "models--org--model/snapshots" / COMMIT if verb == "hf-cache" else out
    files: dict[str, Any] = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not re.match(r"\.llmstack-partial/", name)}
