"""llama.cpp compiled from the source that llama-cpp-python's sdist holds, and asked to complete a text."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from llmstack.build.plan import Wish, plan
from llmstack.recipes.shelf import images_folder, load_recipes
from llmstack.recipes.site import Site
from tests.images.conftest import BUILD_TIMEOUT
from tests.support.cli import run_llmstack
from tests.support.standin import CACHE, running

pytestmark = [pytest.mark.images, pytest.mark.timeout(3600), pytest.mark.xdist_group("images")]
SDIST = "llama-cpp-python==0.3.36"
KEY = "key-of-the-tests"


@pytest.fixture(scope="module")
def server_image(shared_engine, build_environment, debian, tmp_path_factory):
    """The runtime image; compiled once for a recipe, and kept in a file that git ignores."""
    [target] = plan(load_recipes(images_folder()), Wish(("llama.cpp",), "cpu"), Site(), lambda _: True)
    recipe = hashlib.sha256(f"{SDIST}\n{target.render().dockerfile}".encode()).hexdigest()[:16]
    kept = CACHE.parent / f"llama.cpp-cpu-{recipe}.tar"
    if kept.exists():
        shared_engine.docker("load", "--input", str(kept))
        return "llama.cpp:cpu"
    folder = tmp_path_factory.mktemp("sdist")
    package, _, version = SDIST.partition("==")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        package,
        "--dest",
        folder,
    ]
    subprocess.run([*command, f"{package}=={version}"], check=True)
    [source] = folder.glob("*.tar.gz")
    bases = ["--base", debian, "--base", f"build={debian}"]
    done = run_llmstack(
        *("build", "llama.cpp", "--variant", "cpu", *bases, "--build-arg", f"source={source}"),
        env=build_environment,
        timeout=2 * BUILD_TIMEOUT,
    )
    assert done.code == 0, done.stderr[-4000:]
    part = kept.with_suffix(".part")
    shared_engine.docker("save", "--output", str(part), "llama.cpp:cpu")
    part.rename(kept)
    return "llama.cpp:cpu"


def ask(container, path, body=None, key=KEY):
    """Return the status and the answer."""
    request = urllib.request.Request(
        f"http://{container.ip}:8080{path}",
        data=json.dumps(body).encode() if body else None,
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, None


def test_a_tiny_model_completes_a_text_for_who_has_the_key(shared_engine, network, server_image, tmp_path):
    # Needs the group images-test, which only `make test-images` installs.
    from tests.images.gguf_model import write_tiny_model

    write_tiny_model(tmp_path / "tiny.gguf")
    tmp_path.chmod(0o755)
    options = (
        *("--volume", f"{tmp_path}:/models:ro"),
        *("--env", "LLAMA_ARG_MODEL=/models/tiny.gguf"),
        *("--env", "LLAMA_ARG_CTX_SIZE=128"),
        *("--env", f"LLAMA_API_KEY={KEY}"),
    )
    with running(shared_engine, network, server_image, options=options) as container:
        container.wait_healthy()
        assert container.exec("id", "-u").stdout == "2000\n"
        body = {"prompt": "abc", "n_predict": 8, "temperature": 0, "seed": 1}
        status, answer = ask(container, "/completion", body)
        assert status == 200
        assert answer["tokens_predicted"] == 8
        # Greedy: the same prompt gives the same text.
        assert ask(container, "/completion", body)[1]["content"] == answer["content"]
        assert ask(container, "/completion", body, key="wrong")[0] == 401
