"""Jamba."""

from oracles.proofs import Proof

_HEADS = {"num_attention_heads": 8, "num_key_value_heads": 2, "attn_layer_period": 2, "attn_layer_offset": 1}
_EXPERTS = {"num_hidden_layers": 4, "num_experts": 5, "num_experts_per_tok": 2, "expert_layer_offset": 0}

PROOFS = (
    Proof("jamba", "JambaForCausalLM", _HEADS | _EXPERTS),
    Proof("jamba", "JambaForCausalLM", _HEADS | {"num_experts": 1, "num_experts_per_tok": 1}, "dense"),
)
