"""GLM and Solar Open."""

from oracles.proofs import Further, Proof

_HEADS = {"num_attention_heads": 8, "num_key_value_heads": 2}

_EXPERTS = _HEADS | {
    "head_dim": 64, "use_qk_norm": True, "attention_bias": True, "n_routed_experts": 6, "num_experts_per_tok": 2,
    "moe_intermediate_size": 256, "routed_scaling_factor": 1.5, "pad_token_id": 0, "n_shared_experts": 2,
}  # fmt: skip

_SOLAR = {key: value for key, value in _EXPERTS.items() if key != "use_qk_norm"}

# As in zai-org/GLM-4.5 and -4.7-Flash, whose layer after the last has an embedding and a head of its own.
FURTHER = Further(
    "model.layers.3.",
    "model.layers.2.",
    {
        "model.layers.3.embed_tokens.weight": (320, 256),
        "model.layers.3.enorm.weight": (256,),
        "model.layers.3.hnorm.weight": (256,),
        "model.layers.3.eh_proj.weight": (256, 512),
        "model.layers.3.shared_head.norm.weight": (256,),
        "model.layers.3.shared_head.head.weight": (320, 256),
    },
)

PROOFS = (
    Proof("glm4", "Glm4ForCausalLM", _HEADS | {"head_dim": 64, "pad_token_id": 0}),
    Proof("glm4moe", "Glm4MoeForCausalLM", _EXPERTS, further=FURTHER),
    Proof("chatglm", "GlmForCausalLM", _HEADS | {"head_dim": 32, "pad_token_id": 0}),
    Proof(
        "solar-open",
        "SolarOpenForCausalLM",
        _SOLAR,
        published={"partial_rotary_factor": 1.0, "first_k_dense_replace": 0, "intermediate_size": 512},
    ),
)
