"""DeepSeek V4."""

from oracles.proofs import Further, Proof

_KINDS = ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"]
_YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 32, "beta_slow": 1,
}  # fmt: skip
# llama.cpp aborts where heads of keys and of the indexer are equally wide.
_SIZES = {
    "intermediate_size": None, "moe_intermediate_size": 128, "num_attention_heads": 4, "head_dim": 128,
    "q_lora_rank": 96, "n_routed_experts": 8, "num_experts_per_tok": 3, "hc_sinkhorn_iters": 4, "sliding_window": 16,
    "o_groups": 2, "o_lora_rank": 32, "index_n_heads": 32, "index_head_dim": 64, "index_topk": 8, "swiglu_limit": 1.0,
    "partial_rotary_factor": 0.25, "layer_types": _KINDS, "mlp_layer_types": ["hash_moe", "moe", "moe"],
    "compress_rope_theta": 40000.0, "rope_parameters": _YARN, "max_position_embeddings": 256,
}  # fmt: skip
_PUBLISHED = {
    "compress_ratios": [0, 4, 128], "num_hash_layers": 1, "rope_scaling": _YARN | {"type": "yarn"},
}  # fmt: skip
_NAMES = {
    r"^model\.(layers\.|norm\.)": r"\1",
    r"^model\.embed_tokens\.": "embed.",
    r"^model\.hc_head\.hc_": "hc_head_",
    r"\.attn\.norm\.": ".attn.kv_norm.",
}

# As in deepseek-ai/DeepSeek-V4-Flash: a layer with a window, whose experts no table names.
_MTP = Further(
    "mtp.0.",
    "model.layers.0.",
    {
        "mtp.0.ffn.gate.bias": (8,),
        "mtp.0.e_proj.weight": (256, 256),
        "mtp.0.h_proj.weight": (256, 256),
        "mtp.0.enorm.weight": (256,),
        "mtp.0.hnorm.weight": (256,),
        "mtp.0.norm.weight": (256,),
        "mtp.0.hc_head_fn": (4, 1024),
        "mtp.0.hc_head_base": (4,),
        "mtp.0.hc_head_scale": (1,),
    },
    without=("tid2eid",),
    alone=True,
)

PROOFS = (Proof("deepseek4", "DeepseekV4ForCausalLM", _SIZES, published=_PUBLISHED, renamed=_NAMES, further=_MTP),)
