"""What is particular about GGUF files of models that make images and videos, which ComfyUI-GGUF and diffusers read.

No part of llama.cpp reads them, so its limits do not hold. Source: ``IMG_ARCH_LIST`` in loader.py, and convert.py, of
ComfyUI-GGUF at 795e451.
"""

from __future__ import annotations

IMAGE_ARCHS = frozenset(
    {"flux", "sd1", "sdxl", "sd3", "aura", "hidream", "cosmos", "ltxv", "hyvid", "wan", "lumina2", "qwen_image"}
)
MAX_NAME = 127  # bytes; MAX_TENSOR_NAME_LENGTH of convert.py
# fix_5d_tensors.py writes convolutions over space and time with all of their axes.
MAX_DIMS = 5
# + a tensor's name: its shape in the checkpoint, int32[], where the file has another. ComfyUI-GGUF reads it.
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
# The types that the loaders decode: ``dequantize_functions`` of ComfyUI-GGUF's dequant.py, and
# ``SUPPORTED_GGUF_QUANT_TYPES`` of diffusers 0.42. ComfyUI-GGUF decodes others with NumPy, each time anew.
DECODED = frozenset(
    {
        "F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "IQ4_NL",
        "IQ4_XS",
    }
)  # fmt: skip


def is_image(arch: str) -> bool:
    """Whether an architecture makes images or videos.

    Example:
        >>> from quantmill.formats.gguf.image_archs import is_image
        >>> is_image("flux"), is_image("llama")
        (True, False)
    """
    return arch in IMAGE_ARCHS
