"""The converted tokenizers give the same ids as the original ones, on texts of many scripts and on random texts."""

import json
import random

import pytest
from llama_cases import TEXTS
from llama_models.llama3.tokenizer import Tokenizer as MetaTokenizer
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from transformers import AutoTokenizer

from llmstack.errors import IntegrityError, UsageError
from llmstack.llama.conversion_plan import ConversionRequest, plan_conversion
from llmstack.llama.convert import convert
from llmstack.llama.params import Version
from llmstack.llama.tiktoken_bpe import special_tokens
from llmstack.llama.tokenizer import read_vocabulary
from llmstack.reporting import make_reporter

pytestmark = pytest.mark.xdist_group("llama")
ALPHABET = "ab  .,'\n\tAZ09é漢👩\u200d\u0301ßдs'll re "


def random_texts(count, seed=11):
    """Return texts in which merges occur in every order: few letters, many repetitions."""
    draw = random.Random(seed)
    texts = ["".join(draw.choices(ALPHABET, k=draw.randint(1, 40))) for _ in range(count)]
    return texts + ["".join(draw.choices("ab ", k=30)) for _ in range(count)]


def convert_tokenizer(tokenizer, version, folder, **options):
    source = folder / "source"
    source.mkdir()
    (source / "tokenizer.model").write_bytes(tokenizer.read_bytes())
    output = folder / "output"
    reporter = make_reporter("none", quiet=True)
    convert(
        plan_conversion(ConversionRequest(source, output, version=version, tokenizer_only=True, **options), reporter),
        reporter,
    )
    return output


@pytest.fixture
def converted_sentencepiece(sentencepiece_model, tmp_path):
    return AutoTokenizer.from_pretrained(convert_tokenizer(sentencepiece_model, Version.V2, tmp_path))


@pytest.fixture(scope="module")
def converted_tiktoken(meta_tokenizer_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiktoken")
    return AutoTokenizer.from_pretrained(convert_tokenizer(meta_tokenizer_model, Version.V3_1, folder))


def test_sentencepiece_ids_equal_those_of_the_original(sentencepiece_model, converted_sentencepiece):
    original = SentencePieceProcessor(model_file=str(sentencepiece_model))
    for text in [*TEXTS, *random_texts(2000)]:
        expected = original.encode(text)
        assert converted_sentencepiece.encode(text, add_special_tokens=False) == expected, repr(text)
        assert converted_sentencepiece.encode(text) == [original.bos_id(), *expected], repr(text)
        assert converted_sentencepiece.decode(expected) == original.decode(expected), repr(text)
    assert len(converted_sentencepiece) == original.get_piece_size()
    assert converted_sentencepiece.eos_token_id == original.eos_id()


def test_tiktoken_ids_equal_those_of_the_original(meta_tokenizer_model, converted_tiktoken):
    original = MetaTokenizer(meta_tokenizer_model)
    for text in [*TEXTS, *random_texts(2000)]:
        expected = original.encode(text, bos=False, eos=False)
        assert converted_tiktoken.encode(text, add_special_tokens=False) == expected, repr(text)
        assert converted_tiktoken.encode(text) == original.encode(text, bos=True, eos=False), repr(text)
        assert converted_tiktoken.decode(expected) == text
    assert len(converted_tiktoken) == original.n_words == 128256
    assert converted_tiktoken.eos_token_id == original.eos_id


def test_special_token_ids_equal_those_of_the_original(meta_tokenizer_model, converted_tiktoken):
    original = MetaTokenizer(meta_tokenizer_model)
    text = "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|eom_id|><|python_tag|><|finetune_right_pad_id|>"
    expected = original.encode(text, bos=True, eos=False, allowed_special="all")
    assert converted_tiktoken.encode(text) == expected
    assert converted_tiktoken.decode(expected, skip_special_tokens=True) == "user\n\nHi"


def test_version_3_has_no_special_tokens_of_later_versions():
    early, late = special_tokens(Version.V3), special_tokens(Version.V3_1)
    assert len(set(early)) == len(set(late)) == 256
    # The last tokens of both versions, as published with the models.
    assert (early[-1], late[-1]) == ("<|reserved_special_token_250|>", "<|reserved_special_token_247|>")
    changed = {index for index in range(11) if early[index] != late[index]}
    assert changed == {4, 5, 8, 10}
    assert (early[9], late[9]) == ("<|eot_id|>", "<|eot_id|>")


@pytest.mark.parametrize(
    ("version", "stop_ids"), [(Version.V3, (128001, 128009)), (Version.V3_1, (128001, 128008, 128009))]
)
def test_an_instruct_model_stops_at_the_end_of_a_turn(version, stop_ids, meta_tokenizer_model):
    vocabulary = read_vocabulary(meta_tokenizer_model)
    assert vocabulary.specials(version, instruct=True).stop_ids == stop_ids
    assert vocabulary.specials(version, instruct=False).stop_ids == (128001,)


def test_the_chat_template_is_read_from_the_file(tiktoken_model, tmp_path):
    turn = "<|start_header_id|>{{ m.role }}<|end_header_id|>{{ m.content }}<|eot_id|>"
    template = f"{{% for m in messages %}}{turn}{{% endfor %}}"
    (tmp_path / "chat.jinja").write_text(template)
    output = convert_tokenizer(
        tiktoken_model, Version.V3_2, tmp_path, instruct=True, chat_template=tmp_path / "chat.jinja"
    )
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert tokenizer.eos_token == "<|eot_id|>"
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Grüß Gott"}], tokenize=False)
    assert chat == "<|start_header_id|>user<|end_header_id|>Grüß Gott<|eot_id|>"


@pytest.mark.parametrize(
    ("template", "message"), [("{% for m in %}", "line 1"), (None, "cannot be read"), (b"\xff\xfe", "cannot be read")]
)
def test_an_invalid_chat_template_is_refused(template, message, tiktoken_model, tmp_path):
    path = tmp_path / "chat.jinja"
    if template is not None:
        path.write_bytes(template if isinstance(template, bytes) else template.encode())
    with pytest.raises(UsageError, match=message):
        convert_tokenizer(tiktoken_model, Version.V3, tmp_path, instruct=True, chat_template=path)
    assert not (tmp_path / "output").exists()


def test_tokenizer_only_writes_no_model_files(sentencepiece_model, tmp_path):
    output = convert_tokenizer(sentencepiece_model, Version.V1, tmp_path)
    assert sorted(path.name for path in output.iterdir()) == [
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]
    assert json.loads((output / "tokenizer_config.json").read_text())["model_max_length"] == 2048


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"IQ== 0\nIg==\n",
        lambda _: b"not a tokenizer at all\n" * 10,
        lambda data: data[: len(data) // 2],
        lambda data: b"\x0a\xff\xff\xff\xff\xff" + data,
    ],
)
@pytest.mark.parametrize("kind", ["sentencepiece_model", "tiktoken_model"])
def test_a_damaged_tokenizer_is_refused(kind, damage, request, tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(damage(request.getfixturevalue(kind).read_bytes()))
    with pytest.raises(IntegrityError, match=r"tokenizer\.model"):
        read_vocabulary(path)


@pytest.mark.parametrize("options", [{"model_type": "unigram"}, {"normalization_rule_name": "nmt_nfkc"}])
def test_a_sentencepiece_model_of_another_kind_is_refused(options, tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(TEXTS * 3), encoding="utf-8")
    settings = {"model_type": "bpe", "normalization_rule_name": "identity", "remove_extra_whitespaces": False} | options
    SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(tmp_path / "other"), vocab_size=200, minloglevel=2, **settings
    )
    with pytest.raises(IntegrityError, match="not a BPE model without normalization"):
        read_vocabulary(tmp_path / "other.model")
