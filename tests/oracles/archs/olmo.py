"""OLMo."""

from oracles.proofs import Proof

_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
_YARN = {
    "rope_type": "yarn", "rope_theta": 5e5, "factor": 8.0, "original_max_position_embeddings": 16,
    "attention_factor": 1.2079441541679836, "beta_fast": 32.0, "beta_slow": 1.0,
}  # fmt: skip
_PLAIN = {"rope_type": "default", "rope_theta": 5e5}

PROOFS = (
    Proof("olmo", "OlmoForCausalLM", _HEADS | {"clip_qkv": 0.5}),
    Proof("olmo", "OlmoForCausalLM", {"num_attention_heads": 4, "tie_word_embeddings": True}, "tied"),
    Proof("olmo2", "Olmo2ForCausalLM", _HEADS),
    Proof(
        "olmo3",
        "Olmo3ForCausalLM",
        _HEADS
        | {"num_hidden_layers": 4, "sliding_window": 24}
        | {"rope_parameters": {"full_attention": _YARN, "sliding_attention": _PLAIN}},
    ),
    Proof("olmoe", "OlmoeForCausalLM", {"num_attention_heads": 4, "num_experts": 6, "num_experts_per_tok": 2}),
)
