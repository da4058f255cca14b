"""MiniCPM 3."""

from oracles.proofs import Proof

_MLA = {
    "num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 64, "q_lora_rank": 96, "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 48,
}  # fmt: skip

PROOFS = (Proof("minicpm3", "MiniCPM3ForCausalLM", _MLA),)
