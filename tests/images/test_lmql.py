"""lmql for CPUs: the playground's web page, the model server, and a constrained query."""

from __future__ import annotations

import subprocess
import urllib.request

import pytest

from tests.images.conftest import BUILD_TIMEOUT
from tests.support.cli import run_llmstack
from tests.support.standin import running

pytestmark = [pytest.mark.images, pytest.mark.timeout(3600), pytest.mark.xdist_group("images")]
NODE = "llmstack-test-node:latest"
MAKE_MODEL = """
import torch, transformers
from tokenizers import Tokenizer, models, decoders, pre_tokenizers
torch.manual_seed(1)
alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()))
vocabulary = {token: rank for rank, token in enumerate(["<s>", "</s>", *alphabet])}
tokenizer = Tokenizer(models.BPE(vocabulary, []))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
transformers.GPT2TokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained("/tmp/m")
size = dict(vocab_size=len(vocabulary), n_embd=32, n_layer=2, n_head=2)
config = transformers.GPT2Config(**size, bos_token_id=0, eos_token_id=1)
transformers.GPT2LMHeadModel(config).save_pretrained("/tmp/m")
"""
QUERY = """
import asyncio, lmql
@lmql.query(model=lmql.model("/tmp/m", endpoint="127.0.0.1:8080", tokenizer="/tmp/m"))
def answer():
    '''lmql
    "Yes or no? [WORD]" where WORD in ["yes", "no"]
    return WORD
    '''
print("answer:", answer())
"""


@pytest.fixture(scope="module")
def lmql_image(shared_engine, build_environment, debian, torch_links):
    install = "apt-get update -qq && apt-get install -qq -y --no-install-recommends nodejs npm"
    dockerfile = f"FROM {debian}\nRUN {install}\n"
    command = ["docker", "--host", shared_engine.host, "build", "--quiet", "--network", "host", "--tag", NODE, "-"]
    subprocess.run(command, input=dockerfile, text=True, check=True, capture_output=True)
    links = ["--build-arg", f"torch_links={torch_links}"] if torch_links else []
    done = run_llmstack(
        *("build", "lmql", "--variant", "cpu", "--base", debian, "--base", f"node={NODE}", *links),
        env=build_environment,
        timeout=BUILD_TIMEOUT,
    )
    assert done.code == 0, done.stderr[-4000:]
    return "lmql:cpu"


def test_playground_serves_its_page_and_is_healthy(shared_engine, network, lmql_image):
    with running(shared_engine, network, lmql_image) as container:
        container.wait_healthy()
        assert container.exec("id", "-u").stdout == "2000\n"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{container.ip}:3000/", timeout=30) as response:
            assert b"LMQL" in response.read()


def test_served_model_answers_a_constrained_query(shared_engine, network, lmql_image):
    script = 'python -c "$MAKE_MODEL" && exec lmql serve-model /tmp/m --host 0.0.0.0 --port 8080'
    options = ("--env", f"MAKE_MODEL={MAKE_MODEL}", "--env", f"QUERY={QUERY}")
    with running(shared_engine, network, lmql_image, "sh", "-c", script, options=options) as container:
        container.wait_healthy()
        answered = container.exec("sh", "-c", 'cd /tmp && echo "$QUERY" > query.py && python query.py').stdout
        assert answered.splitlines()[-1] in {"answer: yes", "answer: no"}
