"""Pixtral's encoder: in Mistral Small 3.1 and later and LightOnOCR, whose patches are merged, and in Pixtral 12B.

Sources: PixtralVisionConfig and Mistral3MultiModalProjector of transformers 5.23; llava.py and lighton_ocr.py of
llama.cpp's conversion. The embedding of [IMG_BREAK] ends each row of an image but the last, in all but LightOnOCR: it
is the text model's, and its copy lies beside the tower.
"""

from __future__ import annotations

from dataclasses import replace

from ..tables.dimensions import EMBD, FF, HEAD_DIM, HEADS, Dim, Equal, Is
from ..tables.ops import Op, PermuteRope
from ..tables.rows import Constant, Key
from ..tables.rules import HFClass, Rule
from ..tables.tower import OUTER, TEXT, TOKENS, Tower
from ..tables.tower_ops import TakeRow
from ..tables.tower_rows import Activation
from .shared import AXIAL, BLOCK, GELU, PATCH, SILU, TEXT_WIDTH, VISION_KEYS, linear, norm

_AT, _PROJECTOR = "vision_tower.", "multi_modal_projector."
_LAYER = _AT + "transformer.layers.{layer}."
_MERGE = Dim(f"{OUTER}.spatial_merge_size")
_BIAS = f"{OUTER}.multimodal_projector_bias"
_PAIRS: tuple[Op, ...] = (PermuteRope(HEADS),)
_PIXTRAL = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "num_channels": 3, "image_size": 1024, "patch_size": 16, "hidden_act": "gelu", "head_dim": 64,
    f"{OUTER}.projector_hidden_act": "gelu",
}  # fmt: skip


def _linear(hf: str, gguf: str, rows: Dim, columns: Dim, *ops: Op) -> Rule:
    return linear(_LAYER + hf, BLOCK + gguf, rows, columns, *ops, bias=None)


PIXTRAL = Tower(
    name="pixtral",
    classes={
        "Mistral3ForConditionalGeneration": HFClass(
            "pixtral",
            _PIXTRAL
            | {_BIAS: False, f"{OUTER}.spatial_merge_size": 2, f"{OUTER}.vision_feature_layer": -1}
            | {f"{TEXT}.rms_norm_eps": 1e-6},
            wraps="mistral3",
        ),
        "LlavaForConditionalGeneration": HFClass(
            "pixtral", _PIXTRAL | {_BIAS: True, f"{OUTER}.vision_feature_layer": -2}, wraps="llava"
        ),
    },
    config=(
        *VISION_KEYS,
        Constant("vision.attention.layer_norm_epsilon", 1e-5),
        Activation("hidden_act", {"gelu": GELU.gguf, "silu": SILU.gguf}),
        Key(f"{OUTER}.spatial_merge_size", "vision.spatial_merge_size", optional=True),
    ),
    rules=(
        Rule(_PROJECTOR + "linear_1", "mm.1", (TEXT_WIDTH, EMBD), bias=_BIAS),
        Rule(_PROJECTOR + "linear_2", "mm.2", (TEXT_WIDTH, TEXT_WIDTH), bias=_BIAS),
        Rule(_PROJECTOR + "norm", "mm.input_norm", (EMBD,), when=Is(f"{OUTER}.spatial_merge_size")),
        Rule(
            _PROJECTOR + "patch_merger.merging_layer",
            "mm.patch_merger",
            (EMBD, EMBD * _MERGE * _MERGE),
            when=Is(f"{OUTER}.spatial_merge_size"),
        ),
        Rule(
            "embed_tokens.weight",
            "v.token_embd.img_break",
            (Dim(f"{TEXT}.vocab_size"), TEXT_WIDTH),
            (TakeRow(Dim(f"{TOKENS}.img_break")),),
            tensor=True,
            part="",
            borrowed=True,
        ),
        norm(_AT + "ln_pre", "v.pre_ln", bias=None),
        Rule(_AT + "patch_conv", "v.patch_embd", (EMBD, Dim(3), PATCH, PATCH)),
        _linear("attention.k_proj", "attn_k", EMBD, EMBD, *_PAIRS),
        _linear("attention.o_proj", "attn_out", EMBD, EMBD),
        _linear("attention.q_proj", "attn_q", EMBD, EMBD, *_PAIRS),
        _linear("attention.v_proj", "attn_v", EMBD, EMBD),
        norm(_LAYER + "attention_norm", BLOCK + "ln1", bias=None),
        _linear("feed_forward.down_proj", "ffn_down", EMBD, FF),
        _linear("feed_forward.gate_proj", "ffn_gate", FF, EMBD),
        _linear("feed_forward.up_proj", "ffn_up", FF, EMBD),
        norm(_LAYER + "ffn_norm", BLOCK + "ln2", bias=None),
    ),
    # The projector's norm has the text model's epsilon in transformers, and the encoder's in llama.cpp.
    fixed={"num_channels": 3, f"{OUTER}.projector_hidden_act": "gelu", f"{OUTER}.vision_feature_layer": -1,
           f"{TEXT}.rms_norm_eps": 1e-5},
    needs={"rope_parameters": AXIAL, "head_dim": Equal(HEAD_DIM, EMBD // HEADS)},
    roots={
        "model.vision_tower.": _AT,
        "model.multi_modal_projector.": _PROJECTOR,
        "language_model.model.": "",
        "model.language_model.": "",
    },
    text={"model.": "language_model.model.", "lm_head.": "language_model.lm_head."},
    tokens={"img_break": "[IMG_BREAK]"},
    owns=("*vision_tower.*", "*multi_modal_projector.*", "*embed_tokens.weight"),
)  # fmt: skip

_ENCODER, _PROJECTION = "model.vision_encoder.", "model.vision_projection."
_LIGHTON = HFClass(
    "pixtral",
    {key: value for key, value in _PIXTRAL.items() if not key.startswith(OUTER)}
    | {"image_size": 1540, "patch_size": 14, "hidden_act": "silu", f"{OUTER}.spatial_merge_size": 2}
    | {f"{TEXT}.rms_norm_eps": 1e-6},
    wraps="lighton_ocr",
)

LIGHTON_OCR = replace(
    PIXTRAL,
    name="lightonocr",
    # under two names: transformers', and that of the published checkpoint
    classes={"LightOnOcrForConditionalGeneration": _LIGHTON, "LightOnOCRForConditionalGeneration": _LIGHTON},
    rules=tuple(rule for rule in PIXTRAL.rules if not rule.borrowed),
    # The epsilon of the projector's norm is in llama.cpp the encoder's: far less than what F16 rounds.
    fixed={key: value for key, value in PIXTRAL.fixed.items() if not key.startswith(OUTER)}
    | {f"{TEXT}.rms_norm_eps": (1e-6, 1e-5)},
    roots={_ENCODER: _AT, _PROJECTION: _PROJECTOR},
    written=(_ENCODER, _PROJECTION),
    text={"model.": "model.language_model."},
    tokens={},
    owns=("*vision_encoder.*", "*vision_projection.*", "*vision_tower.*", "*multi_modal_projector.*"),
)  # fmt: skip
