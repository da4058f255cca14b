"""Falcon-H1."""

from oracles.proofs import Proof

_MULTIPLIERS = {
    "embedding_multiplier": 5.0, "lm_head_multiplier": 0.3, "key_multiplier": 0.7, "attention_in_multiplier": 1.3,
    "attention_out_multiplier": 0.9, "ssm_in_multiplier": 1.25, "ssm_out_multiplier": 0.23,
    "mlp_multipliers": [0.88, 0.3], "ssm_multipliers": [0.35, 0.25, 0.3, 0.5, 0.31],
}  # fmt: skip
_SIZES = {
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 48, "mamba_d_ssm": 384, "mamba_n_heads": 6,
    "mamba_n_groups": 2, "mamba_d_state": 64, "mamba_rms_norm": True, "mamba_norm_before_gate": False,
}  # fmt: skip

PROOFS = (Proof("falcon-h1", "FalconH1ForCausalLM", _SIZES | _MULTIPLIERS),)
