"""The logits of the converted model equal Meta's. Controls show which errors the comparison would find."""

import json
import shutil

import pytest
import torch
from llama_cases import CASES, load_model
from safetensors.torch import load_file, save_file

from llmstack.llama.conversion_plan import ConversionRequest, plan_conversion
from llmstack.llama.convert import convert
from llmstack.reporting import make_reporter

pytestmark = pytest.mark.xdist_group("llama")
LIMIT = 1e-4


@pytest.fixture(scope="module")
def converted(checkpoints, tmp_path_factory):
    """Return a function that converts each checkpoint once, with a detected version."""
    done = {}

    def convert_once(name):
        if name not in done:
            done[name] = tmp_path_factory.mktemp("converted") / name
            reporter = make_reporter("none", quiet=True)
            convert(plan_conversion(ConversionRequest(checkpoints[name].folder, done[name]), reporter), reporter)
        return done[name]

    return convert_once


def difference(folder, expected):
    """Return the largest difference between a converted model's logits and Meta's."""
    model = load_model(folder, torch.float32)
    with torch.inference_mode():
        logits = model(expected["tokens"]).logits
    return (logits - expected["logits"]).abs().max().item()


def expected_of(checkpoint):
    return torch.load(checkpoint.folder / "expected.pt", weights_only=True)


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_those_of_metas_model(name, checkpoints, converted):
    found = difference(converted(name), expected_of(checkpoints[name]))
    print(f"{name}: largest logit difference {found:.1e}")
    assert found < LIMIT


@pytest.mark.parametrize("projection", ["q_proj", "k_proj"])
@pytest.mark.parametrize("name", ["v1", "v2-grouped", "v3"])
def test_control_a_missing_rotary_permutation_is_found(name, projection, checkpoints, converted, tmp_path):
    """Restore Meta's row order in one layer, as a converter without the permutation would."""
    folder = shutil.copytree(converted(name), tmp_path / "wrong")
    tensors = load_file(folder / "model.safetensors")
    target = f"model.layers.0.self_attn.{projection}.weight"
    source = f"layers.0.attention.w{projection[0]}.weight"
    original = torch.load(checkpoints[name].folder / "consolidated.00.pth", weights_only=True)[source]
    assert not torch.equal(tensors[target], original)
    tensors[target] = original
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert difference(folder, expected_of(checkpoints[name])) > 1000 * LIMIT


@pytest.mark.parametrize(
    ("name", "entry", "value"),
    [
        ("v3", "rope_theta", 10000.0),
        ("v3.1-scaled", "rope_scaling", None),
        ("v3.2-tied", "rope_scaling", {"factor": 8.0}),
        ("v1", "rms_norm_eps", 1e-2),
    ],
)
def test_control_a_wrong_constant_is_found(name, entry, value, checkpoints, converted, tmp_path):
    folder = shutil.copytree(converted(name), tmp_path / "wrong")
    config = json.loads((folder / "config.json").read_text())
    config[entry] = config[entry] | value if isinstance(value, dict) else value
    (folder / "config.json").write_text(json.dumps(config))
    assert difference(folder, expected_of(checkpoints[name])) > 10 * LIMIT
