"""EXAONE."""

from oracles.proofs import Proof

# llama.cpp has sliding windows in the model of 64 layers, and in no other.
_WINDOWS = {
    "num_hidden_layers": 64, "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4,
    "num_key_value_heads": 2, "sliding_window": 16, "sliding_window_pattern": 4,
}  # fmt: skip

PROOFS = (
    Proof(
        "exaone4",
        "Exaone4ForCausalLM",
        {"num_attention_heads": 8, "num_key_value_heads": 2, "layer_types": ["full_attention"] * 3},
        nulls=("sliding_window", "sliding_window_pattern"),
    ),
    Proof("exaone4", "Exaone4ForCausalLM", _WINDOWS, "windows"),
)
