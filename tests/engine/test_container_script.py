"""Scripts in containers on a real engine: their files are committed to an image."""

from __future__ import annotations

from llmstack.engine.container_script import ScriptSpec, remove_image, run_script
from llmstack.engine.docker_engine import Engine as Client
from tests.support.listener import Listener
from tests.support.relay import Relay

TIMEOUT = 4


def test_a_commit_may_take_longer_than_the_timeout(engine, busybox, tmp_path, monkeypatch):
    (tmp_path / "Dockerfile").write_text(f"FROM {busybox}\nCMD read -r line; echo $line; echo kept > /kept\n")
    engine.docker("build", "--tag", "llmstack-test-script", str(tmp_path))
    job = ScriptSpec("script", "llmstack-test-script", {}, {"TOKEN": "hushhush"}, ("hushhush",), network="none")
    with Relay(engine.host, b"/commit?", TIMEOUT + 2) as relay:
        monkeypatch.setenv("DOCKER_HOST", relay.host)
        with Client(TIMEOUT) as client:
            listener = Listener()
            image = run_script(client, job, listener)
            assert relay.fired == 1
            assert listener.notes == ["script: TOKEN=***"]
            assert client.client.api.timeout == TIMEOUT
            monkeypatch.setenv("DOCKER_HOST", engine.host)
            assert engine.docker("run", "--rm", "--network", "none", image, "cat", "/kept").stdout == "kept\n"
            remove_image(client, image)
