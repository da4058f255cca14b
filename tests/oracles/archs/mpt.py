"""MPT."""

from oracles.proofs import Proof

PROOFS = (
    Proof(
        "mpt",
        "MptForCausalLM",
        {"d_model": 256, "n_layers": 3, "n_heads": 4, "max_seq_len": 128, "attn_config": {"clip_qkv": 0.5}},
        published={"architectures": ["MPTForCausalLM"]},  # of the code that comes with the checkpoints
    ),
)
