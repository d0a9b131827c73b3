"""What the conversion writes, from both layouts, and what it refuses; either way nothing half written stays."""

import json
import math
import shutil

import pytest
import torch
from llama_cases import load_model
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GenerationConfig

from llmstack.errors import IntegrityError, NotFoundError, UnavailableError, UsageError
from llmstack.llama.convert import convert
from llmstack.llama.params import Version
from llmstack.llama.plan import Request, prepare
from llmstack.llama.staging import PART
from llmstack.reporting import make_reporter

pytestmark = pytest.mark.xdist_group("llama")


class Notes:
    """A reporter that keeps what it is told."""

    def __init__(self):
        self.notes, self.warnings, self.tasks = [], [], []
        self.advanced = self.total = 0

    def begin(self, title, total):
        self.notes.append(title)
        self.total += total

    def task(self, name, size):  # noqa: ARG002 - the protocol's names
        self.tasks.append(name)
        return self

    def advance(self, size):
        self.advanced += size

    def done(self):
        pass

    def end(self):
        pass

    def note(self, message):
        self.notes.append(message)

    def warn(self, message):
        self.warnings.append(message)


def run(input_dir, output_dir, reporter=None, **options):
    reporter = reporter or make_reporter("none", quiet=True)
    convert(prepare(Request(input_dir, output_dir, **options), reporter), reporter)


@pytest.fixture
def copy(checkpoints, tmp_path):
    """Return a function that copies a checkpoint, to be spoilt."""
    return lambda name: shutil.copytree(checkpoints[name].folder, tmp_path / "LLaMA" / name)


def read_config(folder, name="config.json"):
    return json.loads((folder / name).read_text())


def change_params(folder, **entries):
    path = folder / "params.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


# What is written


def test_the_older_layout_has_the_tokenizer_one_level_up(copy, tmp_path):
    folder = copy("v1")
    (folder / "tokenizer.model").rename(folder.parent / "tokenizer.model")
    run(folder.parent, tmp_path / "output", model_size="v1")
    assert (tmp_path / "output/model.safetensors").is_file()


def test_the_newer_layout_takes_no_notice_of_the_model_size(checkpoints, tmp_path):
    run(checkpoints["v3"].folder, tmp_path / "output", model_size="8B")
    assert (tmp_path / "output/model.safetensors").is_file()


def test_transformers_reads_the_same_shards_and_index_as_it_writes(checkpoints, tmp_path):
    """Let transformers load the shards and save them again: the same layout, the same index."""
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
            assert set(file.keys()) == {target for target, place in ours["weight_map"].items() if place == name}
            sizes = [file.get_tensor(key).nbytes for key in file.keys()]  # noqa: SIM118 - not a dict
        assert sum(sizes) <= 100_000 or len(sizes) == 1
    config, saved = read_config(tmp_path / "ours"), model.config.to_dict()
    assert {name: saved[name] for name in config if name in saved} == {
        name: value for name, value in config.items() if name in saved
    }


def test_a_tied_output_layer_is_left_out(checkpoints, tmp_path):
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


def test_a_checkpoint_of_the_format_before_zip_is_loaded_whole_and_said(copy, tmp_path):
    folder = copy("v1")
    tensors = torch.load(folder / "consolidated.00.pth", weights_only=True)
    run(folder, tmp_path / "new")
    torch.save(tensors, folder / "consolidated.00.pth", _use_new_zipfile_serialization=False)
    notes = Notes()
    run(folder, tmp_path / "old", notes)
    assert "loaded whole" in notes.warnings[0]
    assert (tmp_path / "old/model.safetensors").read_bytes() == (tmp_path / "new/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("name", "version"), [("v1", "1"), ("v2-grouped", "2"), ("v3", "3"), ("v3.1-scaled", "3.1"), ("v3.2-tied", "3.2")]
)
def test_the_version_is_guessed_and_said(name, version, checkpoints, tmp_path):
    notes = Notes()
    plan = prepare(Request(checkpoints[name].folder, tmp_path / "output"), notes)
    assert plan.tokenizer.version == version
    assert any(f"Llama {version} " in note for note in notes.notes)
    lengths = {"1": 2048, "2": 4096, "3": 8192}
    assert plan.model.config["max_position_embeddings"] == lengths.get(version, 131072)


def test_llama_2_without_grouped_queries_is_known_by_its_epsilon(copy, tmp_path):
    folder = copy("v1")
    params = json.loads((folder / "params.json").read_text()) | {"norm_eps": 1e-5}
    # Some releases nest the entries.
    (folder / "params.json").write_text(json.dumps({"model": params}))
    assert prepare(Request(folder, tmp_path / "output"), Notes()).tokenizer.version == "2"


def test_the_given_version_is_taken(checkpoints, tmp_path):
    notes = Notes()
    plan = prepare(Request(checkpoints["v1"].folder, tmp_path / "output", version=Version.V2), notes)
    assert plan.model.config["max_position_embeddings"] == 4096
    assert not any("Taken for" in note for note in notes.notes)


def test_an_unusual_version_is_warned_of(checkpoints, tmp_path):
    notes = Notes()
    plan = prepare(Request(checkpoints["v3"].folder, tmp_path / "output", version=Version.V3_1), notes)
    assert "use_scaled_rope false" in notes.warnings[0]
    assert plan.model.config["rope_scaling"] is None


def test_code_llama_has_a_longer_context(copy, tmp_path):
    folder = copy("v2-grouped")
    change_params(folder, rope_theta=1e6)
    plan = prepare(Request(folder, tmp_path / "output"), Notes())
    assert plan.model.config["max_position_embeddings"] == plan.tokenizer.context_length == 16384
    assert plan.model.config["rope_theta"] == 1e6


def test_an_instruct_model_stops_at_turns(checkpoints, tmp_path):
    (tmp_path / "chat.jinja").write_text("{{ messages[0].content }}")
    run(checkpoints["v3.1-scaled"].folder, tmp_path / "output", instruct=True, chat_template=tmp_path / "chat.jinja")
    ids = [262 + 1, 262 + 8, 262 + 9]
    assert read_config(tmp_path / "output")["eos_token_id"] == ids
    assert GenerationConfig.from_pretrained(tmp_path / "output").eos_token_id == ids


def test_the_progress_covers_every_byte(checkpoints, tmp_path):
    notes = Notes()
    run(checkpoints["v1-two-shards"].folder, tmp_path / "output", notes)
    assert notes.advanced == notes.total == read_tensor_bytes(tmp_path / "output/model.safetensors")
    assert notes.notes[0].startswith("Fetching parameters")
    assert "Loading checkpoint shards" in notes.notes
    assert notes.tasks == ["embeddings", "layer 1 of 2", "layer 2 of 2", "output layer"]
    assert notes.notes[-1].startswith("Saving")


def read_tensor_bytes(path):
    return sum(tensor.nbytes for tensor in load_file(path).values())


# What is refused


def break_nothing(folder):
    pass


def drop_first_shard(folder):
    (folder / "consolidated.00.pth").unlink()


def drop_second_shard(folder):
    (folder / "consolidated.01.pth").unlink()


def drop_all_shards(folder):
    for path in folder.glob("*.pth"):
        path.unlink()


def truncate(folder):
    with (folder / "consolidated.00.pth").open("r+b") as file:
        file.truncate(20_000)


def empty_shard(folder):
    (folder / "consolidated.00.pth").write_bytes(b"")


def put_text_for_a_shard(folder):
    (folder / "consolidated.00.pth").write_text("<html>404 not found</html>")


def put_no_tensors(folder):
    torch.save(["no", "tensors"], folder / "consolidated.00.pth")


def add_an_adapter(folder):
    tensors = torch.load(folder / "consolidated.00.pth", weights_only=True)
    torch.save(tensors | {"layers.0.attention.wq.lora_a.weight": torch.ones(2)}, folder / "consolidated.00.pth")


def drop_a_tensor(folder):
    tensors = torch.load(folder / "consolidated.00.pth", weights_only=True)
    del tensors["layers.1.ffn_norm.weight"]
    torch.save(tensors, folder / "consolidated.00.pth")


def make_too_large_for_float16(folder):
    tensors = torch.load(folder / "consolidated.00.pth", weights_only=True)
    tensors["layers.1.feed_forward.w2.weight"] *= 1e6
    torch.save(tensors, folder / "consolidated.00.pth")


def with_params(**entries):
    return lambda folder: change_params(folder, **entries)


def drop_params(folder):
    (folder / "params.json").unlink()


def spoil_params(folder):
    (folder / "params.json").write_text('{"dim": 64')


def drop_a_parameter(folder):
    (folder / "params.json").write_text('{"dim": 64}')


def drop_tokenizer(folder):
    (folder / "tokenizer.model").unlink()


def cut_tokenizer(folder):
    """Cut a vocabulary between two lines: it looks whole, but is shorter than the model's."""
    lines = (folder / "tokenizer.model").read_bytes().splitlines(keepends=True)
    (folder / "tokenizer.model").write_bytes(b"".join(lines[:-2]))


REFUSED = [
    ("v1-two-shards", drop_all_shards, {}, NotFoundError, "no consolidated.00.pth"),
    ("v1-two-shards", drop_first_shard, {}, NotFoundError, "1 of 2 shards are there; missing: consolidated.00.pth"),
    ("v1-two-shards", drop_second_shard, {}, IntegrityError, "each holds 1/2 of .*, but there are 1"),
    ("v1-two-shards", drop_second_shard, {"num_shards": 2}, NotFoundError, "missing: consolidated.01.pth"),
    ("v1-two-shards", break_nothing, {"num_shards": 1}, UsageError, "--num_shards says 1"),
    ("v1", truncate, {}, IntegrityError, "consolidated.00.pth: truncated"),
    ("v1", empty_shard, {}, IntegrityError, "consolidated.00.pth: truncated"),
    ("v1", put_text_for_a_shard, {}, IntegrityError, "consolidated.00.pth: truncated"),
    ("v1", put_no_tensors, {}, IntegrityError, "something else than tensors"),
    ("v1", add_an_adapter, {}, IntegrityError, "lora_a.weight does not belong"),
    ("v1", drop_a_tensor, {}, IntegrityError, "layers.1.ffn_norm.weight is missing"),
    ("v1", make_too_large_for_float16, {"dtype": "float16"}, IntegrityError, "too large for float16"),
    ("v1", with_params(dim=128), {}, IntegrityError, r"has shape \[700, 64\], params.json makes it \[700, 128\]"),
    ("v1", with_params(multiple_of=128), {}, IntegrityError, "feed_forward.w1.weight has shape"),
    ("v1", with_params(n_layers=3), {}, IntegrityError, "layers.2.attention.wq.weight is missing"),
    ("v1", with_params(n_layers=1), {}, IntegrityError, "nor do 8 other tensors"),
    ("v1", with_params(n_heads=5), {}, IntegrityError, "do not fit together"),
    ("v1", with_params(dim="64"), {}, IntegrityError, "dim is '64', not a positive whole number"),
    ("v2-grouped", with_params(n_kv_heads=1), {}, IntegrityError, "attention.wk.weight has shape"),
    ("v3-two-shards", with_params(n_kv_heads=1), {}, IntegrityError, "cannot be split over 2"),
    ("v1", drop_params, {}, NotFoundError, "no params.json"),
    ("v1", spoil_params, {}, IntegrityError, "params.json: Expecting"),
    ("v1", drop_a_parameter, {}, IntegrityError, "'n_layers' is missing"),
    ("v1", drop_tokenizer, {}, NotFoundError, "no tokenizer.model"),
    ("v3", cut_tokenizer, {}, IntegrityError, "516 tokens, but the model has 518"),
    ("v1", break_nothing, {"version": Version.V3}, UsageError, "does not fit tokenizer.model"),
    ("v3", break_nothing, {"version": Version.V2}, UsageError, "does not fit tokenizer.model"),
    ("v1", break_nothing, {"max_shard_size": "5 pounds"}, UsageError, "'5 pounds' is not a size"),
    ("v1", break_nothing, {"max_shard_size": "0GB"}, UsageError, "'0GB' is not a size"),
    ("v1", break_nothing, {"instruct": True}, UsageError, "--chat_template FILE go together"),
    ("v3", drop_params, {"tokenizer_only": True}, UsageError, "version cannot be guessed"),
]


@pytest.mark.parametrize(("name", "spoil", "options", "error", "message"), REFUSED)
def test_what_cannot_be_converted_is_refused_and_leaves_nothing(name, spoil, options, error, message, copy, tmp_path):
    folder = copy(name)
    output = tmp_path / "below/output"
    spoil(folder)
    with pytest.raises(error, match=message):
        run(folder, output, **options)
    assert not output.exists()


def test_the_sizes_that_are_there_are_named(copy, tmp_path):
    folder = copy("v1")
    with pytest.raises(NotFoundError) as caught:
        run(folder.parent, tmp_path / "output", model_size="13B")
    assert "--model_size v1" in caught.value.hint
    with pytest.raises(NotFoundError, match="no such folder"):
        run(tmp_path / "nowhere", tmp_path / "output")


def test_a_full_disk_is_seen_before_anything_is_written(copy, tmp_path):
    """Let a small file claim tensors of petabytes: one number each, repeated by strides."""
    folder = copy("v1")
    tensors = torch.load(folder / "consolidated.00.pth", weights_only=True)
    factor = 2**20
    for name, tensor in tensors.items():
        if name != "rope.freqs":
            sizes = [700 if size == 700 else size * factor for size in tensor.shape]
            tensors[name] = torch.zeros(1).expand(sizes)
    torch.save(tensors, folder / "consolidated.00.pth")
    change_params(folder, dim=64 * factor, multiple_of=32 * factor)
    with pytest.raises(UnavailableError, match=r"PB are needed, .* are free"):
        run(folder, tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_an_output_folder_with_something_in_it_is_refused(checkpoints, tmp_path):
    (tmp_path / "output").mkdir()
    (tmp_path / "output/mine.txt").write_text("precious")
    with pytest.raises(UsageError, match=r"not empty \(mine.txt\)"):
        run(checkpoints["v1"].folder, tmp_path / "output")
    with pytest.raises(UsageError, match="is not a folder"):
        run(checkpoints["v1"].folder, tmp_path / "output/mine.txt")
    assert (tmp_path / "output/mine.txt").read_text() == "precious"


def test_an_empty_output_folder_is_used_and_kept_when_it_fails(checkpoints, copy, tmp_path):
    (tmp_path / "output").mkdir()
    folder = copy("v1")
    make_too_large_for_float16(folder)
    with pytest.raises(IntegrityError):
        run(folder, tmp_path / "output", dtype="float16")
    assert list((tmp_path / "output").iterdir()) == []
    run(checkpoints["v1"].folder, tmp_path / "output")
    assert not (tmp_path / "output" / PART).exists()


def test_what_an_interrupted_run_left_is_replaced(checkpoints, tmp_path):
    """Be killed between two of the last moves: `.part` is still there, so the rest is known to be unfinished."""
    run(checkpoints["v1"].folder, tmp_path / "whole", max_shard_size="50KB")
    output = tmp_path / "output"
    (output / PART).mkdir(parents=True)
    (output / PART / "config.json").write_text("{}")
    (output / "model-00001-of-00009.safetensors").write_bytes(b"old")
    (output / "tokenizer.json").write_text("old")
    run(checkpoints["v1"].folder, output, max_shard_size="50KB")
    found, expected = (
        {path.name: path.read_bytes() for path in folder.iterdir()} for folder in (output, tmp_path / "whole")
    )
    assert found == expected


def test_what_an_interrupted_run_did_not_leave_is_not_touched(checkpoints, tmp_path):
    output = tmp_path / "output"
    (output / PART).mkdir(parents=True)
    (output / "notes.txt").write_text("precious")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        run(checkpoints["v1"].folder, output)
    assert (output / "notes.txt").read_text() == "precious"


def test_sizes_of_the_plan_are_those_of_the_files(checkpoints, tmp_path):
    reporter = make_reporter("none", quiet=True)
    plan = prepare(Request(checkpoints["v3"].folder, tmp_path / "output", max_shard_size="64KiB"), reporter)
    convert(plan, reporter)
    for file in plan.model.files:
        assert (tmp_path / "output" / file.name).stat().st_size == file.size
        assert math.prod(file.weights[0].shape) > 0
