"""The text models of GLM's, PaddleOCR's and HunYuan's classes that see."""

from oracles.proofs import Proof

_PLAIN = {"num_attention_heads": 8, "num_key_value_heads": 2, "pad_token_id": 0}
_HEADS = _PLAIN | {"head_dim": 64}
_VISION = {
    "depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "num_attention_heads": 2,
    "num_hidden_layers": 1, "image_size": 28, "patch_size": 14, "out_hidden_size": 256,
}  # fmt: skip
_SEES = {"vision_config": _VISION, "tie_word_embeddings": False}


def _half(*sections: int) -> dict[str, object]:
    """Half of each head turns."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "mrope_section": [*sections]}
    return {"rope_parameters": rope}


_EXPERTS = _half(4, 6, 6) | {
    "attention_bias": True, "n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 256,
    "routed_scaling_factor": 1.5, "n_shared_experts": 2,
}  # fmt: skip
_ALPHA = {
    "rope_type": "dynamic", "rope_theta": 1e4, "alpha": 1000.0, "factor": 1.0, "mrope_section": [8, 8, 8, 8],
}  # fmt: skip

PROOFS = (
    Proof("glm4v", "Glm4vForConditionalGeneration", _PLAIN | _half(2, 3, 3), towers=_SEES),
    Proof("glm-ocr", "GlmOcrForConditionalGeneration", _HEADS | _half(4, 6, 6), towers=_SEES),
    Proof(
        "glm4v_moe",
        "Glm4vMoeForConditionalGeneration",
        _HEADS | _EXPERTS | {"tie_word_embeddings": False},
        towers=_SEES,
        options=("--no-mtp",),
    ),
    Proof(
        "paddleocr",
        "PaddleOCRVLForConditionalGeneration",
        _HEADS
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5, "mrope_section": [8, 12, 12]}}
        | {"tie_word_embeddings": True},
        towers={"vision_config": _VISION},
    ),
    Proof(
        "hunyuan_vl",
        "HunYuanVLForConditionalGeneration",
        _HEADS | {"rope_parameters": _ALPHA, "tie_word_embeddings": True, "eod_token_id": 310},
        towers={"vision_config": _VISION},
    ),
)
