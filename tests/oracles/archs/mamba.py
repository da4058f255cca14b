"""Mamba."""

from oracles.proofs import Proof

PROOFS = (
    Proof("mamba", "MambaForCausalLM", {"state_size": 16, "intermediate_size": None}),
    Proof("falcon-mamba", "FalconMambaForCausalLM", {"state_size": 16, "intermediate_size": None}),
    Proof("mamba2", "Mamba2ForCausalLM", {"num_heads": 8, "head_dim": 64, "n_groups": 2, "state_size": 128}),
)
