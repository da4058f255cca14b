"""HRM-Text."""

from oracles.proofs import Proof

PROOFS = (
    Proof(
        "hrm_text",
        "HrmTextForCausalLM",
        {"num_attention_heads": 8, "head_dim": 48, "num_hidden_layers": 2, "L_cycles": 2, "use_cache": False}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    ),
)
