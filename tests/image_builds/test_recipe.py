"""Invalid recipes and templates: each error names the file and the cause."""

from __future__ import annotations

import pytest

from llmstack.errors import UsageError
from llmstack.image_builds.build_environment import BuildEnvironment
from llmstack.image_builds.build_plan import BuildRequest, plan_images
from llmstack.image_builds.dockerfile import render
from llmstack.image_builds.recipe import load_recipes

GOOD = "description: A test\nvariants: {cpu: {base: debian}}\n"


def write(folder, name, text, template="FROM {{ base }}\n"):
    (folder / name).mkdir()
    (folder / name / "image.yaml").write_text(text)
    (folder / name / "Dockerfile.j2").write_text(template)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("a: [", "invalid YAML"),
        ("a: 1\nports: !!int ''", "image.yaml:2: invalid YAML: invalid value for int"),
        ("[]", "the file must be a mapping"),
        ("description: x\n", "variants must be a mapping"),
        ("description: x\nvariants: {}\n", "variants is empty"),
        ("variants: {cpu: {base: debian}}\n", "description must be a string"),
        (GOOD + "pots: [1]\n", "unknown key 'pots'"),
        (GOOD + "ports: [0]\n", "ports must be a list of numbers from 1 to 65535"),
        (GOOD + "files: [nope.sh]\n", "files: nope.sh: not found"),
        (GOOD + "args: {a-b: x}\n", "'a-b' is not a valid name"),
        (GOOD + "packages: {torch: 2.10}\n", "torch must be a string: write 2.1 in quotes"),
        ("description: x\nvariants: {cpu: {}}\n", "variant cpu: needs either a base or a recipe with a parent"),
        (
            "description: x\nparent: a\nvariants: {cpu: {base: b}}\n",
            "variant cpu: needs either a base or a recipe with a parent",
        ),
        ("description: x\nvariants: {cpu: {base: 'A:b'}}\n", "variant cpu: 'A:b'"),
        ("description: x\nvariants: {cpu: {base: a, tags: ['a b']}}\n", "variant cpu: has an invalid tag"),
    ],
)
def test_error_names_the_invalid_image_yaml(tmp_path, text, cause):
    write(tmp_path, "thing", text)
    with pytest.raises(UsageError) as caught:
        load_recipes(tmp_path)
    assert str(tmp_path / "thing" / "image.yaml") in caught.value.message
    assert cause in caught.value.message


def test_parent_must_exist_with_the_variant_and_not_be_a_child(tmp_path):
    child = "description: x\nparent: one\nvariants: {cpu: {}}\n"
    write(tmp_path, "two", child)
    with pytest.raises(UsageError, match="recipe 'one': not found"):
        load_recipes(tmp_path)
    write(tmp_path, "one", "description: x\nvariants: {gpu: {base: debian}}\n")
    with pytest.raises(UsageError, match="recipe one: no variant 'cpu'"):
        load_recipes(tmp_path)
    (tmp_path / "one" / "image.yaml").write_text(child.replace("parent: one", "parent: two"))
    with pytest.raises(UsageError, match="circular parents"):
        load_recipes(tmp_path)


def test_directory_without_recipes_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="contains no recipe"):
        load_recipes(tmp_path)


@pytest.mark.parametrize(
    ("template", "cause"),
    [
        (
            "FROM {{ base }}\n\nRUN echo {{ nobody_set_this }}\n",
            "/thing/Dockerfile.j2, line 3: 'nobody_set_this'",
        ),
        ("FROM {{ base }}\n{% if %}\n", "/thing/Dockerfile.j2, line 2: "),
        ('{% import "_shared/none.j2" as steps %}\n', "_shared/none.j2"),
    ],
)
def test_error_names_the_invalid_template_and_the_line(tmp_path, template, cause):
    write(tmp_path, "thing", GOOD, template)
    [image] = plan_images(load_recipes(tmp_path), BuildRequest(("thing",)), BuildEnvironment(), lambda _: False)
    with pytest.raises(UsageError) as caught:
        render(image)
    assert cause in caught.value.message


def test_values_are_quoted_for_the_shell_and_for_docker(tmp_path):
    text = GOOD + 'args: {word: "it\'s $HOME"}\n'
    write(
        tmp_path,
        "thing",
        text,
        "FROM {{ base }}\nRUN echo {{ args.word | quote }}\nLABEL a={{ args.word | dockerquote }}\n",
    )
    [image] = plan_images(load_recipes(tmp_path), BuildRequest(("thing",)), BuildEnvironment(), lambda _: False)
    assert render(image).dockerfile.splitlines()[1:] == [
        "RUN echo 'it'\"'\"'s $HOME'",
        'LABEL a="it\'s \\$HOME"',
    ]
