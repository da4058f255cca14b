"""The exact size of a model's file at each level, from shapes alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ...formats.errors import ImportanceMissing, PlanError
from ...formats.gguf.keys import GENERAL_ALIGNMENT
from ...formats.gguf.wire import DEFAULT_ALIGNMENT, encode_value
from ...formats.gguf.writer import layout as gguf_layout
from ...formats.ir import Metadata, Model, Value, ValueType
from ..images import recipe_set_of
from ..importance import ImportanceFit
from ..plan import Importance, Plan, PlanOptions, make_plan
from ..recipes import find_recipe, recipes_of

CARD_RAM = 2_500_000_000  # bytes that published model cards add to a file's size for their "max RAM"
_LARGE = 4096  # bytes of a metadata value; larger values would take long to encode for each of 35 levels
_NO_OPTIONS = PlanOptions()


@dataclass(frozen=True)
class LevelSize:
    """The size of a model's file at one level.

    Args:
        level: the level's name.
        nbytes: the file's size in bytes.
        bpw: bits per weight over all tensors.
        types: the number of tensors of each type.
        fallbacks: the number of tensors whose width does not fit the recipe's type, by ``wanted -> taken``.
        fallback_bytes: how many bytes the fallbacks add.
        needs_importance: whether the file needs an importance matrix, and none was given. The size then lacks the keys
            that name one, about 200 bytes.
        problem: why there can be no such file, or empty; if there is none, all numbers are 0.
        importance_fit: how far the importance and the tensors fit each other; None where none was given.
        remarks: what the options asked for in vain, in lines.

    Example:
        >>> from quantmill import plan, tiny_llama
        >>> (size,) = plan(tiny_llama(), ["Q8_0"]).levels
        >>> size.level, size.nbytes > 0, size.problem
        ('Q8_0', True, '')
    """

    level: str
    nbytes: int = 0
    bpw: float = 0.0
    types: Mapping[str, int] = field(default_factory=dict)
    fallbacks: Mapping[str, int] = field(default_factory=dict)
    fallback_bytes: int = 0
    needs_importance: bool = False
    problem: str = ""
    importance_fit: ImportanceFit | None = None
    remarks: tuple[str, ...] = ()

    @property
    def max_ram(self) -> int:
        """The file's size and 2.5 GB, which is the "max RAM" of published model cards."""
        return self.nbytes + CARD_RAM


def size_levels(model: Model, levels: Sequence[str] = (), options: PlanOptions = _NO_OPTIONS) -> list[LevelSize]:
    """Calculate the size of a model's file at each level. No weight is read.

    Args:
        model: a file's, a checkpoint's or a bare config's.
        levels: names, aliases or numbers; none for all levels of the recipe set.
        options: as ``make_plan`` takes them; tensors that are quantized already may be quantized again.

    Raises:
        PlanError: the recipe set or a level is unknown.

    Example:
        >>> import numpy as np
        >>> from quantmill.formats.arrays import model_from_arrays
        >>> model = model_from_arrays("llama", {"blk.0.ffn_up.weight": np.ones((8, 256), np.float32)})
        >>> [(size.level, size.bpw) for size in size_levels(model, ["Q8_0", "Q4_K_M"])]
        [('Q8_0', 8.5), ('Q4_K_M', 4.5)]
    """
    recipe_set = recipe_set_of(model, options.recipe_set)
    names = [find_recipe(level, recipe_set).level for level in levels] or list(recipes_of(recipe_set))
    saved = 0
    if options.layout is gguf_layout:
        model, saved = without_bulk(model)
    options = replace(options, allow_requantize=True)
    return [_size(model, level, options, saved) for level in dict.fromkeys(names)]


def _size(model: Model, level: str, options: PlanOptions, saved: int) -> LevelSize:
    try:
        return _described(make_plan(model, level, options), saved)
    except ImportanceMissing as error:
        if options.importance:
            return LevelSize(level, problem=error.problem)
    except PlanError as error:
        return LevelSize(level, problem=error.problem)
    try:
        with_importance = replace(options, importance=uniform_importance(model))
        found = _described(make_plan(model, level, with_importance), saved)
        return replace(found, needs_importance=True, importance_fit=None)
    except PlanError as error:
        return LevelSize(level, problem=error.problem)


def _described(plan: Plan, saved: int) -> LevelSize:
    swapped = plan.fallbacks
    cost = sum(s.nbytes - s.tensor.n_weights * s.wanted.bpw / 8 for s in swapped if s.wanted is not None)
    return LevelSize(
        plan.level,
        plan.size + saved,
        plan.bpw,
        dict(Counter(step.type.name for step in plan.steps).most_common()),
        dict(Counter(f"{step.wanted} -> {step.type}" for step in swapped).most_common()),
        round(cost),
        importance_fit=plan.importance_fit,
        remarks=plan.remarks,
    )


def uniform_importance(model: Model) -> Importance:
    """Importance of ones for every matrix, to plan with before there is an importance matrix. It takes no memory."""
    one = np.float32(1)
    return {
        t.name: np.broadcast_to(one, (t.n_weights // max(1, t.shape[-2]),)) for t in model.tensors if len(t.shape) > 1
    }


def without_bulk(model: Model) -> tuple[Model, int]:
    """Replace a model's vocabulary and other large metadata values by short ones.

    Returns:
        the model, and the bytes that this saves in a header: a multiple of the alignment, so that everything after
        the header moves by as much.
    """
    alignment = model.get(GENERAL_ALIGNMENT, DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        return model, 0  # the layout refuses it
    metadata: dict[str, Value] = {}
    saved = 0
    for key, value, size in _sized(model.metadata):
        if size < _LARGE + alignment:
            metadata[key] = value
            continue
        rest = (size - 12) % alignment  # a string's type and length take 12 bytes
        metadata[key] = Value(ValueType.STRING, "x" * rest)
        saved += size - 12 - rest
    return replace(model, metadata=metadata), saved


def _sized(metadata: Metadata) -> Iterator[tuple[str, Value, int]]:
    for key, value in metadata.items():
        large = len(value.data if isinstance(value.data, str) else value.items) > _LARGE // 16
        yield key, value, len(encode_value(value)) if large else 0


def published_gb(nbytes: int) -> float:
    """A size as model cards print it: in units of 1e9 bytes, with two decimals."""
    return round(nbytes / 1e9, 2)
