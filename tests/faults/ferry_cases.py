"""The fault matrix of `ferry`: faults of the hub and faults of the registry."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.cases import AT_ONCE, FILES, PASSING, Case, place
from tests.support.proxy import Rule

UPLOADS = r"/blobs/uploads/"
SOURCE = ("source: ",)
DESTINATION = ("destination: ",)
BUNDLE = "4 files, config.json"

# The requests to the registry: method, target, number of earlier ones, and the object that an error must name.
REGISTRY = {
    "earlier": ("GET", r"/manifests/org--[^/]*$", 0, "--"),
    "open": ("POST", UPLOADS, 0, BUNDLE),
    "stream": ("PATCH", UPLOADS, 0, BUNDLE),
    "commit": ("PUT", UPLOADS, 0, BUNDLE),
    "open-index": ("POST", UPLOADS, 1, ""),
    "stream-index": ("PATCH", UPLOADS, 1, ""),
    "commit-index": ("PUT", UPLOADS, 1, ""),
    "look": ("HEAD", r"/blobs/sha256:", 0, ""),
    "stream-config": ("PATCH", UPLOADS, 2, ""),
    "manifest": ("PUT", r"/manifests/sha256:", 0, ""),
    "manifest2": ("PUT", r"/manifests/sha256:", 1, ""),
    "tag": ("PUT", r"/manifests/org--[^/]*$", 0, "org--tag"),
}
# The requests to the hub.
HUB = {
    "info": (r"/api/models/org/{name}/revision/", ""),
    "tree": (r"/api/models/org/{name}/tree/", ""),
    "date": (r"/api/models/org/{name}/commits/", ""),
    "small": (r"/org/{name}/resolve/[0-9a-f]+/config.json", "config.json"),
    "large": (r"/org/{name}/resolve/[0-9a-f]+/weights.bin", "weights.bin"),
}


def registry_cases() -> Iterator[Case]:
    """Yield the faults of the registry."""
    for moment, (method, target, skip, named) in REGISTRY.items():
        what = (*DESTINATION, named)
        at = (method, target, skip)
        for status in PASSING[1:]:
            yield _registry(f"{moment}-{status}-once", Rule(*at, status=status, headers=AT_ONCE))
        yield _registry(f"{moment}-503-ever", Rule(*at, times=None, status=503), code=6, words=(*what, "503"))
        yield _registry(f"{moment}-403", Rule(*at, status=403, code="DENIED"), code=4, words=(*what, "403"))
        # The URL to cancel an upload is in the lost response.
        lost = method in {"POST", "PATCH"}
        yield _registry(f"{moment}-lost", Rule(*at, lose_answer=True), leaves=lost)
        yield _registry(f"{moment}-reset", Rule(*at, lose_answer=True, reset=True), leaves=lost)
        yield _registry(
            f"{moment}-lost-ever",
            Rule(*at, times=None, lose_answer=True, reset=True),
            code=6,
            words=what,
            leaves=lost,
            named=moment == "tag",
        )
    yield from _uploads()
    yield from _manifests()
    yield _registry("refused-ever", refuse=True, code=6, words=(*DESTINATION, "connection refused"))


def _uploads() -> Iterator[Case]:
    for moment in ("stream", "stream-index", "stream-config"):
        method, target, skip, named = REGISTRY[moment]
        at = (method, target, skip)
        what = (*DESTINATION, named)
        size = 180_000 if moment == "stream" else 200
        for number in range(4 if moment == "stream" else 1):
            name = f"{moment}-cut-{number}"
            yield _registry(name, Rule(*at, cut_request=place(name, size), reset=bool(number % 2)), leaves=True)
        name = f"{moment}-cut-ever"
        cut = Rule(*at, times=None, cut_request=place(name, size))
        yield _registry(name, cut, code=6, words=what, leaves=True)
        name = f"{moment}-flipped"
        flipped = Rule(*at, corrupt_request=place(name, size))
        yield _registry(name, flipped, code=5, words=(*what, "did not match"))
        for status in (401, 404, 416):
            yield _registry(f"{moment}-{status}-once", Rule(*at, status=status))
        for early in (False, True):
            too_large = Rule(*at, times=None, status=413, early=early)
            when = "early" if early else "late"
            yield _registry(f"{moment}-413-{when}", too_large, code=1, words=(*what, "413"))
        # As if the server closed the connection after an early response, and the client had reused it before.
        refused, hung_up = Rule(*at, status=413), Rule("DELETE", UPLOADS, drop=True)
        yield _registry(f"{moment}-413-hung-up", refused, hung_up, code=1, words=(*what, "413"))
        full = Rule(*at, status=507)
        yield _registry(f"{moment}-507", full, code=1, words=(*what, "507"))
        stalled = Rule(*at, stall_request=place(f"{moment}-stall", size))
        yield _registry(f"{moment}-stall", stalled, leaves=True, slow=True)
    for moment in ("commit", "commit-index"):
        at = REGISTRY[moment][:3]
        for status in (404, 416):
            yield _registry(f"{moment}-{status}-once", Rule(*at, status=status))
    yield _registry("open-404", Rule("POST", UPLOADS, status=404), code=3, words=(*DESTINATION, BUNDLE, "404"))
    yield _registry(
        "stream-stall-ever",
        Rule("PATCH", UPLOADS, times=None, stall_request=9),
        code=6,
        leaves=True,
        slow=True,
        words=(*DESTINATION, BUNDLE, "no data for"),
    )


def _manifests() -> Iterator[Case]:
    for moment in ("manifest", "tag"):
        at = REGISTRY[moment][:3]
        for status, code, exit_code in (
            (400, "MANIFEST_INVALID", 1),
            (404, "MANIFEST_BLOB_UNKNOWN", 3),
            (400, "MANIFEST_BLOB_UNKNOWN", 3),
            (403, "DENIED", 4),
            (413, "", 1),
        ):
            name = f"{moment}-{status}-{code.lower().replace('_', '-') or 'bare'}"
            yield _registry(
                name, Rule(*at, status=status, code=code), code=exit_code, words=(*DESTINATION, str(status))
            )
        doubted = Rule(*at, status=400, code="DIGEST_INVALID")
        yield _registry(f"{moment}-doubted-once", doubted)
        flipped = Rule(*at, times=None, corrupt_request=place(f"{moment}-flipped", 300))
        yield _registry(f"{moment}-flipped", flipped, code=5, words=DESTINATION)
        yield _registry(f"{moment}-stall", Rule(*at, silent=True), slow=True)


def hub_cases() -> Iterator[Case]:
    """Yield the faults of the hub and of the storage behind it."""
    for moment, (target, file) in HUB.items():
        what = (*SOURCE, file)
        for status in PASSING[1:]:
            yield _hub(f"{moment}-{status}-once", target, status=status, headers=AT_ONCE)
        yield _hub(f"{moment}-503-ever", target, times=None, status=503, expect=6, words=(*what, "503"))
        yield _hub(f"{moment}-lost", target, lose_answer=True)
        yield _hub(f"{moment}-reset", target, lose_answer=True, reset=True)
        yield _hub(f"{moment}-lost-ever", target, times=None, lose_answer=True, expect=6, words=what)
        if moment != "large":
            yield _hub(f"{moment}-cut", target, cut_answer=5)
            yield _hub(f"{moment}-cut-ever", target, times=None, cut_answer=0, expect=6, words=what)
            yield _hub(f"{moment}-stall", target, stall_answer=5, slow=True)
    for moment in ("info", "tree"):
        target = HUB[moment][0]
        yield _hub(f"{moment}-broken", target, truncate_answer=40, expect=6, words=SOURCE)
        yield _hub(f"{moment}-404", target, times=None, status=404, expect=3, words=SOURCE)
    # A file that is not in LFS has a git blob sha1.
    for what, words in (("corrupt_answer", "do not match the hash"), ("truncate_answer", "bytes, expected")):
        name = f"small-{what.partition('_')[0]}"
        fault = {what: place(name, len(FILES["config.json"]))}
        yield _hub(name, HUB["small"][0], expect=5, words=(*SOURCE, HUB["small"][1], words), **fault)
    # A date that is invalid counts as missing, as with mirrors.
    yield _hub("date-broken", HUB["date"][0], truncate_answer=40)
    yield from _storage()


def _storage() -> Iterator[Case]:
    weights = ("source: ", "weights.bin")
    for status in PASSING:
        yield _cdn(f"cdn-{status}-once", status=status, retry_after=0)
    yield _cdn("cdn-503-ever", status=503, times=None, expect=6, words=weights)
    yield _cdn("cdn-403-once", status=403)
    yield _cdn("cdn-403-ever", status=403, times=None, expect=6, words=weights)
    yield _cdn("cdn-404", status=404, expect=3, words=weights)
    for number in range(4):
        name = f"cdn-drop-{number}"
        yield _cdn(name, drop_after=place(name))
    yield Case("cdn-drop-often", "hub", cdn=tuple({"drop_after": 20_000, "times": 1} for _ in range(8)))
    yield _cdn("cdn-drop-ever", drop_after=0, times=None, expect=6, words=weights)
    yield _cdn("cdn-expired", drop_after=place("cdn-expired"), expire=True)
    ignoring = {"ignore_range": True, "times": 1}
    yield Case("cdn-no-ranges", "hub", cdn=({"drop_after": place("cdn-no-ranges"), "times": 1}, ignoring))
    yield _cdn("cdn-flipped", corrupt_at=place("cdn-flipped"), expect=5, words=weights)
    yield _cdn("cdn-short", truncate_to=place("cdn-short"), expect=5, words=weights)
    yield _cdn("cdn-stall", stall_after=place("cdn-stall"), slow=True)
    yield _cdn("cdn-stall-ever", stall_after=0, times=None, slow=True, expect=6, words=(*weights, "no data for"))


def _registry(name: str, *rules: Rule, **more) -> Case:
    return Case(name, "registry", registry=rules, **more)


def _hub(name: str, target: str, *, expect: int = 0, words: tuple[str, ...] = (), slow: bool = False, **what) -> Case:
    return Case(name, "hub", hub=(Rule("GET", target.format(name=name), **what),), code=expect, words=words, slow=slow)


def _cdn(name: str, *, expect: int = 0, words: tuple[str, ...] = (), slow: bool = False, times: int | None = 1, **what):
    return Case(name, "hub", cdn=({"times": times, **what},), code=expect, words=words, slow=slow)
