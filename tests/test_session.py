"""The Python API: what is exported, and each function against a real registry and hub."""

from __future__ import annotations

import subprocess
import sys

import pytest

import llmstack
from llmstack.oci.layout import Layout
from llmstack.reporting.callback import CallbackReporter
from tests.support.carried import carry
from tests.support.serving import repository

PUBLIC = [
    "CopyResult",
    "ExtractResult",
    "FerryResult",
    "ImageDetails",
    "IntegrityError",
    "InternalError",
    "Inventory",
    "ListedImage",
    "LlmstackError",
    "LoadResult",
    "NotAuthorizedError",
    "NotFoundError",
    "ProgressEvent",
    "PruneResult",
    "RepoRequest",
    "SaveResult",
    "Session",
    "SignResult",
    "UnavailableError",
    "UsageError",
    "VerifyResult",
    "__version__",
    "copy",
    "extract",
    "ferry",
    "inspect",
    "inventory",
    "list_images",
    "load",
    "prune",
    "save",
    "verify",
]
FILES = {"config.json": b"{}", "model.safetensors": bytes(100_000)}


def test_exported_names_are_fixed():
    assert sorted(llmstack.__all__) == PUBLIC
    assert all(getattr(llmstack, name) for name in PUBLIC)
    assert dir(llmstack) == llmstack.__all__
    with pytest.raises(AttributeError, match="nothing"):
        llmstack.nothing  # noqa: B018 - the access is the test


def test_import_is_light():
    heavy = ["docker", "huggingface_hub", "urllib3", "typer", "jinja2", "yaml", "rich", "starlette", "torch"]
    code = f"import sys, llmstack; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_functions_stay_functions_when_submodules_are_imported():
    code = "import llmstack, llmstack.cli.app, pkgutil, importlib\n"
    code += "[importlib.import_module(m.name) for m in pkgutil.iter_modules(llmstack.__path__, 'llmstack.')"
    code += " if m.name != 'llmstack.__main__']\n"
    code += "assert all(callable(getattr(llmstack, name)) for name in llmstack.__all__ if name[0].islower())"
    subprocess.run([sys.executable, "-c", code], check=True)


# In a separate process: huggingface_hub reads HF_ENDPOINT when it is imported.
ROUND_TRIP = """
import logging, pathlib, sys
import llmstack

namespace, base, out = sys.argv[1:]
logging.basicConfig(level=logging.INFO)
events = []
carried = llmstack.ferry("org/model", to=namespace, base=base, on_progress=events.append)
assert isinstance(carried, llmstack.FerryResult)
assert (carried.status, carried.repo_id) == ("carried", "org/model")
assert events and all(event.done <= event.total for event in events)
assert events[-1].done == events[-1].total > 100_000
assert llmstack.ferry("org/model", to=namespace, base=base).status == "up-to-date"

extracted = llmstack.extract("org/model", out, source=namespace)
assert isinstance(extracted, llmstack.ExtractResult)
assert (extracted.files, extracted.commit) == (2, carried.commit)
verified = llmstack.verify("org/model", source=namespace)
assert isinstance(verified, llmstack.VerifyResult)
assert (verified.ok, verified.files) == (True, 2)
details = llmstack.inspect("org/model", source=namespace)
assert isinstance(details, llmstack.ImageDetails)
assert details.digest == carried.digest
[listed] = llmstack.list_images(namespace)
assert (listed.repo_id, listed.commit) == ("org/model", carried.commit)

def fail(event):
    raise KeyError("mine")

for call in (
    lambda: llmstack.ferry("org/model", to=namespace + "/x", base=base, on_progress=fail),
    lambda: llmstack.extract("org/model", out + "-x", source=namespace, on_progress=fail),
):
    try:
        call()
    except KeyError as error:
        assert error.args == ("mine",)
    else:
        raise AssertionError("no error")

one = llmstack.ferry("org/model", to=namespace + "/one", base=base, include="*.json")
assert one.bytes_total == 2
far = f"oci:{out}-far"
saved = llmstack.save("org/model", out + "-bundle", source=namespace)
assert isinstance(saved, llmstack.SaveResult)
[loaded] = llmstack.load(out + "-bundle", to=far)
assert (loaded.status, loaded.images[0].digest) == ("loaded", carried.digest)
assert llmstack.inventory(far).prefixes == llmstack.inventory(namespace, repositories=["models"]).prefixes
[copied] = llmstack.copy(far, f"oci:{out}-copy").images
assert copied.digest == carried.digest
assert not [image for image in llmstack.prune(far, keep=1).images if image.status == "deleted"]
many = llmstack.Session.from_settings(namespace=namespace + "/many", base=base).ferry_all(
    [llmstack.RepoRequest("org/model", "model", "main"), llmstack.RepoRequest("org/absent", "model", "main")]
)
assert [result.status for result in many] == ["carried", "failed"]

try:
    llmstack.ferry("org/absent", to=namespace, base=base)
except llmstack.NotFoundError as error:
    assert "org/absent" in str(error)
else:
    raise AssertionError("no error")
"""


def test_ferry_extract_verify_inspect_and_list(port, tmp_path):
    port.hub.add_repo("org/model", FILES)
    command = [sys.executable, "-c", ROUND_TRIP, port.space, port.base, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == FILES


def test_a_session_survives_a_failure(registry, tmp_path):
    namespace = registry.namespace()
    carry(repository(namespace), "org--model", FILES)
    with llmstack.Session.from_settings(namespace=namespace) as session:
        (tmp_path / "file").touch()
        with pytest.raises(llmstack.LlmstackError):
            session.extract("org/model", tmp_path / "file")
        with pytest.raises(llmstack.NotFoundError):
            session.verify("org/absent")
        assert session.extract("org/model", tmp_path / "out").files == 2
        assert session.verify("org/model").ok


def test_options_are_checked_like_flags(tmp_path):
    with pytest.raises(llmstack.UsageError, match="--jobs must be an integer of 1 or more"):
        llmstack.extract("org/model", tmp_path, source="oci:x", jobs=0)
    with pytest.raises(llmstack.UsageError, match="'colour' is not a setting"):
        llmstack.Session.from_settings(colour="red")
    with pytest.raises(llmstack.UsageError, match="no destination namespace"):
        llmstack.ferry("org/model")
    for call in (
        llmstack.ferry,
        llmstack.verify,
        llmstack.inspect,
        llmstack.extract,
    ):
        with pytest.raises(llmstack.UsageError, match="repo_type: must be 'model' or 'dataset', not 'space'"):
            call("org/model", repo_type="space")
    with pytest.raises(llmstack.UsageError, match="layout: must be"):
        llmstack.extract("org/model", tmp_path, layout="tar")


def test_one_string_is_one_glob(tmp_path):
    carry(Layout(tmp_path / "models"), "org--model", FILES)
    result = llmstack.extract("org/model", tmp_path / "out", source=f"oci:{tmp_path}", include="*.json")
    assert (result.files, (tmp_path / "out/config.json").read_bytes()) == (1, b"{}")


def test_warnings_are_not_printed(capfd):
    CallbackReporter().warn("a warning")
    assert capfd.readouterr() == ("", "")
