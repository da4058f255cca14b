"""Rows and rules that many towers share."""

from __future__ import annotations

from ..tables.dimensions import ALWAYS, EMBD, FF, Condition, Dim, Is
from ..tables.ops import On, Op, Reshape, Split
from ..tables.rows import Constant, Key
from ..tables.rules import Rule
from ..tables.tower import PROCESSOR, TEXT
from ..tables.tower_rows import Same, Values

TEXT_WIDTH = Dim(f"{TEXT}.hidden_size")
PATCH = Dim("patch_size")

# In the order of ``MmprojModel.set_gguf_parameters`` in conversion/base.py.
ENCODER = (
    Key("hidden_size", "vision.embedding_length"),
    Key("intermediate_size", "vision.feed_forward_length"),
    Key("num_hidden_layers", "vision.block_count"),
    Key("num_attention_heads", "vision.attention.head_count"),
)
COLOURS = (
    Values(f"{PROCESSOR}.image_mean", "vision.image_mean"),
    Values(f"{PROCESSOR}.image_std", "vision.image_std"),
)
HEADER = (
    Constant("has_vision_encoder", True),
    Key(f"{TEXT}.hidden_size", "vision.projection_dim"),
)
IMAGE_KEYS = (Key("image_size", "vision.image_size"), Key("patch_size", "vision.patch_size"))
# Between how many pixels an image is scaled: the processor's files of transformers 5 have the numbers elsewhere.
PIXELS = (
    Key(f"{PROCESSOR}.min_pixels", "vision.image_min_pixels"),
    Key(f"{PROCESSOR}.max_pixels", "vision.image_max_pixels"),
)
PIXEL_LIMITS = {
    f"{PROCESSOR}.min_pixels": Same(f"{PROCESSOR}.size.shortest_edge"),
    f"{PROCESSOR}.max_pixels": Same(f"{PROCESSOR}.size.longest_edge"),
}
VISION_KEYS = (*HEADER, *IMAGE_KEYS, *ENCODER, *COLOURS)
SOUND_HEADER = (
    Constant("has_audio_encoder", True),
    Key(f"{TEXT}.hidden_size", "audio.projection_dim"),
)
EPS_KEY = Key("layer_norm_eps", "vision.attention.layer_norm_epsilon")
GELU = Constant("use_gelu", True)  # tanh
SILU = Constant("use_silu", True)

BLOCK = "v.blk.{layer}."

# The rope of encoders whose positions are rows and columns, as llama.cpp computes it.
AXIAL = ~Is("rope_parameters") | Is("rope_parameters", {"rope_theta": 10000.0, "rope_type": "axial"})
_FRAMES: tuple[Op, ...] = (
    Split((1, 1), axis=2),
    On((0, 1), Reshape((EMBD, Dim(3), Dim(1), PATCH, PATCH), (EMBD, Dim(3), PATCH, PATCH))),
)


def two_frames(hf: str) -> Rule:
    """The rule of a convolution over patches of two frames: two in GGUF, one for each frame."""
    names = ("v.patch_embd.weight", "v.patch_embd.weight.1")
    return Rule(hf, names, (EMBD, Dim(3), Dim(2), PATCH, PATCH), _FRAMES, tensor=True, part="")


def linear(hf: str, gguf: str, rows: Dim, columns: Dim, *ops: Op, bias: Condition | None = ALWAYS) -> Rule:
    """The rule of a linear layer."""
    return Rule(hf, gguf, (rows, columns), ops, bias=bias)


def norm(hf: str, gguf: str, width: Dim = EMBD, *ops: Op, bias: Condition | None = ALWAYS) -> Rule:
    """The rule of a norm."""
    return Rule(hf, gguf, (width,), ops, bias=bias)


def siglip_layer(at: str, *, out: str = "out_proj", width: Dim = FF) -> tuple[Rule, ...]:
    """The rules of a block of CLIP and SigLIP, whose names begin with ``at``."""
    return (
        norm(at + "layer_norm1", BLOCK + "ln1"),
        norm(at + "layer_norm2", BLOCK + "ln2"),
        linear(at + "mlp.fc1", BLOCK + "ffn_up", width, EMBD),
        linear(at + "mlp.fc2", BLOCK + "ffn_down", EMBD, width),
        linear(at + "self_attn.k_proj", BLOCK + "attn_k", EMBD, EMBD),
        linear(at + "self_attn." + out, BLOCK + "attn_out", EMBD, EMBD),
        linear(at + "self_attn.q_proj", BLOCK + "attn_q", EMBD, EMBD),
        linear(at + "self_attn.v_proj", BLOCK + "attn_v", EMBD, EMBD),
    )


SIDE = Dim("image_size") // PATCH  # patches in a row of an image


def siglip(
    at: str, *, patches: Rule | None = None, positions: Dim = SIDE * SIDE, post: bool = True, out: str = "out_proj",
    width: Dim = FF,
) -> tuple[Rule, ...]:  # fmt: skip
    """The rules of CLIP's and SigLIP's encoders.

    Args:
        at: what their names begin with.
        patches: the rule of the patches' weight, where that is no convolution.
        positions: how many positions have an embedding.
        post: whether a norm follows the last block.
        out: the name of attention's output matrix.
        width: of the MLP.
    """
    convolution = Rule(at + "embeddings.patch_embedding", "v.patch_embd", (EMBD, Dim(3), PATCH, PATCH), bias=ALWAYS)
    return (
        patches or convolution,
        Rule(at + "embeddings.position_embedding", "v.position_embd", (positions, EMBD)),
        *siglip_layer(at + "encoder.layers.{layer}.", out=out, width=width),
        *((norm(at + "post_layernorm", "v.post_ln"),) if post else ()),
    )
