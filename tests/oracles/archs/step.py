"""Step 3.7's text model."""

from oracles.proofs import Proof

_FULL, _SLIDING = "full_attention", "sliding_attention"
_LLAMA3 = {
    "rope_type": "llama3", "factor": 2.0, "original_max_position_embeddings": 32, "low_freq_factor": 1.0,
    "high_freq_factor": 32.0,
}  # fmt: skip
_SMALL = {
    "num_hidden_layers": 4, "layer_types": [_FULL, _SLIDING, _SLIDING, _FULL], "sliding_window": 24,
    "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"], "num_attention_heads": 8, "num_key_value_heads": 2,
    "head_dim": 64, "num_sliding_attention_heads": 12, "n_routed_experts": 6, "num_experts_per_tok": 2,
    "moe_intermediate_size": 128, "share_expert_dim": 96, "moe_router_scaling_factor": 2.5,
    "swiglu_limits": [0.0, 0.0, 0.3, 0.0], "swiglu_limits_shared": [0.2, 0.25, 0.0, 0.2], "pad_token_id": 0,
    "rope_parameters": {
        _FULL: _LLAMA3 | {"rope_theta": 5000000.0, "partial_rotary_factor": 0.5},
        _SLIDING: {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
    },
}  # fmt: skip
_VISION = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
# As published configs, which transformers 5 alone turns into its own.
_PUBLISHED = {
    "num_attention_groups": 2, "moe_num_experts": 6, "moe_top_k": 2, "moe_layers_enum": "1,2,3",
    "attention_other_setting": {
        "attention_type": _SLIDING, "num_attention_heads": 12, "num_attention_groups": 2, "head_dim": 64,
    },
    "rope_theta": [5000000.0, 10000.0, 10000.0, 5000000.0], "partial_rotary_factors": [0.5, 1.0, 1.0, 0.5],
    "rope_scaling": _LLAMA3, "rope_parameters": None, "mlp_layer_types": None, "num_sliding_attention_heads": None,
    "per_layer_config": None, "norm_expert_weight": True, "moe_router_activation": "sigmoid",
    "use_head_wise_attn_gate": True,
}  # fmt: skip

PROOFS = (
    Proof(
        "step35", "Step3p7ForConditionalGeneration", _SMALL, published={"text_config": _PUBLISHED},
        towers={"vision_config": _VISION, "tie_word_embeddings": False},
    ),
)  # fmt: skip
