"""Image names on the command line, and the locations they are parsed into."""

from __future__ import annotations

import pytest

from llmstack.carried_image.image_location import (
    ArchiveLocation,
    EngineLocation,
    ImageRequest,
    LayoutLocation,
    RegistryLocation,
    locate,
)
from llmstack.carried_image.naming import Namespace
from llmstack.errors import NotFoundError, UsageError
from llmstack.oci.reference import Reference

NAMESPACE = Namespace.parse("registry.local/llm")
DIGEST = "sha256:" + "a" * 64


def in_registry(name: str) -> RegistryLocation:
    return RegistryLocation(name, Reference.parse(name))


def find(argument: str, source: str | None = None) -> ImageRequest:
    return locate(argument, source, "model", NAMESPACE)


@pytest.mark.parametrize(
    ("argument", "place", "repo_id", "revision"),
    [
        ("facebook/opt-125m", "registry.local/llm/models:facebook--opt-125m", "facebook/opt-125m", "main"),
        ("facebook/opt-125m@v1", "registry.local/llm/models:facebook--opt-125m--v1", "facebook/opt-125m", "v1"),
        ("gpt2", "registry.local/llm/models:gpt2", "gpt2", "main"),
        ("hgfkeep/models:gpt2", "hgfkeep/models:gpt2", None, "main"),
        ("localhost/x/models", "localhost/x/models", None, "main"),
        ("reg:5000/x", "reg:5000/x", None, "main"),
        (f"hgfkeep/models@{DIGEST}", f"hgfkeep/models@{DIGEST}", None, "main"),
    ],
)
def test_names_without_a_source(argument, place, repo_id, revision):
    assert find(argument) == ImageRequest(in_registry(place), repo_id, "model", revision, anywhere=True)


@pytest.mark.parametrize(
    ("argument", "tag", "revision"),
    [
        ("hf://o/m", "o--m", "main"),
        ("hf://o/m@v1", "o--m--v1", "v1"),
        ("https://huggingface.co/o/m", "o--m", "main"),
        ("https://hf.co/o/m/tree/v1", "o--m--v1", "v1"),
    ],
)
def test_a_url_names_a_repo(argument, tag, revision):
    location = in_registry(f"registry.local/llm/models:{tag}")
    assert find(argument) == ImageRequest(location, "o/m", "model", revision, anywhere=True)


def test_a_url_of_the_other_type_hints_at_the_option():
    for argument in ("hf://datasets/o/m", "https://huggingface.co/datasets/o/m"):
        with pytest.raises(UsageError, match="URL of a dataset") as caught:
            find(argument)
        assert caught.value.hint == "add --type dataset"


@pytest.mark.parametrize(
    ("argument", "location"),
    [
        ("docker://a/b:c", in_registry("a/b:c")),
        ("docker-daemon:a/b:c", EngineLocation("a/b:c")),
        (f"docker-daemon:{DIGEST}", EngineLocation(DIGEST)),
        ("docker-archive:x.tar", ArchiveLocation("docker-archive", "x.tar")),
        ("docker-archive:x.tar:a/b:c", ArchiveLocation("docker-archive", "x.tar", "a/b:c")),
        ("oci-archive:/x/y.tar:t", ArchiveLocation("oci-archive", "/x/y.tar", "t")),
        ("oci:x:t", LayoutLocation("x", "t")),
    ],
)
def test_names_with_a_transport(argument, location):
    assert find(argument) == ImageRequest(location)


@pytest.mark.parametrize(
    ("source", "location"),
    [
        ("other.local/ns", in_registry("other.local/ns/models:o--m")),
        ("docker://other.local/ns", in_registry("other.local/ns/models:o--m")),
        ("docker-daemon:", EngineLocation("registry.local/llm/models:o--m")),
        ("docker-daemon:other.local/ns", EngineLocation("other.local/ns/models:o--m")),
        ("docker-archive:x.tar", ArchiveLocation("docker-archive", "x.tar", "o--m")),
        ("oci-archive:x.tar:t", ArchiveLocation("oci-archive", "x.tar", "t")),
    ],
)
def test_a_repo_id_in_a_source(source, location):
    assert find("o/m", source) == ImageRequest(location, "o/m", source=source)


def test_directories_are_namespaces_or_layouts(tmp_path):
    (tmp_path / "ns/models").mkdir(parents=True)
    (tmp_path / "ns/models/index.json").touch()
    (tmp_path / "with:colon").mkdir()
    (tmp_path / "with:colon/index.json").touch()
    assert find("o/m", f"oci:{tmp_path}/ns").location == LayoutLocation(f"{tmp_path}/ns/models", "o--m")
    assert find("o/m", f"oci:{tmp_path}/ns/models").location == LayoutLocation(f"{tmp_path}/ns/models", "o--m")
    assert find("o/m", f"oci:{tmp_path}/ns/models:t").location == LayoutLocation(f"{tmp_path}/ns/models", "t")
    assert find(f"oci:{tmp_path}/with:colon").location == LayoutLocation(f"{tmp_path}/with:colon")
    folder = Namespace.parse(f"oci:{tmp_path}/ns")
    assert locate("o/m", None, "model", folder).location == LayoutLocation(f"{tmp_path}/ns/models", "o--m")
    with pytest.raises(NotFoundError, match="holds no datasets"):
        locate("o/m", None, "dataset", folder)


@pytest.mark.parametrize(
    ("argument", "source"),
    [
        ("", None),
        ("o/m@", None),
        ("o/m/x", None),
        ("docker://", None),
        ("docker-archive:", None),
        ("oci:x", "docker-daemon:"),
        ("a/b:c", "registry.local/ns"),
        ("a/B:c", None),
        ("a/b:c d", None),
        ("o/m", "registry.local/ns:tag"),
        ("https://example.org/o/m", None),
        ("o/m", "oci:"),
    ],
)
def test_conflicting_or_invalid_names_are_usage_errors(argument, source):
    with pytest.raises(UsageError):
        find(argument, source)


def test_paths_that_are_too_long():
    assert find("oci-archive:" + "x" * 5000 + ":t", None).location == ArchiveLocation("oci-archive", "x" * 5000, "t")
    with pytest.raises(NotFoundError, match="x not found"):
        find("o/m", "oci:" + "x" * 5000)
