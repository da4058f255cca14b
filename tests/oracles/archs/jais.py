"""Jais 2."""

from oracles.proofs import Proof

PROOFS = (Proof("jais2", "Jais2ForCausalLM", {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 48}),)
