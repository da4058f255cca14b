"""Arcee, SmolLM3 and Seed-OSS."""

from oracles.proofs import Proof

_HEADS = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 48}
# From the fourth layer on rope is left out.
_FIVE = {"num_hidden_layers": 5, "num_attention_heads": 8, "num_key_value_heads": 2}

PROOFS = (
    Proof("arcee", "ArceeForCausalLM", _HEADS),
    Proof("smollm3", "SmolLM3ForCausalLM", _FIVE | {"pad_token_id": 0}),
    Proof("seed_oss", "SeedOssForCausalLM", _HEADS),
)
