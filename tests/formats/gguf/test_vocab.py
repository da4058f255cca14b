"""Tokenizer <-> tokenizer.* keys: by hand, and the errors of damaged files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quantmill.formats.errors import TokenizerError
from quantmill.formats.gguf.vocab import tokenizer_from_metadata, tokenizer_to_metadata
from quantmill.formats.ir import Tokenizer, TokenType, Value, ValueType

SMALL = Tokenizer(
    model="gpt2",
    pre="llama-bpe",
    tokens=("a", "b", "ab", "<|eot|>"),
    types=np.array([1, 1, 1, 3], np.int32),
    merges=("a b",),
    special={"bos": 3, "eos": 3, "unk": 0, "eot": 3},
    flags={"add_bos_token": True, "add_space_prefix": False, "legacy": False},
    chat_templates={"default": "{{ x }}", "tool_use": "{{ y }}", "rag-2": "{{ z }}"},
)


def test_keys_types_and_order_are_the_converters() -> None:
    metadata = tokenizer_to_metadata(SMALL)
    assert [(key, value.type.name) for key, value in metadata.items()] == [
        ("tokenizer.ggml.add_space_prefix", "BOOL"),
        ("tokenizer.ggml.model", "STRING"),
        ("tokenizer.ggml.pre", "STRING"),
        ("tokenizer.ggml.tokens", "ARRAY"),
        ("tokenizer.ggml.token_type", "ARRAY"),
        ("tokenizer.ggml.merges", "ARRAY"),
        ("tokenizer.ggml.bos_token_id", "UINT32"),
        ("tokenizer.ggml.eos_token_id", "UINT32"),
        ("tokenizer.ggml.unknown_token_id", "UINT32"),
        ("tokenizer.ggml.eot_token_id", "UINT32"),
        ("tokenizer.ggml.add_bos_token", "BOOL"),
        ("quantmill.tokenizer.legacy", "BOOL"),
        ("tokenizer.chat_template.tool_use", "STRING"),
        ("tokenizer.chat_template.rag_2", "STRING"),
        ("tokenizer.chat_templates", "ARRAY"),
        ("tokenizer.chat_template", "STRING"),
    ]
    assert metadata["tokenizer.chat_templates"].data == ("tool_use", "rag_2")
    assert metadata["tokenizer.ggml.token_type"].item is ValueType.INT32


def test_there_and_back() -> None:
    tok = replace(SMALL, model="llama", pre="default", merges=None, scores=np.array([0, -1, -2.5, -1000], np.float32))
    for original in (SMALL, tok, replace(SMALL, precompiled_charsmap=b"\x04\x00\x00\x00abcd")):
        back = tokenizer_from_metadata(tokenizer_to_metadata(original))
        assert back is not None
        np.testing.assert_array_equal(back.types, original.types)
        assert (back.scores is None) == (original.scores is None)
        if original.scores is not None:
            np.testing.assert_array_equal(back.scores, original.scores)
        for name in ("model", "pre", "tokens", "merges", "special", "flags", "precompiled_charsmap"):
            assert getattr(back, name) == getattr(original, name), name
        assert back.chat_templates == {"default": "{{ x }}", "tool_use": "{{ y }}", "rag_2": "{{ z }}"}


def test_what_files_of_2023_call_the_fim_tokens() -> None:
    metadata = tokenizer_to_metadata(SMALL) | {"tokenizer.ggml.prefix_token_id": Value(ValueType.UINT32, 2)}
    tok = tokenizer_from_metadata(metadata)
    assert tok is not None
    assert tok.special["fim_pre"] == 2


def test_ids_outside_the_vocabulary_are_ignored_as_in_llama_cpp() -> None:
    metadata = tokenizer_to_metadata(SMALL) | {"tokenizer.ggml.eos_token_id": Value(ValueType.UINT32, 4)}
    tok = tokenizer_from_metadata(metadata)
    assert tok is not None
    assert "eos" not in tok.special


@pytest.mark.parametrize("model", [None, "none", "no_vocab"])
def test_no_tokenizer(model: str | None) -> None:
    metadata = {} if model is None else {"tokenizer.ggml.model": Value(ValueType.STRING, model)}
    assert tokenizer_from_metadata(metadata) is None


def test_types_default_to_normal() -> None:
    metadata = tokenizer_to_metadata(SMALL)
    del metadata["tokenizer.ggml.token_type"]
    tok = tokenizer_from_metadata(metadata)
    assert tok is not None
    assert tok.types.tolist() == [TokenType.NORMAL] * 4


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tokens", None, "tokenizer.ggml.tokens: is missing, though there is a tokenizer"),
        (
            "tokens",
            Value(ValueType.ARRAY, np.arange(4), ValueType.INT32),
            "tokenizer.ggml.tokens: not an array of strings",
        ),
        ("token_type", Value(ValueType.ARRAY, np.arange(3), ValueType.INT32), "token_type: 3 entries for 4 tokens"),
        ("scores", Value(ValueType.ARRAY, ("x",), ValueType.STRING), "scores: not an array of numbers"),
    ],
)
def test_damaged_arrays(key: str, value: Value | None, message: str) -> None:
    metadata = dict(tokenizer_to_metadata(SMALL))
    metadata.pop(f"tokenizer.ggml.{key}", None)
    if value is not None:
        metadata[f"tokenizer.ggml.{key}"] = value
    with pytest.raises(TokenizerError) as error:
        tokenizer_from_metadata(metadata)
    assert message in str(error.value)
