"""gpt-oss."""

from oracles.proofs import Proof

_YARN = {
    "rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
    "original_max_position_embeddings": 4096, "truncate": True,
}  # fmt: skip
_SIZES = {
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 64, "num_local_experts": 5,
    "num_experts_per_tok": 2, "sliding_window": 20, "rope_parameters": _YARN,
}  # fmt: skip

PROOFS = (Proof("gpt-oss", "GptOssForCausalLM", _SIZES),)
