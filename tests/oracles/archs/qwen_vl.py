"""The text models of Qwen's classes that see or hear."""

from oracles.proofs import Proof

_HEADS = {"num_attention_heads": 8, "num_key_value_heads": 2}
_EXPERTS = _HEADS | {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 96}
_VISION = {
    "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 256,
    "num_position_embeddings": 16,
}  # fmt: skip
_SEES = {"vision_config": _VISION, "tie_word_embeddings": False}
_SEES_DEEP = _SEES | {"vision_config": _VISION | {"deepstack_visual_indexes": [0, 1]}}
_AUDIO = {
    "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "num_mel_bins": 16,
    "output_dim": 256, "downsample_hidden_size": 8,
}  # fmt: skip


def _rope(*sections: int, theta: float = 5e6) -> dict[str, object]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, "mrope_section": [*sections]}}


PROOFS = (
    Proof(
        "qwen2vl",
        "Qwen2_5_VLForConditionalGeneration",
        _HEADS | _rope(4, 6, 6) | {"rms_norm_eps": 1e-6},
        towers=_SEES,
    ),
    Proof(
        "qwen3vl", "Qwen3VLForConditionalGeneration", _HEADS | {"head_dim": 64} | _rope(12, 10, 10), towers=_SEES_DEEP
    ),
    Proof(
        "qwen3asr",
        "Qwen3ASRForConditionalGeneration",
        _HEADS | {"head_dim": 64, "model_type": "qwen3", "tie_word_embeddings": True} | _rope(12, 10, 10),
        towers={"audio_config": _AUDIO, "pad_token_id": 0, "eos_token_id": 2},
    ),
    Proof(
        "qwen3vlmoe",
        "Qwen3VLMoeForConditionalGeneration",
        _EXPERTS | {"head_dim": 48, "tie_word_embeddings": False} | _rope(8, 8, 8),
        towers=_SEES_DEEP,
        turned="*.mlp.experts.*",
    ),
    Proof(
        "qwen3omnimoe",
        "Qwen3OmniMoeThinkerForConditionalGeneration",
        _EXPERTS | {"head_dim": 48} | _rope(8, 8, 8),
        towers=_SEES_DEEP | {"audio_config": _AUDIO},
        published={"architectures": ["Qwen3OmniMoeForConditionalGeneration"]},  # the only name that llama.cpp's knows
    ),
)
