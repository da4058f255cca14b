"""BLOOM."""

from oracles.proofs import Proof

PROOFS = (
    Proof("bloom", "BloomForCausalLM", {"n_layer": 3, "n_head": 8, "hidden_size": 256}),
    # Heads that are no power of two have slopes of two series.
    Proof("bloom", "BloomForCausalLM", {"n_layer": 2, "n_head": 6, "hidden_size": 384}, "6 heads"),
)
