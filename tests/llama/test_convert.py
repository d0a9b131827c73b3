"""The output of the conversion, from both input layouts."""

import json

import pytest
import torch
from llama_cases import RecordingReporter, change_params, load_model, read_config, run
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GenerationConfig

from llmstack.llama.conversion_plan import ConversionRequest, plan_conversion
from llmstack.llama.params import Version

pytestmark = pytest.mark.xdist_group("llama")


def test_the_tokenizer_of_the_older_layout_is_one_level_up(copy, tmp_path):
    folder = copy("v1")
    (folder / "tokenizer.model").rename(folder.parent / "tokenizer.model")
    run(folder.parent, tmp_path / "output", model_size="v1")
    assert (tmp_path / "output/model.safetensors").is_file()


def test_model_size_is_ignored_in_the_newer_layout(checkpoints, tmp_path):
    run(checkpoints["v3"].folder, tmp_path / "output", model_size="8B")
    assert (tmp_path / "output/model.safetensors").is_file()


def test_transformers_reads_the_same_shards_and_index_as_it_writes(checkpoints, tmp_path):
    """transformers loads the shards and saves them with the same layout and index."""
    run(checkpoints["v2-grouped"].folder, tmp_path / "ours", max_shard_size="100KB")
    model = load_model(tmp_path / "ours", torch.float32)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="100KB")
    ours, theirs = (read_config(tmp_path / side, "model.safetensors.index.json") for side in ("ours", "theirs"))
    # Version 4 does not count parameters.
    assert theirs["metadata"].items() <= ours["metadata"].items()
    assert set(ours["weight_map"]) == set(theirs["weight_map"])
    names = sorted(path.name for path in (tmp_path / "ours").glob("*.safetensors"))
    assert names == sorted(set(ours["weight_map"].values()))
    assert len(names) > 3
    for name in names:
        with safe_open(tmp_path / "ours" / name, framework="pt") as file:
            assert file.metadata() == {"format": "pt"}
            assert set(file.keys()) == {tensor for tensor, file_name in ours["weight_map"].items() if file_name == name}
            sizes = [file.get_tensor(key).nbytes for key in file.keys()]  # noqa: SIM118 - not a dict
        assert sum(sizes) <= 100_000 or len(sizes) == 1
    config, saved = read_config(tmp_path / "ours"), model.config.to_dict()
    assert {name: saved[name] for name in config if name in saved} == {
        name: value for name, value in config.items() if name in saved
    }


def test_a_tied_output_layer_is_not_written(checkpoints, tmp_path):
    run(checkpoints["v3.2-tied"].folder, tmp_path / "output")
    config = read_config(tmp_path / "output")
    assert config["tie_word_embeddings"] is True
    assert config["rope_scaling"]["factor"] == 32
    assert "lm_head.weight" not in load_file(tmp_path / "output/model.safetensors")


def test_a_checkpoint_without_an_output_layer_is_tied(copy, tmp_path):
    folder = copy("v3.2-tied")
    tensors = torch.load(folder / "consolidated.00.pth", weights_only=True)
    del tensors["output.weight"]
    torch.save(tensors, folder / "consolidated.00.pth")
    run(folder, tmp_path / "output")
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "output", output_loading_info=True)
    assert not info["missing_keys"]
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_type_can_be_chosen(dtype, checkpoints, tmp_path):
    run(checkpoints["v1"].folder, tmp_path / "output", dtype=dtype)
    tensors = load_file(tmp_path / "output/model.safetensors")
    assert {str(tensor.dtype) for tensor in tensors.values()} == {f"torch.{dtype}"}
    original = torch.load(checkpoints["v1"].folder / "consolidated.00.pth", weights_only=True)
    assert torch.equal(tensors["lm_head.weight"], original["output.weight"].to(getattr(torch, dtype)))
    assert str(load_model(tmp_path / "output", "auto").dtype) == f"torch.{dtype}"


def test_the_types_default_is_the_checkpoints(copy, tmp_path):
    folder = copy("v1")
    tensors = torch.load(folder / "consolidated.00.pth", weights_only=True)
    torch.save({name: tensor.bfloat16() for name, tensor in tensors.items()}, folder / "consolidated.00.pth")
    run(folder, tmp_path / "output")
    assert read_config(tmp_path / "output")["torch_dtype"] == "bfloat16"


def test_a_checkpoint_in_the_old_format_is_converted_with_a_warning(copy, tmp_path):
    folder = copy("v1")
    tensors = torch.load(folder / "consolidated.00.pth", weights_only=True)
    run(folder, tmp_path / "new")
    torch.save(tensors, folder / "consolidated.00.pth", _use_new_zipfile_serialization=False)
    reporter = RecordingReporter()
    run(folder, tmp_path / "old", reporter)
    assert "loaded into memory completely" in reporter.warnings[0]
    assert (tmp_path / "old/model.safetensors").read_bytes() == (tmp_path / "new/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("name", "version"), [("v1", "1"), ("v2-grouped", "2"), ("v3", "3"), ("v3.1-scaled", "3.1"), ("v3.2-tied", "3.2")]
)
def test_the_version_is_detected_and_reported(name, version, checkpoints, tmp_path):
    reporter = RecordingReporter()
    plan = plan_conversion(ConversionRequest(checkpoints[name].folder, tmp_path / "output"), reporter)
    assert plan.tokenizer.version == version
    assert any(f"Llama {version} " in note for note in reporter.notes)
    lengths = {"1": 2048, "2": 4096, "3": 8192}
    assert plan.model.config["max_position_embeddings"] == lengths.get(version, 131072)


def test_llama_2_without_grouped_queries_is_detected_by_norm_eps(copy, tmp_path):
    folder = copy("v1")
    params = json.loads((folder / "params.json").read_text()) | {"norm_eps": 1e-5}
    # In some releases, the entries are nested.
    (folder / "params.json").write_text(json.dumps({"model": params}))
    assert plan_conversion(ConversionRequest(folder, tmp_path / "output"), RecordingReporter()).tokenizer.version == "2"


def test_a_given_version_is_used(checkpoints, tmp_path):
    reporter = RecordingReporter()
    plan = plan_conversion(
        ConversionRequest(checkpoints["v1"].folder, tmp_path / "output", version=Version.V2), reporter
    )
    assert plan.model.config["max_position_embeddings"] == 4096
    assert not any("Detected" in note for note in reporter.notes)


def test_a_version_that_contradicts_params_json_gives_a_warning(checkpoints, tmp_path):
    reporter = RecordingReporter()
    plan = plan_conversion(
        ConversionRequest(checkpoints["v3"].folder, tmp_path / "output", version=Version.V3_1), reporter
    )
    assert "use_scaled_rope false" in reporter.warnings[0]
    assert plan.model.config["rope_scaling"] is None


def test_code_llama_has_a_longer_context(copy, tmp_path):
    folder = copy("v2-grouped")
    change_params(folder, rope_theta=1e6)
    plan = plan_conversion(ConversionRequest(folder, tmp_path / "output"), RecordingReporter())
    assert plan.model.config["max_position_embeddings"] == plan.tokenizer.context_length == 16384
    assert plan.model.config["rope_theta"] == 1e6


def test_an_instruct_model_stops_at_turns(checkpoints, tmp_path):
    (tmp_path / "chat.jinja").write_text("{{ messages[0].content }}")
    run(checkpoints["v3.1-scaled"].folder, tmp_path / "output", instruct=True, chat_template=tmp_path / "chat.jinja")
    ids = [262 + 1, 262 + 8, 262 + 9]
    assert read_config(tmp_path / "output")["eos_token_id"] == ids
    assert GenerationConfig.from_pretrained(tmp_path / "output").eos_token_id == ids


def test_progress_counts_every_byte(checkpoints, tmp_path):
    reporter = RecordingReporter()
    run(checkpoints["v1-two-shards"].folder, tmp_path / "output", reporter)
    assert reporter.advanced == reporter.total == read_tensor_bytes(tmp_path / "output/model.safetensors")
    assert reporter.notes[0].startswith("Fetching parameters")
    assert "Loading checkpoint shards" in reporter.notes
    assert reporter.tasks == ["embeddings", "layer 1 of 2", "layer 2 of 2", "output layer"]
    assert reporter.notes[-1].startswith("Saving")


def read_tensor_bytes(path):
    return sum(tensor.nbytes for tensor in load_file(path).values())
