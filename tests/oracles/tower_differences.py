"""Where our mmproj files are not those of llama.cpp's converter, and why. Everything that is not listed is equal."""

from __future__ import annotations

from oracles.converter import Difference

# What only our files have.
MORE = (
    Difference("quantmill.hf.*", "what no standard key holds, for the way back"),
    Difference(
        "clip.vision.projector.scale_factor",
        "by config.json's mm_tokens_per_image; llama.cpp's converter asks the processor's image_seq_length",
        ("gemma3",),
    ),
    Difference(
        "tensor:v.token_embd.img_break",
        "llama.cpp loads no file without it; its converter skips every tensor of a name with language_model",
        ("pixtral",),
    ),
    Difference(
        "tensor:v.blk.*.ln2.*", "the name under which llama.cpp looks for it; without, it runs none", ("llama4",)
    ),
    Difference(
        "clip.use_gelu",
        "without, llama.cpp computes quick-GELU where the model has that of tanh",
        ("gemma4v", "gemma4a"),
    ),
)
# What only llama.cpp's have.
LESS = (
    Difference("tensor:v.blk.*.attn_post_norm.*", "llama.cpp looks for it under the name ln2", ("llama4",)),
    Difference(
        "vision.pos_emb_*", "llama.cpp reads no key without clip.; the shape of the positions says it", ("kimik25",)
    ),
)
# What both have, with another value.
OTHER = (
    Difference(
        "tensor:mm.input_projection.weight",
        "F32, for an exact way back; llama.cpp loads both, and its converter rounds to F16",
        ("gemma3",),
    ),
    Difference(
        "clip.vision.feed_forward_length",
        "the width of the weights; llama.cpp's converter takes the text model's width for it",
        ("qwen2vl_merger",),
    ),
    Difference(
        "tensor:v.position_embd.weight",
        "the class token's position stands last, as llama.cpp appends the token; theirs stands first",
        ("internvl",),
    ),
    *(
        Difference(
            f"tensor:a.{name}.weight",
            "F32 where all is, for an exact way back; llama.cpp loads both, and its converter rounds to F16",
            (tower,),
        )
        for name, tower in (("conv1d.?", "qwen2a"), ("conv2d.?", "qwen3a"), ("conv_out", "qwen3a"))
    ),
    Difference(
        "tensor:a.position_embd.weight",
        "sines of float64, rounded; torch's in float32 have other last bits",
        ("qwen3a",),
    ),
    Difference(
        "tensor:a.blk.*.per_dim_scale.weight",
        "softplus, computed in float64 and rounded once; torch's in float32 has other last bits",
        ("gemma4a",),
    ),
)

# Proofs without a golden.
UNCONVERTED: dict[str, str] = {
    "mmproj-cohere2v": "llama.cpp's converter has no class for it; its programs do",
}


def is_listed(tower: str, key: str, ours: object, theirs: object) -> bool:
    """Whether a difference is one of those above."""
    kind = MORE if theirs is None else LESS if ours is None else OTHER
    return any(one.covers(tower, key) for one in kind)
