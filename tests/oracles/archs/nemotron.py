"""Nemotron."""

from oracles.proofs import Proof

_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}

PROOFS = (
    Proof("nemotron", "NemotronForCausalLM", _HEADS),
    Proof("nemotron", "NemotronForCausalLM", _HEADS | {"attention_bias": True, "mlp_bias": True}, "biases"),
)
