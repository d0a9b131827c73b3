"""A params.json that is damaged: the error says what is wrong with the file."""

import json

import pytest

from llmstack.errors import IntegrityError
from llmstack.llama.params import read_params

PARAMS = {"dim": 64, "n_layers": 2, "n_heads": 4, "multiple_of": 32, "norm_eps": 1e-5}


def entry(name, literal):
    """Return a params.json with one entry as a JSON literal."""
    return json.dumps(PARAMS | {name: "?"}).replace('"?"', literal).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf \n", "empty"),
        (b"Not Found", "not a JSON object: it begins with 'Not Found'"),
        (b"\n404: Not Found\nnginx\n", "not a JSON object: it begins with '404: Not Found'"),
        (b"x" * 1000, "not a JSON object: it begins with '" + "x" * 40 + "'"),
        (b"[]", "not a JSON object: it begins with '[]'"),
        (b"null", "not a JSON object: it begins with 'null'"),
        (b"\xff\xfe{", "not text: "),
        (b"[" * 100_000, "not a JSON object: it begins with "),
        (b'{"dim": 64', "invalid JSON: "),
        (entry("dim", "9" * 5000), "invalid JSON: integer " + "9" * 24 + " does not fit into 64 bits"),
        (entry("norm_eps", "NaN"), "invalid JSON: number NaN is too large"),
        (entry("ffn_dim_multiplier", "1e400"), "invalid JSON: number 1e400 is too large"),
        (entry("ffn_dim_multiplier", "1e308"), "ffn_dim_multiplier is 1e+308, must be a number above 0, up to"),
        (entry("norm_eps", "null"), "norm_eps is None, must be a number above 0, up to"),
        (entry("norm_eps", '"small"'), "norm_eps is 'small', must be a number above 0, up to"),
        (entry("rope_theta", "[]"), "rope_theta is [], must be a number above 0, up to"),
        (entry("vocab_size", "[]"), "vocab_size is [], must be an integer from 1"),
        (b'{"model": 5}', "model must be a JSON object"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_the_error_says_what_is_wrong(data, message, tmp_path):
    path = tmp_path / "params.json"
    path.write_bytes(data)
    with pytest.raises(IntegrityError) as caught:
        read_params(path)
    assert caught.value.message.startswith(f"{path}: {message}")
    assert "sys." not in caught.value.message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_that_editors_write_are_read(encoding, tmp_path):
    path = tmp_path / "params.json"
    path.write_text(json.dumps(PARAMS), encoding=encoding)
    assert read_params(path).dim == 64
