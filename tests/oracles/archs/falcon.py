"""Falcon."""

from oracles.proofs import Proof

_NEW = {"num_attention_heads": 8, "num_kv_heads": 2, "new_decoder_architecture": True}

PROOFS = (
    Proof("falcon", "FalconForCausalLM", {"num_attention_heads": 4}, published={"num_kv_heads": 1}),
    Proof("falcon", "FalconForCausalLM", _NEW | {"ffn_hidden_size": 512}, "40b"),
    Proof("falcon", "FalconForCausalLM", _NEW | {"num_ln_in_parallel_attn": 1, "tie_word_embeddings": False}, "2-11b"),
)
