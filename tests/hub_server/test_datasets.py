"""`load_dataset` of repos of CSV, Parquet and JSON files, by the real library with an empty cache."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.carried import carry
from tests.support.registry import Registry
from tests.support.serving import repository, run_client, serving

pytestmark = pytest.mark.xdist_group("serving")

ROWS = [{"text": f"row {number}", "label": number % 3} for number in range(50)]
CARD = (
    b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train.csv\n---\n# A set\n"
)
WRITE = """
import json, sys, pyarrow, pyarrow.parquet
pyarrow.parquet.write_table(pyarrow.Table.from_pylist(json.load(sys.stdin)), sys.argv[1])
"""
LOAD = """
import json
from datasets import load_dataset
print(json.dumps({name: load_dataset(f"org/{name}", split="train").to_list() for name in ("csv", "parquet", "json")}))
print(json.dumps([row["text"] for row in load_dataset("org/csv", split="train", streaming=True).take(3)]))
"""


def test_load_dataset(clients: Mapping[str, Path], registry: Registry, tmp_path: Path):
    client, namespace = clients["2"], registry.namespace()
    run_client(client, "", tmp_path, "-c", WRITE, str(tmp_path / "rows.parquet"), stdin=json.dumps(ROWS))
    csv = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS)
    repos = {
        "csv": {"README.md": CARD, "data/train.csv": csv.encode()},
        "parquet": {"data/train-00000-of-00001.parquet": (tmp_path / "rows.parquet").read_bytes()},
        "json": {"train.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode()},
    }
    for name, files in repos.items():
        carry(repository(namespace, "dataset"), f"org--{name}", files, repo_id=f"org/{name}", repo_type="dataset")
    with serving(tmp_path, namespace) as hub:
        loaded, streamed = map(json.loads, run_client(client, hub.url, tmp_path / "home", "-c", LOAD).splitlines())
    assert loaded == dict.fromkeys(repos, ROWS)
    assert streamed == ["row 0", "row 1", "row 2"]
