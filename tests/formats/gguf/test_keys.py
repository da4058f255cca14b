from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import pytest

from quantmill.formats.errors import QuantmillError
from quantmill.formats.gguf.keys import (
    FILE_TYPES,
    KEY_TYPES,
    expand_key,
    key_type,
    make_value,
    nearest_keys,
    parse_type,
    typed,
)
from quantmill.formats.ir import ValueType

V = ValueType

NEWER = {
    "clip.vision.attention.head_count_kv",
    "clip.vision.feature_layer",
    "tokenizer.ggml.cls_token_id",
    "tokenizer.ggml.normalizer.lowercase",
    "tokenizer.ggml.normalizer.strip_accents",
    "tokenizer.ggml.suppress_tokens",
    "{arch}.attention.compress_ratios",
    "{arch}.attention.compress_rope_freq_base",
    "{arch}.attention.indexer.block_size",
    "{arch}.attention.indexer.kpool",
    "{arch}.attention.indexer.kpool_select_tail",
    "{arch}.attention.indexer.local_blocks",
    "{arch}.attention.indexer.types",
    "{arch}.attention.key_length_mla_swa",
    "{arch}.hyper_connection.magnitude",
    "{arch}.attention.kv_lora_rank_swa",
    "{arch}.attention.output_group_count",
    "{arch}.attention.output_lora_rank",
    "{arch}.attention.recurrent_layers",
    "{arch}.attention.rope_pattern",
    "{arch}.attention.value_length_mla_swa",
    "{arch}.attention.value_scale",
    "{arch}.classifier.pooling_type",
    "{arch}.dense_2_feat_in",
    "{arch}.dense_2_feat_out",
    "{arch}.dense_3_feat_in",
    "{arch}.dense_3_feat_out",
    "{arch}.hash_layer_count",
    "{arch}.hidden_activation",
    "{arch}.hrm.h_cycles",
    "{arch}.hrm.l_cycles",
    "{arch}.hrm.layers_per_stack",
    "{arch}.hrm.prefix_lm",
    "{arch}.hyper_connection.count",
    "{arch}.hyper_connection.epsilon",
    "{arch}.hyper_connection.low_rank",
    "{arch}.hyper_connection.sinkhorn_iterations",
    "{arch}.kda.gate_lower_bound",
    "{arch}.kda.safe_gate",
    "{arch}.ple.conv_kernel",
    "{arch}.ple.eos_token_id",
    "{arch}.ple.head_offsets",
    "{arch}.ple.head_vocab_sizes",
    "{arch}.ple.heads_per_ngram",
    "{arch}.ple.image_token_id",
    "{arch}.ple.layer_multipliers",
    "{arch}.ple.layers",
    "{arch}.ple.ngram_size",
}


def test_file_type_ids_are_llama_cpps() -> None:
    theirs = {t.name.split("_", 1)[1]: t.value for t in gguf.LlamaFileType if t.name != "GUESSED"}
    ours = dict(FILE_TYPES)
    common = theirs.keys() & ours.keys()
    assert len(common) >= 35
    assert {name: ours[name] for name in common} == {name: theirs[name] for name in common}


def test_known_keys_are_gguf_pys() -> None:
    """Every key we list is one gguf-py knows, or one of these, which only llama.cpp's newer sources know."""

    def constants(group: Any) -> set[str]:
        found = {value for value in vars(group).values() if isinstance(value, str)}
        for value in vars(group).values():
            if isinstance(value, type):
                found |= constants(value)
        return found

    assert set(KEY_TYPES) - constants(gguf.Keys) == NEWER


@pytest.mark.parametrize(
    ("call", "key", "data"),
    [
        ("add_context_length", "llama.context_length", 4096),
        ("add_head_count", "llama.attention.head_count", 32),
        ("add_head_count_kv", "llama.attention.head_count_kv", [8, 0, 4]),
        ("add_layer_norm_rms_eps", "llama.attention.layer_norm_rms_epsilon", 1e-5),
        ("add_rope_freq_base", "llama.rope.freq_base", 10000.0),
        ("add_causal_attention", "llama.attention.causal", False),
        ("add_rope_dimension_sections", "llama.rope.dimension_sections", [1, 2, 3]),
        ("add_token_list", "tokenizer.ggml.tokens", ["a", "b"]),
        ("add_token_types", "tokenizer.ggml.token_type", [1, 3]),
        ("add_token_scores", "tokenizer.ggml.scores", [0.0, -1.0]),
        ("add_eos_token_id", "tokenizer.ggml.eos_token_id", 2),
        ("add_add_bos_token", "tokenizer.ggml.add_bos_token", True),
        ("add_precompiled_charsmap", "tokenizer.ggml.precompiled_charsmap", b"\x01\xff"),
        ("add_chat_template", "tokenizer.chat_template", "{{ x }}"),
        ("add_tags", "general.tags", ["x"]),
        ("add_file_type", "general.file_type", 15),
        ("add_quantization_version", "general.quantization_version", 2),
        ("add_rope_scaling_factor", "llama.rope.scaling.factor", 8.0),
        ("add_vocab_size", "llama.vocab_size", 7),
    ],
)
def test_typed_gives_the_type_gguf_py_writes(call: str, key: str, data: Any) -> None:
    writer = gguf.GGUFWriter(None, "llama")
    getattr(writer, call)(data)
    theirs = writer.kv_data[0][key]
    ours = typed(key, data)
    assert ours.type == theirs.type.value
    if ours.type is V.ARRAY:
        sub = getattr(theirs, "sub_type", None)
        item = gguf.GGUFValueType.UINT8 if isinstance(data, bytes) else sub or gguf.GGUFValueType.get_type(data[0])
        assert ours.item == item.value
    suffix = key.removeprefix("llama.")
    assert typed(suffix, data).type == ours.type


def test_typed_keeps_arrays_whatever_they_come_as() -> None:
    for data in ([1, 2], (1, 2), np.array([1, 2], np.int64)):
        value = typed("tokenizer.ggml.token_type", data)
        assert value.data.dtype == np.int32
        assert value.data.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("uint8", 256), ("uint8", -1), ("int8", 128), ("uint32", 1.5), ("uint32", True), ("bool", 1), ("string", 3),
        ("float32", 1e39), ("uint32", float("nan")), ("int64", float("inf")), ("uint32[]", [1, -1]), ("int32[]", 7),
        ("float32", "x"),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_are_refused(kind: str, data: Any) -> None:
    with pytest.raises(QuantmillError, match="k"):
        make_value(parse_type(kind), data, "k")


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("eos_token_id", "tokenizer.ggml.eos_token_id"),
        ("unk_token_id", "tokenizer.ggml.unknown_token_id"),
        ("pad_token_id", "tokenizer.ggml.padding_token_id"),
        ("chat_template", "tokenizer.chat_template"),
        ("name", "general.name"),
        ("context_length", "qwen2.context_length"),
        ("head_count", "qwen2.attention.head_count"),
        ("freq_base", "qwen2.rope.freq_base"),
        ("rope.freq_base", "qwen2.rope.freq_base"),
        ("general.name", "general.name"),
        ("my.own.key", "my.own.key"),
    ],
)
def test_short_forms(short: str, full: str) -> None:
    assert expand_key(short, "qwen2") == full


def test_a_key_of_the_file_wins_over_a_short_form() -> None:
    assert expand_key("name", "llama", {"name": 1, "general.name": 2}) == "name"


def test_near_keys_and_types() -> None:
    assert nearest_keys("tokenizer.ggml.eos_tokn_id", ["general.name", "tokenizer.ggml.eos_token_id"]) == [
        "tokenizer.ggml.eos_token_id"
    ]
    assert parse_type("u32[]") == (V.ARRAY, V.UINT32)
    assert key_type("llama.context_length") == (V.UINT32, None)
    assert key_type("x.y") is None
    with pytest.raises(QuantmillError, match="unknown metadata type"):
        parse_type("array")
