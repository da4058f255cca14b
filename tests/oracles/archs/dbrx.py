"""DBRX."""

from oracles.proofs import Proof

_ROPE = {"rope_type": "default", "rope_theta": 5e5}

PROOFS = (
    Proof(
        "dbrx",
        "DbrxForCausalLM",
        {"d_model": 256, "n_layers": 3, "n_heads": 8, "max_seq_len": 128, "rope_parameters": _ROPE}
        | {"attn_config": {"clip_qkv": 0.5, "kv_n_heads": 2, "rope_theta": 5e5}}
        | {"ffn_config": {"ffn_hidden_size": 256, "moe_num_experts": 5, "moe_top_k": 2}},
    ),
)
