"""ERNIE 4.5, dense and with experts."""

from oracles.proofs import Proof

_EXPERTS = {
    "num_attention_heads": 4, "num_key_value_heads": 2, "moe_num_experts": 5, "moe_k": 2,
    "moe_intermediate_size": 256, "moe_layer_start_index": 1,
}  # fmt: skip

PROOFS = (
    Proof("ernie4_5", "Ernie4_5ForCausalLM", {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 48}),
    Proof("ernie4_5-moe", "Ernie4_5_MoeForCausalLM", _EXPERTS),
)
