"""Image references: defaults of Docker, the grammar of the distribution spec, UsageError for anything else."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.errors import UsageError
from llmstack.oci.reference import Digest, Reference, is_loopback, is_tag

HEX = "ab" * 32
DIGEST = f"sha256:{HEX}"

COMPONENT = st.from_regex(r"[a-z0-9]{1,8}(?:(?:\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}", fullmatch=True)
REPOSITORY = st.lists(COMPONENT, min_size=1, max_size=4).map("/".join)
REGISTRY = st.sampled_from(["registry.local", "registry.local:5000", "localhost", "localhost:80", "[::1]:5000", "h:1"])
TAG = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest"),
    [
        ("busybox", "docker.io", "library/busybox", None, None),
        ("busybox:stable", "docker.io", "library/busybox", "stable", None),
        ("hgfkeep/models:a--b", "docker.io", "hgfkeep/models", "a--b", None),
        ("docker.io/busybox", "docker.io", "library/busybox", None, None),
        ("index.docker.io/a/b", "docker.io", "a/b", None, None),
        ("registry-1.docker.io/busybox:1", "docker.io", "library/busybox", "1", None),
        ("localhost/a", "localhost", "a", None, None),
        ("localhost:5000/a:b", "localhost:5000", "a", "b", None),
        ("[::1]:5000/a/b:c", "[::1]:5000", "a/b", "c", None),
        (f"quay.io/a/b@{DIGEST}", "quay.io", "a/b", None, DIGEST),
        (f"quay.io/a/b:tag@{DIGEST}", "quay.io", "a/b", "tag", DIGEST),
        ("a/b/c", "docker.io", "a/b/c", None, None),
    ],
)
def test_parsing_applies_the_defaults_of_docker(
    text: str, registry: str, repository: str, tag: str | None, digest: str | None
):
    reference = Reference.parse(text)
    assert (reference.registry, reference.repository, reference.tag, reference.digest) == (
        registry,
        repository,
        tag,
        digest,
    )
    assert reference.locator == (digest or tag or "latest")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "a//b",
        "/a",
        "a/",
        "Upper/case",
        "quay.io/Upper",
        "a:",
        "a:b:c",
        "a:-x",
        "a:" + "t" * 129,
        "a@",
        "a@sha256:short",
        f"a@{DIGEST.upper()}",
        f"a@{DIGEST}@{DIGEST}",
        "a..b",
        "a.-b",
        "-a",
        "a-",
        "a___b",
        "ho st.x/a",
        "user:pass@host.x/a",
        "host.x:port/a",
        "http://host.x/a",
        "quay.io/" + "a" * 256,
        "quay.io/\u00fc",
        "quay.io/a\n",
        "a:b\n",
    ],
)
def test_an_invalid_reference_is_a_usage_error(text: str):
    with pytest.raises(UsageError):
        Reference.parse(text)


@given(REGISTRY, REPOSITORY, st.none() | TAG, st.booleans())
def test_a_formatted_reference_parses_to_the_same_value(registry: str, repository: str, tag: str | None, pinned: bool):
    text = f"{registry}/{repository}" + (f":{tag}" if tag else "") + (f"@{DIGEST}" if pinned else "")
    reference = Reference.parse(text)
    assert (reference.registry, reference.repository, reference.tag) == (registry, repository, tag)
    assert str(reference) == text
    assert Reference.parse(str(reference)) == reference


@given(st.text(max_size=60))
def test_any_string_is_a_reference_or_a_usage_error(text: str):
    try:
        reference = Reference.parse(text)
    except UsageError:
        return
    assert Reference.parse(str(reference)) == reference


@given(st.binary(max_size=100))
def test_digest_of_bytes(data: bytes):
    digest = Digest.of(data)
    assert digest.hex == hashlib.sha256(data).hexdigest()
    assert Digest.parse(str(digest)) == digest


@given(TAG)
def test_is_tag_follows_the_spec(tag: str):
    assert is_tag(tag)
    assert not is_tag(f".{tag}")
    assert not is_tag(f"{tag}/")
    assert not is_tag(f"{tag}\n")


@pytest.mark.parametrize("host", ["localhost", "localhost:5000", "127.0.0.1", "127.0.0.1:5000", "127.9.9.9", "[::1]:1"])
def test_loopback_addresses_imply_plain_http(host: str):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["localhost.evil.com", "127.0.0.1.evil.com:80", "10.0.0.1:5000", "docker.io", "[::2]"])
def test_other_addresses_do_not_imply_plain_http(host: str):
    assert not is_loopback(host)
