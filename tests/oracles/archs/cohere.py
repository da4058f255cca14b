"""Cohere."""

from oracles.proofs import Further, Proof

_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}

_EXPERTS = _HEADS | {
    "num_hidden_layers": 6, "head_dim": 48, "sliding_window": 24, "first_k_dense_replace": 1, "num_experts": 6,
    "num_shared_experts": 2, "expert_selection_fn": "sigmoid", "prefix_dense_intermediate_size": 384,
    "logit_scale": 0.25, "intermediate_size": 256,
}  # fmt: skip

_VISION = {
    "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2,
    "num_hidden_layers": 1, "image_size": 28, "patch_size": 14,
}  # fmt: skip

# As in CohereLabs/North-Mini-Code-1.0, after the last layer.
_MTP = Further(
    "model.layers.6.",
    "model.layers.5.",
    {
        "model.layers.6.enorm.weight": (256,),
        "model.layers.6.hnorm.weight": (256,),
        "model.layers.6.eh_proj.weight": (256, 512),
        "model.layers.6.shared_head.norm.weight": (256,),
    },
    beside=True,
)

PROOFS = (
    Proof("command-r", "CohereForCausalLM", _HEADS | {"logit_scale": 0.25, "model_max_length": 512}),
    Proof(
        "command-r",
        "CohereForCausalLM",
        _HEADS | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 64, "use_qk_norm": True},
        "plus",
    ),
    Proof(
        "cohere2",
        "Cohere2ForCausalLM",
        _HEADS | {"num_hidden_layers": 5, "sliding_window": 24},
        published={"rotary_pct": 1.0},
    ),
    Proof(
        "cohere2_vision",
        "Cohere2VisionForConditionalGeneration",
        _HEADS | {"sliding_window": 24, "model_type": "cohere2"},
        towers={"vision_config": _VISION, "alignment_intermediate_size": 64},
    ),
    Proof("cohere2moe", "Cohere2MoeForCausalLM", _EXPERTS | {"num_nextn_predict_layers": 1}, further=_MTP),
    Proof(
        "cohere2moe",
        "Cohere2MoeForCausalLM",
        _EXPERTS | {"expert_selection_fn": "softmax", "num_shared_experts": 0, "rms_norm_eps": 1e-5},
        "rms",
    ),
)
