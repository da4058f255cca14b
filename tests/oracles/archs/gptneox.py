"""GPT-NeoX."""

from oracles.proofs import Proof

PROOFS = (
    Proof("gptneox", "GPTNeoXForCausalLM", {"num_attention_heads": 4}, published={"rotary_pct": 0.25}),
    Proof(
        "gptneox",
        "GPTNeoXForCausalLM",
        {"num_attention_heads": 8, "use_parallel_residual": False, "rotary_pct": 1.0, "rotary_emb_base": 20000},
        "sequential",
        published={"rotary_pct": 1.0},
    ),
)
