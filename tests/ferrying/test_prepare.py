"""Lists with a script in get_hf/prepare.sh, and what is checked before a script runs. No script runs here.

There is no Docker Engine: an error that names it was found after the checks.
"""

from __future__ import annotations

import re

import pytest

from tests.support.cli import Run
from tests.support.ferry import Port, moving
from tests.support.proxy import Proxy, Rule

ENGINE = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}
NO_ENGINE = "the Docker Engine at unix:///nowhere/docker.sock does not answer"


@pytest.fixture
def prepared(port: Port) -> Port:
    """A repo in a list, and a script in get_hf/prepare.sh."""
    port.hub.add_repo("org/tiny", {"config.json": b"{}"})
    (port.folder / "get_hf").mkdir()
    (port.folder / "get_hf/to_get_models.txt").write_text("org/tiny\n")
    (port.folder / "get_hf/prepare.sh").write_text("echo hello > file\n")
    return port


def check(run: Run, code: int, *words: str) -> None:
    assert run.code == code, run.stderr
    for word in words:
        assert word in run.stderr, run.stderr


def test_entries_without_a_script_go_through_get_hf_prepare_sh(prepared: Port):
    (prepared.folder / "get_hf/to_get_models.txt").write_text(
        "org/tiny\norg/other --prepare own.sh\norg/plain --prepare none\n"
    )
    (prepared.folder / "own.sh").write_text("true\n")
    for name in ("org/other", "org/plain"):
        prepared.hub.add_repo(name, {"config.json": b"{}"})
    run = prepared.ferry("--json", env=ENGINE)
    check(run, 1, f"get_hf/to_get_models.txt:1: org/tiny: {NO_ENGINE}", f"txt:2: org/other: {NO_ENGINE}")
    assert [(result["repo_id"], result["status"], result["prepare"]) for result in run.json["results"]] == [
        ("org/tiny", "failed", "get_hf/prepare.sh"),
        ("org/other", "failed", "own.sh"),
        ("org/plain", "carried", None),
    ]
    shown = prepared.ferry("--progress", "plain", env=ENGINE).stderr
    assert "org/tiny: prepared by get_hf/prepare.sh; --prepare none carries the repo's own files\n" in shown
    assert "org/other: prepared by own.sh\n" in shown
    assert "org/plain: prepared" not in shown


def test_prepare_none_and_a_named_repo_need_no_script(prepared: Port):
    [listed] = prepared.results("--prepare", "none", env=ENGINE)
    assert (listed["status"], listed["prepare"]) == ("carried", None)
    [named] = prepared.results("org/tiny", "--force", env=ENGINE)
    assert (named["status"], named["prepare"]) == ("carried", None)
    assert prepared.files("org--tiny") == {"config.json": b"{}"}


def test_a_dry_run_names_the_script_and_does_not_run_it(prepared: Port):
    run = prepared.ferry("--dry-run", env=ENGINE)
    check(run, 0)
    assert re.search(
        r"^org/tiny at commit [0-9a-f]{40}: get_hf/prepare.sh prepares its files$", run.stdout, re.MULTILINE
    )
    assert run.stdout.splitlines()[-1].split()[:2] == ["org/tiny", "planned"]
    assert not moving(prepared.registry.served())


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        (None, "cannot be read: No such file or directory"),
        ("\n", "the script is empty"),
        ("#!/bin/sh\r\ntrue\r\n", "has Windows line endings"),
    ],
)
def test_a_script_that_cannot_run_is_refused(prepared: Port, script: str | None, cause: str):
    path = prepared.folder / "mine.sh"
    if script:
        path.write_text(script, newline="")
    check(prepared.ferry("org/tiny", "--prepare", "mine.sh", env=ENGINE), 2, f"--prepare {path}: {cause}")


def test_base_and_destination_are_checked_before_the_engine_is_needed(prepared: Port):
    check(prepared.ferry("--base", f"{prepared.space}/busybox:none", env=ENGINE), 3, "base image: ", "busybox:none")
    with Proxy(prepared.registry.url) as proxy:
        proxy.rules = [Rule("POST", r".*/blobs/uploads/", status=403, code="DENIED", times=None)]
        namespace = f"{proxy.host}/{prepared.space.partition('/')[2]}"
        check(prepared.ferry("--to", namespace, env=ENGINE), 4, "destination: ", "/models: cannot upload a layer")
    check(prepared.ferry("--to", f"oci:{prepared.folder}/get_hf/prepare.sh", env=ENGINE), 6, "destination: ")
    check(prepared.ferry(env=ENGINE), 6, NO_ENGINE)
    assert prepared.tags() == []
    assert prepared.uploads() == []
