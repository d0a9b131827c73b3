"""What will be built, in which order and on top of what: planning alone, no engine."""

from __future__ import annotations

import pytest

from llmstack.errors import UsageError
from llmstack.image_builds.build_plan import BuildRequest, plan
from llmstack.image_builds.recipe_folder import images_folder, load_recipes
from llmstack.image_builds.site_settings import Site

RECIPES = load_recipes(images_folder())
SITE = Site(namespace="registry.site/llm")


def planned(*names, present=(), site=SITE, **wish):
    return plan(RECIPES, BuildRequest(names, **wish), site, lambda name: name in present)


def titles(targets):
    return [target.title for target in targets]


def test_a_missing_parent_is_built_first():
    hf, dev = planned("hf-dev", variant="cpu")
    assert titles([hf, dev]) == ["hf:cpu", "hf-dev:cpu"]
    assert (hf.wanted, dev.wanted) == (False, True)
    assert hf.inputs.base == "debian:bookworm-slim"
    assert dev.inputs.base == "registry.site/llm/hf:cpu"
    assert dev.tags == ("registry.site/llm/hf-dev:cpu",)


def test_a_parent_that_is_present_or_given_is_not_built():
    assert titles(planned("hf-dev", variant="cpu", present={"registry.site/llm/hf:cpu"})) == ["hf-dev:cpu"]
    [dev] = planned("hf-dev", variant="cpu", bases={"hf": "mirror.site/hf:one"})
    assert dev.inputs.base == "mirror.site/hf:one"


def test_another_root_is_built_upon_whatever_is_present():
    hf, dev = planned("hf-dev", variant="cpu", bases={"": "stand-in"}, present={"registry.site/llm/hf:cpu"})
    assert (hf.inputs.base, dev.inputs.base) == ("stand-in", "registry.site/llm/hf:cpu")


def test_what_is_named_is_built_in_order_and_by_default_in_its_first_variant():
    targets = planned("vllm", "hf-dev", "hf", present={"registry.site/llm/hf:cuda11.8"})
    assert [title for title in titles(targets) if title.startswith("hf")] == ["hf:cuda11.8", "hf-dev:cuda11.8"]
    assert all(target.wanted for target in targets)


def test_a_namespace_that_is_a_folder_prefixes_nothing():
    from llmstack.settings import Settings

    [hf] = planned("hf", variant="cpu", site=Site.of(Settings(namespace="oci:./carried")))
    assert hf.tags == ("hf:cpu",)


def test_arguments_reach_every_image_that_has_them():
    hf, dev = planned("hf-dev", variant="cpu", args={"torch_links": "", "ssh_password_hash": "$6$x$y"})
    assert "--find-links" not in hf.render().dockerfile
    files = dev.render().files
    assert files["root-password"] == b"root:$6$x$y\n"
    # A hash of one's own is no default to be warned of; the other one still is.
    assert files["default-passwords"].split() == [b"jupyter"]


@pytest.mark.parametrize(
    ("names", "wish", "message", "hint"),
    [
        (["nope"], {}, "there is no recipe 'nope'", "there are dataset, hf,"),
        (["hf"], {"variant": "rocm"}, "hf has no variant 'rocm'", "it has cuda11.8, cuda13, cpu"),
        (["hf"], {"args": {"torch": "1"}}, "--build-arg: nothing here is named 'torch'", "extra_apt"),
        (["hf"], {"bases": {"build": "x"}}, "--base: nothing here is named 'build'", "there are none"),
        (["hf", "vllm"], {"tag": "a:b"}, "--tag names one image", "one after the other"),
        (["hf"], {"tag": "A:b"}, "is not a repository name", "lower case"),
    ],
)
def test_a_wrong_wish_is_refused(names, wish, message, hint):
    with pytest.raises(UsageError) as caught:
        planned(*names, **wish)
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize("url", ["https://user:pw@pip.site/simple", "ftp://pip.site", "https://a b/", "pip.site"])
def test_addresses_with_credentials_or_of_no_use_are_refused(url):
    with pytest.raises(UsageError) as caught:
        Site(pip_index=url)
    assert "pw" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "cannot be read"),
        ("hello", "no certificate"),
        ("-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----", "private key"),
    ],
)
def test_a_ca_file_that_is_none_is_refused(tmp_path, text, why):
    path = tmp_path / "ca.pem"
    if text:
        path.write_text(text)
    with pytest.raises(UsageError, match=why):
        planned("hf", site=Site(ca_cert=path))[0].render()


def test_a_local_source_comes_along_as_file_or_folder(tmp_path):
    (tmp_path / "llama.cpp").mkdir()
    (tmp_path / "llama.tar.gz").write_bytes(b"")
    [target] = planned("llama.cpp", variant="cpu", args={"source": str(tmp_path / "llama.cpp")})
    assert target.render().files["local/source"] == tmp_path / "llama.cpp"
    assert "tar -C" not in target.render().dockerfile
    [target] = planned("llama.cpp", variant="cpu", args={"source": str(tmp_path / "llama.tar.gz")})
    assert target.render().files["local/source/llama.tar.gz"] == tmp_path / "llama.tar.gz"
    assert "tar -C /src/given -xf /src/given/llama.tar.gz" in target.render().dockerfile
    with pytest.raises(UsageError, match="does not exist"):
        planned("llama.cpp", args={"source": "./nowhere"})[0].render()
