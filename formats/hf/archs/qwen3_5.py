"""Qwen 3.5, 3.6 and 3.8, dense and with experts: the text models.

Sources: their config classes in transformers 5.23; conversion/qwen.py of llama.cpp. Each key head of a linear layer
serves several value heads: checkpoints have these side by side, llama.cpp first one of each key head, then the next.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import EMBD, FF, Dim, Q
from ..tables.ops import Concat, On, Op, Regroup, RegroupColumns, Reshape, Split
from ..tables.rows import Key, Rope
from ..tables.rules import Arch, HFClass, Rule
from ..tables.values import NegExp
from .qwen import (
    ADD_ONE,
    DELTA,
    DELTA_DEFAULTS,
    DELTA_IMPLIED,
    DELTA_NEEDS,
    DELTA_ROWS,
    K_HEADS,
    KERNEL,
    LINEAR,
    LINEAR_KEYS,
    MTP,
    MTP_ROOTS,
    NAMES,
    V_DIM,
    V_HEADS,
    VALUES,
)
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
    attention,
    beside,
    experts_of_either_layout,
    gated_mlp,
    qk_norm,
    shared_expert,
)

_COMMON = {
    "vocab_size": 248320, "num_attention_heads": 16, "hidden_act": "silu", "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6, "attention_bias": False, "head_dim": 256, **DELTA_DEFAULTS,
}  # fmt: skip
_DENSE = HFClass(
    "qwen3_5_text",
    _COMMON
    | {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 32, "num_key_value_heads": 4},
)  # fmt: skip
_MOE = HFClass(
    "qwen3_5_moe_text",
    _COMMON
    | {"hidden_size": 2048, "num_hidden_layers": 40, "num_key_value_heads": 2, "moe_intermediate_size": 512}
    | {"shared_expert_intermediate_size": 512, "num_experts_per_tok": 8, "num_local_experts": 256}
    | {"output_router_logits": False, "router_aux_loss_coef": 0.001},
    NAMES,
)
_ROPE = Rope(partial=0.25, dimension=True, sections=(11, 11, 10))

_PER_KEY = V_HEADS // K_HEADS  # value heads of each key head
_TILE_HEADS: tuple[Op, ...] = (Regroup((K_HEADS, _PER_KEY), (1, 0)),)
_TILE_ROWS: tuple[Op, ...] = (Regroup((K_HEADS, _PER_KEY, V_DIM), (1, 0, 2)),)
_TILE_COLUMNS: tuple[Op, ...] = (RegroupColumns((K_HEADS, _PER_KEY, V_DIM), (1, 0, 2)),)
_QKV = (2 * LINEAR_KEYS, VALUES)
_TILE_VALUES: tuple[Op, ...] = (Split(_QKV), On((1,), _TILE_ROWS[0]), Concat(_QKV))

MIXERS = (
    Rule(DELTA + "dt_bias", Role.SSM_DT, (V_HEADS,), _TILE_HEADS, when=LINEAR, tensor=True, part="bias"),
    Rule(DELTA + "A_log", Role.SSM_A, (V_HEADS,), (NegExp(), *_TILE_HEADS), when=LINEAR, tensor=True, part=""),
    Rule(
        DELTA + "conv1d",
        Role.SSM_CONV1D,
        (2 * LINEAR_KEYS + VALUES, Dim(1), KERNEL),
        (Reshape((-1, 1, KERNEL), (-1, KERNEL)), *_TILE_VALUES),
        when=LINEAR,
    ),
    Rule(DELTA + "norm", Role.SSM_NORM, (V_DIM,), when=LINEAR),
    Rule(DELTA + "out_proj", Role.SSM_OUT, (EMBD, VALUES), _TILE_COLUMNS, when=LINEAR),
    Rule(DELTA + "in_proj_qkv", Role.ATTN_QKV, (2 * LINEAR_KEYS + VALUES, EMBD), _TILE_VALUES, when=LINEAR),
    Rule(DELTA + "in_proj_z", Role.ATTN_GATE, (VALUES, EMBD), _TILE_ROWS, when=LINEAR),
    Rule(DELTA + "in_proj_b", Role.SSM_BETA, (V_HEADS, EMBD), _TILE_HEADS, when=LINEAR),
    Rule(DELTA + "in_proj_a", Role.SSM_ALPHA, (V_HEADS, EMBD), _TILE_HEADS, when=LINEAR),
    # For each head its queries, then its gate.
    Rule(LAYER_PREFIX + "self_attn.q_proj", Role.ATTN_Q, (2 * Q, EMBD), when=~LINEAR),
    *attention(when=~LINEAR)[1:],
    *qk_norm(*ADD_ONE, when=~LINEAR),
)
_ATTENTION = (
    Rule(LAYER_PREFIX + "input_layernorm", Role.ATTN_NORM, (EMBD,), ADD_ONE),
    *MIXERS,
    Rule(LAYER_PREFIX + "post_attention_layernorm", Role.ATTN_POST_NORM, (EMBD,), ADD_ONE),
)
_LAST = (Rule("model.norm", Role.OUTPUT_NORM, (EMBD,), ADD_ONE), HEAD)
_FIXED = {"hidden_act": "silu", "attention_bias": False}
_EXTRAS = (*VISION, *VISUAL)

QWEN35 = Arch(
    name="qwen35",
    classes={
        "Qwen3_5ForCausalLM": _DENSE,
        "Qwen3_5ForConditionalGeneration": replace(_DENSE, text_of="Qwen3_5ForCausalLM"),
        "MiniCPMV4_6ForConditionalGeneration": replace(_DENSE, text_of="Qwen3_5ForCausalLM"),
    },
    config=(*SIZE_KEYS, _ROPE, EPS_KEY, *HEAD_DIM_KEYS, *DELTA_ROWS, MTP),
    rules=(EMBEDDING, *_ATTENTION, *gated_mlp(width=FF), *_LAST),
    fixed=_FIXED,
    needs=DELTA_NEEDS,
    implied=DELTA_IMPLIED,
    roots=TEXT_ROOTS | MTP_ROOTS,
    extras=(*_EXTRAS, *beside("merger.*", "projector")),
)

QWEN35_MOE = Arch(
    name="qwen35moe",
    classes={
        "Qwen3_5MoeForCausalLM": _MOE,
        "Qwen3_5MoeForConditionalGeneration": replace(_MOE, text_of="Qwen3_5MoeForCausalLM"),
    },
    config=(
        *(row for row in SIZE_KEYS if row.hf != "intermediate_size"),
        Key("intermediate_size", "feed_forward_length", optional=True),
        _ROPE,
        EPS_KEY,
        *EXPERT_KEYS,
        *HEAD_DIM_KEYS,
        Key("moe_intermediate_size", "expert_feed_forward_length"),
        Key("shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
        *DELTA_ROWS,
        MTP,
    ),
    rules=(
        EMBEDDING,
        *_ATTENTION,
        *experts_of_either_layout(),
        Rule(LAYER_PREFIX + "mlp.shared_expert_gate", Role.FFN_GATE_INP_SHEXP, (Dim(1), EMBD)),
        *shared_expert(at=LAYER_PREFIX + "mlp.shared_expert.", width=Dim("shared_expert_intermediate_size")),
        *_LAST,
    ),
    fixed=_FIXED,
    needs=DELTA_NEEDS,
    implied=DELTA_IMPLIED,
    roots=TEXT_ROOTS | MTP_ROOTS,
    layouts=FUSED_EXPERTS,
    extras=_EXTRAS,
)
