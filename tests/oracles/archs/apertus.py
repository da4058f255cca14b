"""Apertus."""

from oracles.proofs import Proof

_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 12000000.0, "factor": 8.0, "original_max_position_embeddings": 32,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0,
}  # fmt: skip
_SMALL = {"num_attention_heads": 8, "num_key_value_heads": 2, "rope_parameters": _LLAMA3, "pad_token_id": 3}

PROOFS = (Proof("apertus", "ApertusForCausalLM", _SMALL),)
