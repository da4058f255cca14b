"""MiniMax."""

from oracles.proofs import Proof

_EXPERTS = {
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "rotary_dim": 32, "num_local_experts": 6,
    "num_experts_per_tok": 2, "intermediate_size": 256,
}  # fmt: skip

PROOFS = (Proof("minimax-m2", "MiniMaxM2ForCausalLM", _EXPERTS, published={"scoring_func": "sigmoid"}),)
