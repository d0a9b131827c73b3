"""Input that the conversion refuses; no partial output stays."""

import math

import pytest
import torch
from llama_cases import change_params, run
from tests.support.disk import unsized_disk

from llmstack.errors import IntegrityError, NotFoundError, UnavailableError, UsageError
from llmstack.llama.conversion_plan import ConversionRequest, plan_conversion
from llmstack.llama.convert import convert
from llmstack.llama.params import Version
from llmstack.llama.staging import STAGING
from llmstack.reporting import make_reporter

pytestmark = pytest.mark.xdist_group("llama")


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


def put_in_place_of(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def truncate_params(folder):
    (folder / "params.json").write_text('{"dim": 64')


def drop_a_parameter(folder):
    (folder / "params.json").write_text('{"dim": 64}')


def drop_tokenizer(folder):
    (folder / "tokenizer.model").unlink()


def cut_tokenizer(folder):
    """Cut a vocabulary between two lines: it is valid, but smaller than the model's."""
    lines = (folder / "tokenizer.model").read_bytes().splitlines(keepends=True)
    (folder / "tokenizer.model").write_bytes(b"".join(lines[:-2]))


WEB_PAGE = b"\n<!DOCTYPE html><html><title>Sign in</title></html>"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n"
REFUSED = [
    ("v1-two-shards", drop_all_shards, {}, NotFoundError, "no consolidated.00.pth"),
    ("v1-two-shards", drop_first_shard, {}, NotFoundError, "1 of 2 shards found; missing: consolidated.00.pth"),
    ("v1-two-shards", drop_second_shard, {}, IntegrityError, "each holds 1/2 of .*, but 1 were found"),
    ("v1-two-shards", drop_second_shard, {"num_shards": 2}, NotFoundError, "missing: consolidated.01.pth"),
    ("v1-two-shards", break_nothing, {"num_shards": 1}, UsageError, "--num_shards is 1"),
    ("v1", truncate, {}, IntegrityError, "consolidated.00.pth: truncated"),
    ("v1", empty_shard, {}, IntegrityError, "consolidated.00.pth: truncated"),
    ("v1", put_in_place_of("consolidated.00.pth", b"404: Not Found"), {}, IntegrityError, "00.pth: truncated"),
    ("v1", put_in_place_of("consolidated.00.pth", WEB_PAGE), {}, IntegrityError, "consolidated.00.pth: a web page"),
    ("v1", put_in_place_of("params.json", WEB_PAGE), {}, IntegrityError, "params.json: a web page"),
    ("v1", put_in_place_of("tokenizer.model", WEB_PAGE), {}, IntegrityError, "tokenizer.model: a web page"),
    ("v1", put_in_place_of("params.json", LFS_POINTER), {}, IntegrityError, "params.json: a Git LFS pointer"),
    ("v1", put_in_place_of("consolidated.00.pth", LFS_POINTER), {}, IntegrityError, "00.pth: a Git LFS pointer"),
    ("v1", put_in_place_of("tokenizer.model", LFS_POINTER), {}, IntegrityError, "tokenizer.model: a Git LFS pointer"),
    ("v1", put_in_place_of("params.json", b"[]"), {}, IntegrityError, "params.json: not a JSON object"),
    ("v1", put_in_place_of("params.json", b"\xff\xfe{"), {}, IntegrityError, "params.json: not text"),
    ("v1", put_in_place_of("params.json", b"[" * 100_000), {}, IntegrityError, "params.json: not a JSON object"),
    ("v1", put_no_tensors, {}, IntegrityError, "not a mapping of names to tensors"),
    ("v1", add_an_adapter, {}, IntegrityError, "lora_a.weight does not belong"),
    ("v1", drop_a_tensor, {}, IntegrityError, "layers.1.ffn_norm.weight is missing"),
    ("v1", make_too_large_for_float16, {"dtype": "float16"}, IntegrityError, "too large for float16"),
    ("v1", with_params(dim=128), {}, IntegrityError, r"has shape \[700, 64\], but \[700, 128\] by params.json"),
    ("v1", with_params(multiple_of=128), {}, IntegrityError, "feed_forward.w1.weight has shape"),
    ("v1", with_params(n_layers=3), {}, IntegrityError, "layers.2.attention.wq.weight is missing"),
    ("v1", with_params(n_layers=1), {}, IntegrityError, "nor do 8 other tensors"),
    ("v1", with_params(n_heads=5), {}, IntegrityError, "contradict each other"),
    ("v1", with_params(dim=10**400), {}, IntegrityError, "integer 10+ does not fit into 64 bits"),
    ("v1", with_params(n_layers=10**6), {}, IntegrityError, "n_layers is 1000000, must be an integer from 1 to 10,000"),
    (
        "v1",
        with_params(ffn_dim_multiplier=float("inf")),
        {},
        IntegrityError,
        "params.json: invalid JSON: number Infinity is too large",
    ),
    ("v1", with_params(dim="64"), {}, IntegrityError, "dim is '64', must be an integer from 1 to"),
    ("v2-grouped", with_params(n_kv_heads=1), {}, IntegrityError, "attention.wk.weight has shape"),
    ("v3-two-shards", with_params(n_kv_heads=1), {}, IntegrityError, "cannot be split over 2"),
    ("v1", drop_params, {}, NotFoundError, "no params.json"),
    ("v1", truncate_params, {}, IntegrityError, "params.json: invalid JSON: Expecting"),
    ("v1", drop_a_parameter, {}, IntegrityError, "'n_layers' is missing"),
    ("v1", drop_tokenizer, {}, NotFoundError, "no tokenizer.model"),
    ("v3", cut_tokenizer, {}, IntegrityError, "516 tokens, but the model has 518"),
    ("v1", break_nothing, {"version": Version.V3}, UsageError, "does not match tokenizer.model"),
    ("v3", break_nothing, {"version": Version.V2}, UsageError, "does not match tokenizer.model"),
    ("v1", break_nothing, {"max_shard_size": "5 pounds"}, UsageError, "invalid size '5 pounds'"),
    ("v1", break_nothing, {"max_shard_size": "0GB"}, UsageError, "invalid size '0GB'"),
    ("v1", break_nothing, {"instruct": True}, UsageError, "--chat_template FILE require each other"),
    ("v3", drop_params, {"tokenizer_only": True}, UsageError, "version cannot be detected"),
]


@pytest.mark.parametrize(("name", "change", "options", "error", "message"), REFUSED)
def test_invalid_input_is_refused_without_output(name, change, options, error, message, copy, tmp_path):
    folder = copy(name)
    output = tmp_path / "below/output"
    change(folder)
    with pytest.raises(error, match=message):
        run(folder, output, **options)
    assert not output.exists()


def test_existing_model_sizes_are_named(copy, tmp_path):
    folder = copy("v1")
    with pytest.raises(NotFoundError) as caught:
        run(folder.parent, tmp_path / "output", model_size="13B")
    assert "--model_size v1" in caught.value.hint
    with pytest.raises(NotFoundError, match="no such directory"):
        run(tmp_path / "nowhere", tmp_path / "output")


def test_too_little_disk_space_is_refused_before_writing(copy, tmp_path):
    """A small file declares tensors of petabytes: one number each, repeated by strides."""
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


@pytest.mark.system
def test_a_disk_of_unknown_size_is_not_full(checkpoints, tmp_path):
    with unsized_disk(tmp_path / "disk") as disk:
        run(checkpoints["v1"].folder, disk / "output")
        assert (disk / "output/config.json").exists()


def test_an_output_directory_that_is_not_empty_is_refused(checkpoints, tmp_path):
    (tmp_path / "output").mkdir()
    (tmp_path / "output/mine.txt").write_text("precious")
    with pytest.raises(UsageError, match=r"not empty \(mine.txt\)"):
        run(checkpoints["v1"].folder, tmp_path / "output")
    with pytest.raises(UsageError, match="not a directory"):
        run(checkpoints["v1"].folder, tmp_path / "output/mine.txt")
    assert (tmp_path / "output/mine.txt").read_text() == "precious"


def test_an_existing_empty_output_directory_is_kept_after_an_error(checkpoints, copy, tmp_path):
    (tmp_path / "output").mkdir()
    folder = copy("v1")
    make_too_large_for_float16(folder)
    with pytest.raises(IntegrityError):
        run(folder, tmp_path / "output", dtype="float16")
    assert list((tmp_path / "output").iterdir()) == []
    run(checkpoints["v1"].folder, tmp_path / "output")
    assert not (tmp_path / "output" / STAGING).exists()


def test_files_of_an_interrupted_run_are_replaced(checkpoints, tmp_path):
    """A run that was killed while it moved files leaves `.part`, so the other files are known to be incomplete."""
    run(checkpoints["v1"].folder, tmp_path / "complete", max_shard_size="50KB")
    output = tmp_path / "output"
    (output / STAGING).mkdir(parents=True)
    (output / STAGING / "config.json").write_text("{}")
    (output / "model-00001-of-00009.safetensors").write_bytes(b"old")
    (output / "tokenizer.json").write_text("old")
    run(checkpoints["v1"].folder, output, max_shard_size="50KB")
    found, expected = (
        {path.name: path.read_bytes() for path in folder.iterdir()} for folder in (output, tmp_path / "complete")
    )
    assert found == expected


def test_other_files_next_to_an_interrupted_run_are_not_removed(checkpoints, tmp_path):
    output = tmp_path / "output"
    (output / STAGING).mkdir(parents=True)
    (output / "notes.txt").write_text("precious")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        run(checkpoints["v1"].folder, output)
    assert (output / "notes.txt").read_text() == "precious"


def test_planned_sizes_equal_the_sizes_of_the_files(checkpoints, tmp_path):
    reporter = make_reporter("none", quiet=True)
    plan = plan_conversion(
        ConversionRequest(checkpoints["v3"].folder, tmp_path / "output", max_shard_size="64KiB"), reporter
    )
    convert(plan, reporter)
    for file in plan.model.files:
        assert (tmp_path / "output" / file.name).stat().st_size == file.size
        assert math.prod(file.weights[0].shape) > 0
