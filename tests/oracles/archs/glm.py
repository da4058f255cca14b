"""GLM."""

from oracles.proofs import Proof

_HEADS = {"num_attention_heads": 8, "num_key_value_heads": 2}

PROOFS = (Proof("glm4", "Glm4ForCausalLM", _HEADS | {"head_dim": 64, "pad_token_id": 0}),)
