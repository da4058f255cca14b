"""Ling 3.0."""

from oracles.proofs import Further, Proof

_SIZES = {
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32, "kv_lora_rank": 64,
    "qk_rope_head_dim": 16, "qk_nope_head_dim": 48, "v_head_dim": 64, "moe_intermediate_size": 128,
    "num_local_experts": 8, "num_experts_per_tok": 3, "n_shared_experts": 2, "n_group": 4, "topk_group": 2,
    "routed_scaling_factor": 1.5, "first_k_dense_replace": 1, "layer_group_size": 2, "kda_lower_bound": -3.0,
    "num_mtp_layers": 1, "pad_token_id": 0,
}  # fmt: skip
_PUBLISHED = {key: _SIZES[key] for key in ("head_dim", "num_experts_per_tok", "n_group")} | {
    "architectures": ["BailingMoeV3ForCausalLM"], "num_experts": 8, "max_position_embeddings": 128,
    "norm_topk_prob": True, "no_kda_lora": True, "score_function": "sigmoid", "linear_head_dim": None,
    "gated_attention_proj_granularity_type": "head_wise", "moe_shared_expert_intermediate_size": 256,
    "expert_swiglu_limit_list": [None, 7.0, 7.5, None], "share_expert_swiglu_limit_list": [None, None, 7.0],
}  # fmt: skip

# As in inclusionAI/Ling-3.0-flash: a layer of latent attention, whose last norm has a name of its own.
_MTP = Further(
    "model.layers.4.",
    "model.layers.3.",
    {
        "model.layers.4.enorm.weight": (256,),
        "model.layers.4.hnorm.weight": (256,),
        "model.layers.4.eh_proj.weight": (256, 512),
        "model.layers.4.final_layernorm.weight": (256,),
    },
)

PROOFS = (Proof("bailingmoe3", "BailingHybridForCausalLM", _SIZES, published=_PUBLISHED, further=_MTP),)
