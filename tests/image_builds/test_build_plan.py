"""Planning without a Docker Engine: the images, their order, bases and names."""

from __future__ import annotations

import pytest

from llmstack.errors import UsageError
from llmstack.image_builds.build_environment import BuildEnvironment
from llmstack.image_builds.build_plan import BuildRequest, plan_images
from llmstack.image_builds.dockerfile import render
from llmstack.image_builds.recipe import images_folder, load_recipes
from llmstack.settings import BuildSettings, Settings

RECIPES = load_recipes(images_folder())
ENVIRONMENT = BuildEnvironment(namespace="registry.site/llm")


def planned(*names, present=(), environment=ENVIRONMENT, **request):
    return plan_images(RECIPES, BuildRequest(names, **request), environment, lambda name: name in present)


def titles(images):
    return [image.title for image in images]


def test_missing_parent_is_built_first():
    hf, dev = planned("hf-dev", variant="cpu")
    assert titles([hf, dev]) == ["hf:cpu", "hf-dev:cpu"]
    assert (hf.requested, dev.requested) == (False, True)
    assert hf.base == "debian:bookworm-slim"
    assert dev.base == "registry.site/llm/hf:cpu"
    assert dev.tags == ("registry.site/llm/hf-dev:cpu",)


def test_present_or_replaced_parent_is_not_built():
    assert titles(planned("hf-dev", variant="cpu", present={"registry.site/llm/hf:cpu"})) == ["hf-dev:cpu"]
    [dev] = planned("hf-dev", variant="cpu", bases={"hf": "mirror.site/hf:one"})
    assert dev.base == "mirror.site/hf:one"


def test_replaced_base_of_the_root_rebuilds_a_present_parent():
    hf, dev = planned("hf-dev", variant="cpu", bases={"": "stand-in"}, present={"registry.site/llm/hf:cpu"})
    assert (hf.base, dev.base) == ("stand-in", "registry.site/llm/hf:cpu")


def test_requested_recipes_are_sorted_and_default_to_their_first_variant():
    images = planned("vllm", "hf-dev", "hf", present={"registry.site/llm/hf:cuda11.8"})
    assert [title for title in titles(images) if title.startswith("hf")] == ["hf:cuda11.8", "hf-dev:cuda11.8"]
    assert all(image.requested for image in images)


def test_recipe_with_one_variant_uses_it_if_another_recipe_has_the_requested_one():
    assert titles(planned("vllm", "hub", variant="cuda13")) == ["hub:cpu", "vllm:cuda13"]
    with pytest.raises(UsageError, match="recipe hub: no variant 'cuda13'"):
        planned("hub", variant="cuda13")


def test_stamp_adds_a_tag_to_requested_images_only():
    hf, dev = planned("hf-dev", variant="cpu", stamp="20261126-200500")
    assert hf.tags == ("registry.site/llm/hf:cpu",)
    assert dev.tags == ("registry.site/llm/hf-dev:cpu", "registry.site/llm/hf-dev:cpu-20261126-200500")
    [hub] = planned("hub", stamp="20261126-200500")
    assert hub.tags == ("registry.site/llm/hub:latest", "registry.site/llm/hub:20261126-200500")
    [named] = planned("hub", stamp="20261126-200500", tag="registry.site/llm/hub:1.0")
    assert named.tags == ("registry.site/llm/hub:1.0",)


def test_oci_layout_namespace_is_not_part_of_image_names():
    environment = BuildEnvironment.from_settings(Settings(namespace="oci:./carried"))
    [hf] = planned("hf", variant="cpu", environment=environment)
    assert hf.tags == ("hf:cpu",)


def test_build_args_apply_to_every_image_that_declares_them():
    hf, dev = planned("hf-dev", variant="cpu", args={"torch_links": "", "ssh_password_hash": "$6$x$y"})
    assert "--find-links" not in render(hf).dockerfile
    files = render(dev).files
    assert files["root-password"] == b"root:$6$x$y\n"
    # A user's own hash is not a default to warn about. The other hash still is one.
    assert files["default-passwords"].split() == [b"jupyter"]


@pytest.mark.parametrize(
    ("names", "request_fields", "message", "hint"),
    [
        (["nope"], {}, "recipe 'nope': not found", "known recipes: dataset, hf,"),
        (["hf"], {"variant": "rocm"}, "recipe hf: no variant 'rocm'", "known variants: cuda11.8, cuda13, cpu"),
        (["hf"], {"args": {"torch": "1"}}, "--build-arg: unknown name 'torch'", "known names: cuda_home, extra_apt"),
        (["hf"], {"bases": {"build": "x"}}, "--base: unknown name 'build'", "known names: none"),
        (["hf", "vllm"], {"tag": "a:b"}, "--tag: names one image", "one build per image"),
        (["hf"], {"tag": "A:b"}, "is not a repository name", "lower-case"),
    ],
)
def test_invalid_request_is_refused(names, request_fields, message, hint):
    with pytest.raises(UsageError) as caught:
        planned(*names, **request_fields)
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize("url", ["https://user:pw@pip.site/simple", "ftp://pip.site", "https://a b/", "pip.site"])
def test_url_that_is_invalid_or_contains_credentials_is_refused(url):
    with pytest.raises(UsageError, match="pip_index: ") as caught:
        BuildEnvironment(BuildSettings(pip_index=url))
    assert "pw" not in caught.value.message


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "cannot be read"),
        ("hello", "contains no certificate"),
        ("-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----", "contains a private key"),
    ],
)
def test_invalid_ca_file_is_refused(tmp_path, content, cause):
    path = tmp_path / "ca.pem"
    if content:
        path.write_text(content)
    [hf] = planned("hf", environment=BuildEnvironment(BuildSettings(ca_cert=path)))
    with pytest.raises(UsageError, match=cause):
        render(hf)


def test_local_source_is_added_to_the_build_context_as_file_or_directory(tmp_path):
    (tmp_path / "llama.cpp").mkdir()
    (tmp_path / "llama.tar.gz").write_bytes(b"")
    [image] = planned("llama.cpp", variant="cpu", args={"source": str(tmp_path / "llama.cpp")})
    assert render(image).files["local/source"] == tmp_path / "llama.cpp"
    assert "tar -C" not in render(image).dockerfile
    [image] = planned("llama.cpp", variant="cpu", args={"source": str(tmp_path / "llama.tar.gz")})
    assert render(image).files["local/source/llama.tar.gz"] == tmp_path / "llama.tar.gz"
    assert "tar -C /src/given -xf /src/given/llama.tar.gz" in render(image).dockerfile
    [image] = planned("llama.cpp", args={"source": "./nowhere"})
    with pytest.raises(UsageError, match=r"llama.cpp: source: \./nowhere: not found"):
        render(image)
