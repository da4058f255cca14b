"""Gemma."""

from oracles.proofs import Proof

_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 48, "pad_token_id": 0}

_GEMMA4 = {
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "global_head_dim": 64, "pad_token_id": 0,
    "sliding_window": 24, "final_logit_softcapping": 20.0, "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
}  # fmt: skip

PROOFS = (
    Proof("gemma", "GemmaForCausalLM", _HEADS),
    Proof(
        "gemma3",
        "Gemma3ForCausalLM",
        _HEADS
        | {"sliding_window": 24, "query_pre_attn_scalar": 48, "final_logit_softcapping": 20.0}
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    Proof(
        "gemma-embedding",
        "Gemma3TextModel",
        _HEADS
        | {"sliding_window": 24, "query_pre_attn_scalar": 48, "use_bidirectional_attention": True}
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
        embeds=True,
        modules=("Pooling", "Dense", "Dense", "Normalize"),
        options=("--sentence-transformers-dense-modules",),
    ),
    Proof(
        "gemma-embedding2",
        "EmbeddingGemma2TextModel",
        {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "global_head_dim": 128,
            "num_global_key_value_heads": 1,
            "sliding_window": 12,
            "hidden_size_per_layer_input": 64,
            "embedding_dim": 192,
            "pad_token_id": 0,
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        },
        pooling="mean",
    ),
    Proof("gemma2", "Gemma2ForCausalLM", _HEADS | {"sliding_window": 24, "query_pre_attn_scalar": 48}),
    Proof(
        "gemma4",
        "Gemma4ForCausalLM",
        _GEMMA4
        | {"num_kv_shared_layers": 2, "use_double_wide_mlp": True}
        | {"hidden_size_per_layer_input": 256, "vocab_size_per_layer_input": 320},
    ),
    Proof(
        "gemma4",
        "Gemma4ForCausalLM",
        _GEMMA4
        | {"hidden_size_per_layer_input": 0, "attention_k_eq_v": True, "num_global_key_value_heads": 1}
        | {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 256},
        "experts",
    ),
    Proof(
        "gemma4",
        "Gemma4UnifiedForCausalLM",
        _GEMMA4 | {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
        "unified",
        published={"architectures": ["Gemma4UnifiedForConditionalGeneration"], "moe_intermediate_size": None},
    ),
    Proof(
        "gemma3n",
        "Gemma3nForCausalLM",
        _HEADS
        | {"head_dim": 64, "sliding_window": 24, "num_hidden_layers": 4, "num_kv_shared_layers": 0}
        | {"hidden_size_per_layer_input": 256, "vocab_size_per_layer_input": 300}
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]}
        | {"activation_sparsity_pattern": [0.95, 0.0, 0.9, 0.0]},
        other_logits=True,
    ),
)
