"""Kimi-Linear."""

from oracles.proofs import Proof

_SIZES = {
    "num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 64, "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 48, "v_head_dim": 64, "moe_intermediate_size": 128, "num_experts": 8,
    "num_experts_per_token": 3, "num_shared_experts": 2, "num_expert_group": 4, "topk_group": 2,
    "routed_scaling_factor": 1.5, "rms_norm_eps": 1e-6, "pad_token_id": 0, "linear_head_dim": 32,
    "linear_num_heads": 4, "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}  # fmt: skip
# llama.cpp's converter knows the published keys only.
_PUBLISHED = {
    "linear_attn_config": {
        "full_attn_layers": [2], "kda_layers": [1, 3], "head_dim": 32, "num_heads": 4, "short_conv_kernel_size": 4,
    },
    "first_k_dense_replace": 1, "moe_router_activation_func": "sigmoid", "mla_use_nope": True, "rope_theta": 10000.0,
}  # fmt: skip

_DENSE = {r"(layers\.0\.)block_sparse_moe\.": r"\1mlp."}

PROOFS = (Proof("kimi-linear", "KimiLinearForCausalLM", _SIZES, published=_PUBLISHED, renamed=_DENSE),)
