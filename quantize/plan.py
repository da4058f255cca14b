"""The plan: what every tensor becomes and where its bytes go, made before any weight is read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..formats.errors import ImportanceMissing, PlanError
from ..formats.gguf.keys import (
    FILE_TYPES,
    GENERAL_FILE_TYPE,
    GENERAL_QUANTIZATION_VERSION,
    QUANTIZATION_VERSION,
)
from ..formats.gguf.writer import Layout, TensorInfo, ggml_shape
from ..formats.gguf.writer import layout as gguf_layout
from ..formats.ir import Metadata, Model, Tensor, Value, ValueType
from ..formats.moments_file import Moments
from ..formats.qtypes import QType
from .choose import (
    Choice,
    TensorTypes,
    Wishes,
    choose_types,
    converted_type,
    encodable,
    guess_float_type,
    visiting_order,
)
from .kernels import ENCODABLE
from .recipe import Part, Recipe, part_of
from .recipes import REFUSES_WITHOUT, find_recipe

_FLOATS = ("F32", "F16", "BF16")
Importance = Mapping[str, NDArray[np.float32]]
MakeLayout = Callable[[Metadata, Sequence[TensorInfo]], Layout]


@dataclass(frozen=True)
class Step:
    """One tensor of the output.

    Args:
        tensor: the source.
        type: the type it becomes.
        reason: why, in words.
        offset: its bytes' place in the file.
        nbytes: how many.
        wanted: the type that a fallback replaced, or None.
        uses_importance: whether its importance vector is to be used.
        refined: whether its codes are to be chosen with second moments.
    """

    tensor: Tensor
    type: QType
    reason: str
    offset: int
    nbytes: int
    wanted: QType | None = None
    uses_importance: bool = False
    refined: bool = False


@dataclass(frozen=True)
class Plan:
    """Every step, in file order, and the file's header. Sizes are in bytes."""

    source: Model
    level: str
    steps: tuple[Step, ...]
    metadata: Metadata
    layout: Layout

    @property
    def n_weights(self) -> int:
        return sum(step.tensor.n_weights for step in self.steps)

    @property
    def source_bytes(self) -> int:
        """The source's tensors."""
        return sum(step.tensor.nbytes for step in self.steps)

    @property
    def tensor_bytes(self) -> int:
        """The output's tensors, without header and padding."""
        return sum(step.nbytes for step in self.steps)

    @property
    def size(self) -> int:
        """The output file."""
        return self.layout.size

    @property
    def bpw(self) -> float:
        """Bits per weight over all tensors."""
        return self.tensor_bytes * 8 / max(1, self.n_weights)

    @property
    def fallbacks(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.wanted is not None)

    @property
    def fallback_bpw(self) -> float:
        """What the fallbacks cost, in bits per weight over all tensors."""
        bits = sum((s.type.bpw - s.wanted.bpw) * s.tensor.n_weights for s in self.steps if s.wanted is not None)
        return bits / max(1, self.n_weights)


def make_plan(
    model: Model,
    level: str,
    *,
    book: str = "current",
    pure: bool = False,
    leave_output: bool = False,
    output_type: str | QType | None = None,
    embedding_type: str | QType | None = None,
    tensor_types: TensorTypes = (),
    allow_requantize: bool = False,
    importance: Importance | None = None,
    moments: Moments | None = None,
    extra_metadata: Metadata | None = None,
    fallback_type: str | QType | None = None,
    no_fallback: bool = False,
    from_checkpoint: bool = False,
    layout: MakeLayout = gguf_layout,
    chosen: Mapping[str, QType] | None = None,
) -> Plan:
    """The plan for a model at a level. Pure: no weight is read.

    Args:
        model: the source.
        level: a level's name, alias or file type number; ``auto`` (with ``from_checkpoint``) for the source's float,
            and quantized blocks as they are.
        book: which era's recipes, a key of ``recipes.BOOKS``.
        pure, leave_output, output_type, embedding_type, tensor_types, fallback_type, no_fallback: see ``Wishes``.
        allow_requantize: tensors that are quantized already may be quantized again; those of a checkpoint always may,
            for there is no float file to start from.
        importance: tensor name -> float32 [stacked matrices * width], or None.
        moments: second moments of the inputs, to refine what importance is used for; or None.
        extra_metadata: keys to add, such as the importance matrix's origin.
        from_checkpoint: the source is a checkpoint, not a GGUF: vectors, norms and what else llama.cpp's converter
            keeps whole become F32, and a float level keeps the source's order of tensors.
        layout: places the tensors in the output's container; a ``functools.partial`` of GGUF's for a version or byte
            order, or another format's.
        chosen: types by tensor name, found for a budget; they come before the level's.

    Raises:
        PlanError: the level, a type or a pattern is unknown; a tensor would be requantized; importance is missing (the
            full list), of the wrong length, negative or not finite; a width fits no type.
    """
    as_it_is = from_checkpoint and level.lower() == "auto"
    if as_it_is:
        level = guess_float_type(model).name
    recipe = find_recipe(level, book)
    wishes = Wishes(
        pure, leave_output, output_type, embedding_type, tensor_types, fallback_type, no_fallback, chosen or {}
    )
    importance = importance or None
    _check_values(importance or {})
    choices = choose_types(model, recipe, wishes, importance is not None)
    if from_checkpoint:
        choices = _as_converter(model, recipe, choices, as_it_is)
    choices = {t.name: choices.get(t.name, Choice(t.qtype, "kept")) for t in model.tensors}
    weighed = _with_importance(model, choices, importance or {})
    choices |= _lacking(model, recipe, choices, weighed, wishes)
    _check_sources(model, choices, allow_requantize or from_checkpoint)
    refined = _to_refine(model, choices, weighed, moments) if moments is not None else frozenset()
    level = _level_of_most(model, choices, recipe.level) if as_it_is else recipe.level

    in_order = from_checkpoint and not recipe.default_type.is_quantized
    tensors = model.tensors if in_order else sorted(model.tensors, key=lambda t: visiting_order(t.name))
    metadata = _metadata(model.metadata, level, extra_metadata or {}, in_place=in_order)
    shape = (lambda t: t.shape) if in_order else (lambda t: ggml_shape(t.shape))
    infos = [TensorInfo(t.name, shape(t), choices[t.name].type) for t in tensors]
    place = layout(metadata, infos)
    steps = tuple(
        Step(t, c.type, c.reason, offset, info.nbytes, c.wanted, t.name in weighed, t.name in refined)
        for t, c, info, offset in zip(tensors, (choices[t.name] for t in tensors), infos, place.offsets, strict=True)
    )
    return Plan(model, level, steps, metadata, place)


def _as_converter(model: Model, recipe: Recipe, choices: dict[str, Choice], keep_blocks: bool) -> dict[str, Choice]:
    """Choices with the converter's conventions: what is not quantized is F32 or the float asked for.

    Args:
        keep_blocks: tensors that are quantized stay so.
    """
    default = recipe.default_type
    converted = dict(choices)
    for tensor in model.tensors:
        choice = choices.get(tensor.name)
        if choice is not None and (choice.forced or default.is_quantized):
            continue
        if keep_blocks and tensor.qtype.is_quantized:
            converted[tensor.name] = Choice(tensor.qtype, "kept exactly")
        elif tensor.qtype.is_float or tensor.qtype.is_quantized:
            float_type = tensor.qtype if default.is_quantized else default
            found = converted_type(tensor, float_type)
            converted[tensor.name] = Choice(found, "default" if found is float_type else "kept whole")
    return converted


def _level_of_most(model: Model, choices: Mapping[str, Choice], otherwise: str) -> str:
    """The level a file of kept blocks goes by: that of the type most weights are in."""
    weights: Counter[str] = Counter()
    for tensor in model.tensors:
        weights[choices[tensor.name].type.name] += tensor.n_weights
    name = weights.most_common(1)[0][0] if weights else otherwise
    level = {"MXFP4": "MXFP4_MOE"}.get(name, name)
    return level if level in FILE_TYPES and name not in _FLOATS else otherwise


def _metadata(source: Metadata, level: str, extra: Metadata, in_place: bool) -> dict[str, Value]:
    """The source's keys as they are; ours replace theirs and go to the end, as llama-quantize has it, or in place."""
    ours = {
        GENERAL_QUANTIZATION_VERSION: Value(ValueType.UINT32, QUANTIZATION_VERSION),
        GENERAL_FILE_TYPE: Value(ValueType.UINT32, FILE_TYPES[level]),
        **extra,
    }
    kept = {key: value for key, value in source.items() if not key.startswith("split.")}
    if not in_place:
        kept = {key: value for key, value in kept.items() if key not in ours}
    return kept | ours


def _check_values(importance: Importance) -> None:
    for name, vector in importance.items():
        bad = np.flatnonzero(~(np.isfinite(vector) & (vector >= 0)))
        if bad.size:
            value = vector[bad[0]]
            kind = "negative" if np.isfinite(value) else "not finite"
            raise PlanError(f"importance {value} at index {bad[0]} is {kind}", where=name, hint="make a new imatrix")


def _with_importance(model: Model, choices: dict[str, Choice], importance: Importance) -> frozenset[str]:
    """The tensors whose importance is to be used. Raises ``PlanError`` for a vector of the wrong length."""
    names = set()
    for tensor in model.tensors:
        vector = importance.get(tensor.name)
        if vector is None or not choices[tensor.name].type.is_quantized or choices[tensor.name].type is tensor.qtype:
            continue
        expected = tensor.width * _matrices(tensor)
        if vector.size == expected:
            names.add(tensor.name)
        elif part_of(tensor.name) is not Part.TOKEN_EMBD:  # theirs always counts tokens; llama-quantize skips it too
            raise PlanError(
                f"its importance has {vector.size} values, its rows have {expected}",
                where=tensor.name,
                hint="this imatrix belongs to another model",
            )
    return frozenset(names)


def _to_refine(
    model: Model, choices: Mapping[str, Choice], weighed: frozenset[str], moments: Moments
) -> frozenset[str]:
    """The tensors whose second moments are to be used. Raises ``PlanError`` where they are another model's."""
    from .refine import REFINED

    names = set()
    for tensor in model.tensors:
        if tensor.name not in weighed or choices[tensor.name].type.name not in REFINED:
            continue
        if moments.holder(tensor.name) is None:
            continue
        have = (moments.n_matrices(tensor.name), moments.width(tensor.name))
        want = (_matrices(tensor), tensor.width)
        if have != want:
            problem = f"its second moments are of {have[0]} x {have[1]} columns, it has {want[0]} x {want[1]}"
            raise PlanError(problem, where=tensor.name, hint="this imatrix belongs to another model")
        names.add(tensor.name)
    return frozenset(names)


def _matrices(tensor: Tensor) -> int:
    """How many matrices are stacked in a tensor, each with importance of its own."""
    return math.prod(tensor.shape[:-2])


def _lacking(
    model: Model, recipe: Recipe, choices: dict[str, Choice], weighed: frozenset[str], wishes: Wishes
) -> dict[str, Choice]:
    """Choices for the tensors that lack the importance their type needs: ``fallback_type``, or one error for all."""
    lacking = [t for t in model.tensors if t.name not in weighed and _needs(t, choices[t.name].type, recipe)]
    if not lacking:
        return {}
    if wishes.fallback_type is None:
        names = ", ".join(f"{t.name} ({choices[t.name].type})" for t in lacking)
        raise ImportanceMissing(
            f"{len(lacking)} tensors need importance and have none: {names}",
            tensors=tuple(t.name for t in lacking),
            path=model.path,
            hint="--imatrix FILE, or --fallback-type TYPE for these alone",
        )
    fallback = encodable(wishes.fallback_type)
    found = {}
    for tensor in lacking:
        wanted = choices[tensor.name].type
        if _needs(tensor, fallback, recipe):
            raise PlanError(f"{fallback} needs importance itself", where=tensor.name, hint="--fallback-type Q4_K")
        if tensor.width % fallback.block_size:
            problem = f"rows of {tensor.width} weights are no multiple of {fallback}'s block of {fallback.block_size}"
            raise PlanError(problem, where=tensor.name, hint="another --fallback-type")
        found[tensor.name] = Choice(fallback, f"no importance for {wanted}", wanted)
    return found


def _needs(tensor: Tensor, type: QType, recipe: Recipe) -> bool:
    if type is tensor.qtype:
        return False
    exempt = tensor.name in ("output.weight", "token_embd.weight", "per_layer_token_embd.weight")
    return type.name in REFUSES_WITHOUT or (not exempt and type.name in recipe.needs_importance)


def _check_sources(model: Model, choices: dict[str, Choice], allow_requantize: bool) -> None:
    changed = [t for t in model.tensors if choices[t.name].type is not t.qtype]
    for tensor in changed:
        if tensor.qtype.name not in ENCODABLE:
            raise PlanError(f"type {tensor.qtype} cannot be quantized", path=model.path, where=tensor.name)
    again = [t for t in changed if t.qtype.is_quantized]
    if again and not allow_requantize:
        raise PlanError(
            f"{len(again)} tensors are quantized already (the first as {again[0].qtype})",
            path=model.path,
            where=again[0].name,
            hint="start from a float file, or --allow-requantize to lose quality twice",
        )
