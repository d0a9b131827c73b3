"""The catalogue: its rows, other lines, and concurrent writers."""

import errno
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.errors import UnavailableError
from llmstack.lists.catalogue import CatalogueRow, empty, parse, record, upsert
from llmstack.oci.reference import Digest

COMMIT = "27dcfa74d334bc871f3234de431e71c6eeba5dd6"
ROW = CatalogueRow(
    repo_id="facebook/opt-125m",
    repo_type="model",
    revision="main",
    commit=COMMIT,
    created="2023-09-15T13:10:03Z",
    size=250_540_281,
    license="other",
    image="docker.io/hgfkeep/models:facebook--opt-125m",
    digest=Digest.of(b"image"),
)
LINE = (
    "| [facebook/opt-125m](https://huggingface.co/facebook/opt-125m) "
    f"| [27dcfa74d334](https://huggingface.co/facebook/opt-125m/tree/{COMMIT}) "
    "| 2023-09-15 | 251 MB | other "
    f"| `docker.io/hgfkeep/models:facebook--opt-125m@{Digest.of(b'image')}` |"
)


def named(repo_id, revision="main", **changes):
    return replace(ROW, repo_id=repo_id, revision=revision, **changes)


def build(rows, text=""):
    for row in rows:
        text = upsert(text, row)
    return text


def test_a_row():
    assert ROW.to_line() == LINE
    dataset = named("org/name", "refs/pr/1", repo_type="dataset", hub="http://hub.local:81/", license=None)
    assert dataset.to_line().startswith(
        "| [org/name@refs/pr/1](http://hub.local:81/datasets/org/name/tree/refs%2Fpr%2F1) "
        f"| [27dcfa74d334](http://hub.local:81/datasets/org/name/tree/{COMMIT}) | 2023-09-15 | 251 MB | not stated |"
    )


def test_a_new_file_an_empty_catalogue_and_the_shipped_one_give_the_same_result():
    text = upsert("", ROW)
    assert text == empty("model") + LINE + "\n"
    folder = Path(__file__).parents[2] / "get_hf"
    assert (folder / "models.md").read_text() == empty("model")
    assert (folder / "datasets.md").read_text() == empty("dataset")


def test_rows_sort_by_name_whatever_its_case_and_updates_stay_in_place():
    rows = [named(name) for name in ("gpt2", "BAAI/bge-m3", "zeta/a", "Alpha/a", "facebook/opt-125m")]
    text = build([*rows, named("gpt2", "v1")])
    assert list(parse(text)) == ["Alpha/a", "BAAI/bge-m3", "facebook/opt-125m", "gpt2", "gpt2@v1", "zeta/a"]
    newer = named("gpt2", commit="f" * 40, size=3)
    assert upsert(text, newer) == text.replace(rows[0].to_line(), newer.to_line())


OLD = b"""# My models\r
\r
- [X] facebook/opt-125m\r
- [ ] gpt2\r
na\xefve, \x0c and no end"""


def test_old_style_lists_keep_every_byte_and_get_a_table_below(tmp_path):
    path = tmp_path / "models.md"
    path.write_bytes(OLD)
    assert record(path, ROW)
    data = path.read_bytes()
    assert data.startswith(OLD + b"\r\n\r\n| Model | Commit |")
    assert data.endswith(LINE.encode() + b"\r\n")
    assert data.count(b"\n") == data.count(b"\r\n")


@pytest.mark.parametrize("column", ["License", "Licence"], ids=["new", "old"])
def test_rows_columns_and_text_of_users_stay(column):
    text = (
        f"\ufeff| Model | Commit | Date | Size | {column} | Image | Notes |\n|:--|---|---|--:|---|---|---|\n"
        "| [facebook/opt-125m](x) | mine | | | | | |\n"
        f"{LINE} fast \\| small |\n"
        "| a user's own row |\n"
        "text below\n| [facebook/opt-125m](y) | [z](/tree/z) | in no table |"
    )
    changed = upsert(text, replace(ROW, size=1))
    assert changed == text.replace("251 MB", "1 B")
    added = upsert(text, named("gpt2"))
    assert added == text.replace("| a user's", named("gpt2").to_line() + "\n| a user's")


def test_a_row_duplicated_by_a_merge_becomes_one():
    text = upsert("", ROW)
    assert upsert(text + LINE + "\nbelow", ROW) == text + "below"


def test_cells_cannot_break_the_table():
    row = named("org/name", "a|b]`", license="x | y\n| z \\", image="oci:./odd|`folder:tag")
    text = upsert("", row)
    assert text.count("\n") == upsert("", ROW).count("\n")
    assert r"x \| y\\n\| z \\ |" in text
    assert r"oci:./odd\|\`folder:tag@sha256:" in text
    assert list(parse(text)) == ["org/name@a|b]`"]
    assert upsert(text, row) == text


NAMES = st.from_regex(r"[A-Za-c0-1]{1,3}/[a-c]{1,2}", fullmatch=True)
REVISIONS = st.sampled_from(["main", "v1", "V1", "a|b", "refs/pr/1", "x]y", "`"])
ROWS = st.lists(
    st.builds(
        named, NAMES, REVISIONS, size=st.integers(0, 10**12), license=st.none() | st.text(max_size=8), image=st.text()
    ),
    max_size=8,
    unique_by=lambda row: row.key,
)
HEAD = "".join(empty("model").splitlines(keepends=True)[-2:])
TEXT_LINES = st.one_of(
    st.text(st.characters(exclude_characters="\n"), max_size=12),
    st.sampled_from(["", "- [X] facebook/opt-125m", "- [ ] gpt2\r", "| own | row |", "|", "|---|", "| [a/b](c) | d |"]),
)
TEXTS = st.tuples(
    st.lists(TEXT_LINES, max_size=5).map("\n".join),
    st.sampled_from(["", "\n", "\n" + HEAD]),
    st.lists(TEXT_LINES, max_size=5),
).map(lambda parts: parts[0] + parts[1] + "\n".join(parts[2]))


@given(TEXTS, ROWS)
def test_updates_lose_no_line_and_are_idempotent(text, rows):
    result = build(rows, text)
    assert {row.key: row.to_line() for row in rows} == parse(result)
    assert build(rows, result) == result
    if rows:
        own = {row.to_line() for row in rows}
        kept = [line for line in result.split("\n") if line.rstrip("\r") not in own]
        before = (text or empty("model")).split("\n")
        rest = iter(kept)
        assert all(any(line in (there, there.removesuffix("\r")) for there in rest) for line in before)
        if text and not text.endswith("\n") and HEAD not in text:
            assert result.startswith(text)


@given(TEXTS, ROWS, st.randoms(use_true_random=False))
def test_the_order_of_carrying_does_not_matter(text, rows, order):
    shuffled = list(rows)
    order.shuffle(shuffled)
    assert build(shuffled, text) == build(rows, text)


def test_record_writes_only_changes_and_keeps_the_mode_and_the_link(tmp_path):
    path = tmp_path / "real.md"
    path.write_text("mine\n")
    path.chmod(0o640)
    link = tmp_path / "models.md"
    link.symlink_to(path)
    assert record(link, ROW) is True
    before = path.stat()
    assert record(link, ROW) is False
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert before.st_mode & 0o777 == 0o640
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [link, path]


def test_record_into_a_missing_directory_is_an_error(tmp_path):
    with pytest.raises(UnavailableError, match="cannot be updated: No such file or directory"):
        record(tmp_path / "missing" / "models.md", ROW)


WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_catalogue import named
from llmstack.lists.catalogue import record
print("ready", flush=True)
sys.stdin.read(1)
for number in range(40):
    record(Path(sys.argv[2]), named(f"{sys.argv[3]}/model-{number:02}"))
"""


@pytest.mark.slow
def test_processes_that_write_at_the_same_time_lose_no_row(tmp_path):
    path = tmp_path / "models.md"
    path.write_text("- [X] old/row\n")
    owners = ["a", "B", "c"]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(Path(__file__).parent), str(path), owner],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for owner in owners
    ]
    assert [writer.stdout.readline() for writer in writers] == [b"ready\n"] * len(writers)
    for writer in writers:
        writer.stdin.write(b".")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0] * len(writers)
    rows = [named(f"{owner}/model-{number:02}") for owner in owners for number in range(40)]
    random.Random(1).shuffle(rows)
    assert path.read_text() == build(rows, "- [X] old/row\n")


FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_catalogue import named
from llmstack.lists.catalogue import record
from llmstack.errors import UnavailableError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    record(Path(sys.argv[2]), named("gpt2"))
except UnavailableError as error:
    print(error)
"""


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "models.md"
    path.write_text("mine\n")
    run = subprocess.run(
        [sys.executable, "-c", FULL, str(Path(__file__).parent), str(path)], capture_output=True, text=True, check=True
    )
    assert run.stdout == f"catalogue {path}: cannot be updated: {os.strerror(errno.EFBIG)}\n"
    assert path.read_text() == "mine\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tiny_disk):
    path = tiny_disk / "models.md"
    path.write_text("mine\n")
    disk = os.statvfs(tiny_disk)
    (tiny_disk / "other").write_bytes(bytes(disk.f_bavail * disk.f_frsize))
    with pytest.raises(UnavailableError) as caught:
        record(path, ROW)
    assert caught.value.message == f"catalogue {path}: cannot be updated: the disk is full"
    assert caught.value.hint == "free some space, then rerun to resume"
    assert path.read_text() == "mine\n"
