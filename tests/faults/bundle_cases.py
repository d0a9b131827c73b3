"""The fault matrix of `save` and `load`: faults of the registry on each side, and of the disk between them."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.cases import AT_ONCE, Case, place
from tests.support.proxy import Rule

UPLOADS = r"/blobs/uploads/"
# What save requests of the near registry, and the minimum size of the response.
READS = {
    "tag": (r"/manifests/org--model$", 400),
    "platform": (r"/manifests/sha256:", 400),
    "layer": (r"/blobs/sha256:", 500),
}
# What load requests of the far registry: method, target, number of earlier ones.
WRITES = {
    "record": ("GET", r"/bundles/manifests/loaded", 0),
    "look": ("HEAD", r"/models/blobs/sha256:", 1),
    "open": ("POST", UPLOADS, 0),
    "stream": ("PATCH", UPLOADS, 1),
    "commit": ("PUT", UPLOADS, 0),
    "manifest": ("PUT", r"/models/manifests/sha256:", 0),
    "write-record": ("PUT", r"/bundles/manifests/loaded", 0),
    "write-tag": ("PUT", r"/models/manifests/org--model$", 0),
}


def save_cases() -> Iterator[Case]:
    """Yield the faults of the near registry."""
    for moment, (target, size) in READS.items():
        at, cut = ("GET", target), place(f"save-{moment}", size)
        yield _case(f"save-{moment}-503-once", Rule(*at, status=503, headers=AT_ONCE))
        yield _case(f"save-{moment}-cut", Rule(*at, cut_answer=cut, reset=True))
        yield _case(f"save-{moment}-cut-ever", Rule(*at, times=None, cut_answer=0), 6, "source: ")
        yield _case(f"save-{moment}-flipped", Rule(*at, corrupt_answer=cut), 5, "source: ")
        yield _case(f"save-{moment}-404", Rule(*at, status=404), 3, "source: ", "404")


def load_cases() -> Iterator[Case]:
    """Yield the faults of the far registry."""
    for moment, (method, target, skip) in WRITES.items():
        at = (method, target, skip)
        yield _case(f"load-{moment}-503-once", Rule(*at, status=503, headers=AT_ONCE))
        yield _case(f"load-{moment}-503-ever", Rule(*at, times=None, status=503), 6, "destination: ", "503")
        yield _case(f"load-{moment}-403", Rule(*at, status=403, code="DENIED"), 4, "destination: ", "403")
        named = moment == "write-tag"
        ever = Rule(*at, times=None, lose_answer=True, reset=True)
        yield _case(f"load-{moment}-lost-ever", ever, 6, "destination: ", named=named)
    yield _case("load-stream-flipped", Rule("PATCH", UPLOADS, corrupt_request=100), 5, "destination: ")


def _case(name: str, rule: Rule, code: int = 0, *words: str, named: bool = False) -> Case:
    return Case(name, "registry", registry=(rule,), code=code, words=words, named=named)
