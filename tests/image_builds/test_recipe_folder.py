"""image.yaml and templates that are wrong: every message names the file and what is wrong in it."""

from __future__ import annotations

import pytest

from llmstack.errors import UsageError
from llmstack.image_builds.build_plan import BuildRequest, plan
from llmstack.image_builds.recipe_folder import load_recipes
from llmstack.image_builds.site_settings import Site

GOOD = "description: A test\nvariants: {cpu: {base: debian}}\n"


def write(folder, name, text, template="FROM {{ base }}\n"):
    (folder / name).mkdir()
    (folder / name / "image.yaml").write_text(text)
    (folder / name / "Dockerfile.j2").write_text(template)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: [", "invalid YAML"),
        ("a: 1\nports: !!int ''", "image.yaml:2: invalid YAML: invalid value for int"),
        ("[]", "the file must be a mapping"),
        ("description: x\n", "variants must be a mapping"),
        ("description: x\nvariants: {}\n", "there is no variant"),
        ("variants: {cpu: {base: debian}}\n", "description must be a text"),
        (GOOD + "pots: [1]\n", "has no setting 'pots'"),
        (GOOD + "ports: [0]\n", "ports must be numbers from 1 to 65535"),
        (GOOD + "files: [nope.sh]\n", "there is no context file nope.sh"),
        (GOOD + "args: {a-b: x}\n", "'a-b' cannot be used in a template"),
        (GOOD + "packages: {torch: 2.10}\n", "torch must be a text: write 2.1 in quotes"),
        ("description: x\nvariants: {cpu: {}}\n", "variant cpu needs a base, or the recipe a parent"),
        ("description: x\nparent: a\nvariants: {cpu: {base: b}}\n", "and not both"),
        ("description: x\nvariants: {cpu: {base: 'A:b'}}\n", "variant cpu: 'A:b'"),
        ("description: x\nvariants: {cpu: {base: a, tags: ['a b']}}\n", "a tag that no tag may be"),
    ],
)
def test_a_wrong_image_yaml_is_named(tmp_path, text, why):
    write(tmp_path, "thing", text)
    with pytest.raises(UsageError) as caught:
        load_recipes(tmp_path)
    assert str(tmp_path / "thing" / "image.yaml") in caught.value.message
    assert why in caught.value.message


def test_a_parent_must_exist_with_the_variant_and_not_be_a_child(tmp_path):
    child = "description: x\nparent: one\nvariants: {cpu: {}}\n"
    write(tmp_path, "two", child)
    with pytest.raises(UsageError, match="there is no recipe 'one'"):
        load_recipes(tmp_path)
    write(tmp_path, "one", "description: x\nvariants: {gpu: {base: debian}}\n")
    with pytest.raises(UsageError, match="one has no variant 'cpu'"):
        load_recipes(tmp_path)
    (tmp_path / "one" / "image.yaml").write_text(child.replace("parent: one", "parent: two"))
    with pytest.raises(UsageError, match="each other's parents"):
        load_recipes(tmp_path)


def test_an_empty_folder_is_said_to_be_empty(tmp_path):
    with pytest.raises(UsageError, match="holds no recipe"):
        load_recipes(tmp_path)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (
            "FROM {{ base }}\n\nRUN echo {{ nobody_set_this }}\n",
            "images/thing/Dockerfile.j2, line 3: 'nobody_set_this'",
        ),
        ("FROM {{ base }}\n{% if %}\n", "images/thing/Dockerfile.j2, line 2: "),
        ('{% import "_shared/none.j2" as steps %}\n', "_shared/none.j2"),
    ],
)
def test_a_wrong_template_is_named_with_its_line(tmp_path, template, why):
    write(tmp_path, "thing", GOOD, template)
    [target] = plan(load_recipes(tmp_path), BuildRequest(("thing",)), Site(), lambda _: False)
    with pytest.raises(UsageError) as caught:
        target.render()
    assert why in caught.value.message


def test_values_are_quoted_for_shells_and_for_docker(tmp_path):
    text = GOOD + 'args: {word: "it\'s $HOME"}\n'
    write(
        tmp_path,
        "thing",
        text,
        "FROM {{ base }}\nRUN echo {{ args.word | quote }}\nLABEL a={{ args.word | dockerquote }}\n",
    )
    [target] = plan(load_recipes(tmp_path), BuildRequest(("thing",)), Site(), lambda _: False)
    assert target.render().dockerfile.splitlines()[1:] == [
        "RUN echo 'it'\"'\"'s $HOME'",
        'LABEL a="it\'s \\$HOME"',
    ]
