"""The fault matrix of `save` and `load`: the bundle is complete or is resumed, and a tag is written last or never."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmstack.errors import LlmstackError
from llmstack.net import Client
from llmstack.session import Session
from tests.bundles.support import checksums_are_right
from tests.faults.bundle_cases import load_cases, save_cases
from tests.faults.cases import FILES, Case
from tests.oci.repositories import open_repository
from tests.support.carried import carry
from tests.support.proxy import Proxy
from tests.support.registry import Registry

# All cases run in one process, against the same registry.
pytestmark = pytest.mark.xdist_group("faults-bundles")


@pytest.fixture(scope="module")
def space(registry: Registry) -> str:
    """The path of a namespace with one image."""
    namespace = registry.namespace()
    carry(open_repository(Client(), f"{namespace}/models"), "org--model", FILES)
    return namespace.partition("/")[2]


@pytest.fixture
def session() -> Iterator[Session]:
    """A session that does not wait between tries, and transfers one blob after the other."""
    with Session.from_settings(retry_wait=0.01, jobs=1) as session:
        yield session


@pytest.fixture
def bundle(registry: Registry, space: str, session: Session, tmp_path: Path) -> Path:
    """A bundle of the image."""
    session.save((), tmp_path / "b", source=f"{registry.host}/{space}")
    return tmp_path / "b"


def check_fault(case: Case, run: Callable[[], object], proxy: Proxy) -> None:
    """Run with the fault of a case, and compare the error."""
    proxy.rules = case.registry
    if case.code:
        with pytest.raises(LlmstackError) as caught:
            run()
        assert caught.value.exit_code == case.code, caught.value
        assert all(word in str(caught.value) for word in case.words), caught.value
    else:
        run()
    assert all(rule.fired for rule in case.registry), "the fault did not occur"
    proxy.rules = ()


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in save_cases()])
def test_save(registry: Registry, space: str, session: Session, tmp_path: Path, case: Case, tell):
    with Proxy(registry.url) as proxy:
        source = f"{proxy.host}/{space}"
        check_fault(case, lambda: session.save((), tmp_path / "b", source=source), proxy)
        assert (tmp_path / "b/SHA256SUMS").exists() == (case.code == 0)
        if case.code:
            assert session.save((), tmp_path / "b", source=source).status == "saved"
    assert checksums_are_right(tmp_path / "b")
    assert session.verify("org/model", source=f"oci:{tmp_path}/b").ok
    tell("save", case)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in load_cases()])
def test_load(registry: Registry, session: Session, bundle: Path, case: Case, tell):
    namespace = registry.namespace()
    far = open_repository(Client(), f"{namespace}/models")
    with Proxy(registry.url) as proxy:
        to = f"{proxy.host}/{namespace.partition('/')[2]}"
        check_fault(case, lambda: session.load(bundle, to=to), proxy)
        assert far.tags() == (["org--model"] if case.code == 0 or case.named else [])
        if case.code:
            [result] = session.load(bundle, to=to)
            assert result.status in ({"loaded", "up-to-date"} if case.named else {"loaded"})
    assert session.verify("org/model", source=namespace).ok
    tell("load", case)
