"""dots.llm1: experts after the first layers, as DeepSeek V3, with ordinary attention.

Sources: Dots1Config of transformers 5.23; conversion/dots1.py of llama.cpp.
"""

from __future__ import annotations

from ..tables.dimensions import EXPERT_FF, HEADS, KV_HEADS, LAYER_INDEX, Dim, Equal
from ..tables.rows import Constant, Key
from ..tables.rules import Arch, HFClass
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    EXPERT_KEYS,
    FFN_NORM,
    FINAL_NORM,
    HEAD_DIM_KEYS,
    KEYS,
    LAYER_PREFIX,
    OWN_HEAD,
    attention,
    correction,
    experts,
    gated_mlp,
    qk_norm,
    shared_expert,
)

_DENSE = Dim("first_k_dense_replace") > LAYER_INDEX
_MLP = LAYER_PREFIX + "mlp."

DOTS1 = Arch(
    name="dots1",
    classes={
        "Dots1ForCausalLM": HFClass(
            "dots1",
            {
                "vocab_size": 152064, "hidden_size": 4608, "intermediate_size": 10944, "moe_intermediate_size": 1408,
                "num_hidden_layers": 62, "num_attention_heads": 32, "num_key_value_heads": 32, "n_group": 1,
                "topk_group": 1, "n_shared_experts": None, "num_local_experts": None, "num_experts_per_tok": None,
                "first_k_dense_replace": 0, "norm_topk_prob": False, "hidden_act": "silu", "rms_norm_eps": 1e-6,
                "max_position_embeddings": 2048, "attention_bias": False, "routed_scaling_factor": 1.0,
                "output_router_logits": False, "sliding_window": 4096, "max_window_layers": 62,
            },
            {"n_routed_experts": "num_local_experts"},
        )
    },
    config=(
        *KEYS,
        *EXPERT_KEYS,
        Key("n_group", "expert_group_count"),
        Key("topk_group", "expert_group_used_count"),
        Constant("expert_gating_func", 2),
        *HEAD_DIM_KEYS,
        Key("moe_intermediate_size", "expert_feed_forward_length"),
        Key("first_k_dense_replace", "leading_dense_block_count"),
        Key("n_shared_experts", "expert_shared_count"),
        Key("routed_scaling_factor", "expert_weights_scale"),
        Key("norm_topk_prob", "expert_weights_norm"),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(),
        *qk_norm(),
        FFN_NORM,
        *gated_mlp(when=_DENSE),
        *experts(when=~_DENSE),
        correction(_MLP + "gate.e_score_correction_bias", ~_DENSE),
        *shared_expert(at=_MLP + "shared_experts.", width=EXPERT_FF * Dim("n_shared_experts"), when=~_DENSE),
        FINAL_NORM,
        OWN_HEAD,
    ),
    # Windows and groups of experts are not computed there.
    fixed={"hidden_act": "silu", "attention_bias": False, "n_group": 1},
    needs={"num_key_value_heads": Equal(HEADS, KV_HEADS)},
)  # fmt: skip
