"""Muse Glimmer."""

from oracles.proofs import Proof

_VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1, "pos_emb_height": 4,
    "pos_emb_width": 4, "layer_types": ["full_attention"],
}  # fmt: skip

PROOFS = (
    Proof(
        "muse-glimmer",
        "MuseGlimmerForConditionalGeneration",
        {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "sliding_window": 24}
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "qk_scale_factor": 1.5}
        | {"layer_rope_theta": [1e6, 0, 1e6], "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
        | {"output_multiplier": 0.5},
        towers={"vision_config": _VISION, "out_hidden_size": 128, "projector_hidden_size": 32}
        | {"tie_word_embeddings": False},
    ),
)
