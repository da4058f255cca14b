"""Jamba: layers of Mamba and some of attention without a rope, each followed by an MLP or by experts.

Sources: JambaConfig of transformers 5.23; conversion/jamba.py of llama.cpp.
"""

from __future__ import annotations

from ...ir import Role
from ..tables.dimensions import EMBD, EXPERTS, FF, LAYER_INDEX, Dim, Equal, Q
from ..tables.hybrid_rows import PeriodicAttention
from ..tables.rows import Computed, Key
from ..tables.rules import Arch, HFClass, Rule
from .mamba import mamba1
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    EPS_KEY,
    EXPERT_KEYS,
    HEAD,
    LAYER_PREFIX,
    SIZE_KEYS,
    attention,
    experts,
    gated_mlp,
)

_PERIOD, _OFFSET = Dim("attn_layer_period"), Dim("attn_layer_offset")
_EXPERT_PERIOD, _EXPERT_OFFSET = Dim("expert_layer_period"), Dim("expert_layer_offset")
_ATTENTION = Equal(LAYER_INDEX % _PERIOD, _OFFSET)
_EXPERTS = Equal(LAYER_INDEX % _EXPERT_PERIOD, _EXPERT_OFFSET) & (Dim(1) < EXPERTS)
_FORWARD = LAYER_PREFIX + "feed_forward."

JAMBA = Arch(
    name="jamba",
    classes={
        "JambaForCausalLM": HFClass(
            "jamba",
            {
                "vocab_size": 65536, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 262144,
                "hidden_act": "silu", "rms_norm_eps": 1e-6, "num_local_experts": 16, "num_experts_per_tok": 2,
                "expert_layer_period": 2, "expert_layer_offset": 1, "attn_layer_period": 8, "attn_layer_offset": 4,
                "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_conv_bias": True,
                "mamba_proj_bias": False, "output_router_logits": False, "router_aux_loss_coef": 0.001,
                "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
            },
            {"num_experts": "num_local_experts"},
        )
    },
    config=(
        *(row for row in SIZE_KEYS if row.hf != "num_key_value_heads"),
        PeriodicAttention("attn_layer_period", "attn_layer_offset"),
        Key("mamba_d_conv", "ssm.conv_kernel"),
        Computed("ssm.inner_size", 2 * EMBD),
        Key("mamba_d_state", "ssm.state_size"),
        Key("mamba_dt_rank", "ssm.time_step_rank"),
        EPS_KEY,
        *EXPERT_KEYS,
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(when=_ATTENTION),
        *mamba1(
            LAYER_PREFIX + "mamba.",
            inner=2 * EMBD,
            rank=Dim("mamba_dt_rank"),
            state=Dim("mamba_d_state"),
            kernel=Dim("mamba_d_conv"),
            when=~_ATTENTION,
            norms=True,
        ),
        Rule(LAYER_PREFIX + "pre_ff_layernorm", Role.FFN_NORM, (EMBD,)),
        *experts(at=_FORWARD, router="router", width=FF, when=_EXPERTS),
        *gated_mlp(at=_FORWARD, when=~_EXPERTS),
        Rule("model.final_layernorm", Role.OUTPUT_NORM, (EMBD,)),
        HEAD,
    ),
    fixed={"hidden_act": "silu", "mamba_expand": 2, "mamba_conv_bias": True, "mamba_proj_bias": False},
    needs={
        "head_dim": Equal(Q, EMBD),
        "attn_layer_offset": _OFFSET < _PERIOD,
        "expert_layer_offset": _EXPERT_OFFSET < _EXPERT_PERIOD,
        "num_experts_per_tok": Dim("num_experts_per_tok") <= EXPERTS,
    },
    implied={"mamba_dt_rank": (EMBD + 15) // 16},
)  # fmt: skip
