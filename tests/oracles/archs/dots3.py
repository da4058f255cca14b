"""Dots 3 Note."""

from oracles.proofs import Proof

_WINDOWED = {
    "swa_num_attention_heads": 2, "swa_num_key_value_heads": 2, "swa_q_lora_rank": 96, "swa_kv_lora_rank": 96,
    "swa_head_dim": 64, "swa_qk_nope_head_dim": 32, "swa_qk_rope_head_dim": 32, "swa_v_head_dim": 48,
}  # fmt: skip
# All keys are chosen: transformers' indexer turns neighbouring pairs, llama.cpp's the halves.
_CONFIG = {
    "num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 64, "q_lora_rank": 96, "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 48, "v_head_dim": 64, "head_dim": 80, "moe_intermediate_size": 128, "n_routed_experts": 8,
    "num_experts_per_tok": 3, "shared_experts_intermediate_size": 128, "routed_scaling_factor": 1.5, "pad_token_id": 0,
    "index_n_heads": 32, "index_head_dim": 64, "index_topk": 64, "sliding_window": 24, "n_shared_experts": 2,
    "layer_types": ["indexed_attention", "sliding_attention", "indexed_attention"],
}  # fmt: skip
# The form of published checkpoints, which llama.cpp's converter knows.
_PUBLISHED = {
    **_WINDOWED, "per_layer_config": None, "rope_parameters": None, "rope_theta": 8e7, "swa_rope_theta": 5e4,
    "sliding_window_size": 24, "first_k_dense_replace": 1, "scoring_func": "sigmoid",
    "apply_mla_qkv_lora_rescale": True,
    "layer_types": ["full_attention", "sliding_attention", "full_attention"], "use_dsa": True,
}  # fmt: skip

PROOFS = (Proof("dots3note", "Dots3NoteForCausalLM", _CONFIG | _WINDOWED, published=_PUBLISHED),)
