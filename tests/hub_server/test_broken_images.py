"""One broken image does not affect the others: it is left out, and the log says why."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import pytest

from llmstack.carried_image.file_index import FileIndex
from llmstack.carried_image.image import open_image
from llmstack.oci.layout import Layout
from llmstack.oci.reference import Digest
from llmstack.oci.spec import CONFIG, LAYER_TAR, MANIFEST, Descriptor, Manifest, RawManifest
from tests.hub_server.conftest import HTML
from tests.support.carried import carry, put_image
from tests.support.serving import Serving, serving

HUGE = b"1" + b"0" * 400
DEEP = b"[" * 100_000 + b"]" * 100_000
# What replaces what in the JSON of a sound file index.
INDEXES = {
    "size": (b'"size":2', b'"size":' + HUGE),
    "negative-size": (b'"size":2', b'"size":-2'),
    "float-size": (b'"size":2', b'"size":1e999'),
    "offset": (b'"offset":', b'"offset":' + HUGE),
    "deep": (b'"gated":false', b'"gated":' + DEEP),
    "deep-file": (b'"size":2', b'"size":' + DEEP),
    "deep-extra": (b'"gated":false', b'"gated":false,"more":' + DEEP),
    "surrogate-license": (b'"license":"mit"', b'"license":"\\ud800"'),
    "surrogate-path": (b'"config.json"', b'"\\udc80"'),
    "surrogate-revision": (b'"revision":"main"', b'"revision":"\\ud800"'),
    "license-list": (b'"license":"mit"', b'"license":["mit"]'),
    "other-repo": (b'"repo_id":"', b'"repo_id":"org/good","x":"'),
    "other-revision": (b'"revision":"main"', b'"revision":"v2"'),
    "other-type": (b'"repo_type":"model"', b'"repo_type":"dataset"'),
}
# Unknown members are ignored, and a license is only shown: these may be served or left out.
HARMLESS = {"deep-extra", "surrogate-license"}
# Dates are only shown, so that these repos are served.
DATES = ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "2024-99-99", "", "x" * 100_000]
CARDS = {
    "bool": "license: !!bool foo",
    "int": 'license: !!int ""',
    "timestamp": "a: !!timestamp x",
    "digits": f"a: {'9' * 5000}",
    "bomb": "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 10)}]\n" for n in range(10)),
    "deep": "a: " + "[" * 5000,
    "surrogate": 'a: "\\ud800"',
    "infinite": "a: .inf\nb: .nan\nc: 1e999\n2024-01-01: d\nnull: e",
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A hub of a layout with two good repos and many broken ones."""
    folder = tmp_path_factory.mktemp("broken")
    models = Layout(folder / "models")
    carry(models, "org--good", {"config.json": b"{}"}, repo_id="org/good")
    for name, (old, new) in INDEXES.items():
        put_raw_index(models, f"org--{name}", f"org/{name}", old, new)
    for number, date in enumerate(DATES):
        put_raw_index(models, f"org--date{number}", f"org/date{number}", b"2024-05-06T07:08:09+00:00", date.encode())
    for name, card in CARDS.items():
        readme = f"---\n{card}\n---\n# A card".encode()
        carry(models, f"org--card-{name}", {"README.md": readme, "config.json": b"{}"}, repo_id=f"org/card-{name}")
    put_raw_manifest(models, "org--layer-size", HUGE)
    put_raw_manifest(models, "org--deep-manifest", DEEP)
    put_raw_manifest(models, "org--negative", b"-1")
    put_artifact(models, "org--artifact")
    put_artifact(models, f"sha256-{'ab' * 32}.sig")
    carry(models, "zzz--last", {"config.json": b"{}"}, repo_id="zzz/last")
    with serving(folder, f"oci:{folder}") as hub:
        yield hub


def put_raw_index(models: Layout, tag: str, repo_id: str, old: bytes, new: bytes) -> None:
    index = carry(models, tag, {"config.json": b"{}"}, repo_id=repo_id)
    data = index.to_bytes()
    assert old in data

    class RawIndex(FileIndex):
        def to_bytes(self) -> bytes:
            return data.replace(old, new)

    fields = {field.name: getattr(index, field.name) for field in dataclasses.fields(index)}
    data_layers = list(open_image(models, tag).layers[:-1])
    put_image(models, tag, RawIndex(**fields), data_layers)


def put_raw_manifest(models: Layout, tag: str, size: bytes) -> None:
    config = b'{"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' % (b"ab" * 32)
    models.write_blob(lambda: [config])
    value = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": Digest.of(config), "size": len(config)},
        "layers": [{"mediaType": LAYER_TAR, "digest": f"sha256:{'ab' * 32}", "size": "SIZE"}],
    }
    models.put_manifest(RawManifest(MANIFEST, json.dumps(value).encode().replace(b'"SIZE"', size)), tag)


def put_artifact(models: Layout, tag: str) -> None:
    """Put a manifest as oras and cosign write it: its config is the empty JSON object."""
    models.write_blob(lambda: [b"{}"])
    config = Descriptor("application/vnd.oci.empty.v1+json", Digest.of(b"{}"), 2)
    models.put_manifest(Manifest(config, (Descriptor("text/plain", Digest.of(b"{}"), 2),)).to_raw(), tag)


def listed(hub: Serving) -> set[str]:
    return {item["id"] for item in json.loads(hub.get("/api/models").body)}


def test_lists_and_pages_work_with_broken_images(hub: Serving):
    served = listed(hub)
    assert {"org/good", "zzz/last"} <= served
    for target in ("/", "/models", "/?sort=newest", "/?sort=size", "/metrics", "/api/models?search=good"):
        assert hub.ask("GET", target, HTML).status == 200
    assert json.loads(hub.get("/api/models/org/good").body)["siblings"] == [{"rfilename": "config.json"}]
    for repo_id in served:
        for target in (f"/api/models/{repo_id}", f"/{repo_id}", f"/api/models/{repo_id}/tree/main?recursive=true"):
            assert (target, hub.ask("GET", target, HTML).status) == (target, 200)
    assert "Traceback" not in hub.output


def test_broken_images_are_left_out_with_a_note(hub: Serving):
    served = listed(hub)
    for name in {*INDEXES, "layer-size", "deep-manifest", "negative"} - HARMLESS:
        assert f"org/{name}" not in served
        assert f"models:org--{name} is left out: " in hub.output


def test_artifacts_and_signatures_are_not_repos(hub: Serving):
    assert not [repo_id for repo_id in listed(hub) if "artifact" in repo_id or "sha256" in repo_id]
    assert "artifact" not in hub.output


def test_an_image_that_claims_another_repo_is_not_served_as_that(hub: Serving):
    assert hub.get("/org/good/resolve/main/config.json").status == 200
    refs = json.loads(hub.get("/api/models/org/good/refs").body)
    assert [branch["name"] for branch in refs["branches"]] == ["main"]
    assert json.loads(hub.get("/api/datasets").body) == []
    assert hub.get("/api/models/org/other-revision/revision/v2").status == 404
    for name in ("other-repo", "other-revision", "other-type"):
        assert f"models:org--{name} is left out: " in hub.output


@pytest.mark.parametrize("name", CARDS)
def test_a_repo_with_an_unreadable_card_is_served(hub: Serving, name: str):
    info = json.loads(hub.get(f"/api/models/org/card-{name}").body)
    assert info["cardData"] == (
        {"a": None, "b": None, "c": "1e999", "2024-01-01": "d", "None": "e"} if name == "infinite" else {}
    )
    assert hub.get(f"/org/card-{name}/resolve/main/config.json").body == b"{}"
    assert '<h2 id="readme-a-card">' in hub.ask("GET", f"/org/card-{name}", HTML).body.decode()
