"""GLM-4 (0414), dense; GLM-4.5 to 4.7, with experts.

Sources: Glm4Config and Glm4MoeConfig of transformers 5.23; conversion/glm.py of llama.cpp. The dense model's rope turns
neighbouring pairs of half of each head, there as here.
"""

from __future__ import annotations

from ...ir import Role
from ..dimensions import EMBD, EXPERT_FF, EXPERTS, FF, LAYER_INDEX, Dim, Is
from ..rows import Constant, Key, Rope
from ..rules import Arch, HFClass, Rule
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    EPS_KEY,
    EXPERT_KEYS,
    FFN_NORM,
    FINAL_NORM,
    FURTHER_LAYERS,
    HEAD,
    HEAD_DIM_KEYS,
    LAYER_PREFIX,
    SIZE_KEYS,
    attention,
    experts,
    gated_mlp,
    qk_norm,
    shared_expert,
)

GLM4 = Arch(
    name="glm4",
    classes={
        "Glm4ForCausalLM": HFClass(
            "glm4",
            {
                "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40,
                "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "hidden_act": "silu",
                "max_position_embeddings": 131072, "rms_norm_eps": 1.5625e-07, "attention_bias": True,
                "partial_rotary_factor": 0.5, "pad_token_id": 151329,
            },
        )
    },
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
    config=(
        *SIZE_KEYS,
        Rope(dimension=True),
        EPS_KEY,
        *HEAD_DIM_KEYS,
        *EXPERT_KEYS,
        Key("n_group", "expert_group_count"),
        Key("topk_group", "expert_group_used_count"),
        Key("moe_intermediate_size", "expert_feed_forward_length"),
        Key("n_shared_experts", "expert_shared_count"),
        Key("first_k_dense_replace", "leading_dense_block_count"),
        Constant("expert_gating_func", 2),
        Key("routed_scaling_factor", "expert_weights_scale"),
        Key("norm_topk_prob", "expert_weights_norm"),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(bias="attention_bias"),
        *qk_norm(when=Is("use_qk_norm")),
        Rule(LAYER_PREFIX + "post_attention_layernorm", Role.ATTN_POST_NORM, (EMBD,)),
        *gated_mlp(when=_DENSE),
        *experts(when=~_DENSE),
        Rule(
            LAYER_PREFIX + "mlp.gate.e_score_correction_bias", Role.FFN_EXP_PROBS_B, (EXPERTS,), when=~_DENSE,
            tensor=True, part="bias",
        ),
        *shared_expert(
            at=LAYER_PREFIX + "mlp.shared_experts.", width=EXPERT_FF * Dim("n_shared_experts"), when=~_DENSE
        ),
        FINAL_NORM,
        HEAD,
    ),
    fixed={"hidden_act": "silu"},
    extras=(FURTHER_LAYERS,),
)  # fmt: skip
