"""Bamba."""

from oracles.proofs import Proof

_HYBRID = {
    "num_attention_heads": 8, "num_key_value_heads": 2, "attn_layer_indices": [1], "mamba_n_heads": 8,
    "mamba_n_groups": 2, "mamba_d_state": 128, "attention_bias": True, "mlp_bias": True,
}  # fmt: skip

PROOFS = (Proof("bamba", "BambaForCausalLM", _HYBRID, published={"attn_rotary_emb": 16}),)
