"""Tags of repo ids: reversible, valid in registries; repo ids as huggingface_hub validates them."""

from __future__ import annotations

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from hypothesis import given
from hypothesis import strategies as st

from llmstack.carried_image.naming import Namespace, check_repo_id, split_revision, tag_for
from llmstack.errors import UsageError
from llmstack.oci.reference import is_tag

PARTS = st.from_regex(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,30}[A-Za-z0-9_])?", fullmatch=True).filter(
    lambda part: "--" not in part and ".." not in part and not part.endswith(".git")
)
REPO_IDS = st.one_of(PARTS, st.tuples(PARTS, PARTS).map("/".join))
ALMOST = st.text(st.sampled_from("aZ09._-/ @:%\u00fc"), min_size=1, max_size=12)


@given(REPO_IDS)
def test_valid_repo_ids(repo_id: str):
    validate_repo_id(repo_id)
    assert check_repo_id(repo_id) == repo_id


@given(ALMOST)
def test_repo_ids_that_the_hub_rejects_are_invalid(repo_id: str):
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        with pytest.raises(UsageError):
            check_repo_id(repo_id)


@given(REPO_IDS)
def test_a_tag_is_valid_and_reversible(repo_id: str):
    tag = tag_for(repo_id)
    assert is_tag(tag)
    assert tag.replace("--", "/") == repo_id


@given(REPO_IDS, REPO_IDS)
def test_two_repos_have_two_tags(one: str, other: str):
    assert (tag_for(one) == tag_for(other)) == (one == other)


@given(REPO_IDS, st.text(min_size=1, max_size=60))
def test_any_revision_gets_a_tag_or_a_usage_error(repo_id: str, revision: str):
    try:
        tag = tag_for(repo_id, revision)
    except UsageError:
        assert len(repo_id) + len(revision) > 100
        return
    assert is_tag(tag)
    assert tag.startswith(tag_for(repo_id))


@pytest.mark.parametrize(
    ("repo_id", "revision", "tag"),
    [
        ("gpt2", "main", "gpt2"),
        ("facebook/opt-125m", "main", "facebook--opt-125m"),
        ("facebook/opt-125m", "v1.0", "facebook--opt-125m--v1.0"),
        ("facebook/opt-125m", "refs/pr/1", "facebook--opt-125m--refs_pr_1"),
        ("facebook/opt-125m", "a" * 40, "facebook--opt-125m--" + "a" * 40),
        ("_a/b_", "main", "_a--b_"),
    ],
)
def test_tags(repo_id: str, revision: str, tag: str):
    assert tag_for(repo_id, revision) == tag


def test_a_tag_that_would_be_too_long_is_a_usage_error():
    with pytest.raises(UsageError, match="the limit is 128") as raised:
        tag_for("o/" + "n" * 80, "branch/" + "b" * 60)
    assert raised.value.hint == "name the commit instead of the branch"


def test_the_name_of_a_repo_has_96_characters_at_most():
    """The Hub limits the name, not the id; an image's tag limits both."""
    longest = "o" * 30 + "/" + "n" * 96
    validate_repo_id(longest)
    assert check_repo_id(longest) == longest
    assert len(tag_for(longest)) == 128
    with pytest.raises(UsageError, match="is not a Hugging Face repo id") as raised:
        check_repo_id("o/" + "n" * 97)
    assert "at most 96 characters" in (raised.value.hint or "")
    for revision in ("main", "v1"):
        with pytest.raises(UsageError, match="the limit is 128") as raised:
            tag_for("o" * 42 + "/" + "n" * 96, revision)
        assert raised.value.hint == "no registry takes a longer tag"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b", ("a/b", "main")),
        ("a/b@v1", ("a/b", "v1")),
        ("a/b@refs/pr/1", ("a/b", "refs/pr/1")),
        ("gpt2@x@y", ("gpt2", "x@y")),
    ],
)
def test_revisions(text: str, expected: tuple[str, str]):
    assert split_revision(text) == expected


@pytest.mark.parametrize("text", ["a/b@", "", "@main", "a/b/c", "a//b", "../b", "a/..", "a--b/c", "a/b.git", " a/b"])
def test_invalid_repo_ids_with_a_revision(text: str):
    with pytest.raises(UsageError):
        split_revision(text)


@pytest.mark.parametrize(
    ("text", "shown", "image"),
    [
        ("registry.local:5000/llm", "registry.local:5000/llm", "registry.local:5000/llm/models:t"),
        ("registry.local:5000", "registry.local:5000", "registry.local:5000/models:t"),
        ("localhost:5000/a/b/", "localhost:5000/a/b", "localhost:5000/a/b/models:t"),
        ("docker://quay.io/x", "quay.io/x", "quay.io/x/models:t"),
        ("hgfkeep", "docker.io/hgfkeep", "docker.io/hgfkeep/models:t"),
        ("docker.io/hgfkeep", "docker.io/hgfkeep", "docker.io/hgfkeep/models:t"),
        ("oci:./carried", "oci:./carried", "oci:carried/models:t"),
        ("oci:/a:b/c", "oci:/a:b/c", "oci:/a:b/c/models:t"),
    ],
)
def test_namespaces(text: str, shown: str, image: str):
    namespace = Namespace.parse(text)
    assert str(namespace) == shown
    assert namespace.image("model", "t") == image
    assert namespace.image("dataset", "t") == image.replace("/models", "/datasets")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "oci:",
        "docker.io",
        "docker.io/",
        "registry.local/models:tag",
        "registry.local/x@sha256:" + "0" * 64,
        "registry.local/Upper",
        "docker-archive:x.tar",
        "docker-daemon:",
        "http://registry.local/x",
        "user:secret@registry.local/x",
        "registry.local//x",
    ],
)
def test_invalid_namespaces(text: str):
    with pytest.raises(UsageError) as raised:
        Namespace.parse(text)
    assert raised.value.exit_code == 2


@given(st.text(max_size=40))
def test_any_text_is_a_namespace_or_a_usage_error(text: str):
    try:
        namespace = Namespace.parse(text)
    except UsageError:
        return
    if namespace.registry is not None:
        assert namespace.reference("dataset")
        assert Namespace.parse(str(namespace)) == namespace
