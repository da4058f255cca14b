"""LFM2."""

from oracles.proofs import Proof

_SIZES = {
    "num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "full_attention"],
    "num_attention_heads": 4, "num_key_value_heads": 2, "conv_L_cache": 3,
}  # fmt: skip
_EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "num_dense_layers": 1}

PROOFS = (
    Proof("lfm2", "Lfm2ForCausalLM", _SIZES | {"block_auto_adjust_ff_dim": False}),
    Proof("lfm2", "Lfm2ForCausalLM", _SIZES | {"intermediate_size": 800}, "adjusted"),
    Proof("lfm2moe", "Lfm2MoeForCausalLM", _SIZES | _EXPERTS),
)
