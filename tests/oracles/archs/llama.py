"""Llama, Mistral, Mixtral."""

from oracles.proofs import Proof

_HEADS = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 48}  # 8 * 48 is not the hidden size
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip

PROOFS = (
    Proof(
        "llama",
        "LlamaForCausalLM",
        _HEADS | {"attention_bias": True, "mlp_bias": True, "rope_parameters": _LLAMA3, "rms_norm_eps": 1e-5},
    ),
    Proof("llama", "MistralForCausalLM", _HEADS | {"sliding_window": None, "tie_word_embeddings": True}, "mistral"),
    Proof(
        "mistral3",
        "Ministral3ForCausalLM",
        _HEADS
        | {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e6,
                "factor": 4.0,
                "original_max_position_embeddings": 32,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.1,
            }
        },
    ),
    Proof(
        "llama4",
        "Llama4ForCausalLM",
        _HEADS
        | {
            "intermediate_size": 256,
            "intermediate_size_mlp": 512,
            "interleave_moe_layer_step": 2,
            "num_local_experts": 4,
        }
        | {"num_hidden_layers": 4, "num_experts_per_tok": 2},
    ),
    Proof("mixtral", "MixtralForCausalLM", _HEADS | {"num_local_experts": 5, "num_experts_per_tok": 2}),
)
