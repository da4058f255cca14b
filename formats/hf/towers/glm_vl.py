"""The vision towers of GLM-4.1V, GLM-4.5V and GLM-OCR.

Sources: their vision configs in transformers 5.23; conversion/qwen3vl.py of llama.cpp. A convolution merges the patches
of a square, and a gated MLP projects them.
"""

from __future__ import annotations

from dataclasses import replace

from ..tables.dimensions import ALWAYS, EMBD, FF, HEADS, Dim, Equal
from ..tables.rows import Key
from ..tables.rules import HFClass, Rule
from ..tables.tower import Tower
from .shared import AXIAL, BLOCK, SIDE, SILU, TEXT_WIDTH, VISION_KEYS, linear, norm, two_frames

_AT = "model.visual."
_LAYER, _MERGER = _AT + "blocks.{layer}.", _AT + "merger."
_OUT, _BIAS = Dim("out_hidden_size"), "attention_bias"
_FIXED = {"temporal_patch_size": 2, "in_channels": 3, "spatial_merge_size": 2, "hidden_act": "silu"}
_NAMES = {"depth": "num_hidden_layers", "num_heads": "num_attention_heads"}
_GLM4V = _FIXED | {
    "num_hidden_layers": 24, "hidden_size": 1536, "num_attention_heads": 12, "intermediate_size": 13696,
    "out_hidden_size": 4096, "image_size": 336, "patch_size": 14, "rms_norm_eps": 1e-5, _BIAS: False,
}  # fmt: skip


def _rms(hf: str, gguf: str, width: Dim = EMBD) -> Rule:
    return norm(hf, gguf, width, bias=None)


def _block(width: Dim, bias: str | None) -> tuple[Rule, ...]:
    """A block's rules.

    Args:
        width: of its MLP.
        bias: the config key that says whether its matrices but q, k and v have biases.
    """
    return (
        Rule(_LAYER + "attn.qkv", BLOCK + "attn_qkv", (3 * EMBD, EMBD), bias=_BIAS),
        Rule(_LAYER + "attn.proj", BLOCK + "attn_out", (EMBD, EMBD), bias=bias),
        Rule(_LAYER + "mlp.gate_proj", BLOCK + "ffn_gate", (width, EMBD), bias=bias),
        Rule(_LAYER + "mlp.up_proj", BLOCK + "ffn_up", (width, EMBD), bias=bias),
        Rule(_LAYER + "mlp.down_proj", BLOCK + "ffn_down", (EMBD, width), bias=bias),
        _rms(_LAYER + "norm1", BLOCK + "ln1"),
        _rms(_LAYER + "norm2", BLOCK + "ln2"),
    )


def _around(width: Dim) -> tuple[Rule, ...]:
    """The rules of what is in no block, with the width of the projector's MLP."""
    return (
        two_frames(_AT + "patch_embed.proj.weight"),
        Rule(_AT + "patch_embed.proj.bias", "v.patch_embd.bias", (EMBD,), tensor=True, part=""),
        _rms(_AT + "post_layernorm", "v.post_ln"),
        Rule(_AT + "downsample", "mm.patch_merger", (_OUT, EMBD, Dim(2), Dim(2)), bias=ALWAYS),
        linear(_MERGER + "proj", "mm.model.fc", _OUT, _OUT, bias=None),
        norm(_MERGER + "post_projection_norm", "mm.post_norm", _OUT),
        linear(_MERGER + "gate_proj", "mm.gate", width, _OUT, bias=None),
        linear(_MERGER + "up_proj", "mm.up", width, _OUT, bias=None),
        linear(_MERGER + "down_proj", "mm.down", _OUT, width, bias=None),
    )


GLM4V = Tower(
    name="glm4v",
    classes={
        "Glm4vForConditionalGeneration": HFClass("glm4v_vision", _GLM4V, _NAMES, wraps="glm4v"),
        "Glm4vMoeForConditionalGeneration": HFClass("glm4v_moe_vision", _GLM4V, _NAMES, wraps="glm4v_moe"),
    },
    config=(*VISION_KEYS, SILU, Key("rms_norm_eps", "vision.attention.layer_norm_epsilon")),
    rules=(
        *_around(FF),
        _rms(_AT + "post_conv_layernorm", "v.norm_embd"),
        Rule(_AT + "embeddings.position_embedding", "v.position_embd", (SIDE * SIDE, EMBD)),
        *_block(_OUT, None),
    ),
    fixed=_FIXED,
    needs={"rope_parameters": AXIAL, "out_hidden_size": Equal(_OUT, TEXT_WIDTH)},
    roots={"visual.": _AT},
    owns=("*visual.*",),
)

GLM_OCR = replace(
    GLM4V,
    classes={
        "GlmOcrForConditionalGeneration": HFClass(
            "glm_ocr_vision",
            _GLM4V
            | {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096, "out_hidden_size": 1536}
            | {_BIAS: True},
            _NAMES,
            wraps="glm_ocr",
        )
    },
    rules=(
        *_around(_OUT * Dim(3)),
        *_block(FF, _BIAS),
        _rms(_LAYER + "attn.q_norm", BLOCK + "attn_q_norm", EMBD // HEADS),
        _rms(_LAYER + "attn.k_norm", BLOCK + "attn_k_norm", EMBD // HEADS),
    ),
)
