"""The vision towers of Qwen 2-VL, 2.5-VL, 3-VL and 3.5.

Sources: their vision configs in transformers 5.23; conversion/qwenvl.py and qwen3vl.py of llama.cpp. A patch covers two
frames: the convolution over both is two in GGUF, one for each frame.
"""

from __future__ import annotations

from ..tables.dimensions import ALWAYS, EMBD, FF, CountOf, Dim, Implied
from ..tables.ops import Split
from ..tables.rows import Computed, Constant, Key
from ..tables.rules import HFClass, Rule
from ..tables.tower import Tower
from ..tables.tower_rows import EvenlySpaced, LayersListed
from .shared import AXIAL, BLOCK, COLOURS, ENCODER, GELU, HEADER, PATCH, SILU, TEXT_WIDTH, linear, norm, two_frames

_AT = "model.visual."
_LAYER = _AT + "blocks.{layer}."
_MERGED = EMBD * Dim("spatial_merge_size") * Dim("spatial_merge_size")
_PATCHES = two_frames(_AT + "patch_embed.proj.weight")
_QKV = Rule(
    _LAYER + "attn.qkv",
    (BLOCK + "attn_q", BLOCK + "attn_k", BLOCK + "attn_v"),
    (3 * EMBD, EMBD),
    (Split((EMBD, EMBD, EMBD)),),
    bias=ALWAYS,
)
_OUT = linear(_LAYER + "attn.proj", BLOCK + "attn_out", EMBD, EMBD)
_MERGER = (
    linear(_AT + "merger.mlp.0", "mm.0", _MERGED, _MERGED),
    linear(_AT + "merger.mlp.2", "mm.2", TEXT_WIDTH, _MERGED),
)
_NAMES = {"depth": "num_hidden_layers", "num_heads": "num_attention_heads"}
_ROOTS, _OWNS = {"visual.": _AT, "thinker.visual.": _AT}, ("*visual.*",)
_IMPLIED: dict[str, Implied] = {"out_hidden_size": TEXT_WIDTH}  # where no config.json says so
_NEEDS = {"rope_parameters": AXIAL}
_FIXED = {"temporal_patch_size": 2, "in_channels": 3, "spatial_merge_size": 2}
_COMMON = {"num_attention_heads": 16, "patch_size": 14, **_FIXED}
# llama.cpp scales an image by its number of tokens: the size that stands here limits nothing.
_SIZE = (Constant("vision.image_size", 560), Key("patch_size", "vision.patch_size"))
_EPS = Constant("vision.attention.layer_norm_epsilon", 1e-6)

QWEN2_VL = Tower(
    name="qwen2vl_merger",
    classes={
        "Qwen2VLForConditionalGeneration": HFClass(
            "qwen2_vl_vision",
            _COMMON
            | {"num_hidden_layers": 32, "hidden_size": 1280, "out_hidden_size": 3584, "mlp_ratio": 4}
            | {"hidden_act": "quick_gelu"},
            _NAMES | {"embed_dim": "hidden_size", "hidden_size": "out_hidden_size"},
            wraps="qwen2_vl",
        )
    },
    config=(
        *HEADER,
        *_SIZE,
        ENCODER[0],
        Computed("vision.feed_forward_length", EMBD * Dim("mlp_ratio")),
        *ENCODER[2:],
        *COLOURS,
        _EPS,
    ),
    rules=(
        _PATCHES,
        norm(_LAYER + "norm1", BLOCK + "ln1"),
        norm(_LAYER + "norm2", BLOCK + "ln2"),
        _QKV,
        _OUT,
        linear(_LAYER + "mlp.fc1", BLOCK + "ffn_up", EMBD * Dim("mlp_ratio"), EMBD),
        linear(_LAYER + "mlp.fc2", BLOCK + "ffn_down", EMBD, EMBD * Dim("mlp_ratio")),
        norm(_AT + "merger.ln_q", "v.post_ln"),
        *_MERGER,
    ),
    fixed=_FIXED | {"hidden_act": "quick_gelu"},
    needs=_NEEDS,
    implied=_IMPLIED,
    roots=_ROOTS,
    owns=_OWNS,
)

QWEN25_VL = Tower(
    name="qwen2.5vl_merger",
    classes={
        "Qwen2_5_VLForConditionalGeneration": HFClass(
            "qwen2_5_vl_vision",
            _COMMON
            | {"num_hidden_layers": 32, "hidden_size": 3584, "intermediate_size": 3420, "out_hidden_size": 3584}
            | {"hidden_act": "silu", "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]},
            _NAMES,
            wraps="qwen2_5_vl",
        )
    },
    config=(
        *HEADER,
        *_SIZE,
        *ENCODER,
        *COLOURS,
        SILU,
        EvenlySpaced("fullatt_block_indexes", "vision.n_wa_pattern"),
        _EPS,
    ),
    rules=(
        _PATCHES,
        norm(_LAYER + "norm1", BLOCK + "ln1", bias=None),
        norm(_LAYER + "norm2", BLOCK + "ln2", bias=None),
        _QKV,
        _OUT,
        linear(_LAYER + "mlp.gate_proj", BLOCK + "ffn_gate", FF, EMBD),
        linear(_LAYER + "mlp.up_proj", BLOCK + "ffn_up", FF, EMBD),
        linear(_LAYER + "mlp.down_proj", BLOCK + "ffn_down", EMBD, FF),
        norm(_AT + "merger.ln_q", "v.post_ln", bias=None),
        *_MERGER,
    ),
    # llama.cpp attends within 112 pixels, whatever a config says.
    fixed=_FIXED | {"hidden_act": "silu", "window_size": 112},
    needs=_NEEDS,
    implied=_IMPLIED,
    roots=_ROOTS,
    owns=_OWNS,
)

_POSITIONS = Dim("num_position_embeddings")
_DEEP = _AT + "deepstack_merger_list.{layer}."
_QWEN3 = {
    "num_attention_heads": 16, "patch_size": 16, **_FIXED, "num_hidden_layers": 27, "hidden_size": 1152,
    "intermediate_size": 4304, "out_hidden_size": 3584, "num_position_embeddings": 2304,
    "hidden_act": "gelu_pytorch_tanh",
}  # fmt: skip
_DEEPSTACK = _QWEN3 | {"deepstack_visual_indexes": [8, 16, 24]}


def _deep(hf: str, gguf: str, *shape: Dim) -> Rule:
    """The rule of a module beside one of the layers whose outputs go to the text model's first layers, too."""
    return Rule(
        _DEEP + hf,
        "v.deepstack.{layer}." + gguf,
        shape,
        bias=ALWAYS,
        layers="deepstack_layers",
        numbers="deepstack_visual_indexes",
    )


QWEN3_VL = Tower(
    name="qwen3vl_merger",
    classes={
        "Qwen3VLForConditionalGeneration": HFClass("qwen3_vl_vision", _DEEPSTACK, _NAMES, wraps="qwen3_vl"),
        "Qwen3VLMoeForConditionalGeneration": HFClass("qwen3_vl_moe_vision", _DEEPSTACK, _NAMES, wraps="qwen3_vl_moe"),
        "Qwen3_5ForConditionalGeneration": HFClass("qwen3_5_vision", _QWEN3, _NAMES, wraps="qwen3_5"),
        "Qwen3_5MoeForConditionalGeneration": HFClass("qwen3_5_moe_vision", _QWEN3, _NAMES, wraps="qwen3_5_moe"),
    },
    config=(
        *HEADER,
        Computed("vision.image_size", _POSITIONS.root * PATCH),
        _SIZE[1],
        *ENCODER,
        *COLOURS,
        GELU,
        Key("spatial_merge_size", "vision.spatial_merge_size"),
        _EPS,
        LayersListed("deepstack_visual_indexes", "vision.is_deepstack_layers"),
    ),
    rules=(
        _PATCHES,
        Rule(_AT + "patch_embed.proj.bias", "v.patch_embd.bias", (EMBD,), tensor=True, part=""),
        Rule(_AT + "pos_embed", "v.position_embd", (_POSITIONS, EMBD)),
        norm(_LAYER + "norm1", BLOCK + "ln1"),
        norm(_LAYER + "norm2", BLOCK + "ln2"),
        linear(_LAYER + "attn.qkv", BLOCK + "attn_qkv", 3 * EMBD, EMBD),
        _OUT,
        linear(_LAYER + "mlp.linear_fc1", BLOCK + "ffn_up", FF, EMBD),
        linear(_LAYER + "mlp.linear_fc2", BLOCK + "ffn_down", EMBD, FF),
        _deep("norm", "norm", _MERGED),
        _deep("linear_fc1", "fc1", _MERGED, _MERGED),
        _deep("linear_fc2", "fc2", TEXT_WIDTH, _MERGED),
        norm(_AT + "merger.norm", "v.post_ln"),
        linear(_AT + "merger.linear_fc1", "mm.0", _MERGED, _MERGED),
        linear(_AT + "merger.linear_fc2", "mm.2", TEXT_WIDTH, _MERGED),
    ),
    fixed={key: value for key, value in _FIXED.items() if key != "spatial_merge_size"}
    | {"hidden_act": "gelu_pytorch_tanh"},
    implied=_IMPLIED | {"deepstack_layers": CountOf("deepstack_visual_indexes", 0)},
    needs=_NEEDS,
    roots=_ROOTS,
    owns=_OWNS,
)
