"""What a model's file will weigh at every level, to the byte, from shapes alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from ...formats.errors import PlanError
from ...formats.gguf.keys import GENERAL_ALIGNMENT
from ...formats.gguf.wire import DEFAULT_ALIGNMENT, encode_value
from ...formats.gguf.writer import layout as gguf_layout
from ...formats.ir import Metadata, Model, Value, ValueType
from ..plan import Importance, MakeLayout, Plan, make_plan
from ..recipes import BOOKS, find_recipe

CARD_RAM = 2_500_000_000  # bytes that published model cards add to a file's size for their "max RAM"
_LARGE = 4096  # bytes of a metadata value from which encoding it 35 times over is worth avoiding


@dataclass(frozen=True)
class LevelSize:
    """A file that could be written.

    Args:
        level: its name.
        nbytes: the file's size.
        bpw: bits per weight over all tensors.
        types: how many tensors of each type.
        fallbacks: ``wanted -> taken``: how many tensors take another type because their width does not fit.
        fallback_bytes: what that costs.
        needs_importance: it cannot be made without an importance matrix, and none was given. The size then lacks the
            keys that name one, some 200 bytes.
        problem: why there can be no such file; then all numbers are 0.
    """

    level: str
    nbytes: int = 0
    bpw: float = 0.0
    types: Mapping[str, int] = field(default_factory=dict)
    fallbacks: Mapping[str, int] = field(default_factory=dict)
    fallback_bytes: int = 0
    needs_importance: bool = False
    problem: str = ""

    @property
    def max_ram(self) -> int:
        """As the published cards have it: the file and 2.5 GB."""
        return self.nbytes + CARD_RAM


def size_levels(
    model: Model,
    levels: Sequence[str] = (),
    *,
    book: str = "current",
    importance: Importance | None = None,
    extra_metadata: Metadata | None = None,
    from_checkpoint: bool = False,
    make_layout: MakeLayout | None = None,
) -> list[LevelSize]:
    """The size of each level. No weight is read.

    Args:
        model: a file's, a checkpoint's or a bare config's.
        levels: names, aliases or numbers; none for the whole book.
        book, importance, extra_metadata, from_checkpoint: see ``make_plan``.
        make_layout: of another container than GGUF; it then sees the metadata whole.

    Raises:
        PlanError: an unknown book or level.
    """
    if not levels and book not in BOOKS:
        find_recipe("F16", book)  # raises, naming the books
    names = [find_recipe(level, book).level for level in levels] or list(BOOKS[book])
    saved = 0
    if make_layout is None:
        model, saved = without_bulk(model)
        make_layout = partial(gguf_layout, version=2)
    plan = partial(
        make_plan, model, book=book, extra_metadata=extra_metadata, allow_requantize=True,
        from_checkpoint=from_checkpoint, layout=make_layout,
    )  # fmt: skip
    return [_size(plan, level, importance, saved) for level in dict.fromkeys(names)]


def _size(plan: partial[Plan], level: str, importance: Importance | None, saved: int) -> LevelSize:
    try:
        return _described(plan(level, importance=importance), saved)
    except PlanError as error:
        if importance is not None or "importance" not in error.problem:
            return LevelSize(level, problem=error.problem)
    try:
        model: Model = plan.args[0]
        return replace(_described(plan(level, importance=pretended(model)), saved), needs_importance=True)
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
    )


def pretended(model: Model) -> Importance:
    """Importance for every matrix, all ones and no memory, to plan with before there is an importance matrix."""
    one = np.float32(1)
    return {
        t.name: np.broadcast_to(one, (t.n_weights // max(1, t.shape[-2]),)) for t in model.tensors if len(t.shape) > 1
    }


def without_bulk(model: Model) -> tuple[Model, int]:
    """The model with its vocabulary and other large values replaced by short ones, and the bytes that saves in a
    header: a whole number of alignments, so that everything after them moves by just as much."""
    alignment = int(model.get(GENERAL_ALIGNMENT, DEFAULT_ALIGNMENT))
    if alignment <= 0 or alignment & (alignment - 1):
        return model, 0  # the layout refuses it, with its words
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
        large = value.type in (ValueType.STRING, ValueType.ARRAY) and len(value.data) > _LARGE // 16
        yield key, value, len(encode_value(value)) if large else 0


def published_gb(nbytes: int) -> float:
    """As model cards print it: units of 1e9 bytes, two decimals."""
    return round(nbytes / 1e9, 2)
