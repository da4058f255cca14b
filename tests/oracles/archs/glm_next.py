"""GLM-5-Next."""

from oracles.proofs import Proof

_VISION = {
    "depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 256,
    "projection_intermediate_size": 64, "image_size": 28,
}  # fmt: skip
# Of 16 pools of keys the indexer chooses 4; the last layer takes the choice of that before.
_SIZES = {
    "num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 64, "q_lora_rank": 96, "qk_nope_head_dim": 64,
    "v_head_dim": 64, "moe_intermediate_size": 128, "n_routed_experts": 8, "num_experts_per_tok": 3,
    "n_shared_experts": 2, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 1.5, "linear_head_dim": 32,
    "linear_num_heads": 4, "linear_lower_bound": -3.0, "index_n_heads": 32, "index_head_dim": 64, "index_topk": 16,
    "index_kpool": 4, "hc_sinkhorn_iters": 4, "swiglu_limit": 1.0, "pad_token_id": 0,
    "layer_types": ["linear_attention", "indexed_attention", "indexed_attention"],
    "mlp_layer_types": ["dense", "sparse", "sparse"], "indexer_types": ["full", "full", "shared"],
}  # fmt: skip

# llama.cpp's converter knows the published keys only.
_PUBLISHED = {
    "mla_use_nope": True, "first_k_dense_replace": 1, "scoring_func": "sigmoid",
    "linear_attn_config": {"head_dim": 32, "num_heads": 4, "short_conv_kernel_size": 4, "gate_lower_bound": -3.0},
}  # fmt: skip

PROOFS = (
    Proof(
        "glm5-next",
        "Glm5NextForConditionalGeneration",
        _SIZES,
        towers={"vision_config": _VISION},
        published=_PUBLISHED,
        options=("--no-mtp",),
    ),
)
