"""Nemotron."""

from oracles.proofs import Proof

_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}

_HYBRID = _HEADS | {
    "head_dim": 48, "mamba_num_heads": 8, "mamba_head_dim": 64, "n_groups": 2, "num_hidden_layers": None,
}  # fmt: skip
# llama.cpp's converter knows models without experts by these keys, and their feed-forward layers by a letter.
_NO_EXPERTS = dict.fromkeys(("num_experts_per_tok", "n_routed_experts", "n_group", "topk_group", "layers_block_type"))
_LETTERS = {"hybrid_override_pattern": "M-*M", "num_hidden_layers": 4}
_DENSE = ["linear_attention", "mlp", "full_attention", "linear_attention"]
_EXPERTS = _HYBRID | {
    "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"], "n_routed_experts": 6,
    "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "moe_intermediate_size": 256,
    "moe_shared_expert_intermediate_size": 512, "routed_scaling_factor": 2.5,
}  # fmt: skip

PROOFS = (
    Proof("nemotron", "NemotronForCausalLM", _HEADS),
    Proof("nemotron", "NemotronForCausalLM", _HEADS | {"attention_bias": True, "mlp_bias": True}, "biases"),
    Proof(
        "nemotron_h", "NemotronHForCausalLM", _HYBRID | {"layers_block_type": _DENSE, "mlp_bias": True},
        published=_NO_EXPERTS | _LETTERS,
    ),
    Proof("nemotron_h_moe", "NemotronHForCausalLM", _EXPERTS | {"moe_latent_size": 128}),
    Proof("nemotron_h_moe", "NemotronHForCausalLM", _EXPERTS, "without latents"),
)  # fmt: skip
