"""The recipes of image and video models, as data: what ComfyUI-GGUF's patched llama-quantize chooses.

Source: ``img_tensor_get_type`` of tools/lcpp.patch in ComfyUI-GGUF at 795e451. Its counters of value matrices are a
tensor's rank here. The patch refuses the two levels of IQ4 types; their rows are those of ``Q4_K_S``.
"""

from __future__ import annotations

from .recipe import Category, Layers, Override, Recipe

IMAGE_SET = "comfyui-gguf"

_V = (Category.ATTN_V,)
_QKV = (Category.ATTN_QKV,)
_DOWN = (Category.FFN_DOWN,)


def _first(k: int) -> Layers:
    return Layers(f"the first {k} of them", lambda i, n: i < k)


def _four_bits(level: str, type: str) -> Recipe:
    return Recipe(level, type, (Override(_V, "Q5_K", layers=_first(4)), Override(_DOWN, "Q5_K")))


IMAGE_RECIPES = (
    Recipe("F32", "F32"),
    Recipe("F16", "F16"),
    Recipe("BF16", "BF16"),
    Recipe("Q8_0", "Q8_0"),
    Recipe("Q4_0", "Q4_0", (Override(_DOWN, "Q4_1"),)),
    Recipe("Q4_1", "Q4_1"),
    Recipe("Q5_0", "Q5_0", (Override(_DOWN, "Q5_1"),)),
    Recipe("Q5_1", "Q5_1"),
    Recipe("Q2_K", "Q2_K", (Override(_V, "Q3_K"),)),
    Recipe("Q2_K_S", "Q2_K"),
    Recipe("Q3_K_S", "Q3_K"),
    Recipe(
        "Q3_K_M",
        "Q3_K",
        (Override(_V, "Q5_K", layers=_first(2)), Override((*_V, *_QKV, *_DOWN), "Q4_K")),
    ),
    Recipe("Q3_K_L", "Q3_K", (Override((*_V, *_DOWN), "Q5_K"), Override(_QKV, "Q4_K"))),
    _four_bits("Q4_K_S", "Q4_K"),
    Recipe("Q4_K_M", "Q4_K", (Override((*_V, *_DOWN), "Q6_K"), Override(_QKV, "Q5_K"))),
    Recipe("Q5_K_S", "Q5_K"),
    Recipe("Q5_K_M", "Q5_K", (Override((*_V, *_QKV, *_DOWN), "Q6_K"),)),
    Recipe("Q6_K", "Q6_K"),
    _four_bits("IQ4_NL", "IQ4_NL"),
    _four_bits("IQ4_XS", "IQ4_XS"),
)
