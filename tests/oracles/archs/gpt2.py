"""GPT-2."""

from oracles.proofs import Proof

PROOFS = (
    Proof(
        "gpt2",
        "GPT2LMHeadModel",
        {"n_embd": 256, "n_layer": 3, "n_head": 4, "n_positions": 128, "n_inner": 512},
        published={"n_ctx": 128},
    ),
)
