"""GLM-4 (9B, and 0414), dense; GLM-4.5 to 4.7, with experts; Solar Open.

Sources: GlmConfig, Glm4Config, Glm4MoeConfig and SolarOpenConfig of transformers 5.23; conversion/glm.py and chatglm.py
of llama.cpp. The dense models' rope turns neighbouring pairs of half of each head, there as here.
"""

from __future__ import annotations

from ...ir import Role
from ..tables.dimensions import EMBD, EXPERT_FF, FF, HEAD_DIM, HEADS, LAYER_INDEX, NEVER, Condition, Dim, Equal, Is
from ..tables.rows import ConfigRow, Constant, Key, Rope
from ..tables.rules import Arch, HFClass, Rule
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    EPS_KEY,
    EXPERT_KEYS,
    FFN_NORM,
    FINAL_NORM,
    HEAD,
    HEAD_DIM_KEYS,
    LAYER_PREFIX,
    NEXTN_LAYERS,
    SIZE_KEYS,
    attention,
    correction,
    experts,
    gated_mlp,
    qk_norm,
    shared_expert,
)

_DENSE_DEFAULTS = {
    "vocab_size": 151552,
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1.5625e-07,
    "attention_bias": True,
    "partial_rotary_factor": 0.5,
    "pad_token_id": 151329,
}

GLM = Arch(
    name="chatglm",
    classes={"GlmForCausalLM": HFClass("glm", _DENSE_DEFAULTS)},
    config=(*SIZE_KEYS, Rope(dimension=True), EPS_KEY),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(bias="attention_bias"),
        FFN_NORM,
        Rule(LAYER_PREFIX + "mlp.gate_up_proj", Role.FFN_UP, (2 * FF, EMBD)),
        Rule(LAYER_PREFIX + "mlp.down_proj", Role.FFN_DOWN, (EMBD, FF)),
        FINAL_NORM,
        HEAD,
    ),
    fixed={"hidden_act": "silu"},
    needs={"head_dim": Equal(HEADS * HEAD_DIM, EMBD)},  # llama.cpp reads no width of heads
)  # fmt: skip

GLM4 = Arch(
    name="glm4",
    classes={"Glm4ForCausalLM": HFClass("glm4", _DENSE_DEFAULTS)},
    config=(
        *SIZE_KEYS,
        Rope(dimension=True),
        EPS_KEY,
        *HEAD_DIM_KEYS,
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(bias="attention_bias"),
        Rule(LAYER_PREFIX + "post_self_attn_layernorm", Role.ATTN_POST_NORM, (EMBD,)),
        FFN_NORM,
        Rule(LAYER_PREFIX + "mlp.gate_up_proj", Role.FFN_UP, (2 * FF, EMBD)),
        Rule(LAYER_PREFIX + "mlp.down_proj", Role.FFN_DOWN, (EMBD, FF)),
        Rule(LAYER_PREFIX + "post_mlp_layernorm", Role.FFN_POST_NORM, (EMBD,)),
        FINAL_NORM,
        HEAD,
    ),
    fixed={"hidden_act": "silu"},
)  # fmt: skip

_DENSE = Dim("first_k_dense_replace") > LAYER_INDEX


def _routed(dense: Condition) -> tuple[Rule, ...]:
    return (
        EMBEDDING,
        ATTN_NORM,
        *attention(bias="attention_bias"),
        *qk_norm(when=Is("use_qk_norm")),
        Rule(LAYER_PREFIX + "post_attention_layernorm", Role.ATTN_POST_NORM, (EMBD,)),
        *gated_mlp(when=dense),
        *experts(when=~dense),
        correction(LAYER_PREFIX + "mlp.gate.e_score_correction_bias", ~dense),
        *shared_expert(at=LAYER_PREFIX + "mlp.shared_experts.", width=EXPERT_FF * Dim("n_shared_experts"), when=~dense),
        FINAL_NORM,
        HEAD,
    )


_ROUTED: tuple[ConfigRow, ...] = (
    *SIZE_KEYS,
    Rope(dimension=True),
    EPS_KEY,
    *HEAD_DIM_KEYS,
    *EXPERT_KEYS,
    Key("n_group", "expert_group_count"),
    Key("topk_group", "expert_group_used_count"),
    Key("moe_intermediate_size", "expert_feed_forward_length"),
    Key("n_shared_experts", "expert_shared_count"),
    Constant("expert_gating_func", 2),
    Key("routed_scaling_factor", "expert_weights_scale"),
    Key("norm_topk_prob", "expert_weights_norm"),
    NEXTN_LAYERS,
)

GLM4_MOE = Arch(
    name="glm4moe",
    classes={
        "Glm4MoeForCausalLM": HFClass(
            "glm4_moe",
            {
                "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 10944, "num_hidden_layers": 46,
                "num_attention_heads": 96, "num_key_value_heads": 8, "hidden_act": "silu",
                "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "attention_bias": False,
                "partial_rotary_factor": 0.5, "moe_intermediate_size": 1408, "num_experts_per_tok": 8,
                "output_router_logits": False, "n_shared_experts": 1, "num_local_experts": 128,
                "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
                "norm_topk_prob": True, "use_qk_norm": False,
            },
            {"n_routed_experts": "num_local_experts"},
        )
    },
    config=(*_ROUTED, Key("first_k_dense_replace", "leading_dense_block_count")),
    rules=_routed(_DENSE),
    fixed={"hidden_act": "silu"},
)  # fmt: skip

SOLAR_OPEN = Arch(
    name="solar-open",
    gguf_name="glm4moe",
    classes={
        "SolarOpenForCausalLM": HFClass(
            "solar_open",
            {
                "vocab_size": 196608, "hidden_size": 4096, "num_hidden_layers": 48, "num_attention_heads": 64,
                "num_key_value_heads": 8, "head_dim": 128, "hidden_act": "silu", "max_position_embeddings": 131072,
                "rms_norm_eps": 1e-5, "attention_bias": False, "rope_theta": 1e6, "moe_intermediate_size": 1280,
                "num_experts_per_tok": 8, "output_router_logits": False, "n_shared_experts": 1,
                "num_local_experts": 128, "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1,
                "norm_topk_prob": True,
            },
            {"n_routed_experts": "num_local_experts"},
        )
    },
    config=(*_ROUTED, Constant("leading_dense_block_count", 0)),
    rules=_routed(NEVER),
    fixed={"hidden_act": "silu"},
    needs={"use_qk_norm": ~Is("use_qk_norm")},
    implied={"intermediate_size": EXPERT_FF},  # of no layer
)  # fmt: skip
