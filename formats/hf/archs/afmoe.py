"""AFMoE: Arcee's Trinity. Norms before and after each part, a gate of each head, windows without which no rope turns.

Sources: AfmoeConfig of transformers 5.23; conversion/afmoe.py of llama.cpp, which takes it that every fourth layer has
full attention, and that embeddings are scaled (``mup_enabled``).
"""

from __future__ import annotations

from ...ir import Role
from ..tables.dimensions import EMBD, EXPERT_FF, LAYER_INDEX, Dim, Follows, Is, LayerPattern, OrDefault, Q
from ..tables.rows import Constant, Key, LayerFlags
from ..tables.rules import Arch, HFClass, Rule
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    EXPERT_KEYS,
    FINAL_NORM,
    HEAD,
    HEAD_DIM_KEYS,
    KEYS,
    LAYER_PREFIX,
    attention,
    correction,
    experts,
    gated_mlp,
    qk_norm,
    shared_expert,
)

_DENSE = Dim("num_dense_layers") > LAYER_INDEX
_MLP = LAYER_PREFIX + "mlp."
_SHARED = Dim("num_shared_experts")

AFMOE = Arch(
    name="afmoe",
    classes={
        "AfmoeForCausalLM": HFClass(
            "afmoe",
            {
                "vocab_size": 200192, "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 1408,
                "num_hidden_layers": 32, "num_dense_layers": 1, "num_attention_heads": 16, "num_key_value_heads": None,
                "head_dim": 128, "hidden_act": "silu", "max_position_embeddings": 16384, "rms_norm_eps": 1e-5,
                "num_local_experts": 64, "num_experts_per_tok": 6, "num_shared_experts": 2, "route_scale": 1.0,
                "output_router_logits": False, "global_attn_every_n_layers": 4, "sliding_window": 1024,
                "layer_types": None, "mup_enabled": False, "attention_bias": False,
            },
            {"num_experts": "num_local_experts"},
        )
    },
    config=(
        *KEYS,
        *EXPERT_KEYS,
        Constant("expert_gating_func", 2),
        *HEAD_DIM_KEYS,
        Key("vocab_size", "vocab_size"),
        Key("head_dim", "rope.dimension_count"),
        Key("num_shared_experts", "expert_shared_count"),
        Key("moe_intermediate_size", "expert_feed_forward_length"),
        Key("num_dense_layers", "leading_dense_block_count"),
        Constant("expert_weights_norm", True),
        Key("route_scale", "expert_weights_scale"),
        Key("sliding_window", "attention.sliding_window"),
        LayerFlags("layer_types", "attention.sliding_window_pattern"),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(),
        Rule(LAYER_PREFIX + "self_attn.gate_proj", Role.ATTN_GATE, (Q, EMBD)),
        *qk_norm(),
        Rule(LAYER_PREFIX + "post_attention_layernorm", Role.ATTN_POST_NORM, (EMBD,)),
        Rule(LAYER_PREFIX + "pre_mlp_layernorm", Role.FFN_NORM, (EMBD,)),
        *gated_mlp(when=_DENSE),
        *experts(router="router.gate", when=~_DENSE),
        correction(_MLP + "expert_bias", ~_DENSE),
        *shared_expert(at=_MLP + "shared_experts.", width=EXPERT_FF * _SHARED, when=~_DENSE & Is("num_shared_experts")),
        Rule(LAYER_PREFIX + "post_mlp_layernorm", Role.FFN_POST_NORM, (EMBD,)),
        FINAL_NORM,
        HEAD,
    ),
    fixed={"hidden_act": "silu", "attention_bias": False, "mup_enabled": True},
    needs={
        "route_norm": ~Is("route_norm", False),
        "layer_types": Follows("layer_types", LayerPattern("sliding_attention", "full_attention", Dim(4))),
    },
    implied={
        "layer_types": LayerPattern("sliding_attention", "full_attention", OrDefault("global_attn_every_n_layers", 4))
    },
)  # fmt: skip
