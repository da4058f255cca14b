"""Models that make images and videos: what is never quantized, the kinds of tensors, and the float type of the rest.

Sources: tools/lcpp.patch of ComfyUI-GGUF at 795e451 (``llama_model_quantize_internal``, ``img_tensor_get_type``), and
tools/convert.py there (for floats). The rows of ``qwen_image``, which neither knows, are quantmill's own.
"""

from __future__ import annotations

from ..formats.diffusion.layouts import LAYOUTS
from ..formats.errors import PlanError
from ..formats.gguf.image_archs import is_image
from ..formats.ir import Model, Tensor
from ..formats.qtypes import BF16, F16, F32, QType
from .image_recipes import IMAGE_SET
from .recipe import Category

SMALL = 1024  # QUANTIZATION_THRESHOLD: so few weights cost nothing, and stay F32

# Parts of names of tensors that are not quantized: what takes the image, the text and the time in, and what gives the
# image out. They are small, and an error there reaches everything.
_KEPT = {
    "flux": ("txt_in.", "img_in.", "time_in.", "vector_in.", "guidance_in.", "final_layer."),
    "sd1": (
        "class_embedding.", "time_embedding.", "add_embedding.", "time_embed.", "label_emb.", "conv_in.", "conv_out.",
    ),
    "sd3": ("final_layer.", "time_text_embed.", "context_embedder.", "t_embedder.", "y_embedder.", "x_embedder."),
    "aura": ("t_embedder.", "init_x_linear."),
    "ltxv": ("adaln_single.", "caption_projection.", "patchify_proj.", "proj_out.", "scale_shift_table"),
    "hyvid": ("txt_in.", "img_in.", "time_in.", "vector_in.", "guidance_in.", "final_layer."),
    "wan": (
        "modulation.", "patch_embedding.", "text_embedding.", "time_projection.", "time_embedding.", "img_emb.",
        "head.",
    ),
    "hidream": (
        "p_embedder.", "t_embedder.", "x_embedder.", "final_layer.", ".ff_i.gate.weight", "caption_projection.",
    ),
    "cosmos": ("p_embedder.", "t_embedder.", "t_embedding_norm.", "x_embedder.", "pos_embedder.", "final_layer."),
    "lumina2": ("t_embedder.", "x_embedder.", "final_layer.", "cap_embedder.", "context_refiner.", "noise_refiner."),
    "qwen_image": ("img_in.", "txt_in.", "time_text_embed.", "norm_out."),
}  # fmt: skip
_KEPT["sdxl"] = _KEPT["sd1"]
_KEPT_NAMES = {  # whole names
    "sd1": ("input_blocks.0.0.weight", "out.2.weight"),
    "sdxl": ("input_blocks.0.0.weight", "out.2.weight"),
    "sd3": ("proj_out.weight", "pos_embed"),
    "aura": (
        "modF.1.weight",
        "cond_seq_linear.weight",
        "final_linear.weight",
        "positional_encoding",
        "register_tokens",
    ),
    "qwen_image": ("proj_out.weight",),
}

# The first that a name has decides.
_CATEGORIES = (
    ("attn_v.weight", Category.ATTN_V), (".to_v.weight", Category.ATTN_V), (".v.weight", Category.ATTN_V),
    (".attn.w1v.weight", Category.ATTN_V), (".attn.w2v.weight", Category.ATTN_V),
    ("_attn.v_proj.weight", Category.ATTN_V),
    ("attn_qkv.weight", Category.ATTN_QKV), ("attn.qkv.weight", Category.ATTN_QKV),
    ("attention.qkv.weight", Category.ATTN_QKV),
    ("ffn_down", Category.FFN_DOWN), (".ffn.2.weight", Category.FFN_DOWN), (".ff.net.2.weight", Category.FFN_DOWN),
    (".mlp.layer2.weight", Category.FFN_DOWN), (".adaln_modulation_mlp.2.weight", Category.FFN_DOWN),
    (".feed_forward.w2.weight", Category.FFN_DOWN),
)  # fmt: skip
_OWN_CATEGORIES = {
    "qwen_image": (
        (".add_v_proj.weight", Category.ATTN_V),
        ("_mlp.net.2.weight", Category.FFN_DOWN),
    )
}
_WHOLE = {
    arch: tuple(p for one in LAYOUTS if one.arch == arch for p in one.whole) for arch in {x.arch for x in LAYOUTS}
}


def may_quantize(tensor: Tensor, arch: str, shape: tuple[int, ...]) -> bool:
    """Whether an image model's tensor is quantized at any level.

    Args:
        tensor: the tensor.
        arch: its model's architecture.
        shape: the tensor's, without leading axes of length 1, which ggml does not count.
    """
    name = tensor.name
    kept = any(part in name for part in _KEPT.get(arch, ())) or name in _KEPT_NAMES.get(arch, ())
    return len(shape) == 2 and name.endswith("weight") and not kept


def category_of(name: str, arch: str) -> Category:
    """The kind of an image model's tensor.

    Example:
        >>> from quantmill.quantize.images import category_of
        >>> category_of("double_blocks.0.img_attn.qkv.weight", "flux").value
        'attention qkv'
    """
    rows = (*_OWN_CATEGORIES.get(arch, ()), *_CATEGORIES)
    if "experts." in name and ".w2.weight" in name:
        return Category.FFN_DOWN
    return next((category for part, category in rows if part in name), Category.OTHER)


def float_type(tensor: Tensor, arch: str, asked: QType | None) -> QType:
    """The type of a checkpoint's tensor that is not quantized.

    Vectors, small tensors and those that must be precise are F32, unless the checkpoint has halves. Others keep 16
    bits; but what is no matrix of a linear layer is F32 where the checkpoint has BF16, for neither loader decodes BF16
    elsewhere.

    Args:
        tensor: the checkpoint's.
        arch: its model's architecture.
        asked: the type that matrices shall have; None for the checkpoint's own 16 bits.
    """
    if asked is F32:
        return F32
    matrix = len(tensor.shape) == 2 and tensor.name.endswith(".weight")
    precise = any(part in tensor.name for part in _WHOLE.get(arch, ()))
    if tensor.qtype is not F16 and (len(tensor.shape) <= 1 or tensor.n_weights <= SMALL or precise):
        return F32
    own = BF16 if tensor.qtype is BF16 else F16
    if not matrix:
        return F32 if own is BF16 or len(tensor.shape) > 4 else F16
    return asked or own


def recipe_set_of(model: Model, asked: str | None) -> str | None:
    """The recipe set of a model's levels: image models have one of their own.

    Args:
        model: the model.
        asked: what was asked for; None for the usual one.

    Raises:
        PlanError: it was asked for a set of the other kind of models.

    Example:
        >>> from quantmill import tiny_llama
        >>> from quantmill.quantize.images import recipe_set_of
        >>> recipe_set_of(tiny_llama(), None), recipe_set_of(tiny_llama(), "2023-12")
        (None, '2023-12')
    """
    image = is_image(model.arch)
    if asked is not None and (asked == IMAGE_SET) is not image:
        problem = f"the recipes of {asked} are for {'text' if image else 'image'} models"
        raise PlanError(problem, path=model.path, where="--recipe-set", hint="leave it out")
    return IMAGE_SET if image else asked
