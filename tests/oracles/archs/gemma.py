"""Gemma."""

from oracles.proofs import Proof

_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 48, "pad_token_id": 0}

PROOFS = (
    Proof("gemma", "GemmaForCausalLM", _HEADS),
    Proof(
        "gemma3",
        "Gemma3ForCausalLM",
        _HEADS
        | {"sliding_window": 24, "query_pre_attn_scalar": 48, "final_logit_softcapping": 20.0}
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    Proof("gemma2", "Gemma2ForCausalLM", _HEADS | {"sliding_window": 24, "query_pre_attn_scalar": 48}),
)
