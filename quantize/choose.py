"""Choosing each tensor's type: by the recipe, the user's options and the width fallbacks, in llama.cpp's order.

No weight is read. Source: ``llama_tensor_get_type`` and its callers in llama-quant.cpp.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..formats.errors import PlanError, QuantmillError
from ..formats.gguf.image_archs import is_image
from ..formats.gguf.writer import ggml_shape
from ..formats.ir import Model, Role, Tensor
from ..formats.qtypes import BF16, BY_NAME, F16, F32, QType, qtype
from . import images
from .kernels import ENCODABLE
from .patterns import Pattern, TypeRule, compile_patterns
from .plan_options import PlanOptions
from .recipe import FFN_CATEGORIES, VALUE_CATEGORIES, Category, Place, Recipe, Traits, category_of
from .recipes import BIG_MODELS, NEVER, NEVER_IN_ARCH, NEVER_WHOLE, WIDTH_FALLBACKS
from .towers import floats_of, is_kept

OUTPUT_OPTION, EMBEDDING_OPTION = "--output-tensor-type", "--token-embedding-type"


@dataclass(frozen=True)
class Choice:
    """A tensor's type.

    Args:
        type: the type.
        reason: why it was chosen, in words.
        wanted: the type that a fallback replaced, or None.
        forced: whether an option that allows no fallback asked for it.
        option: the option that asked for it, or empty.
    """

    type: QType
    reason: str
    wanted: QType | None = None
    forced: bool = False
    option: str = ""


def visiting_order(name: str) -> tuple[int, bytes]:
    """The sort key of llama.cpp's loader: by layer, then by the name's bytes; tensors outside the blocks come first."""
    match = re.match(r"blk\.(\d+)\.", name)
    return int(match[1]) if match else -1, name.encode("utf-8", "surrogateescape")


def model_traits(model: Model, importance: bool) -> Traits:
    """The facts that recipes depend on. ``importance``: whether an importance matrix is given."""
    heads = model.number("attention.head_count")  # the first layer's, where each has its own
    kv = model.number("attention.head_count_kv", heads)
    big = BIG_MODELS.get(model.arch) == model.n_layers
    if model.arch.startswith("llama"):
        big = big and heads != kv and model.n_expert != 8
    return Traits(model.arch, heads // kv if kv else 0, model.n_expert, big, importance)


def may_quantize(tensor: Tensor, arch: str, leave_output: bool = False) -> bool:
    """Whether llama.cpp quantizes this tensor at any level (``tensor_allows_quantization``)."""
    name, shape = tensor.name, ggml_shape(tensor.shape)
    if is_image(arch):
        return images.may_quantize(tensor, arch, shape)
    return (
        len(shape) >= 2
        and name.endswith("weight")
        and not (leave_output and name == "output.weight")
        and name not in NEVER_WHOLE
        and not any(part in name for part in (*NEVER, *NEVER_IN_ARCH.get(arch, ())))
    )


# Always F32 in a file that is converted from a checkpoint (``prepare_tensors`` in llama.cpp's conversion/base.py).
_CONVERTED_F32 = frozenset(
    {
        "ffn_gate_inp", "ffn_gate_inp_shexp", "position_embd", "token_types", "ssm_conv1d", "shortconv.conv",
        "time_mix_first", "time_mix_w1", "time_mix_w2", "time_mix_decay_w1", "time_mix_decay_w2",
        "time_mix_lerp_fused", "altup_correct_coef", "altup_predict_coef", "ssm_conv1d_q", "ssm_conv1d_k",
        "ssm_conv1d_v", "indexer.proj",
        # F32 in published checkpoints, and kept so
        "hc_attn_fn", "hc_ffn_fn", "output_hc_fn", "attn_compressor_ape", "indexer_compressor_ape",
    }
)  # fmt: skip


_CONVERTED_F32_IN_ARCH = {"minimax-m3": "indexer.", "glm5-next": "indexer_compressor_"}  # what names begin with


def converted_type(tensor: Tensor, float_type: QType, arch: str) -> QType:
    """A checkpoint tensor's type in a float GGUF file: F32 for vectors, norms and a few more, else ``float_type``."""
    base = tensor.name.removesuffix(".weight").split(".", 2)[-1] if tensor.name.startswith("blk.") else tensor.name
    base = base.removesuffix(".weight")
    single = len(tensor.shape) <= 1 or tensor.name.endswith("_norm.weight")
    wide = base in _CONVERTED_F32 or base.startswith(_CONVERTED_F32_IN_ARCH.get(arch, "\0"))
    if single or wide or not tensor.name.endswith((".weight", ".lora_a", ".lora_b")):
        return F32
    return float_type


def guess_float_type(model: Model) -> QType:
    """The type of the first 16-bit matrix, or F16 if there is none, as llama.cpp's converter guesses it."""
    matrices = (t.qtype for t in model.tensors if len(t.shape) >= 2)
    return next((found for found in matrices if found in (F16, BF16)), F16)


def choose_types(model: Model, recipe: Recipe, options: PlanOptions, whole: Model | None = None) -> dict[str, Choice]:
    """Choose the type of every tensor that may be quantized.

    Args:
        model: the model to choose for.
        recipe: the level's recipe.
        options: what comes before the recipe.
        whole: the model before blocks were left out, whose number of blocks counts, as in llama.cpp; None for
            ``model``.

    Returns:
        the choices by tensor name, in the order of ``visiting_order``, without the tensors that keep their type.

    Raises:
        PlanError: a type cannot be encoded, a pattern is invalid or matches no tensor, or a width fits no type.
    """
    tensors = sorted(model.tensors, key=lambda t: visiting_order(t.name))
    floats = floats_of(model)
    allowed = [t for t in tensors if may_quantize(t, model.arch, options.leave_output) and not is_kept(t, floats)]
    patterns = patterns_of(options, tensors)
    chosen = {name: Choice(type, "chosen for the budget") for name, type in options.chosen_types.items()}
    manual = {t.name: chosen.get(t.name) or _first_match(patterns, t.name) for t in allowed}
    choices: dict[str, Choice] = {}
    mixed: list[Tensor] = []
    for tensor in allowed:
        forced = _forced(tensor, options, manual[tensor.name] is not None)
        if forced:
            choices[tensor.name] = forced
        elif not recipe.default_type.is_quantized:  # floats fit any width; patterns apply to quantized files only
            choices[tensor.name] = Choice(recipe.default_type, "default")
        elif asked := manual[tensor.name]:
            choices[tensor.name] = asked
        elif options.pure:
            choices[tensor.name] = Choice(recipe.default_type, "pure")
        else:
            mixed.append(tensor)
    choices |= _mix(whole or model, tensors, mixed, recipe, options)
    fallbacks = {} if is_image(model.arch) else WIDTH_FALLBACKS
    return {t.name: _fit(t, choices[t.name], options, fallbacks) for t in allowed}


def _mix(
    model: Model, tensors: list[Tensor], mixed: list[Tensor], recipe: Recipe, options: PlanOptions
) -> dict[str, Choice]:
    """The recipe's choices for ``mixed``, the tensors that no option decides; only those count, as in llama.cpp."""
    traits = model_traits(model, bool(options.importance))
    image = is_image(model.arch)
    categories = {t.name: images.category_of(t.name, model.arch) if image else category_of(t.name) for t in tensors}
    tied = Category.OUTPUT not in categories.values()
    n_values = sum(category in VALUE_CATEGORIES for category in categories.values())
    seen: Counter[Category] = Counter()
    choices = {}
    for tensor in mixed:
        category = categories[tensor.name]
        counted = Category.ATTN_V if category in VALUE_CATEGORIES and not image else category
        shape = ggml_shape(tensor.shape)
        place = Place(
            name=tensor.name,
            category=Category.OUTPUT if tied and category is Category.TOKEN_EMBD else category,
            rank=seen[counted],
            layer=tensor.layer,
            of=model.n_layers if category in FFN_CATEGORIES else n_values,
            width=tensor.width,
            stacked=len(shape) > 2 and shape[-3] > 1,
        )
        seen[counted] += 1
        if place.category is Category.OUTPUT and options.output_type is not None:
            type, reason = encodable(options.output_type), f"{OUTPUT_OPTION}, tied embeddings"
            choices[tensor.name] = Choice(type, reason, option=OUTPUT_OPTION)
        else:
            choices[tensor.name] = Choice(*recipe.choose(place, traits))
    return choices


def _forced(tensor: Tensor, options: PlanOptions, named: bool) -> Choice | None:
    """The choice of the options for the embeddings and the output matrix, which come before all others."""
    category = category_of(tensor.name)
    # The per-layer table is large and separate, so a --tensor-type that names it wins.
    if options.embedding_type is not None and category is Category.TOKEN_EMBD:
        if tensor.role is Role.TOKEN_EMBD or tensor.name == "token_embd.weight" or not named:
            return Choice(encodable(options.embedding_type), EMBEDDING_OPTION, forced=True, option=EMBEDDING_OPTION)
    elif options.output_type is not None and category is Category.OUTPUT:
        return Choice(encodable(options.output_type), OUTPUT_OPTION, forced=True, option=OUTPUT_OPTION)
    return None


def _fit(tensor: Tensor, choice: Choice, options: PlanOptions, fallbacks: Mapping[str, str]) -> Choice:
    """The choice, or the fallback if rows are not a multiple of its type's block: F16 where ``fallbacks`` is empty."""
    wanted, width = choice.type, tensor.width
    if width % wanted.block_size == 0:
        return choice
    where = tensor.name
    problem = f"rows of {width} weights are not a multiple of {wanted}'s block of {wanted.block_size}"
    if options.no_fallback:
        raise PlanError(problem, where=where, hint="--no-fallback forbids another type")
    if choice.forced:
        # llama.cpp does not check these types and writes a file that nothing can load
        raise PlanError(problem, where=where, hint=f"choose a type other than {wanted} for it")
    fallback = _width_fallback(wanted, width, fallbacks)
    if fallback is None and options.fallback_type is not None:
        fallback = encodable(options.fallback_type)
        fallback = fallback if width % fallback.block_size == 0 else F16
    if fallback is None:
        raise PlanError(f"{problem}, and llama.cpp defines no fallback", where=where, hint="--fallback-type TYPE")
    reason = f"{wanted} does not fit {width} columns ({choice.reason})"
    return Choice(fallback, reason, wanted, option=choice.option)


def _width_fallback(wanted: QType, width: int, fallbacks: Mapping[str, str]) -> QType | None:
    name = fallbacks.get(wanted.name)
    if name is None:
        return F16 if wanted.block_size <= 32 or not fallbacks else None
    return BY_NAME[name] if width % BY_NAME[name].block_size == 0 else F16


def patterns_of(options: PlanOptions, tensors: Sequence[Tensor]) -> list[Pattern]:
    """The compiled patterns of ``tensor_types``, for these tensors."""
    rules = [one if isinstance(one, TypeRule) else TypeRule(*one) for one in options.tensor_types]
    compiled = [(rule.pattern, encodable(rule.type, rule.origin), rule.origin) for rule in rules]
    return compile_patterns(compiled, [tensor.name for tensor in tensors])


def _first_match(patterns: list[Pattern], name: str) -> Choice | None:
    found = next((pattern for pattern in patterns if pattern.regex.search(name)), None)
    return None if found is None else Choice(found.type, f"{found.origin} {found.text}", option=found.option)


def encodable(type: str | QType, where: str = "") -> QType:
    """Look up a type in which weights can be written. Raises ``PlanError`` if it is unknown or has no encoder.

    Args:
        where: where it was given, for messages.
    """
    try:
        found = type if isinstance(type, QType) else qtype(type)
    except QuantmillError as error:
        raise PlanError(error.problem, where=where or None, hint=error.hint) from error
    if found.name not in ENCODABLE:
        problem = f"type {found} cannot hold quantized weights"
        raise PlanError(problem, where=where or None, hint="such as Q4_K, Q8_0, F16")
    return found
