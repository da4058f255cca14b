"""Which type each tensor takes: the recipe, the user's wishes and the width fallbacks, in llama.cpp's order.

Nothing here reads a weight or cares for files. Source: ``llama_tensor_get_type`` and its callers in llama-quant.cpp.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..formats.errors import PlanError, QuantmillError
from ..formats.gguf.writer import ggml_shape
from ..formats.ir import Model, Role, Tensor
from ..formats.qtypes import BF16, BY_NAME, F16, F32, QType, qtype
from .kernels import ENCODABLE
from .recipe import FFN_PARTS, VALUE_PARTS, Part, Place, Recipe, Traits, part_of
from .recipes import BIG_MODELS, NEVER, NEVER_IN_ARCH, NEVER_WHOLE, WIDTH_FALLBACKS

TensorTypes = Sequence[tuple[str, "str | QType"]]


@dataclass(frozen=True)
class Wishes:
    """What the user may ask for beyond the level. Types are names or ``QType``.

    Args:
        pure: the default type for everything.
        leave_output: ``output.weight`` stays as it is.
        output_type, embedding_type: types for those.
        tensor_types: (pattern, type) pairs, the pattern a regular expression searched in the tensor's name, lower-cased
            as llama-quantize has it; the first that matches wins over the recipe.
        fallback_type: for tensors that no type fits, or whose type needs importance they lack.
        no_fallback: a width that does not fit is an error.
        chosen: types by tensor name, found for a budget; before ``tensor_types``.
    """

    pure: bool = False
    leave_output: bool = False
    output_type: str | QType | None = None
    embedding_type: str | QType | None = None
    tensor_types: TensorTypes = ()
    fallback_type: str | QType | None = None
    no_fallback: bool = False
    chosen: Mapping[str, QType] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """A tensor's type and why.

    Args:
        wanted: the type a fallback replaced, or None.
        forced: asked for by an option that takes no fallback.
    """

    type: QType
    reason: str
    wanted: QType | None = None
    forced: bool = False


def visiting_order(name: str) -> tuple[int, bytes]:
    """Sort key of llama.cpp's loader: by layer, then by the name's bytes; tensors outside the blocks first."""
    match = re.match(r"blk\.(\d+)\.", name)
    return int(match[1]) if match else -1, name.encode("utf-8", "surrogateescape")


def model_traits(model: Model, importance: bool) -> Traits:
    heads = model.number("attention.head_count")  # the first layer's, where each has its own
    kv = model.number("attention.head_count_kv", heads)
    big = BIG_MODELS.get(model.arch) == model.n_layers
    if model.arch.startswith("llama"):
        big = big and heads != kv and model.n_expert != 8
    return Traits(model.arch, heads // kv if kv else 0, model.n_expert, big, importance)


def may_quantize(tensor: Tensor, arch: str, leave_output: bool = False) -> bool:
    """Whether llama.cpp would quantize this tensor at all (``tensor_allows_quantization``)."""
    name = tensor.name
    return (
        len(ggml_shape(tensor.shape)) >= 2
        and name.endswith("weight")
        and not (leave_output and name == "output.weight")
        and name not in NEVER_WHOLE
        and not any(part in name for part in (*NEVER, *NEVER_IN_ARCH.get(arch, ())))
    )


# Always F32 in a file fresh from a checkpoint (``prepare_tensors`` in llama.cpp's conversion/base.py).
_CONVERTED_F32 = frozenset(
    {
        "ffn_gate_inp", "ffn_gate_inp_shexp", "position_embd", "token_types", "ssm_conv1d", "shortconv.conv",
        "time_mix_first", "time_mix_w1", "time_mix_w2", "time_mix_decay_w1", "time_mix_decay_w2",
        "time_mix_lerp_fused", "altup_correct_coef", "altup_predict_coef", "ssm_conv1d_q", "ssm_conv1d_k",
        "ssm_conv1d_v", "indexer.proj",
    }
)  # fmt: skip


def converted_type(tensor: Tensor, float_type: QType) -> QType:
    """The type of a checkpoint's tensor in a float GGUF: F32 for vectors, norms and a few more, else ``float_type``."""
    base = tensor.name.removesuffix(".weight").split(".", 2)[-1] if tensor.name.startswith("blk.") else tensor.name
    base = base.removesuffix(".weight")
    single = len(tensor.shape) <= 1 or tensor.name.endswith("_norm.weight")
    if single or base in _CONVERTED_F32 or not tensor.name.endswith((".weight", ".lora_a", ".lora_b")):
        return F32
    return float_type


def guess_float_type(model: Model) -> QType:
    """``--outtype auto``: the type of the first 16-bit matrix, or F16 (as llama.cpp's converter guesses)."""
    matrices = (t.qtype for t in model.tensors if len(t.shape) >= 2)
    return next((found for found in matrices if found in (F16, BF16)), F16)


def choose_types(model: Model, recipe: Recipe, wishes: Wishes, importance: bool) -> dict[str, Choice]:
    """The type of every tensor that may be quantized, by name, in visiting order; the others are not in it.

    Raises:
        PlanError: a type that cannot be encoded, a bad pattern or one that matches nothing, a width that fits nothing.
    """
    tensors = sorted(model.tensors, key=lambda t: visiting_order(t.name))
    allowed = [t for t in tensors if may_quantize(t, model.arch, wishes.leave_output)]
    patterns = _compile(wishes.tensor_types, tensors)
    chosen = {name: Choice(type, "chosen for the budget") for name, type in wishes.chosen.items()}
    manual = {t.name: chosen.get(t.name) or _first_match(patterns, t.name) for t in allowed}
    choices: dict[str, Choice] = {}
    mixed: list[Tensor] = []
    for tensor in allowed:
        forced = _forced(tensor, wishes, manual[tensor.name] is not None)
        if forced:
            choices[tensor.name] = forced
        elif not recipe.default_type.is_quantized:  # floats fit any width; patterns speak of quantized files only
            choices[tensor.name] = Choice(recipe.default_type, "default")
        elif by_hand := manual[tensor.name]:
            choices[tensor.name] = by_hand
        elif wishes.pure:
            choices[tensor.name] = Choice(recipe.default_type, "pure")
        else:
            mixed.append(tensor)
    choices |= _mix(model, tensors, mixed, recipe, wishes, importance)
    return {t.name: _fit(t, choices[t.name], wishes) for t in allowed}


def _mix(
    model: Model, tensors: list[Tensor], mixed: list[Tensor], recipe: Recipe, wishes: Wishes, importance: bool
) -> dict[str, Choice]:
    """The recipe's choices for the tensors that reach it. Only those are counted, by the reference and here."""
    traits = model_traits(model, importance)
    parts = {t.name: part_of(t.name) for t in tensors}
    tied = Part.OUTPUT not in parts.values()
    n_values = sum(part in VALUE_PARTS for part in parts.values())
    seen: Counter[Part] = Counter()
    choices = {}
    for tensor in mixed:
        part = parts[tensor.name]
        counted = Part.ATTN_V if part in VALUE_PARTS else part
        shape = ggml_shape(tensor.shape)
        place = Place(
            name=tensor.name,
            part=Part.OUTPUT if tied and part is Part.TOKEN_EMBD else part,
            rank=seen[counted],
            layer=tensor.layer,
            of=model.n_layers if part in FFN_PARTS else n_values,
            width=tensor.width,
            stacked=len(shape) > 2 and shape[-3] > 1,
        )
        seen[counted] += 1
        if place.part is Part.OUTPUT and wishes.output_type is not None:
            choices[tensor.name] = Choice(encodable(wishes.output_type), "--output-tensor-type, tied embeddings")
        else:
            choices[tensor.name] = Choice(*recipe.choose(place, traits))
    return choices


def _forced(tensor: Tensor, wishes: Wishes, named: bool) -> Choice | None:
    """The embedding's and the output's own options, which come before everything else."""
    part = part_of(tensor.name)
    # The per-layer table is large and separate, so a --tensor-type that names it wins.
    if wishes.embedding_type is not None and part is Part.TOKEN_EMBD:
        if tensor.role is Role.TOKEN_EMBD or tensor.name == "token_embd.weight" or not named:
            return Choice(encodable(wishes.embedding_type), "--token-embedding-type", forced=True)
    elif wishes.output_type is not None and part is Part.OUTPUT:
        return Choice(encodable(wishes.output_type), "--output-tensor-type", forced=True)
    return None


def _fit(tensor: Tensor, choice: Choice, wishes: Wishes) -> Choice:
    """The choice, or what takes its place when rows are no multiple of its block."""
    wanted, width = choice.type, tensor.width
    if width % wanted.block_size == 0:
        return choice
    where = tensor.name
    problem = f"rows of {width} weights are no multiple of {wanted}'s block of {wanted.block_size}"
    if wishes.no_fallback:
        raise PlanError(problem, where=where, hint="--no-fallback forbids another type")
    if choice.forced:
        # llama.cpp does not look at these types again and writes a file nothing can load
        raise PlanError(problem, where=where, hint=f"choose another type than {wanted} there")
    fallback = _width_fallback(wanted, width)
    if fallback is None and wishes.fallback_type is not None:
        fallback = encodable(wishes.fallback_type)
        fallback = fallback if width % fallback.block_size == 0 else F16
    if fallback is None:
        raise PlanError(f"{problem}, and llama.cpp defines no fallback", where=where, hint="--fallback-type TYPE")
    return Choice(fallback, f"{wanted} does not fit {width} columns ({choice.reason})", wanted)


def _width_fallback(wanted: QType, width: int) -> QType | None:
    name = WIDTH_FALLBACKS.get(wanted.name)
    if name is None:
        return F16 if wanted.block_size <= 32 else None
    return BY_NAME[name] if width % BY_NAME[name].block_size == 0 else F16


def _compile(tensor_types: TensorTypes, tensors: list[Tensor]) -> list[tuple[re.Pattern[str], str, QType]]:
    rows = []
    for pattern, wish in tensor_types:
        try:
            compiled = re.compile(pattern.lower())
        except re.error as error:
            raise PlanError(f"--tensor-type {pattern!r} is no regular expression: {error}") from error
        if not any(compiled.search(t.name) for t in tensors):
            raise PlanError(f"--tensor-type {pattern!r} matches no tensor", hint="--dry-run lists the names")
        rows.append((compiled, pattern, encodable(wish)))
    return rows


def _first_match(patterns: list[tuple[re.Pattern[str], str, QType]], name: str) -> Choice | None:
    return next((Choice(t, f"--tensor-type {text}") for regex, text, t in patterns if regex.search(name)), None)


def encodable(wish: str | QType) -> QType:
    """A type by name or as it is. Raises ``PlanError`` for one we cannot write weights in."""
    try:
        found = wish if isinstance(wish, QType) else qtype(wish)
    except QuantmillError as error:
        raise PlanError(error.problem, hint=error.hint) from error
    if found.name not in ENCODABLE:
        raise PlanError(f"type {found} holds no quantized weights", hint="such as Q4_K, Q8_0, F16")
    return found
