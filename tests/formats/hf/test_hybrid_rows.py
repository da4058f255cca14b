"""Rows and sizes that hybrids, encoders and Hunyuan brought."""

from __future__ import annotations

from typing import Any

import pytest

from quantmill.formats.hf.tables import rope
from quantmill.formats.hf.tables.dimensions import Dim as S
from quantmill.formats.hf.tables.dimensions import LayerPattern, OrDefault
from quantmill.formats.hf.tables.hybrid_rows import AttentionLayers
from quantmill.formats.hf.tables.rows import Alternating, Key, ReadBack, metadata_key


def test_layers_without_attention_have_no_heads() -> None:
    row = AttentionLayers("conv")
    config = {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention", "conv", "attention"]}
    made = dict(row.to_gguf(config))
    assert made == {"attention.head_count_kv": [0, 2, 0, 2]}

    def get(suffix: str, *, each: bool = False) -> Any:
        return made[suffix] if each else None

    words = ["conv", "full_attention", "conv", "full_attention"]
    assert row.to_hf(get) == {"num_key_value_heads": 2, "layer_types": words}
    assert row.to_hf(lambda suffix, each=False: 2) == {}


def test_a_list_of_equal_values_is_one() -> None:
    row = Key("moe_topk", "expert_used_count")
    assert list(row.to_gguf({"moe_topk": [8, 8, 8]})) == [("expert_used_count", 8)]
    assert list(row.to_gguf({"moe_topk": [8, 4]})) == [("expert_used_count", [8, 4])]
    assert list(row.to_gguf({"moe_topk": []})) == [("expert_used_count", [])]


def test_told_is_read_back_only() -> None:
    row = ReadBack("block_auto_adjust_ff_dim", False)
    assert list(row.to_gguf({"block_auto_adjust_ff_dim": True})) == []
    assert row.to_hf(lambda suffix, each=False: None) == {"block_auto_adjust_ff_dim": False}


def test_keys_of_the_tokenizer_are_whole() -> None:
    assert metadata_key("bert", "tokenizer.ggml.token_type_count") == "tokenizer.ggml.token_type_count"
    assert metadata_key("bert", "block_count") == "bert.block_count"


def test_otherwise() -> None:
    assert OrDefault("block_ff_dim", 7)({}) == 7
    assert OrDefault("block_ff_dim", 7)({"block_ff_dim": 5}) == 5


def test_words_may_begin_with_the_other() -> None:
    config = {"num_hidden_layers": 5}
    assert LayerPattern("s", "f", S(3))(config) == ["s", "s", "f", "s", "s"]
    assert LayerPattern("s", "f", S(3), first=True)(config) == ["f", "s", "s", "f", "s"]


def test_hunyuan_s_base() -> None:
    """The number that llama.cpp's converter gives for A13B."""
    found = dict(rope.alpha_keys({"rope_theta": 10000.0, "alpha": 1000}, 128, 32768))
    assert found["rope.freq_base"] == pytest.approx(11158839.9251)
    assert found["context_length"] == 262144
    assert dict(rope.alpha_keys({"rope_theta": 10000.0, "alpha": 1000}, 128, 2048))["context_length"] == 2048


def test_one_number_of_heads_for_all_layers_stays_one() -> None:
    row = Alternating("num_key_value_heads", "attention.head_count_kv", "", "num_global_key_value_heads")
    config = {"num_key_value_heads": 2, "layer_types": ["sliding_attention", "full_attention"]}
    assert list(row.to_gguf(config)) == [("attention.head_count_kv", 2)]
    assert row.to_hf(lambda suffix, each=False: 2 if suffix.endswith("kv") else None) == {"num_key_value_heads": 2}
