"""Qwen 4 as published so far (Qwen4-Exp): the linear attention of Qwen 3.5; attention to blocks of keys that an indexer
chooses; residual streams instead of norms; and, in one layer, embeddings that hashes of n-grams look up.

Sources: Qwen4ExpTextConfig of transformers 5.23; conversion/qwen4exp.py of llama.cpp.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import EMBD, Condition, Dim, Equal, Is, LayerIn
from ..tables.layer_rows import InLayersOf
from ..tables.ngrams import CountedFromOne, FirstSize, FirstToken, TableLayer, TableRows
from ..tables.ops import Reshape, Split, Stack
from ..tables.rows import Computed, Key, Rope
from ..tables.rules import Arch, HFClass, Rule
from .dsa import INDEXER_KEYS
from .hyper import STREAMS
from .qwen import ADD_ONE, DELTA_DEFAULTS, DELTA_IMPLIED, DELTA_NEEDS, DELTA_ROWS, LINEAR, NAMES
from .qwen3_5 import MIXERS
from .shared import (
    EMBEDDING,
    EPS_KEY,
    EXPERT_KEYS,
    FUSED_EXPERTS,
    HEAD,
    HEAD_DIM_KEYS,
    LAYER_PREFIX,
    SIZE_KEYS,
    TEXT_ROOTS,
    VISION,
    VISUAL,
    beside,
    experts_of_either_layout,
    shared_expert,
)

_WIDTH, _RANK = STREAMS * EMBD, Dim("hc_lowrank")
_INDEX, _INDEX_DIM = Dim("index_n_heads"), Dim("index_head_dim")
_PARTS, _KERNEL = Dim("split_ngram_parts"), Dim("ple_conv_kernel_size")
_HEADS = (Dim("ngram_size") - 1) * Dim("heads_per_ngram")
_TABLE_EMBD = Dim("ple_embed_dim")
_LOOKS_UP, _PLE = LayerIn("ple_layer_ids", first=1), Is("ple_layer_ids")
_WHOLE = Is("table_is_whole")


def _mix(at: str, *roles: Role) -> tuple[Rule, ...]:
    """What makes one stream of all, and how a part's result comes back into each, if it does."""
    return (
        Rule(at + "hc_norm", roles[0], (_WIDTH,), ADD_ONE),
        Rule(at + "input_mix_weight_down", roles[1], (_RANK, _WIDTH)),
        Rule(at + "input_mix_weight_up", roles[2], (_WIDTH, _RANK)),
        *(Rule(at + "block_inject_weight", role, (STREAMS, _WIDTH)) for role in roles[3:]),
    )


def _constant(name: str, key: str, size: Dim) -> Rule:
    """Whole numbers of the hashes, which GGUF has as a key."""
    at = LAYER_PREFIX + "ple.ple_embedding."
    return Rule(at + name, (), (size,), when=_LOOKS_UP, tensor=True, whole=True, key=f"qwen4exp.ple.{key}")


def _table(name: str, rows: TableRows, when: Condition) -> Rule:
    joined = (Stack(), Reshape((_PARTS, -1, _TABLE_EMBD // _HEADS), (-1, _TABLE_EMBD // _HEADS)))
    return Rule(
        LAYER_PREFIX + "ple.ple_embedding.ngram_embedding" + name,
        Role.PER_LAYER_TOKEN_EMBD,
        (rows, _TABLE_EMBD // _HEADS),
        joined if rows.parts else (),
        when=_LOOKS_UP & when,
        each=_PARTS,
    )


_PLE_AT = LAYER_PREFIX + "ple."
_LOOKED_UP = (
    _constant("layer_multipliers", "layer_multipliers", Dim("ngram_size")),
    _constant("ngram_heads_offsets", "head_offsets", _HEADS),
    _constant("ngram_heads_vocab_sizes", "head_vocab_sizes", _HEADS),
    _table(".shard_{expert}", TableRows("split_ngram_parts"), ~_WHOLE),
    _table("", TableRows(), _WHOLE),
    Rule(_PLE_AT + "key_proj", Role.PLE_KEY, (_WIDTH, _TABLE_EMBD), when=_LOOKS_UP),
    Rule(_PLE_AT + "value_proj", Role.PLE_VALUE, (EMBD, _TABLE_EMBD), when=_LOOKS_UP),
    Rule(_PLE_AT + "norm_key", Role.PLE_NORM_KEY, (_WIDTH,), ADD_ONE, when=_LOOKS_UP),
    Rule(_PLE_AT + "norm_query", Role.PLE_NORM_QUERY, (_WIDTH,), ADD_ONE, when=_LOOKS_UP),
    Rule(_PLE_AT + "norm_conv", Role.PLE_NORM_CONV, (_WIDTH,), ADD_ONE, when=_LOOKS_UP),
    Rule(
        _PLE_AT + "conv1d",
        Role.PLE_CONV1D,
        (_WIDTH, Dim(1), _KERNEL),
        (Reshape((-1, 1, _KERNEL), (-1, _KERNEL)),),
        when=_LOOKS_UP,
    ),
)
_INDEXER = LAYER_PREFIX + "self_attn.indexer."
_INDEXED = (
    Rule(
        _INDEXER + "index_qk_proj",
        (Role.INDEXER_Q_PROJ, Role.INDEXER_K_PROJ),
        ((_INDEX + 1) * _INDEX_DIM, EMBD),
        (Split((_INDEX * _INDEX_DIM, _INDEX_DIM)),),
        when=~LINEAR,
    ),
    Rule(_INDEXER + "q_layernorm", Role.INDEXER_Q_NORM, (_INDEX_DIM,), ADD_ONE, when=~LINEAR),
    Rule(_INDEXER + "k_layernorm", Role.INDEXER_K_NORM, (_INDEX_DIM,), ADD_ONE, when=~LINEAR),
)
_TEXT = HFClass(
    "qwen4_exp_text",
    DELTA_DEFAULTS
    | {"vocab_size": 248320, "hidden_size": 2048, "num_hidden_layers": 40, "num_attention_heads": 16}
    | {"num_key_value_heads": 2, "hidden_act": "silu", "max_position_embeddings": 32768, "rms_norm_eps": 1e-6}
    | {"attention_bias": False, "head_dim": 256, "moe_intermediate_size": 512, "num_experts_per_tok": 10}
    | {"shared_expert_intermediate_size": 512, "num_local_experts": 512, "output_router_logits": False}
    | {"router_aux_loss_coef": 0.001, "hc_mult": 4, "hc_lowrank": 320, "ple_layer_ids": None, "ple_embed_dim": None}
    | {"ple_conv_kernel_size": 4, "ngram_size": 3, "heads_per_ngram": 8, "ngram_vocab_size_base": 20000000}
    | {"make_ngram_vocab_size_divisible_by": 128, "seed": 1234, "split_ngram_parts": 512, "index_n_heads": None}
    | {"indexer_kv_heads": None, "index_head_dim": None, "index_topk": None, "indexer_compress_ratio": None}
    | {"norm_topk_prob": True, "output_gate_type": None},
    NAMES
    | {"hc_count": "hc_mult", "indexer_n_heads": "index_n_heads", "indexer_head_dim": "index_head_dim"}
    | {"indexer_budget": "index_topk"},
)

QWEN4EXP = Arch(
    name="qwen4exp",
    classes={
        "Qwen4ExpForCausalLM": _TEXT,
        "Qwen4ExpForConditionalGeneration": replace(_TEXT, text_of="Qwen4ExpForCausalLM", outer=("image_token_id",)),
    },
    config=(
        *(row for row in SIZE_KEYS if row.hf != "intermediate_size"),
        Key("intermediate_size", "feed_forward_length", optional=True),
        Rope(dimension=True, sections=(11, 11, 10)),
        EPS_KEY,
        *EXPERT_KEYS,
        *HEAD_DIM_KEYS,
        Key("moe_intermediate_size", "expert_feed_forward_length"),
        Key("shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
        *DELTA_ROWS,
        Key("hc_mult", "hyper_connection.count"),
        Key("hc_lowrank", "hyper_connection.low_rank"),
        *INDEXER_KEYS,
        InLayersOf("indexer_compress_ratio", "attention.compress_ratios", "full_attention"),
        CountedFromOne("ple_layer_ids", "ple.layers"),
        Key("ngram_size", "ple.ngram_size", optional=True, when=_PLE),
        Key("heads_per_ngram", "ple.heads_per_ngram", optional=True, when=_PLE),
        Key("ple_conv_kernel_size", "ple.conv_kernel", optional=True, when=_PLE),
        FirstToken("eos_token_id", "ple.eos_token_id", _PLE),
        Key("image_token_id", "ple.image_token_id", optional=True, when=_PLE),
        Computed("embedding_length_per_layer_input", _TABLE_EMBD // _HEADS, _PLE),
        FirstSize("ngram_vocab_size_base", "ple.head_vocab_sizes"),
    ),
    rules=(
        EMBEDDING,
        *_LOOKED_UP,
        *_mix(
            LAYER_PREFIX + "attn_hyper_connection.",
            Role.HC_ATTN_NORM,
            Role.HC_ATTN_DOWN,
            Role.HC_ATTN_UP,
            Role.HC_ATTN_INJECT,
        ),
        *MIXERS,
        *_INDEXED,
        *_mix(
            LAYER_PREFIX + "mlp_hyper_connection.",
            Role.HC_FFN_NORM,
            Role.HC_FFN_DOWN,
            Role.HC_FFN_UP,
            Role.HC_FFN_INJECT,
        ),
        *experts_of_either_layout(),
        Rule(LAYER_PREFIX + "mlp.shared_expert_gate", Role.FFN_GATE_INP_SHEXP, (Dim(1), EMBD)),
        *shared_expert(at=LAYER_PREFIX + "mlp.shared_expert.", width=Dim("shared_expert_intermediate_size")),
        *_mix("model.hyper_connection_mixer.", Role.OUTPUT_HC_NORM, Role.OUTPUT_HC_DOWN, Role.OUTPUT_HC_UP),
        HEAD,
    ),
    fixed={"hidden_act": "silu", "attention_bias": False, "norm_topk_prob": True, "output_gate_type": "sigmoid"}
    | {"indexer_kv_heads": 1},
    needs=DELTA_NEEDS
    | {
        "indexer_budget": Equal(Dim("index_topk") % Dim("indexer_compress_ratio"), Dim(0)),
        "ple_layer_ids": TableLayer("ple_layer_ids", "linear_attention"),
        "ple_embed_dim": ~_PLE | (Equal(_TABLE_EMBD, EMBD) & Equal(_TABLE_EMBD % _HEADS, Dim(0))),
    },
    implied=DELTA_IMPLIED | {"ple_embed_dim": EMBD},
    synonyms={"layer_types": {"indexed_attention": "full_attention"}},  # as transformers 5 saves it
    roots=TEXT_ROOTS,
    layouts=FUSED_EXPERTS | {"table_is_whole": "*.ple_embedding.ngram_embedding.weight"},
    extras=(*VISION, *VISUAL, *beside("mtp.*", "layers that predict further tokens")),
)
