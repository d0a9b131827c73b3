"""The fault matrix of `extract` and `verify`: faults of the registry."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

from tests.faults.cases import AT_ONCE, PASSING, Case, place
from tests.support.proxy import Rule

Verb = Literal["dir", "hf-cache", "verify"]

# The requests that read a carried image, and the minimum size of each response. Digests are filled in later.
MOMENTS = {
    "tag": (r"/manifests/org--model$", 400),
    "platform": (r"/manifests/{platform}", 400),
    "config": (r"/blobs/{config}", 400),
    "index": (r"/blobs/{index}", 1000),
    "weights": (r"/blobs/{weights}", 100_000),
    "bundle": (r"/blobs/{bundle}", 5_000),
}
NAMED = {"weights": "weights.bin", "bundle": "config.json"}


def read_cases() -> Iterator[tuple[Verb, Case]]:
    """Yield each command with its faults."""
    for moment in MOMENTS:
        many = moment not in {"platform", "config"}
        yield from (("dir", case) for case in _faults("dir", moment, many=many))
    for moment in ("weights", "bundle"):
        yield from (("hf-cache", case) for case in _faults("hf-cache", moment, many=False))
    for moment in ("tag", "index", "weights"):
        yield from (("verify", case) for case in _faults("verify", moment, many=False))
    yield "dir", Case("dir-refused", "registry", refuse=True, code=6, words=("source: ", "connection refused"))


def _faults(verb: Verb, moment: str, *, many: bool) -> Iterator[Case]:
    target, size = MOMENTS[moment]
    named = NAMED.get(moment, "") if verb != "verify" else ""
    words = ("source: ", named)
    at = ("GET", target)

    def case(name: str, rule: Rule, code: int = 0, *more: str, slow: bool = False) -> Case:
        expected = (*words, *more) if code else ()
        return Case(f"{verb}-{moment}-{name}", "registry", registry=(rule,), code=code, words=expected, slow=slow)

    cut = place(f"{verb}-{moment}-cut", size)
    yield case("lost", Rule(*at, lose_answer=True))
    yield case("cut", Rule(*at, cut_answer=cut, reset=True))
    yield case("cut-ever", Rule(*at, times=None, cut_answer=0), 6)
    # Extract ignores the tar headers between the files of a bundle, so the offset is inside the second file.
    flipped = place(f"{verb}-{moment}-flipped", size) + (1100 if moment == "bundle" else 0)
    yield Case(
        f"{verb}-{moment}-flipped",
        "registry",
        registry=(Rule(*at, corrupt_answer=flipped),),
        code=5,
        words=("source: ", "onnx/vocab.txt" if moment == "bundle" else named),
    )
    # A short response to a range request is resumed; a complete blob that is too short is an error.
    yield case("short", Rule(*at, truncate_answer=cut), 0 if named else 5)
    if not many:
        return
    for status in PASSING[1:]:
        yield case(f"{status}-once", Rule(*at, status=status, headers=AT_ONCE))
    yield case("503-ever", Rule(*at, times=None, status=503), 6, "503")
    yield case("403", Rule(*at, status=403, code="DENIED"), 4, "403")
    yield case("404", Rule(*at, status=404), 3, "404")
    yield case("lost-ever", Rule(*at, times=None, lose_answer=True, reset=True), 6)
    yield case("stall", Rule(*at, stall_answer=cut), slow=True)


def with_digests(case: Case, digests: dict[str, str]) -> Case:
    """Return the case with the digests of one image in its rules."""
    rules = tuple(dataclasses.replace(rule, target=rule.target.format(**digests)) for rule in case.registry)
    return dataclasses.replace(case, registry=rules)
