"""llama.cpp, compiled from llama-cpp-python's sdist: completion, conversion and quantization."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from llmstack.image_builds.build_environment import BuildEnvironment
from llmstack.image_builds.build_plan import BuildRequest, plan_images
from llmstack.image_builds.dockerfile import render
from llmstack.image_builds.recipe import images_folder, load_recipes
from llmstack.oci.layout import Layout
from tests.images.conftest import BUILD_TIMEOUT, ask
from tests.support.carried import carry
from tests.support.cli import run_llmstack
from tests.support.process import free_port
from tests.support.standin import CACHE, running

pytestmark = [pytest.mark.images, pytest.mark.timeout(7200), pytest.mark.xdist_group("images")]
SDIST = "llama-cpp-python==0.3.36"
KEY = "key-of-the-tests"
VARIANTS = ("cpu", "cpu-dev")


# Run in the dev image: create a two-layer llama in Hugging Face's format; print PyTorch's answers to prompt and chat.
MAKE_MODEL = """
import json, sentencepiece, torch, transformers
words = ["".join(chr(97 + (7 * line + letter * letter) % 26) for letter in range(5)) for line in range(300)]
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter([" ".join(words[start : start + 6]) for start in range(290)]),
    model_prefix="tokenizer", model_type="bpe", vocab_size=340, byte_fallback=True,
    normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
)
torch.manual_seed(1)
config = transformers.LlamaConfig(
    vocab_size=340, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3,
)
model = transformers.LlamaForCausalLM(config).eval()
# Never special tokens and bytes: llama.cpp does not list a byte that is no complete character.
model.lm_head.weight.data[:259] = 0
model.save_pretrained("model")
tokenizer = transformers.LlamaTokenizer("tokenizer.model")
tokenizer.chat_template = "{{ bos_token }}{% for each in messages %}{{ each['content'] }}{% endfor %}"
tokenizer.save_pretrained("model")
def answer(prompt):
    options = dict(max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
    made = model.generate(torch.tensor([prompt]), **options, output_scores=True, return_dict_in_generate=True)
    leads = [float(best[0] - best[1]) for best in (scores[0].topk(2).values for scores in made.scores)]
    return made.sequences[0, len(prompt) :].tolist(), min(leads)
def chat(word):
    text = tokenizer.apply_chat_template([{"role": "user", "content": word}], tokenize=False)
    return tokenizer(text, add_special_tokens=False).input_ids
# Of several prompts, the one whose tokens lead most clearly: rounding differs between processors.
prompt = max(([1, number, 280, 290] for number in range(260, 290)), key=lambda each: answer(each)[1])
asked = max(words[:30], key=lambda each: answer(chat(each))[1])
print("leads:", answer(prompt)[1], answer(chat(asked))[1])
answers = {"prompt": prompt, "answer": answer(prompt)[0], "asked": asked, "chat": answer(chat(asked))[0]}
print("tokens:", json.dumps(answers))
"""
CONVERT = """
set -e
cd /work
python -c "$MAKE_MODEL"
convert_hf_to_gguf.py model --outtype f32 --outfile model.gguf
llama-quantize model.gguf small.gguf Q8_0
llama-cli --version
"""


@pytest.fixture(scope="module")
def server_images(shared_engine, build_environment, debian, torch_links, tmp_path_factory):
    """The images without and with tools; compiled once per recipe, and cached in a file that git ignores."""
    recipes, digest = load_recipes(images_folder()), hashlib.sha256(SDIST.encode())
    for variant in VARIANTS:
        [plan] = plan_images(recipes, BuildRequest(("llama.cpp",), variant), BuildEnvironment(), lambda _: True)
        digest.update(render(plan).dockerfile.encode())
    names = [f"llama.cpp:{variant}" for variant in VARIANTS]
    cached = CACHE.parent / f"llama.cpp-{digest.hexdigest()[:16]}.tar"
    if cached.exists():
        shared_engine.docker("load", "--input", str(cached))
        return names
    folder = tmp_path_factory.mktemp("sdist")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        SDIST.partition("==")[0],
        "--dest",
        folder,
    ]
    subprocess.run([*pip, SDIST], check=True)
    [source] = folder.glob("*.tar.gz")
    links = ["--build-arg", f"torch_links={torch_links}"] if torch_links else []
    for variant in VARIANTS:
        done = run_llmstack(
            *("build", "llama.cpp", "--variant", variant, "--base", debian, "--base", f"build={debian}"),
            *("--build-arg", f"source={source}", *links),
            env=build_environment,
            timeout=2 * BUILD_TIMEOUT,
        )
        assert done.code == 0, done.stderr[-4000:]
    # The image with tools reuses the compiled server of the other image.
    assert re.search(r"^(llama\.cpp:cpu-dev \[\d+/\d+\]) RUN cmake -B .*\n\1 cached$", done.stderr, re.MULTILINE)
    part = cached.with_suffix(".part")
    shared_engine.docker("save", "--output", str(part), *names)
    part.rename(cached)
    return names


def test_tiny_model_completes_a_prompt_for_clients_with_the_key(shared_engine, network, server_images, tmp_path):
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
    with running(shared_engine, network, server_images[0], options=options) as container:
        container.wait_healthy()
        assert container.exec("id", "-u").stdout == "2000\n"
        body = {"prompt": "abc", "n_predict": 8, "temperature": 0, "seed": 1}
        url = f"http://{container.ip}:8080/completion"
        status, answer = ask(url, body, KEY)
        assert status == 200
        assert answer["tokens_predicted"] == 8
        # Greedy decoding: the same prompt gives the same completion.
        assert ask(url, body, KEY)[1]["content"] == answer["content"]
        assert ask(url, body, "wrong")[0] == 401


def test_a_carried_model_answers_a_chat_as_transformers_does(
    shared_engine, server_images, busybox_base, tmp_path, monkeypatch
):
    """`llmstack serve` from a layout: the same tokens as PyTorch's."""
    work = tmp_path / "work"
    work.mkdir()
    work.chmod(0o777)
    options = ("--volume", f"{work}:/work", "--network", "none", "--env", f"MAKE_MODEL={MAKE_MODEL}")
    done = shared_engine.docker("run", "--rm", *options, server_images[1], "sh", "-c", CONVERT)
    expected = json.loads(re.search("^tokens: (.*)$", done.stdout, re.MULTILINE)[1])
    content = {"tiny-F32.gguf": (work / "model.gguf").read_bytes()}
    base = f"oci:{busybox_base}:latest"
    carry(Layout(tmp_path / "models"), "org--tiny", content, repo_id="org/tiny", base=base)
    monkeypatch.setenv("DOCKER_HOST", shared_engine.host)
    port = free_port()
    options = ("--from", f"oci:{tmp_path}", "--server-image", server_images[0], "--network", "host", "--rm")
    running = ("serve", "org/tiny", *options, "--detach", "--port", str(port), "--context-length", "128")
    done = run_llmstack(*running)
    assert done.code == 0, done.stderr
    try:
        body = {
            "model": "org/tiny",
            "messages": [{"role": "user", "content": expected["asked"]}],
            "max_tokens": 8,
            "temperature": 0,
            "ignore_eos": True,
            "logprobs": True,
        }
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            [choice] = json.loads(response.read())["choices"]
        assert [token["id"] for token in choice["logprobs"]["content"]] == expected["chat"]
    finally:
        run_llmstack("serve", "--stop", "--rm", "org/tiny")


def test_model_is_converted_quantized_and_served(shared_engine, network, server_images, tmp_path):
    """With any uid; the converted model and the quantized one answer as PyTorch does."""
    tmp_path.chmod(0o777)
    work = ("--volume", f"{tmp_path}:/work")
    options = (*work, "--network", "none", "--user", "1234:1234", "--env", f"MAKE_MODEL={MAKE_MODEL}")
    done = shared_engine.docker("run", "--rm", *options, server_images[1], "sh", "-c", CONVERT)
    expected = json.loads(re.search("^tokens: (.*)$", done.stdout, re.MULTILINE)[1])
    sizes = {name: (tmp_path / name).stat().st_size for name in ("model.gguf", "small.gguf")}
    assert sizes["small.gguf"] < sizes["model.gguf"] / 2
    body = {"prompt": expected["prompt"], "n_predict": 8, "temperature": 0, "ignore_eos": True, "return_tokens": True}
    answers = {}
    for name in sizes:
        options = (*work, "--env", f"LLAMA_ARG_MODEL=/work/{name}", "--env", "LLAMA_ARG_CTX_SIZE=128")
        with running(shared_engine, network, server_images[1], options=options) as container:
            container.wait_healthy()
            status, answers[name] = ask(f"http://{container.ip}:8080/completion", body, KEY)
            assert status == 200
    assert {name: answer["tokens"] for name, answer in answers.items()} == dict.fromkeys(sizes, expected["answer"])
