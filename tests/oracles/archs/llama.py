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
    Proof("mixtral", "MixtralForCausalLM", _HEADS | {"num_local_experts": 5, "num_experts_per_tok": 2}),
)
