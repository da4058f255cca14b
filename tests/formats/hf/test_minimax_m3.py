"""MiniMax M3: which layers choose keys, as its config says in two ways, and as llama.cpp takes it for granted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quantmill.formats.errors import FormatError
from quantmill.formats.hf.archs import BY_CLASS
from quantmill.formats.hf.config import complete_config
from quantmill.formats.hf.tables.layer_words import WordsFrom
from quantmill.formats.hf.tables.rows import LeadingDense

D, S = "dense", "sparse"
_SIZES = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 32, "head_dim": 16}
_KINDS = {"attn": {"a": "whole", "b": "chosen"}, "freq": {0: "whole", 1: "chosen"}}


def test_words_come_from_the_first_key_that_is_there() -> None:
    words = WordsFrom(_KINDS, "whole")
    assert words({"attn": ["b", "a"], "freq": [0, 0], "num_hidden_layers": 2}) == ["chosen", "whole"]
    assert words({"attn": None, "freq": [0, 1], "num_hidden_layers": 2}) == ["whole", "chosen"]
    assert words({"num_hidden_layers": 2}) == ["whole", "whole"]
    for entries in ([0], [0, 1, 1], [0, 2]):
        with pytest.raises(FormatError, match=r"freq: is not 0 or 1 for each of 2 layers"):
            words({"freq": entries, "num_hidden_layers": 2})


_M3 = {"index_n_heads": 4, "index_head_dim": 16, "mlp_layer_types": [D, S], "num_hidden_layers": 2, "rotary_dim": 8}


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"layer_types": ["full_attention"] * 2}, "layer_types"),  # experts without a choice of keys
        ({"layer_types": ["minimax_m3_sparse"] * 2}, "layer_types"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"mlp_layer_types": [S, D]}, "mlp_layer_types"),
        ({"mlp_layer_types": None, "moe_layer_freq": [0]}, "moe_layer_freq"),
        ({"mlp_layer_types": None, "moe_layer_freq": 1}, "moe_layer_freq"),
        ({"sparse_attention_config": {"sparse_attention_freq": [1, 0]}}, "layer_types"),
        ({"sparse_attention_config": {"sparse_attention_freq": [2, 0]}}, "sparse_attention_freq"),
        ({"index_n_heads": 2}, "index_n_heads"),
        ({"shared_intermediate_size": 3000}, "shared_intermediate_size"),
        ({"swiglu_limit": 5.0}, "swiglu_limit"),
    ],
)
def test_minimax_m3_attends_to_chosen_keys_where_experts_are(wrong: dict[str, Any], where: str) -> None:
    arch = BY_CLASS["MiniMaxM3SparseForConditionalGeneration"]
    cls = arch.classes["MiniMaxM3VLForCausalLM"]
    right = _SIZES | _M3
    found = complete_config(right, arch, cls, Path("config.json"))
    assert found["layer_types"] == ["full_attention", "minimax_m3_sparse"]
    with pytest.raises(FormatError, match=where):
        dict(LeadingDense().to_gguf(complete_config(right | wrong, arch, cls, Path("config.json"))))
