"""Arcee, SmolLM3, Seed-OSS, ERNIE 4.5, Hunyuan."""

from oracles.proofs import Proof

_HEADS = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 48}
# From the fourth layer on rope is left out.
_FIVE = {"num_hidden_layers": 5, "num_attention_heads": 8, "num_key_value_heads": 2}
_ALPHA = {"rope_type": "dynamic", "rope_theta": 10000.0, "alpha": 1000.0, "factor": 1.0}

PROOFS = (
    Proof("arcee", "ArceeForCausalLM", _HEADS),
    Proof("smollm3", "SmolLM3ForCausalLM", _FIVE | {"pad_token_id": 0}),
    Proof("seed_oss", "SeedOssForCausalLM", _HEADS),
    Proof("ernie4_5", "Ernie4_5ForCausalLM", _HEADS),
    Proof("hunyuan-dense", "HunYuanDenseV1ForCausalLM", _HEADS),
    Proof("hunyuan-dense", "HunYuanDenseV1ForCausalLM", _HEADS | {"rope_parameters": _ALPHA}, "alpha"),
)
