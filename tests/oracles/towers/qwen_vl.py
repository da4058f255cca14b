"""Qwen's vision towers: patches of two frames, in blocks of those that are merged."""

from functools import partial

from oracles.tower_proofs import TEXT, TowerProof, patches

_TEXT2 = {key: value for key, value in TEXT.items() if key != "head_dim"} | {"rms_norm_eps": 1e-6}
_QWEN2 = {"depth": 4, "num_heads": 2, "patch_size": 14}
_QWEN3 = {"depth": 4, "num_heads": 2, "hidden_size": 64, "intermediate_size": 128, "out_hidden_size": 64,
          "patch_size": 16, "num_position_embeddings": 16}  # fmt: skip
_QWEN35 = TEXT | {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 2,
    "linear_key_head_dim": 32, "linear_value_head_dim": 32,
}  # fmt: skip


def _features(model, pixels):
    found = model.model.get_image_features(*patches(pixels, model.config.vision_config))
    deep = getattr(found, "deepstack_features", None) or ()
    import torch

    return torch.cat([found.pooler_output[0], *(one[0] for one in deep)], dim=-1)


_proof = partial(TowerProof, features=_features, min_tokens=4)
PROOFS = (
    _proof(
        "qwen2vl_merger",
        "Qwen2VLForConditionalGeneration",
        {"text_config": _TEXT2, "vision_config": _QWEN2 | {"embed_dim": 64, "hidden_size": 64, "mlp_ratio": 2}},
        size=(84, 112),
    ),
    _proof(
        "qwen2.5vl_merger",
        "Qwen2_5_VLForConditionalGeneration",
        {
            "text_config": _TEXT2,
            "vision_config": _QWEN2
            | {"hidden_size": 64, "intermediate_size": 128, "out_hidden_size": 64, "fullatt_block_indexes": [1, 3]},
        },
        size=(168, 224),
    ),
    _proof(
        "qwen3vl_merger",
        "Qwen3VLForConditionalGeneration",
        {"text_config": TEXT, "vision_config": _QWEN3 | {"deepstack_visual_indexes": [1, 2]}},
    ),
    _proof(
        "qwen3vl_merger",
        "Qwen3VLForConditionalGeneration",
        {"text_config": TEXT, "vision_config": _QWEN3 | {"deepstack_visual_indexes": [0]}},
        case="another size",
        size=(96, 128),
    ),
    _proof(
        "qwen3vl_merger",
        "Qwen3_5ForConditionalGeneration",
        {"text_config": _QWEN35, "vision_config": _QWEN3},
        case="qwen35",
    ),
)
