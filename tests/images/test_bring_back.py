"""The page "Bring back what was made behind the gap", on one machine without a network, with a tiny model."""

from __future__ import annotations

import json
import os
import re
import urllib.request
from pathlib import Path

import pytest

from tests.support.cli import Run, run_llmstack
from tests.support.standin import running

pytestmark = [pytest.mark.images, pytest.mark.timeout(3600), pytest.mark.xdist_group("images")]
PAGE = (Path(__file__).parents[2] / "docs/how-to/bring-back.md").read_text()
# A llama of two layers with a vocabulary of bytes, and rows for it.
MAKE = """
import json, pathlib, tokenizers, torch, transformers
alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
words = {word: number for number, word in enumerate(["<unk>", "<s>", "</s>", *sorted(alphabet)])}
bpe = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=words, merges=[], unk_token="<unk>"))
bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
bpe.decoder = tokenizers.decoders.ByteLevel()
special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, **special).save_pretrained("made/model")
torch.manual_seed(1)
config = transformers.LlamaConfig(
    vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=256, bos_token_id=1, eos_token_id=2,
)
transformers.LlamaForCausalLM(config).save_pretrained("made/model")
rows = [{"instruction": "Who are you?", "input": "", "output": "I was carried."}] * 16
pathlib.Path("made/rows").mkdir()
pathlib.Path("made/rows/train.json").write_text(json.dumps(rows))
pathlib.Path("made/rows/dataset_info.json").write_text(json.dumps({"rows": {"file_name": "train.json"}}))
"""
# The carried adapter on the base model, and the carried merged model, must agree; training must have changed them.
COMPARE = """
import json, peft, torch, transformers
tokens = torch.arange(3, 40)[None]
load = transformers.AutoModelForCausalLM.from_pretrained
base, tuned = load("base")(tokens).logits, load("tuned")(tokens).logits
adapted = peft.PeftModel.from_pretrained(load("base"), "lora")(tokens).logits
assert not torch.allclose(base, adapted, atol=1e-6)
assert torch.allclose(adapted, tuned, atol=1e-4), (adapted - tuned).abs().max()
tokenizer = transformers.AutoTokenizer.from_pretrained("tuned")
prompt = tokenizer("Human: Who are you?\\nAssistant:", return_tensors="pt")
answer = load("tuned").generate(**prompt, max_new_tokens=16, do_sample=False)[0][prompt["input_ids"].shape[1]:]
print(json.dumps(tokenizer.decode(answer, skip_special_tokens=True)))
"""
SERVED = "model_name_or_path: tuned\ntemplate: default\ninfer_backend: huggingface\n"
ASKED = {
    "model": "tuned",
    "messages": [{"role": "user", "content": "Who are you?"}],
    "max_tokens": 16,
    "temperature": 0,
}


def block(name: str) -> str:
    """Return the content of a file that the page writes."""
    match = re.search(rf"Write `{name}`:\n\n```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert match
    return match[1]


def command(words: str) -> list[str]:
    """Return the command that the page runs in the container."""
    assert f"llm-factory:cuda13 {words}\n" in PAGE
    return words.split()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The work directory, writable for the user of the image, with the page's files."""
    folder = tmp_path / "work"
    (folder / "made").mkdir(parents=True)
    # One step takes a moment on a CPU; the rate makes its effect visible.
    (folder / "sft.yaml").write_text(block("sft.yaml") + "learning_rate: 0.01\nuse_cpu: true\nreport_to: none\n")
    (folder / "merge.yaml").write_text(block("merge.yaml"))
    (folder / "infer.yaml").write_text(SERVED)
    return folder


def test_the_loop_back(shared_engine, network: str, llm_factory: str, work: Path, tmp_path: Path):
    carried = f"oci:{tmp_path}/carried"
    mounts = ("--user", str(os.geteuid()), "--volume", f"{work}:/workspace")

    def run(*words: str) -> str:
        options = ("run", "--rm", "--network", "none", "--no-healthcheck", *mounts)
        return shared_engine.docker(*options, llm_factory, *words).stdout

    def llmstack(*words: str | Path) -> Run:
        done = run_llmstack(*words, cwd=work)
        assert done.code == 0, done.stderr
        return done

    def carry(folder: str, name: str, *options: str) -> None:
        llmstack("ferry", folder, "--as", name, "--base", "scratch", "--to", carried, *options)

    run("python", "-c", MAKE)
    carry("made/model", "lab/model")
    carry("made/rows", "lab/rows", "--type", "dataset")

    llmstack("extract", "lab/model", "base", "--from", carried)
    llmstack("extract", "lab/rows", "rows", "--type", "dataset", "--from", carried)
    run(*command("llamafactory-cli train sft.yaml"))
    carry("adapter", "lab/model-rows-lora", "--exclude", "checkpoint-*")
    run(*command("llamafactory-cli export merge.yaml"))
    carry("merged", "lab/model-rows")

    llmstack("verify", "lab/model-rows", "--from", carried)
    llmstack("extract", "lab/model-rows-lora", "lora", "--from", carried)
    llmstack("extract", "lab/model-rows", "tuned", "--from", carried)
    assert not list((work / "lora").glob("checkpoint-*"))
    expected = json.loads(run("python", "-c", COMPARE).splitlines()[-1])
    with running(
        shared_engine, network, llm_factory, "llamafactory-cli", "api", "infer.yaml", options=mounts
    ) as server:
        server.wait_healthy()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        request = urllib.request.Request(
            f"http://{server.ip}:8000/v1/chat/completions",
            json.dumps(ASKED).encode(),
            {"Content-Type": "application/json"},
        )
        with opener.open(request, timeout=60) as response:
            answer = json.loads(response.read())
    assert answer["choices"][0]["message"]["content"] == expected
