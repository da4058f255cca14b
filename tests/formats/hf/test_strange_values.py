"""Values of another type in the files beside config.json, and in a config inside a config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantmill.formats.errors import FormatError
from quantmill.formats.hf.config import RECORDED
from quantmill.formats.hf.files.card import front_matter
from quantmill.formats.hf.files.generation import read_generation
from quantmill.formats.hf.shapes import read_shapes
from quantmill.formats.hf.tables.dimensions import WRAPPER

CARDS: dict[str, tuple[str, str]] = {
    "surrogate": ('name: "\\ud83d"', "name: half of a surrogate pair, which is not a character"),
    "surrogate in a list": ('tags: [a, "\\udc00"]', "tags: half of a surrogate pair, which is not a character"),
    "surrogate in a key": ('base_model: [{"\\ud800": 1}]', "base_model: half of a surrogate pair, which is not a char"),
    "long number": (f"version: 0x{'f' * 5000}", "version: a number of thousands of digits"),
    "list of itself": ("license: &a [*a]", "license: more than 10000 values"),
    "many of many": (
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
        + "tags: *i",
        "d: more than 10000 values",
    ),
    "no flag": ("name: !!bool x", "the front matter is not YAML"),
    "no number": ('name: !!int ""', "the front matter is not YAML"),
    "no time": ("name: !!timestamp x", "the front matter is not YAML"),
    "no day": ("date: 2020-99-99", "the front matter is not YAML"),
    "no object": ("name: !!python/object:os.system x", "the front matter is not YAML"),
}


@pytest.mark.parametrize("case", CARDS)
def test_a_card_that_no_text_can_be_made_of(case: str, tmp_path: Path) -> None:
    text, message = CARDS[case]
    path = tmp_path / "README.md"
    path.write_text(f"---\n{text}\n---\n")
    with pytest.raises(FormatError) as error:
        front_matter(path)
    assert str(error.value).startswith(f"{path}: {message}")
    assert str(error.value).endswith("(correct or remove the README)")


@pytest.mark.parametrize(
    "text", ["- a", "name: \U0001f600", "name: [1, {a: 2}]", "name: 2020-01-02", "name: ~", "model-index: &a [*a]", "3"]
)
def test_a_card_of_other_values_is_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"---\n{text}\n---\n")
    assert isinstance(front_matter(path), dict)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"temperature": "x"}, "temperature: 'x' is not a number"),
        ({"temperature": 10**39}, f"temperature: {10**39} is not a number"),
        ({"top_k": 1.5}, "top_k: 1.5 is not a whole number"),
        ({"top_k": True}, "top_k: True is not a whole number"),
        ({"repetition_penalty": []}, "repetition_penalty: [] is not a number"),
        ({"eos_token_id": "</s>"}, "eos_token_id: '</s>' is not a whole number or a list of whole numbers"),
        ({"eos_token_id": [1, "2"]}, "eos_token_id: [1, '2'] is not a whole number or a list of whole numbers"),
        ({"bos_token_id": {}}, "bos_token_id: {} is not a whole number"),
        ([], "is not a JSON object"),
    ],
)
def test_a_generation_config_of_other_types(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps(content))
    with pytest.raises(FormatError) as error:
        read_generation(path)
    assert str(error.value).startswith(f"{path}: {message}")


def test_a_generation_config_that_transformers_writes(tmp_path: Path) -> None:
    path = tmp_path / "generation_config.json"
    content = {"temperature": 1, "top_k": None, "eos_token_id": [1, 2], "pad_token_id": -1, "stop_strings": ["a"]}
    path.write_text(json.dumps(content))
    assert read_generation(path) == content
    assert read_generation(tmp_path / "none.json") == {}


LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 96, "hidden_size": 64,
    "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "rms_norm_eps": 0.125,
}  # fmt: skip
_TEXT = {key: value for key, value in LLAMA.items() if key != "architectures"} | {"model_type": "gemma3_text"}
GEMMA = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": _TEXT}


@pytest.mark.parametrize("inner", [None, "x", [], {}, {"rms_norm_eps": 0.5}])
def test_a_text_model_has_no_other_inside(inner: Any, tmp_path: Path) -> None:
    """transformers' LlamaConfig keeps a ``text_config`` and never looks into it."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**LLAMA, "text_config": inner}))
    assert read_shapes(path).hparam("attention.layer_norm_rms_epsilon") == 0.125


@pytest.mark.parametrize("inner", ["x", 0, [], True])
def test_a_wrapper_s_text_model_is_an_object(inner: Any, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(GEMMA))
    assert read_shapes(path).hparam("attention.layer_norm_rms_epsilon") == 0.125
    path.write_text(json.dumps({**GEMMA, "text_config": inner}))
    with pytest.raises(FormatError) as error:
        read_shapes(path)
    assert str(error.value).startswith(f"{path}: text_config: {inner!r} is not an object")


@pytest.mark.parametrize("inner", [1e400, "x", [], {"vision_config": 3}])
def test_keys_of_our_own_mean_nothing_in_a_config(inner: Any, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(GEMMA))
    whole = read_shapes(path).metadata
    for key in ("wrapper", WRAPPER):
        text = {**_TEXT, key: inner}
        path.write_text(json.dumps({**GEMMA, key: inner, "text_config": text}).replace("Infinity", "1e400"))
        assert {**read_shapes(path).metadata, RECORDED: None} == {**whole, RECORDED: None}
        path.write_text(json.dumps({**LLAMA, key: inner}).replace("Infinity", "1e400"))
        assert read_shapes(path).hparam("attention.layer_norm_rms_epsilon") == 0.125


@pytest.mark.parametrize("thinker", [{}, {"a": {}}])
def test_a_thinker_without_a_text_model_is_none(thinker: Any, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**LLAMA, "thinker_config": thinker}))
    assert read_shapes(path).hparam("attention.layer_norm_rms_epsilon") == 0.125


@pytest.mark.parametrize("key", ["rope_type", "type"])
@pytest.mark.parametrize("value", [[], {"a": 1}, 3, True])
def test_the_kind_of_a_rope_is_a_text(key: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for place in ("rope_parameters", "rope_scaling"):
        path.write_text(json.dumps({**LLAMA, place: {key: value}}))
        with pytest.raises(FormatError) as error:
            read_shapes(path)
        assert str(error.value).startswith(f"{path}: {place}.{key}: {value!r} is not a text")


def test_a_refused_value_is_named_as_the_file_names_it(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    config = {"architectures": ["DistilBertModel"], "model_type": "distilbert", "activation": "relu"}
    path.write_text(json.dumps(config))
    with pytest.raises(FormatError, match=r"config\.json: activation: is 'relu'; llama\.cpp's bert computes 'gelu'"):
        read_shapes(path)
