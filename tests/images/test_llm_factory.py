"""llm-factory for CPUs: the web UI answers, and the command line trains an adapter."""

from __future__ import annotations

import urllib.request

import pytest

from tests.images.tiny_model import MAKE_MODEL
from tests.support.standin import running

pytestmark = [pytest.mark.images, pytest.mark.timeout(3600), pytest.mark.xdist_group("images")]
# Train one step of a LoRA adapter.
TRAIN = """
set -e
mkdir -p /tmp/train/data
cd /tmp/train
MODEL=/tmp/train/model python -c "$MAKE_MODEL"
echo '{"rows": {"file_name": "rows.json"}}' > data/dataset_info.json
echo '[{"instruction": "Say a", "input": "", "output": "a"}, {"instruction": "Say b", "output": "b"}]' > data/rows.json
cat > sft.yaml << END
model_name_or_path: model
stage: sft
do_train: true
finetuning_type: lora
lora_target: all
dataset: rows
dataset_dir: data
template: default
cutoff_len: 64
max_steps: 1
per_device_train_batch_size: 1
output_dir: adapter
report_to: none
use_cpu: true
END
llamafactory-cli train sft.yaml
ls adapter
python -c 'import deepspeed; print("deepspeed", deepspeed.__version__)'
"""


@pytest.fixture(scope="module")
def factory(shared_engine, network, llm_factory):
    with running(shared_engine, network, llm_factory) as container:
        container.wait_healthy()
        yield container


def test_web_ui_answers_and_does_not_run_as_root(factory):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{factory.ip}:7860/", timeout=30) as response:
        assert b"gradio" in response.read()
    assert factory.exec("id", "-u").stdout == "2000\n"


def test_command_line_imports_its_libraries_and_is_offline(factory):
    assert "0.9.5" in factory.exec("llamafactory-cli", "version").stdout
    code = "import torch, peft, trl; from huggingface_hub import constants; print(constants.HF_HUB_OFFLINE)"
    assert factory.exec("python", "-c", code).stdout.splitlines()[-1] == "True"


def test_command_line_trains_an_adapter_with_deepspeed_installed(factory):
    done = factory.exec("env", f"MAKE_MODEL={MAKE_MODEL}", "bash", "-c", TRAIN)
    lines = done.stdout.splitlines()
    assert "adapter_model.safetensors" in lines
    assert lines[-1] == "deepspeed 0.16.9"
