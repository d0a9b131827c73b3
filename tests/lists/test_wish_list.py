"""Wish lists: valid lines, errors of invalid lines, and parsing of arbitrary text."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.carried_image.naming import check_repo_id, tag_for
from llmstack.carried_image.selection import Selection
from llmstack.errors import UsageError
from llmstack.lists.wish_list import ListProblem, RepoRequest, named_entries, parse_wishlist, read_wishlist

COMMIT = "27dcfa74d334bc871f3234de431e71c6eeba5dd6"


def parse(text, repo_type="model", endpoint=None):
    return parse_wishlist(text, "list.txt", repo_type, endpoint)


def entry(repo_id, revision="main", line=1, include=(), exclude=(), prepare=None, repo_type="model"):
    return RepoRequest(repo_id, repo_type, revision, Selection(include, exclude), prepare, "list.txt", line)


def test_comments_options_and_line_ends():
    text = (
        "\ufeff# models\r\n\r\nfacebook/opt-125m   # small\r\n"
        "gpt2@v1.0 --include '*.json' --include=*.txt --exclude 'a b/#*' --prepare ./prepare.sh\t# rest\r\n"
        "   \t\n  # a comment with a ' quote\nBAAI/bge-m3@refs/pr/3"
    )
    assert parse(text).entries == (
        entry("facebook/opt-125m", line=3),
        entry("gpt2", "v1.0", 4, ("*.json", "*.txt"), ("a b/#*",), "./prepare.sh"),
        entry("BAAI/bge-m3", "refs/pr/3", 7),
    )
    assert parse(text).problems == ()


@pytest.mark.parametrize(
    ("path", "repo_id", "revision"),
    [
        ("facebook/opt-125m", "facebook/opt-125m", "main"),
        ("facebook/opt-125m/", "facebook/opt-125m", "main"),
        ("facebook/opt-125m?library=transformers#readme", "facebook/opt-125m", "main"),
        ("gpt2", "gpt2", "main"),
        ("gpt2/tree/v1", "gpt2", "v1"),
        ("facebook/opt-125m/tree/v1.0/", "facebook/opt-125m", "v1.0"),
        (f"facebook/opt-125m/commit/{COMMIT}", "facebook/opt-125m", COMMIT),
        ("facebook/opt-125m/tree/refs%2Fpr%2F3", "facebook/opt-125m", "refs/pr/3"),
        ("facebook/opt-125m/tree/refs/pr/3", "facebook/opt-125m", "refs/pr/3"),
        ("facebook/opt-125m/tree/a%2Fb", "facebook/opt-125m", "a/b"),
        ("facebook/opt-125m@v1", "facebook/opt-125m", "v1"),
        ("facebook/tree", "facebook/tree", "main"),
    ],
)
@pytest.mark.parametrize("repo_type", ["model", "dataset"])
def test_urls_of_hub_pages(path, repo_id, revision, repo_type):
    folder = "datasets/" if repo_type == "dataset" else ""
    for host in ("https://huggingface.co/", "https://hf.co/", "http://127.0.0.1:8080/"):
        wish_list = parse(f"{host}{folder}{path}", repo_type, "http://127.0.0.1:8080")
        assert wish_list.problems == ()
        assert wish_list.entries == (entry(repo_id, revision, repo_type=repo_type),)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a/b/c", "'a/b/c' is not a Hugging Face repo id"),
        ("a--b", "'a--b' is not a Hugging Face repo id"),
        ("org/name#x", "'org/name#x' is not a Hugging Face repo id"),
        ("org/name@", "'org/name@' has no revision after @"),
        ("org/name@a..b", "'a..b' is not a branch, tag or commit"),
        ("org/name@'a b'", "'a b' is not a branch, tag or commit"),
        ("org/name@\x1b[2J", "'\\x1b[2J' is not a branch, tag or commit"),
        ("org/name@" + "x" * 200, "org/name@" + "x" * 200 + ": the tag"),
        ("org/name other/name", "unexpected word 'other/name'"),
        ("org/name --include a b", "unexpected word 'b'"),
        ("org/name --includes a", "unknown option '--includes'"),
        ("org/name --include", "--include has no value"),
        ("org/name --include --exclude a", "--include has no value"),
        ("org/name --exclude=", "--exclude has no value"),
        ("org/name --prepare a --prepare b", "--prepare is repeated"),
        ("org/name --include 'a", "unclosed quote or backslash"),
        ("org/name \\", "unclosed quote or backslash"),
        ("'' --include a", "'' is not a Hugging Face repo id"),
        ("https://huggingface.co/datasets/org/name", "this is the URL of a dataset, not of a model"),
        ("https://huggingface.co/spaces/org/name", "Spaces are not supported"),
        ("https://huggingface.co/org/name/blob/main/a.bin", "this is the URL of one file"),
        ("https://huggingface.co/org/name/tree/main/folder", "this is the URL of a directory"),
        ("https://huggingface.co/org/name/discussions/3", "'org/name/discussions/3' is not a Hugging Face repo id"),
        ("hf://spaces/org/name", "Spaces are not supported"),
        ("hf://org/name/config.json", "this is the URL of one file"),
        ("hf://org/name@v1/config.json", "this is the URL of one file"),
        ("hf://org/name@", "the URL has no revision after @"),
        ("https://huggingface.co/", "'' is not a Hugging Face repo id"),
        ("https://example.org/org/name", "'example.org' is not a Hugging Face Hub"),
        ("https://user:secret@example.org/org/name", "'example.org' is not a Hugging Face Hub"),
        ("https://[::1/org/name", "invalid URL"),
    ],
)
def test_an_invalid_line_is_a_problem_and_the_others_are_parsed(line, message):
    wish_list = parse(f"gpt2\n{line}\nfacebook/opt-125m\n")
    assert wish_list.entries == (entry("gpt2"), entry("facebook/opt-125m", line=3))
    (problem,) = wish_list.problems
    assert (problem.file, problem.line) == ("list.txt", 2)
    assert problem.message.startswith(message)
    assert str(problem).startswith("list.txt:2: ")
    assert str(problem).isprintable()


@pytest.mark.parametrize(
    ("option", "hint"),
    [("--includes", "did you mean --include?"), ("-x", "the options are: --include, --exclude, --prepare")],
)
def test_an_unknown_option_gets_a_hint(option, hint):
    (problem,) = parse(f"org/name {option} a\n").problems
    assert problem.hint == hint


@pytest.mark.parametrize(
    ("url", "repo_id", "revision"),
    [
        ("hf://org/name", "org/name", "main"),
        ("hf://gpt2", "gpt2", "main"),
        ("hf://org/name@v1", "org/name", "v1"),
        ("hf://org/name@refs/pr/3", "org/name", "refs/pr/3"),
        ("hf://org/name@a%2Fb", "org/name", "a/b"),
    ],
)
@pytest.mark.parametrize("repo_type", ["model", "dataset"])
def test_an_hf_url_names_a_repo(url, repo_id, revision, repo_type):
    url = url.replace("hf://", "hf://datasets/") if repo_type == "dataset" else url
    assert parse(url, repo_type).entries == (entry(repo_id, revision, repo_type=repo_type),)
    assert named_entries([url], repo_type, Selection()) == [RepoRequest(repo_id, repo_type, revision)]


def test_a_hub_under_a_path():
    assert parse("http://hub/api/hf/org/name", endpoint="http://hub/api/hf/").entries == (entry("org/name"),)


def test_a_dataset_url_on_the_command_line_names_the_option():
    for url in ("hf://datasets/org/name", "https://huggingface.co/datasets/org/name"):
        with pytest.raises(UsageError) as caught:
            named_entries([url], "model", Selection())
        assert caught.value.hint == "add --type dataset"


def test_a_model_url_in_the_list_of_datasets_is_a_problem():
    (problem,) = parse("https://huggingface.co/org/name", "dataset").problems
    assert problem == ListProblem(
        "list.txt", 1, "this is the URL of a model, not of a dataset", "move the line to the list of models"
    )


def test_a_repeated_repo_is_a_problem_on_the_second_line():
    wish_list = parse("gpt2\ngpt2@v1\ngpt2@main --include a\nhttps://hf.co/gpt2/tree/v1\norg/n@a/b\norg/n@a_b\n")
    assert [(request.repo_id, request.revision) for request in wish_list.entries] == [
        ("gpt2", "main"),
        ("gpt2", "v1"),
        ("org/n", "a/b"),
    ]
    assert [str(problem) for problem in wish_list.problems] == [
        "list.txt:3: gpt2@main is already on line 1",
        "list.txt:4: gpt2@v1 is already on line 2",
        "list.txt:6: org/n@a_b has the same tag as org/n@a/b on line 5",
    ]


def test_a_file_is_read_as_utf_8(tmp_path, monkeypatch):
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfhttp://hub.local:81/gpt2\r\n")
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.local:81/")
    assert read_wishlist(path, "model").entries[0].repo_id == "gpt2"
    path.write_bytes(b"gpt2\n\nna\xefve\n")
    with pytest.raises(UsageError) as caught:
        read_wishlist(path, "model")
    assert caught.value.message == f"{path}:3: not UTF-8"
    path.unlink()
    with pytest.raises(UsageError, match="No such file"):
        read_wishlist(path, "model")
    with pytest.raises(UsageError, match="Is a directory"):
        read_wishlist(tmp_path, "model")


def is_repo_id(text):
    try:
        return check_repo_id(text) == text
    except UsageError:
        return False


NAMES = st.from_regex(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,20}[A-Za-z0-9_])?", fullmatch=True)
REPO_IDS = st.one_of(NAMES, st.tuples(NAMES, NAMES).map("/".join)).filter(is_repo_id)
REVISIONS = st.one_of(st.just("main"), st.from_regex(r"[A-Za-z0-9][A-Za-z0-9#_|-]{0,20}", fullmatch=True))
LINE_TEXT = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), min_size=1)
GLOBS = LINE_TEXT.filter(lambda glob: not glob.startswith("--"))


@given(
    st.lists(
        st.tuples(REPO_IDS, REVISIONS, st.lists(GLOBS, max_size=3), st.lists(GLOBS, max_size=3), st.none() | GLOBS),
        unique_by=lambda wish: tag_for(wish[0], wish[1]),
        max_size=6,
    ),
    st.sampled_from(["\n", "\r\n", "  # a comment's end\n", "\n\n# between\n"]),
)
def test_all_options_are_parsed_as_written(wishes, end):
    lines = []
    for repo_id, revision, include, exclude, prepare in wishes:
        words = [f"{repo_id}@{revision}"]
        words += [word for glob in include for word in ("--include", glob)]
        words += [f"--exclude={glob}" for glob in exclude]
        words += ["--prepare", prepare] if prepare else []
        lines.append(shlex.join(words))
    parsed = parse("".join(line + end for line in lines))
    assert parsed.problems == ()
    assert [
        (wish.repo_id, wish.revision, list(wish.selection.include), list(wish.selection.exclude), wish.prepare)
        for wish in parsed.entries
    ] == wishes


@given(
    st.text() | st.lists(st.sampled_from([*"'\"\\#@ \n\t/-=[]", "https://", "hf.co", "org", "--include"])).map("".join)
)
def test_no_text_breaks_the_parser(text):
    for repo_type in ("model", "dataset"):
        wish_list = parse(text, repo_type)
        lines = text.count("\n") + 1
        numbers = [found.line for found in (*wish_list.entries, *wish_list.problems)]
        assert len(set(numbers)) == len(numbers)
        assert all(1 <= number <= lines for number in numbers)


def test_the_lists_in_get_hf_are_valid():
    folder = Path(__file__).parents[2] / "get_hf"
    for name, repo_type, repo_id in (
        ("to_get_models.txt", "model", "facebook/opt-125m"),
        ("to_get_datasets.txt", "dataset", "cornell-movie-review-data/rotten_tomatoes"),
    ):
        wish_list = read_wishlist(folder / name, repo_type)
        assert wish_list.problems == ()
        assert [request.repo_id for request in wish_list.entries] == [repo_id]


def test_importing_lists_imports_no_large_package():
    code = (
        "import sys, llmstack.lists.wish_list, llmstack.lists.catalogue\n"
        "print({'yaml', 'rich', 'huggingface_hub', 'docker'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
