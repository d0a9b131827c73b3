"""Descriptors, manifests, indexes and configs: round trips, raw bytes, hostile values."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.errors import IntegrityError, UsageError
from llmstack.oci.reference import Digest
from llmstack.oci.spec import (
    CONFIG,
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    INDEX,
    LAYER_TAR,
    MANIFEST,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    RawManifest,
    canonical_json,
    media_type_of,
    parse_object,
)

DIGEST = Digest.of(b"x")
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
PLATFORMS = st.none() | st.builds(Platform, NAMES, NAMES, st.none() | NAMES)
DESCRIPTORS = st.builds(
    Descriptor,
    media_type=NAMES,
    digest=st.binary(max_size=4).map(Digest.of),
    size=st.integers(0, 2**63 - 1),
    annotations=st.dictionaries(NAMES, NAMES, max_size=3),
    platform=PLATFORMS,
)


@given(DESCRIPTORS)
def test_round_trip_of_descriptors(descriptor: Descriptor):
    assert Descriptor.from_json(json.loads(json.dumps(descriptor.to_json()))) == descriptor


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "x",
        {},
        {"digest": DIGEST},
        {"digest": DIGEST, "size": -1},
        {"digest": DIGEST, "size": True},
        {"digest": DIGEST, "size": "7"},
        {"digest": DIGEST, "size": 1.5},
        {"digest": "sha256:../../etc/passwd", "size": 1},
        {"digest": "sha512:" + "0" * 128, "size": 1},
        {"digest": None, "size": 1},
    ],
)
def test_descriptors_without_a_valid_digest_and_size_are_refused(value: object):
    with pytest.raises(IntegrityError):
        Descriptor.from_json(value)


@given(DESCRIPTORS, st.lists(DESCRIPTORS, max_size=4), st.dictionaries(NAMES, NAMES, max_size=3))
def test_round_trip_of_manifests_and_indexes(config, items, notes):
    manifest = Manifest(config, tuple(items), notes)
    assert Manifest.parse(manifest.to_raw()) == manifest
    assert Manifest.parse(manifest.to_raw()).to_raw() == manifest.to_raw()
    index = Index(tuple(items), notes)
    assert Index.parse(index.to_raw()) == index
    assert index.to_raw().descriptor.digest == Digest.of(index.to_raw().data)


def test_the_order_of_annotations_does_not_change_the_bytes():
    config = Descriptor(CONFIG, DIGEST, 1)
    one = Manifest(config, (), {"a": "1", "b": "2"}).to_raw()
    other = Manifest(config, (), {"b": "2", "a": "1"}).to_raw()
    assert one == other


def test_the_bytes_of_a_manifest():
    layer = Descriptor(LAYER_TAR, DIGEST, 3, {"k": "v"})
    raw = Manifest(Descriptor(CONFIG, DIGEST, 1), (layer,), {"a": "b"}).to_raw()
    assert raw.data.decode() == (
        f'{{"schemaVersion":2,"mediaType":"{MANIFEST}",'
        f'"config":{{"mediaType":"{CONFIG}","digest":"{DIGEST}","size":1}},'
        f'"layers":[{{"mediaType":"{LAYER_TAR}","digest":"{DIGEST}","size":3,"annotations":{{"k":"v"}}}}],'
        '"annotations":{"a":"b"}}'
    )


def test_the_digest_is_that_of_the_raw_bytes():
    data = b'{ "schemaVersion": 2,\n "manifests": [] }'
    assert RawManifest(INDEX, data).digest == Digest.of(data)


@given(JSON)
def test_any_json_is_parsed_or_an_integrity_error(value: Any):
    data = json.dumps(value).encode()
    for parse in (Manifest.parse, Index.parse):
        with contextlib.suppress(IntegrityError):
            parse(RawManifest(MANIFEST, data))
    try:
        config = ImageConfig.parse(data)
        assert isinstance(config.labels, dict)
        assert isinstance(config.platform, Platform)
        assert isinstance(config.diff_ids, tuple)
    except IntegrityError:
        pass


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "schemaVersion": st.just(2) | JSON,
            "mediaType": JSON,
            "config": JSON,
            "layers": JSON | st.lists(JSON, max_size=2),
            "manifests": JSON | st.lists(JSON, max_size=2),
            "annotations": JSON,
            "rootfs": st.fixed_dictionaries({"diff_ids": JSON}) | JSON,
            "os": JSON,
            "architecture": JSON,
            "variant": JSON,
        },
    )
)
def test_hostile_fields_end_in_a_value_or_an_integrity_error(value: dict[str, Any]):
    raw = RawManifest(MANIFEST, json.dumps(value).encode())
    assert isinstance(media_type_of(value), str)
    for read in (
        lambda: Manifest.parse(raw),
        lambda: Index.parse(raw),
        lambda: ImageConfig(value).diff_ids,
        lambda: str(ImageConfig(value).platform),
        lambda: ImageConfig(value).labels,
    ):
        with contextlib.suppress(IntegrityError):
            read()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"nul",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"1" * 10_000,
        b'{"a": 9223372036854775808}',
        b'{"a": -9223372036854775809}',
        b'{"a": 1%s}' % (b"0" * 400),
        b'{"a": 1e999}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": "\\ud800"}',
        b'{"\\udc00\\ud800": 1}',
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": %s1%s}' % (b"[" * 64, b"]" * 64),
        '{"a": "x"}'.encode("utf-16"),
    ],
    ids=range(18),
)
def test_invalid_json_is_an_integrity_error(data: bytes):
    with pytest.raises(IntegrityError, match=r"^thing: (invalid JSON: |must be a JSON object$)"):
        parse_object(data, "thing")


def test_old_manifests_have_a_hint():
    with pytest.raises(IntegrityError) as raised:
        Manifest.parse(RawManifest("", b'{"schemaVersion":1,"fsLayers":[]}'))
    assert "push images" in (raised.value.hint or "")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"mediaType": DOCKER_MANIFEST, "manifests": []}, DOCKER_MANIFEST),
        ({"mediaType": DOCKER_INDEX}, DOCKER_INDEX),
        ({"manifests": []}, INDEX),
        ({"layers": []}, MANIFEST),
        ({"mediaType": 7, "layers": []}, MANIFEST),
    ],
)
def test_media_types_without_a_media_type_field(value: dict[str, Any], expected: str):
    assert media_type_of(value) == expected


def test_platforms():
    assert Platform.parse("linux/arm64/v8") == Platform("linux", "arm64", "v8")
    assert str(Platform.parse("linux/amd64")) == "linux/amd64"
    for text in ("linux", "", "linux/", "a/b/c/d", "//"):
        with pytest.raises(UsageError):
            Platform.parse(text)


@given(st.dictionaries(NAMES, NAMES | st.integers()))
def test_canonical_json_is_json(value: dict[str, Any]):
    data = canonical_json(value)
    assert json.loads(data) == value
    assert b": " not in data or any(": " in str(item) for pair in value.items() for item in pair)


def test_json_at_its_limits():
    deep = b"[" * 63 + b"]" * 63
    numbers = b"9223372036854775807, -9223372036854775808, 1e308"
    value = parse_object(b'{"a": [%s, "\\ud83e\\udd99", "\\\\ud800"], "b": %s}' % (numbers, deep), "thing")
    assert value["a"] == [2**63 - 1, -(2**63), 1e308, "🦙", "\\ud800"]
    assert parse_object(canonical_json(value), "thing") == value
