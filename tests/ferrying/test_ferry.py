"""`llmstack ferry` as a process: images, reused layers, output and catalogue."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from tests.support.engine import Engine
from tests.support.ferry import MiB, Port, moving, repo_files, skopeo
from tests.support.registry import Registry

RANDOM = os.urandom(17 * MiB)
FILES = {
    ".gitattributes": b"*.safetensors filter=lfs\n",
    "README.md": b"# A model\n",
    "config.json": b"{}",
    "empty.txt": b"",
    "model.safetensors": RANDOM,
    "onnx/model.onnx": RANDOM[:100_000],
    "sub/ünïcödé 模型.json": b"[]",
    "sub/" + "n" * 150 + ".txt": b"a long name",
}
# No file has its own layer.
SMALL = {path: data for path, data in FILES.items() if path != "model.safetensors"}
JSON_KEYS = [
    "repo_id",
    "repo_type",
    "revision",
    "commit",
    "image",
    "digest",
    "status",
    "bytes_total",
    "bytes_transferred",
    "bytes_reused",
    "seconds",
    "error",
    "renamed_to",
    "prepare",
    "limited_by",
]


def test_into_a_registry(port: Port):
    repo = port.hub.add_repo("org/tiny", FILES, license="mit")
    run = port.ferry("org/tiny")
    assert run.code == 0, run.stderr
    assert "org/tiny  carried" in run.stdout
    assert port.image("org--tiny") in run.stdout
    assert port.files("org--tiny") == FILES

    said = port.inspect("org--tiny")
    assert said["Architecture"] == "amd64"
    assert port.inspect("org--tiny", platform="arm64")["Architecture"] == "arm64"
    assert said["Labels"]["org.opencontainers.image.revision"] == repo.sha
    assert said["Labels"]["rig.base"] == "busybox"
    assert said["Created"] == "2024-01-01T12:00:00Z"
    # Base, large file, bundle, file index.
    assert len(said["Layers"]) == 4
    kinds = [layer["mediaType"].rpartition(".v1.")[2] for layer in port.manifest("org--tiny")["layers"]]
    assert kinds == ["tar+gzip", *["tar"] * 3]
    # Every file was requested once, and its bytes were transferred once.
    paths = [entry.path for entry in port.hub.log.files(method="GET") if entry.host == "hub"]
    assert len(paths) == len(set(paths)) == len(FILES) - 1


def test_json_result(port: Port):
    repo = port.hub.add_repo("org/tiny", SMALL)
    run = port.ferry("org/tiny", "--json", "--progress", "plain")
    assert run.stderr == ""
    assert list(run.json) == ["results"]
    (result,) = run.json["results"]
    assert list(result) == JSON_KEYS
    size = sum(map(len, SMALL.values()))
    raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{port.image('org--tiny')}")
    assert {**result, "seconds": 0, "limited_by": None} == {
        "repo_id": "org/tiny",
        "repo_type": "model",
        "revision": "main",
        "commit": repo.sha,
        "image": port.image("org--tiny"),
        "digest": f"sha256:{hashlib.sha256(raw.encode()).hexdigest()}",
        "status": "carried",
        "bytes_total": size,
        "bytes_transferred": size,
        "bytes_reused": 0,
        "seconds": 0,
        "error": None,
        "renamed_to": None,
        "prepare": None,
        "limited_by": None,
    }
    assert isinstance(result["seconds"], float)


def test_docker_pulls_and_runs_the_image(port: Port, engine: Engine, busybox_base: Path, tmp_path: Path):
    """The layers of a base image in the same registry are mounted, not uploaded."""
    base = f"{port.space}/busybox:latest"
    copy = ["copy", "--all", "--preserve-digests", "--dest-tls-verify=false"]
    skopeo(*copy, f"oci:{busybox_base}:latest", f"docker://{base}")
    port.hub.add_repo("org/tiny", FILES)
    port.registry.served()
    assert port.ferry("org/tiny", "--base", base).code == 0
    written = moving(port.registry.served())
    mounts = [request for request in written if "mount=" in request.target]
    assert [request.status for request in mounts] == [201, 201]
    # The large file, the bundle, the file index, and a config for each of two platforms; and between the first two the
    # partial image, with its own file index and config.
    assert len([request for request in written if request.method == "PATCH"]) == 5 + 2

    image = port.image("org--tiny")
    engine.docker("pull", "--quiet", image)
    try:
        shell = "cat /etc/platform && cd /REPO && find . -type f | sort && sha256sum model.safetensors && cat README.md"
        lines = engine.docker("run", "--rm", "--network", "none", image, "sh", "-c", shell).stdout.splitlines()
        # Any user can read all files, under /models as well; KServe's sidecar links to them through /proc.
        link = "ln -sf /proc/$$/root/models /tmp/"
        shell = f"{link} && cd /REPO/sub && cat /tmp/models/sub/*.json *.json && stat -c %h:%a *.json"
        user = ("--user", "1000", "--network", "none")
        as_user = engine.docker("run", "--rm", *user, image, "sh", "-c", shell).stdout
        container = engine.docker("create", image).stdout.strip()
        engine.docker("cp", f"{container}:/REPO", str(tmp_path / "REPO"))
        engine.docker("cp", f"{container}:/models", str(tmp_path / "models"))
        engine.docker("rm", container)
    finally:
        engine.docker("rmi", "--force", image)
    assert lines[0] == "linux/amd64"
    assert sorted(lines[1 : 1 + len(FILES)]) == sorted(f"./{path}" for path in FILES)
    assert lines[1 + len(FILES)].endswith("model.safetensors")
    assert lines[-1] == "# A model"
    assert as_user == "[][]2:644\n"
    for copy in (tmp_path / "REPO", tmp_path / "models"):
        found = {str(path.relative_to(copy)): path for path in copy.rglob("*") if not path.is_dir()}
        assert {name: file.read_bytes() for name, file in found.items() if not file.is_symlink()} == FILES


@pytest.mark.parametrize("base", ["layout", "scratch"])
def test_into_a_layout(port: Port, tmp_path: Path, base: str):
    port.hub.add_repo("org/tiny", FILES)
    port.hub.add_repo("org/words", {"data.csv": b"a,b\n"}, repo_type="dataset")
    target = tmp_path / "carried"
    options = ["--to", f"oci:{target}", *(["--base", "scratch"] if base == "scratch" else [])]
    assert port.ferry("org/tiny", *options).code == 0
    assert port.ferry("org/words", "--type", "dataset", *options).code == 0
    assert repo_files(target / "models") == FILES
    assert repo_files(target / "datasets") == {"data.csv": b"a,b\n"}
    said = json.loads(skopeo("inspect", f"oci:{target / 'models'}:org--tiny"))
    assert len(said["Layers"]) == (4 if base == "layout" else 3)
    assert {path.name for path in target.rglob("*") if path.name.startswith(".")} == set()


def test_into_a_registry_with_basic_authentication(port: Port, secure_registry: Registry, tmp_path: Path):
    port.hub.add_repo("org/tiny", {"config.json": b"{}"})
    env = {
        "DOCKER_CONFIG": str(secure_registry.docker_config(tmp_path / "docker")),
        "SSL_CERT_FILE": str(secure_registry.ca_file),
    }
    (result,) = port.results("org/tiny", "--to", secure_registry.namespace(), env=env)
    assert result["status"] == "carried"


def test_into_a_registry_with_token_authentication(port: Port, token_registry: Registry, tmp_path: Path):
    port.hub.add_repo("org/tiny", SMALL)
    env = {"DOCKER_CONFIG": str(token_registry.docker_config(tmp_path / "docker"))}
    space = token_registry.namespace()
    (result,) = port.results("org/tiny", "--to", space, env=env)
    assert result["status"] == "carried"
    token_registry.served()
    asked = len(token_registry.tokens.scopes)
    port.hub.log.clear()
    assert port.results("org/tiny", "--to", space, env=env)[0]["status"] == "up-to-date"
    requests = len(port.hub.log) + len(token_registry.served()) + len(token_registry.tokens.scopes) - asked
    assert requests <= 10


def test_the_digest_is_the_same_in_every_destination_and_run(port: Port, token_registry: Registry, tmp_path: Path):
    port.hub.add_repo("org/tiny", SMALL, license="mit")
    env = {"DOCKER_CONFIG": str(token_registry.docker_config(tmp_path / "docker"))}
    places = [port.space, port.registry.namespace(), token_registry.namespace(), f"oci:{tmp_path / 'carried'}"]
    digests = {port.results("org/tiny", "--to", place, env=env)[0]["digest"] for place in places}
    digests |= {port.results("org/tiny", "--force", "--jobs", "1")[0]["digest"]}
    assert len(digests) == 1


def test_datasets_revisions_tags_and_commits(port: Port):
    repo = port.hub.add_repo("org/words", {"data.csv": b"one"}, repo_type="dataset")
    first = repo.sha
    repo.tag("v1.0")
    repo.commit({"data.csv": b"two"})
    repo.commit({"data.csv": b"three"}, branch="feature/x")
    names = ["org/words", "org/words@v1.0", f"org/words@{first}", "org/words@feature/x"]
    results = port.results(*names, "--type", "dataset")
    assert [result["revision"] for result in results] == ["main", "v1.0", first, "feature/x"]
    tags = ["org--words", "org--words--v1.0", f"org--words--{first}", "org--words--feature_x"]
    assert [result["image"] for result in results] == [port.image(tag, "datasets") for tag in tags]
    assert [port.files(tag, "datasets")["data.csv"] for tag in tags] == [b"two", b"one", b"one", b"three"]
    assert port.tags("datasets") == sorted(tags)


# Reused layers


def test_an_unchanged_repo_needs_few_requests_and_no_file(port: Port):
    port.hub.add_repo("org/tiny", SMALL)
    (first,) = port.results("org/tiny")
    port.hub.log.clear()
    port.registry.served()
    (result,) = port.results("org/tiny")
    served = port.registry.served()
    assert len(port.hub.log) + len(served) <= 10
    assert not port.hub.log.files(method=None)
    assert not moving(served)
    size = sum(map(len, SMALL.values()))
    assert (result["status"], result["digest"]) == ("up-to-date", first["digest"])
    assert (result["bytes_total"], result["bytes_transferred"], result["bytes_reused"]) == (size, 0, size)


def test_only_the_layer_of_a_changed_file_is_uploaded(port: Port):
    second = os.urandom(17 * MiB)
    repo = port.hub.add_repo("org/tiny", {**FILES, "second.safetensors": second})
    port.results("org/tiny")

    changed = os.urandom(17 * MiB)
    repo.commit({"second.safetensors": changed})
    port.hub.log.clear()
    (result,) = port.results("org/tiny")
    assert {entry.path.rpartition("/")[2] for entry in port.hub.log.files()} == {"second.safetensors"}
    assert result["bytes_transferred"] == len(changed)
    assert result["bytes_reused"] == sum(map(len, FILES.values()))

    repo.commit({"config.json": b"[]"})
    port.hub.log.clear()
    (result,) = port.results("org/tiny")
    moved = {entry.path.rpartition("/")[2] for entry in port.hub.log.files()}
    assert not {"second.safetensors", "model.safetensors"} & moved
    assert result["bytes_reused"] == len(changed) + len(RANDOM)
    assert port.files("org--tiny") == {**FILES, "second.safetensors": changed, "config.json": b"[]"}


def test_another_revision_reuses_the_layers_of_main(port: Port):
    repo = port.hub.add_repo("org/tiny", SMALL)
    repo.tag("v1")
    port.results("org/tiny")
    port.hub.log.clear()
    (result,) = port.results("org/tiny@v1")
    assert (result["status"], result["bytes_transferred"]) == ("carried", 0)
    assert not port.hub.log.files(method=None)


def test_a_layer_that_the_registry_has_lost_is_uploaded_again(port: Port):
    repo = port.hub.add_repo("org/tiny", FILES)
    port.results("org/tiny")
    (lost,) = [layer["digest"] for layer in port.manifest("org--tiny")["layers"] if layer["size"] > len(RANDOM)]
    (port.repository() / "_layers/sha256" / lost.partition(":")[2] / "link").unlink()
    repo.commit({"config.json": b"[]"})
    (result,) = port.results("org/tiny")
    assert result["bytes_reused"] == 0
    assert port.files("org--tiny")["model.safetensors"] == RANDOM


def test_force_uploads_everything_again(port: Port):
    port.hub.add_repo("org/tiny", SMALL)
    (first,) = port.results("org/tiny")
    port.hub.log.clear()
    (again,) = port.results("org/tiny", "--force")
    assert (again["status"], again["bytes_reused"]) == ("carried", 0)
    assert again["digest"] == first["digest"]
    assert len(port.hub.log.files("*/config.json")) == 1


def test_an_image_of_another_program_under_the_tag_is_replaced(port: Port, busybox_base: Path):
    copy = ["copy", "--all", "--dest-tls-verify=false", f"oci:{busybox_base}:latest"]
    skopeo(*copy, f"docker://{port.image('org--tiny')}")
    port.hub.add_repo("org/tiny", {"config.json": b"{}"})
    (result,) = port.results("org/tiny")
    assert result["status"] == "carried"
    assert port.files("org--tiny") == {"config.json": b"{}"}


def test_include_and_exclude(port: Port):
    port.hub.add_repo("org/tiny", SMALL)
    options = ["--include", "*.json", "--include", "onnx/", "--exclude", "sub/*"]
    (first,) = port.results("org/tiny", *options)
    assert set(port.files("org--tiny")) == {"config.json", "onnx/model.onnx"}
    assert first["bytes_total"] == 2 + 100_000
    assert not port.hub.log.files("*/README.md")
    assert port.results("org/tiny", *options)[0]["status"] == "up-to-date"
    # Another selection is another image.
    assert port.results("org/tiny", "--include", "*.json")[0]["status"] == "carried"
    run = port.ferry("org/tiny", "--include", "*.gguf")
    assert run.code == 2
    assert "check --include and --exclude" in run.stderr


def test_a_dry_run_transfers_nothing(port: Port):
    repo = port.hub.add_repo("org/tiny", FILES)
    run = port.ferry("org/tiny", "--dry-run")
    assert run.code == 0, run.stderr
    assert f"org/tiny at commit {repo.sha}:" in run.stdout
    rows = [line.split() for line in run.stdout.splitlines()]
    assert ["model.safetensors", "17.8", "MB", "upload"] in rows
    assert "org/tiny  planned" in run.stdout
    assert not moving(port.registry.served())
    assert not port.hub.log.files(method=None)
    assert port.tags() == []
    (result,) = port.results("org/tiny", "--dry-run")
    assert (result["status"], result["digest"]) == ("planned", None)

    port.results("org/tiny")
    repo.commit({"config.json": b"[]"})
    rows = [line.split() for line in port.ferry("org/tiny", "--dry-run").stdout.splitlines()]
    assert ["model.safetensors", "17.8", "MB", "reuse"] in rows


def test_a_dry_run_creates_no_directory(port: Port, tmp_path: Path):
    port.hub.add_repo("org/tiny", SMALL)
    assert port.ferry("org/tiny", "--dry-run", "--to", f"oci:{tmp_path / 'carried'}").code == 0
    assert not (tmp_path / "carried").exists()


def test_quiet_prints_nothing_and_plain_prints_progress_lines(port: Port):
    port.hub.add_repo("org/tiny", SMALL)
    run = port.ferry("org/tiny", "--quiet")
    assert (run.code, run.stdout, run.stderr) == (0, "", "")
    run = port.ferry("org/tiny", "--force", "--progress", "plain")
    assert run.stderr.startswith("org/tiny: 100 kB\n")


# Wish lists


def test_wish_lists(port: Port):
    """An invalid line is reported before any transfer; valid lines are ferried; a failed repo stops no other."""
    models = port.folder / "get_hf"
    models.mkdir()
    (models / "to_get_models.txt").write_text(
        "# models\norg/tiny --include '*.json'\n\nthis line is wrong\norg/none\norg/second@v1\n"
    )
    (models / "to_get_datasets.txt").write_text("org/words\n")
    port.hub.add_repo("org/tiny", SMALL, license="mit")
    port.hub.add_repo("org/second", {"config.json": b"{}"}).tag("v1")
    port.hub.add_repo("org/words", {"data.csv": b"a"}, repo_type="dataset")
    run = port.ferry("--json")
    assert run.code == 1
    assert [(result["repo_id"], result["status"]) for result in run.json["results"]] == [
        ("org/tiny", "carried"),
        ("org/none", "failed"),
        ("org/second", "carried"),
        ("org/words", "carried"),
    ]
    failed = run.json["results"][1]
    assert list(failed) == JSON_KEYS
    assert "org/none: not found on" in failed["error"]
    first, second = [line for line in run.stderr.splitlines() if line.startswith("error:")]
    assert "get_hf/to_get_models.txt:4: " in first
    assert "get_hf/to_get_models.txt:5: org/none: source: model org/none: not found on" in second
    assert set(port.files("org--tiny")) == {"config.json", "sub/ünïcödé 模型.json"}

    models_md = (models / "models.md").read_text()
    assert [line.partition("(")[0] for line in models_md.splitlines() if line.startswith("| [")] == [
        "| [org/second@v1]",
        "| [org/tiny]",
    ]
    assert run.json["results"][0]["digest"] in models_md
    assert "org/words" in (models / "datasets.md").read_text()
    assert (models / "to_get_datasets.txt").read_text() == "org/words\n"
    assert port.tags() == ["org--second--v1", "org--tiny"]

    again = port.ferry("--json")
    assert [result["status"] for result in again.json["results"]] == ["up-to-date", "failed", *["up-to-date"] * 2]
    assert (models / "models.md").read_text() == models_md


def test_repos_from_the_command_line_are_added_to_the_catalogue(port: Port):
    (port.folder / "get_hf").mkdir()
    port.hub.add_repo("org/tiny", {"config.json": b"{}"})
    port.results("org/tiny")
    assert "[org/tiny]" in (port.folder / "get_hf/models.md").read_text()


def test_empty_wish_lists_are_no_error(port: Port):
    (port.folder / "get_hf").mkdir()
    (port.folder / "get_hf/to_get_models.txt").write_text("# nothing yet\n")
    assert port.results() == []


def test_a_renamed_repo(port: Port):
    """It is carried under the requested id; note, result and catalogue name the current one."""
    port.hub.rename(port.hub.add_repo("old/name", FILES), "new/name")
    (port.folder / "get_hf").mkdir()
    run = port.ferry("old/name", "--progress", "none")
    assert run.code == 0, run.stderr
    assert run.stderr == "model old/name was renamed to new/name on the Hub; the image keeps the requested id\n"
    assert port.tags() == ["old--name"]
    assert port.files("old--name") == FILES
    # The hub serves it under both.
    blobs = port.registry.root.glob("docker/registry/v2/blobs/sha256/*/*/data")
    assert any(b'"renamed_to":"new/name"' in blob.read_bytes() for blob in blobs)
    (result,) = port.results("old/name")
    assert (result["status"], result["repo_id"], result["renamed_to"]) == ("up-to-date", "old/name", "new/name")
    row = (port.folder / "get_hf/models.md").read_text().splitlines()[-1]
    assert row.startswith("| [old/name](https://huggingface.co/new/name) |")
