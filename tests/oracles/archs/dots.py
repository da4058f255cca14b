"""dots.llm1."""

from oracles.proofs import Proof

_EXPERTS = {
    "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 48, "n_routed_experts": 6, "num_experts_per_tok": 2,
    "moe_intermediate_size": 256, "n_shared_experts": 2, "first_k_dense_replace": 1, "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
}  # fmt: skip

PROOFS = (Proof("dots1", "Dots1ForCausalLM", _EXPERTS, published={"scoring_func": "sigmoid"}),)
