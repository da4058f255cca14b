"""MiMo V2."""

from oracles.proofs import Proof

_SMALL = {
    "num_hidden_layers": 4, "layer_types": ["full_attention", *["sliding_attention"] * 2, "full_attention"],
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 96, "v_head_dim": 64, "sliding_window": 24,
    "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 128, "n_group": 2, "topk_group": 1,
}  # fmt: skip
# As published configs, which transformers 5 alone turns into its own.
_PUBLISHED = {
    "hybrid_layer_pattern": [0, 1, 1, 0], "moe_layer_freq": [0, 1, 1, 1], "layernorm_epsilon": 1e-5,
    "swa_num_attention_heads": 8, "swa_num_key_value_heads": 4, "swa_head_dim": 96, "swa_v_head_dim": 64,
    "rope_theta": 5000000.0, "swa_rope_theta": 10000.0, "partial_rotary_factor": 0.334, "rope_parameters": None,
    "scoring_func": "sigmoid", "topk_method": "noaux_tc", "add_swa_attention_sink_bias": True,
    "add_full_attention_sink_bias": False, "layer_types": None, "mlp_layer_types": None,
    "sliding_window_size": 23,
}  # fmt: skip

# llama.cpp's converter counts three layers more, whether they are there or not.
PROOFS = (Proof("mimo2", "MiMoV2FlashForCausalLM", _SMALL, published=_PUBLISHED, options=("--no-mtp",)),)
