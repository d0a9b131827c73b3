"""Settings: the precedence of the sources, and the errors of invalid files."""

import subprocess
import sys

import pytest

from llmstack.errors import UsageError
from llmstack.settings import Settings, default_jobs, load_settings


def write(folder, text):
    path = folder / "llmstack.yaml"
    path.write_text(text)
    return path


def test_defaults(tmp_path):
    assert load_settings({}, {}, tmp_path) == Settings(
        namespace=None, base="docker.io/library/busybox:stable", jobs=default_jobs(), plain_http=()
    )


def test_flags_beat_variables_beat_the_file(tmp_path):
    write(tmp_path, "namespace: from.file/a\nbase: scratch\njobs: 2\nplain_http: [a.local, 'b.local:5000']\n")
    environ = {"LLMSTACK_NAMESPACE": "from.env/a", "LLMSTACK_JOBS": "3"}
    flags = {"jobs": 9, "base": None, "plain_http": ()}
    assert load_settings(flags, environ, tmp_path) == Settings(
        namespace="from.env/a", base="scratch", jobs=9, plain_http=("a.local", "b.local:5000")
    )


def test_a_list_in_a_variable_and_an_empty_variable(tmp_path):
    write(tmp_path, "namespace: from.file/a\n")
    settings = load_settings({}, {"LLMSTACK_PLAIN_HTTP": "a.local, b.local:5000,", "LLMSTACK_NAMESPACE": ""}, tmp_path)
    assert settings == Settings(namespace="from.file/a", plain_http=("a.local", "b.local:5000"))


def test_the_nearest_file_upwards_is_read(tmp_path):
    write(tmp_path, "jobs: 1\n")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert load_settings({}, {}, below).jobs == 1
    write(tmp_path / "a", "jobs: 2\n")
    assert load_settings({}, {}, below).jobs == 2


def test_the_named_file_is_read_instead_and_must_exist(tmp_path):
    write(tmp_path, "jobs: 1\n")
    other = tmp_path / "other.yaml"
    other.write_text("")
    assert load_settings({}, {"LLMSTACK_CONFIG": str(other)}, tmp_path) == Settings()
    with pytest.raises(UsageError, match=r"LLMSTACK_CONFIG: .*missing\.yaml"):
        load_settings({}, {"LLMSTACK_CONFIG": str(tmp_path / "missing.yaml")}, tmp_path)
    with pytest.raises(UsageError, match="LLMSTACK_CONFIG: "):
        load_settings({}, {"LLMSTACK_CONFIG": "x" * 5000}, tmp_path)


def test_an_unknown_key_names_the_file_and_the_nearest_key(tmp_path):
    path = write(tmp_path, "plain-http: [a.local]\n")
    with pytest.raises(UsageError) as caught:
        load_settings({}, {}, tmp_path)
    assert caught.value.message == f"{path}: 'plain-http' is not a setting"
    assert caught.value.hint == "did you mean plain_http?"


def test_a_key_that_resembles_none_gets_no_suggestion(tmp_path):
    write(tmp_path, "foo: 1\n")
    with pytest.raises(UsageError, match="'foo' is not a setting") as caught:
        load_settings({}, {}, tmp_path)
    assert caught.value.hint.startswith("the settings are: ")
    assert "no_proxy" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "size"),
    [("100", 100), ("7 GB", 7 * 10**9), ("97GiB", 97 * 2**30), ("10K", 10_000), ("2 MiB", 2 * 2**20), ("5B", 5)],
)
def test_sizes_and_switches(tmp_path, text, size):
    write(tmp_path, f"max_layer: {text}\nsplit_large: true\n")
    settings = load_settings({}, {}, tmp_path)
    assert (settings.max_layer, settings.split_large) == (size, True)
    settings = load_settings({}, {"LLMSTACK_MAX_LAYER": text, "LLMSTACK_SPLIT_LARGE": "false"}, tmp_path)
    assert (settings.max_layer, settings.split_large) == (size, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *((f"max_layer: {text}", "max_layer must be a size") for text in ("0", "-1", "1.5 GB", "many", "true", "[]")),
        *((f"split_large: {text}", "split_large must be true or false") for text in ("1", "'yes'", "[]", "{}")),
        ("jobs: many", "jobs must be an integer of 1 or more"),
        ("jobs: 0", "jobs must be an integer of 1 or more"),
        ("jobs: true", "jobs must be an integer of 1 or more"),
        ("timeout: soon", "timeout must be a number of seconds greater than 0"),
        ("timeout: 0", "timeout must be a number of seconds greater than 0"),
        ("retry_wait: .nan", "retry_wait must be a number of seconds greater than 0"),
        ("retry_wait: true", "retry_wait must be a number of seconds greater than 0"),
        ("namespace: 12", "namespace must be a string"),
        ("namespace: ''", "namespace must be a string"),
        ("namespace:", "namespace must be a string"),
        ("plain_http: a.local", "plain_http must be a list of strings"),
        ("plain_http: [1]", "plain_http must be a list of strings"),
        ("- a", "must be a mapping"),
        ("1: 2", "1 is not a setting"),
        ("namespace: \x07", "invalid YAML"),
    ],
)
def test_wrong_values_name_the_file_and_the_key(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_settings({}, {}, tmp_path)
    assert caught.value.message.startswith(f"{path}: {message}")


@pytest.mark.parametrize("text", ["base: [a\njobs: 2\n", "base: b\nsplit_large: !!bool foo", "a:\n  2024-99-99"])
def test_invalid_yaml_names_the_line(tmp_path, text):
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_settings({}, {}, tmp_path)
    assert caught.value.message.startswith(f"{path}:2: invalid YAML: ")


def test_wrong_variables_and_flags_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"^LLMSTACK_JOBS must be an integer of 1 or more$"):
        load_settings({}, {"LLMSTACK_JOBS": "many"}, tmp_path)
    with pytest.raises(UsageError, match=r"^LLMSTACK_JOBS must be an integer of 1 or more$"):
        load_settings({}, {"LLMSTACK_JOBS": "0"}, tmp_path)
    with pytest.raises(UsageError, match=r"^--jobs must be an integer of 1 or more$"):
        load_settings({"jobs": 0}, {}, tmp_path)


def test_an_unknown_home_directory_is_named(tmp_path):
    path = write(tmp_path, "ca_cert: ~nobody-here/ca.pem\n")
    with pytest.raises(UsageError) as caught:
        load_settings({}, {}, tmp_path)
    assert caught.value.message == f"{path}: ca_cert: unknown home directory in '~nobody-here/ca.pem'"
    with pytest.raises(UsageError, match=r"^LLMSTACK_CA_CERT: unknown home directory in '~nobody-here'$"):
        load_settings({}, {"LLMSTACK_CA_CERT": "~nobody-here"}, write(tmp_path, "").parent)


def test_a_deleted_working_directory_is_named(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UsageError, match=r"^the working directory no longer exists$"):
        load_settings({}, {})


def test_a_value_that_is_not_allowed_is_not_shown(tmp_path):
    write(tmp_path, "namespace: [secret]\n")
    with pytest.raises(UsageError) as caught:
        load_settings({}, {}, tmp_path)
    assert "secret" not in str(caught.value)


def test_yaml_is_imported_only_to_read_a_file(tmp_path):
    code = "import sys; from llmstack.settings import load_settings; load_settings(); print('yaml' in sys.modules)"
    for expected in ("False", "True"):
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True, check=True
        )
        assert run.stdout.strip() == expected
        write(tmp_path, "jobs: 1\n")
