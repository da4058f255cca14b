"""Cohere."""

from oracles.proofs import Proof

_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}

PROOFS = (
    Proof("command-r", "CohereForCausalLM", _HEADS | {"logit_scale": 0.25, "model_max_length": 512}),
    Proof(
        "command-r",
        "CohereForCausalLM",
        _HEADS | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 64, "use_qk_norm": True},
        "plus",
    ),
    Proof(
        "cohere2",
        "Cohere2ForCausalLM",
        _HEADS | {"num_hidden_layers": 5, "sliding_window": 24},
        published={"rotary_pct": 1.0},
    ),
)
