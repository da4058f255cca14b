"""Granite."""

from oracles.proofs import Proof

_SCALES = {
    "num_attention_heads": 8, "num_key_value_heads": 2, "embedding_multiplier": 12.0, "logits_scaling": 8.0,
    "residual_multiplier": 0.22, "attention_multiplier": 0.03,
}  # fmt: skip
_EXPERTS = _SCALES | {"num_local_experts": 5, "num_experts_per_tok": 2}

_HYBRID = _EXPERTS | {
    "num_hidden_layers": 4, "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
    "mamba_n_heads": 8, "mamba_d_head": 64, "mamba_d_state": 128, "shared_intermediate_size": 256,
}  # fmt: skip
# The first layer has no rope.
_WINDOWS = {
    "num_hidden_layers": 4, "sliding_window": 24, "layer_rope_theta": [0, 10000.0, 10000.0, 10000.0],
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
}  # fmt: skip
_NO_ROPE = {"no_rope_layers": [0, 1, 1, 1]}
_NAMES = {"layer_types": ["mamba", "attention", "mamba", "attention"]}

PROOFS = (
    Proof("granite", "GraniteForCausalLM", _SCALES | {"attention_bias": True, "tie_word_embeddings": True}),
    Proof("granitemoe", "GraniteMoeForCausalLM", _EXPERTS),
    Proof("granitemoe", "GraniteMoeSharedForCausalLM", _EXPERTS | {"shared_intermediate_size": 256}, "shared"),
    Proof("granitehybrid", "GraniteMoeHybridForCausalLM", _HYBRID, published=_NAMES),
    Proof(
        "granitehybrid", "GraniteMoeHybridForCausalLM",
        _HYBRID | {"num_local_experts": 0, "num_experts_per_tok": 0, "position_embedding_type": "rope"}, "dense",
        published=_NAMES,
    ),
    Proof(
        "granite_swa", "GraniteSWAForCausalLM",
        _SCALES | _WINDOWS | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        published=_NO_ROPE,
    ),
    Proof(
        "granite_swa", "GraniteMoeSWAForCausalLM", _EXPERTS | _WINDOWS | {"shared_intermediate_size": 256}, "experts",
        published=_NO_ROPE,
    ),
)  # fmt: skip
