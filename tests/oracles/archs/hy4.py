"""Hy4."""

from oracles.proofs import Proof

_SIZES = {
    "num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 64, "q_lora_rank": 96, "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 48, "v_head_dim": 64, "moe_intermediate_size": 128, "n_routed_experts": 8,
    "n_shared_experts": 2, "num_experts_per_tok": 3, "routed_scaling_factor": 1.5, "index_n_heads": 32,
    "index_head_dim": 64, "index_topk": 16, "indexer_types": ["full", "shared", "full"], "hc_magnitude": 1.5,
    "swiglu_limit": 1.0, "pad_token_id": 0,
}  # fmt: skip
# transformers 5.23 saves them under names that no published checkpoint has.
_NAMES = {
    r"hc_pre\.(hc_(attn|mlp)_layer)\.": r"\1.hc_pre.",
    r"model\.hc_pre\.hc_head\.": "model.hc_head.",
    r"(mlp\.(shared_experts\.)?)linear_gate": r"\1gate_proj",
}

PROOFS = (Proof("hy_v4", "HYV4ForCausalLM", _SIZES, renamed=_NAMES, other_logits=True),)
