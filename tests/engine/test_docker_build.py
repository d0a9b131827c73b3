"""Builds on a real engine: steps, failures, settings that leave no trace, pushes."""

from __future__ import annotations

import socket

import pytest

from llmstack.engine.docker_build import ClassicBuilder, push_image, tag_image
from llmstack.engine.docker_engine import Engine as Client
from llmstack.errors import LlmstackError, NotAuthorizedError, NotFoundError, UnavailableError
from llmstack.image_builds.build_environment import BuildEnvironment
from llmstack.image_builds.build_plan import BuildRequest, plan_images
from llmstack.image_builds.builder import BuildOptions, build_spec
from llmstack.image_builds.recipe import load_recipes
from llmstack.settings import BuildSettings
from tests.support.listener import Listener
from tests.support.recipes import write_recipe
from tests.support.relay import Relay

BUILDER = ClassicBuilder()
ONE = "description: A test\nvariants:\n  cpu:\n    base: {base}\n"


def build(recipes, name, environment=None, args=None, **options):
    """Build one recipe of a recipe directory; return the image's id and the reporter."""
    listener, request = Listener(), BuildRequest((name,), args=args or {})
    [plan] = plan_images(load_recipes(recipes), request, environment or BuildEnvironment(), lambda _: True)
    with Client() as client:
        image = BUILDER.build(client, build_spec(plan, BuildOptions(**options), BUILDER), listener)
    return image, listener


def test_steps_are_reported_with_number_and_instruction_or_cached(busybox, recipes):
    write_recipe(recipes, "one", ONE.format(base=busybox), 'FROM {{ base }}\nRUN echo noise && true\nCMD ["sh"]\n')
    image, listener = build(recipes, "one", no_cache=True)
    assert image.startswith("sha256:")
    assert f"one:cpu [1/3] FROM {busybox}" in listener.notes
    assert "one:cpu [2/3] RUN echo noise && true" in listener.notes
    assert not any("noise" in note and "RUN" not in note for note in listener.notes)
    again, listener = build(recipes, "one")
    assert again == image
    assert "one:cpu [2/3] cached" in listener.notes


def test_a_failed_step_shows_its_line_in_the_recipe_and_its_last_output(busybox, recipes):
    template = (
        "FROM {{ base }}\n\n{{ steps.build_environment() }}\n"
        "RUN for i in $(seq 1 500); do echo line $i; done; echo the reason >&2; exit 7\n"
    )
    write_recipe(recipes, "one", ONE.format(base=busybox), template)
    with pytest.raises(LlmstackError) as caught:
        build(recipes, "one")
    first, *rest = caught.value.message.split("\n")
    assert first.startswith("building one:cpu, step 2/2 (RUN for i in ")
    assert first.endswith("images/one/Dockerfile.j2, line 5: exit code 7")
    assert "  the reason" in rest
    assert "  line 500" in rest
    assert len(rest) == 16
    assert caught.value.exit_code == 1


def test_a_secret_in_two_pieces_of_output_is_masked(busybox, recipes):
    """The pause makes the engine send the first half of a line, and of a password, separately."""
    halves = 'printf \'E: %s\' "${http_proxy%sh@*}" >&2; sleep 0.3; echo "${http_proxy#*hu} is wrong" >&2; exit 3'
    write_recipe(recipes, "one", ONE.format(base=busybox), f"FROM {{{{ base }}}}\nRUN {halves}\n")
    with pytest.raises(LlmstackError) as caught:
        build(recipes, "one", BuildEnvironment(BuildSettings(http_proxy="http://user:hush@127.0.0.1:9")))
    assert caught.value.message.split("\n")[1:] == ["  E: http://***@127.0.0.1:9 is wrong"]


@pytest.mark.parametrize("proxy", ["http://user:hush@127.0.0.1:9", "user:hush@127.0.0.1:9", "http://user:hush@[::1"])
@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "ftp_proxy"])
def test_a_proxy_in_args_is_shown_without_its_password(busybox, recipes, name, proxy):
    template = f'FROM {{{{ base }}}}\nRUN echo "via ${name}"; exit 3\n'
    write_recipe(recipes, "one", ONE.format(base=busybox), template)
    with pytest.raises(LlmstackError, match=r"via (http://)?\*\*\*@") as caught:
        build(
            recipes,
            "one",
            BuildEnvironment(BuildSettings(https_proxy="https://other:word@127.0.0.1:9")),
            args={name: proxy},
        )
    assert "hush" not in caught.value.message


def test_an_engine_error_without_a_message_shows_no_password(engine, busybox, recipes, monkeypatch):
    write_recipe(recipes, "one", ONE.format(base=busybox), "FROM {{ base }}\n")
    answer = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with Relay(engine.host, b"/build?", answer=answer) as relay:
        monkeypatch.setenv("DOCKER_HOST", relay.host)
        with pytest.raises(UnavailableError) as caught:
            build(recipes, "one", BuildEnvironment(BuildSettings(http_proxy="http://user:hush@127.0.0.1:9")))
    message = "building one:cpu: the Docker Engine answered: 500 Internal Server Error"
    assert caught.value.message == message


def test_a_failed_shared_step_names_the_macro(busybox, recipes):
    write_recipe(recipes, "one", ONE.format(base=busybox), "FROM {{ base }}\n{{ steps.venv() }}\n")
    with pytest.raises(LlmstackError, match=r"images/_shared/macros\.j2, line \d+: exit code 127"):
        build(recipes, "one")


def test_a_missing_base_is_not_found_and_an_unreachable_registry_unavailable(recipes, registry):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = closed.getsockname()[1]
        write_recipe(recipes, "gone", ONE.format(base=f"{registry.host}/no/such:image"), "FROM {{ base }}\n")
        write_recipe(recipes, "far", ONE.format(base=f"127.0.0.1:{nobody}/no/such:image"), "FROM {{ base }}\n")
        with pytest.raises(NotFoundError, match="source: building gone:cpu, step 1/1"):
            build(recipes, "gone")
        with pytest.raises(UnavailableError, match="source: building far:cpu, step 1/1"):
            build(recipes, "far")


def test_proxies_are_available_to_steps_and_not_stored(engine, busybox, recipes):
    environment = BuildEnvironment(BuildSettings(http_proxy="http://user:hush@127.0.0.1:9", no_proxy="inside.site"))
    template = 'FROM {{ base }}\nRUN test -n "$no_proxy" && echo "via $HTTP_PROXY" && exit $FAIL\n'
    write_recipe(recipes, "one", ONE.format(base=busybox), template)
    image, _ = build(recipes, "one", environment)
    inspected = engine.docker("image", "inspect", image).stdout
    history = engine.docker("history", "--no-trunc", image).stdout
    for text in ("hush", "127.0.0.1:9", "inside.site"):
        assert text not in inspected + history
    write_recipe(recipes, "two", ONE.format(base=busybox), template.replace("$FAIL", "3"))
    with pytest.raises(LlmstackError, match=r"via http://\*\*\*@127\.0\.0\.1:9") as caught:
        build(recipes, "two", environment)
    assert "hush" not in caught.value.message


def test_environment_files_are_available_to_steps_and_not_in_the_image(engine, busybox, recipes, tmp_path):
    ca = tmp_path / "ca.pem"
    ca.write_text("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n")
    environment = BuildEnvironment(
        BuildSettings(pip_index="https://pip.site/simple", apt_mirror="http://apt.site", ca_cert=ca)
    )
    template = (
        "FROM {{ base }}\n{{ steps.build_environment() }}\n"
        "RUN cd /opt/llmstack-site && test -s pip.conf && test -x apt-get && test -s mirror.sed && test -s ca.crt\n"
        "{{ steps.remove_build_environment() }}\n"
    )
    write_recipe(recipes, "one", ONE.format(base=busybox), template)
    image, _ = build(recipes, "one", environment)
    inspected = engine.docker("image", "inspect", image).stdout + engine.docker("history", "--no-trunc", image).stdout
    assert "pip.site" not in inspected
    assert "apt.site" not in inspected
    engine.docker("run", "--rm", "--network", "none", image, "test", "!", "-e", "/opt/llmstack-site")


def test_the_apt_mirror_replaces_the_urls_of_archives(engine, busybox, recipes):
    (recipes / "one").mkdir()
    deb822 = "Types: deb\nURIs: http://deb.example/debian\n\nURIs: http://deb.example/debian-security\n"
    lists = (
        "deb https://ubuntu.example/ubuntu/ noble main\ndeb https://nvidia.example/compute/cuda/repos/ubuntu2404 /\n"
        "deb https://other.example/tools/ubuntu-tools /\n"
    )
    (recipes / "one" / "a.sources").write_text(deb822)
    (recipes / "one" / "b.list").write_text(lists)
    (recipes / "one" / "apt.sh").write_text(
        '#!/bin/sh\nset -eu\necho "$*"\ncd "${2#Dir::Etc=}/sources.list.d"\ncat a.sources b.list\n'
    )
    (recipes / "one" / "image.yaml").write_text(ONE.format(base=busybox) + "files: [a.sources, b.list, apt.sh]\n")
    (recipes / "one" / "Dockerfile.j2").write_text(
        '{% import "_shared/macros.j2" as steps with context %}\nFROM {{ base }}\n{{ steps.build_environment() }}\n'
        "COPY a.sources b.list /etc/apt/sources.list.d/\nCOPY apt.sh /bin/apt-get\n"
        "RUN {{ apt_get }} update > /seen\n{{ steps.remove_build_environment() }}\n"
    )
    image, _ = build(recipes, "one", BuildEnvironment(BuildSettings(apt_mirror="http://apt.site/mirror/")))
    seen = engine.docker("run", "--rm", "--network", "none", image, "cat", "/seen").stdout.splitlines()
    assert seen[0].endswith(" update")
    assert "URIs: http://apt.site/mirror/debian" in seen
    assert "URIs: http://apt.site/mirror/debian-security" in seen
    assert "deb http://apt.site/mirror/ubuntu/ noble main" in seen
    assert "deb http://apt.site/mirror/compute/cuda/repos/ubuntu2404 /" in seen
    assert "deb https://other.example/tools/ubuntu-tools /" in seen
    kept = engine.docker("run", "--rm", "--network", "none", image, "cat", "/etc/apt/sources.list.d/a.sources").stdout
    assert kept == deb822


def test_a_mirror_without_nvidias_packages_is_used_without_them(engine, busybox, recipes):
    """apt-get fails for a source that its server does not have."""
    (recipes / "one").mkdir()
    (recipes / "one" / "cuda.list").write_text("deb https://nvidia.example/compute/cuda/repos/ubuntu2404 /\n")
    (recipes / "one" / "ubuntu.list").write_text("deb http://ubuntu.example/ubuntu noble main\n")
    (recipes / "one" / "apt.sh").write_text(
        '#!/bin/sh\nset -eu\ncd "${2#Dir::Etc=}/sources.list.d"\n'
        'if cat cuda.list 2> /dev/null; then echo "E: no Release file"; exit 100; fi\nls; cat *.list\n'
    )
    (recipes / "one" / "image.yaml").write_text(ONE.format(base=busybox) + "files: [cuda.list, ubuntu.list, apt.sh]\n")
    (recipes / "one" / "Dockerfile.j2").write_text(
        '{% import "_shared/macros.j2" as steps with context %}\nFROM {{ base }}\n{{ steps.build_environment() }}\n'
        "COPY cuda.list ubuntu.list /etc/apt/sources.list.d/\nCOPY apt.sh /bin/apt-get\n"
        "RUN {{ apt_get }} update > /seen\n{{ steps.remove_build_environment() }}\n"
    )
    image, _ = build(recipes, "one", BuildEnvironment(BuildSettings(apt_mirror="http://apt.site/mirror")))
    seen = engine.docker("run", "--rm", "--network", "none", image, "cat", "/seen").stdout.splitlines()
    assert seen[0] == "deb http://apt.site/mirror/compute/cuda/repos/ubuntu2404 /"
    assert seen[-2:] == ["ubuntu.list", "deb http://apt.site/mirror/ubuntu noble main"]
    kept = engine.docker("run", "--rm", "--network", "none", image, "ls", "/etc/apt/sources.list.d").stdout
    assert kept == "cuda.list\nubuntu.list\n"


def test_a_push_reports_its_layers_and_returns_the_digest(engine, busybox, recipes, registry):
    # A random layer, which the registry does not have yet.
    write_recipe(recipes, "one", ONE.format(base=busybox), "FROM {{ base }}\nRUN head -c 3000000 /dev/urandom > /new\n")
    image, _ = build(recipes, "one", no_cache=True)
    name = f"{registry.host}/pushed/one:new"
    listener = Listener()
    with Client() as client:
        tag_image(client, image, [name])
        digest = push_image(client, name, listener)
    assert digest.startswith("sha256:")
    assert listener.titles == [f"push {name}"]
    assert any(task.size >= 3_000_000 and task.moved >= task.size and task.ended for task in listener.tasks)
    engine.docker("rmi", name)
    engine.docker("pull", f"{name.rpartition(':')[0]}@{digest}")


@pytest.mark.usefixtures("engine")
def test_a_refused_push_raises_the_matching_error(busybox, token_registry):
    with Client() as client, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{closed.getsockname()[1]}/a/b:c"
        secret = f"{token_registry.host}/a/b:c"
        tag_image(client, busybox, [nobody, secret])
        with pytest.raises(UnavailableError, match=f"destination: pushing {nobody}"):
            push_image(client, nobody, Listener())
        with pytest.raises(NotAuthorizedError, match=f"destination: pushing {secret}") as caught:
            push_image(client, secret, Listener())
    assert caught.value.hint == f"docker login {token_registry.host}"


@pytest.mark.usefixtures("engine")
def test_a_push_uses_the_credentials_of_docker_login(busybox, token_registry, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_CONFIG", str(token_registry.docker_config(tmp_path)))
    name = f"{token_registry.host}/a/b:d"
    with Client() as client:
        tag_image(client, busybox, [name])
        assert push_image(client, name, Listener()).startswith("sha256:")
