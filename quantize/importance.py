"""How importance and a model's tensors fit each other: which entries are taken, and which tensors go without."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..formats.errors import PlanError, name_list
from ..formats.ir import Model, Tensor
from .choose import Choice, may_quantize
from .plan_options import Importance
from .recipe import Category, Recipe, category_of
from .recipes import IGNORES_IMPORTANCE, OWN_SEARCH

_NAMED = 3  # names of each side in a message


@dataclass(frozen=True)
class ImportanceFit:
    """How far an importance matrix and the tensors of a plan fit each other.

    Args:
        matched: the entries that belong to a tensor of the model, by name. llama-quantize counts all entries of the
            file; where none is missed the numbers are the same.
        missed: the other entries: the model has no such tensor, or one of another width.
        weighed: the tensors that are encoded with importance.
        lacking: the quantized tensors that could use importance and have none.

    Example:
        >>> import numpy as np
        >>> from quantmill import PlanOptions, make_plan, tiny_llama
        >>> vector = np.ones(256, np.float32)
        >>> importance = {"blk.0.attn_q.weight": vector, "blk.9.attn_q.weight": vector}
        >>> fit = make_plan(tiny_llama(), "Q4_0", PlanOptions(importance=importance)).importance_fit
        >>> fit.matched, fit.missed, len(fit.weighed)
        (('blk.0.attn_q.weight',), ('blk.9.attn_q.weight',), 1)
    """

    matched: tuple[str, ...]
    missed: tuple[str, ...]
    weighed: tuple[str, ...]
    lacking: tuple[str, ...]

    @property
    def entries(self) -> str:
        """The entries in a line; they are the same for all levels."""
        missed = f" ({name_list(self.missed, _NAMED)})" if self.missed else ""
        return f"importance: {len(self.matched)} entries matched, {len(self.missed)} missed{missed}"

    def __str__(self) -> str:
        lacking = f" ({name_list(self.lacking, _NAMED)})" if self.lacking else ""
        return f"{self.entries}; {len(self.weighed)} tensors encoded with it, {len(self.lacking)} without{lacking}"


def chosen(importance: Importance, include: Sequence[str], exclude: Sequence[str]) -> Importance:
    """The entries whose name has one of the texts of ``include``, or none of those of ``exclude``.

    Raises:
        PlanError: both are given, or one of the texts is in no entry's name.
    """
    if not (include or exclude):
        return importance
    option, parts = ("--include-weights", include) if include else ("--exclude-weights", exclude)
    if include and exclude:
        raise PlanError("excludes --exclude-weights", where=option, hint="leave one of them out")
    if not importance:
        raise PlanError("has no effect: there is no importance", where=option, hint="give --imatrix, too")
    if idle := next((part for part in parts if not any(part in name for name in importance)), None):
        names = name_list(list(importance), _NAMED)
        raise PlanError(f"no entry's name has {idle!r} in it: the names are {names}", where=option)
    wanted = bool(include)
    return {name: vector for name, vector in importance.items() if any(p in name for p in parts) is wanted}


def matching(model: Model, importance: Importance) -> tuple[str, ...]:
    """The entries that belong to a tensor of the model: of its name and its width."""
    sizes = {tensor.name: importance_size(tensor) for tensor in model.tensors}
    return tuple(name for name, vector in importance.items() if sizes.get(name) == vector.size)


def check_matches(model: Model, importance: Importance, path: Path | None = None) -> None:
    """Raise ``PlanError`` unless an entry belongs to a tensor of the model that may be quantized.

    Args:
        path: the file of the entries, for the message.
    """
    if not importance:
        return
    wanted = [tensor.name for tensor in model.tensors if may_quantize(tensor, model.arch)]
    if importance.keys().isdisjoint(wanted):
        theirs, ours = name_list(list(importance), _NAMED), name_list(wanted, _NAMED)
        problem = f"holds no tensor of this model that can be quantized: it has {theirs}; the model has {ours}"
        hint = "it was made from another model: make one of this model, with imatrix -m MODEL"
        raise PlanError(problem, path=path, where=None if path else "importance", hint=hint)


def check_values(importance: Importance) -> None:
    """Raise ``PlanError`` if an importance is negative or not finite."""
    for name, vector in importance.items():
        bad = np.flatnonzero(~(np.isfinite(vector) & (vector >= 0)))
        if bad.size:
            value = vector[bad[0]]
            kind = "negative" if np.isfinite(value) else "not finite"
            raise PlanError(f"importance {value} at index {bad[0]} is {kind}", where=name, hint="make a new imatrix")


def unweighed_types(recipe: Recipe, refine: bool) -> frozenset[str]:
    """The types that are encoded without importance in a file of a level.

    Args:
        refine: whether tensors are refined with second moments.
    """
    return IGNORES_IMPORTANCE if recipe.own or refine else IGNORES_IMPORTANCE | OWN_SEARCH


def weighed_tensors(
    model: Model, choices: Mapping[str, Choice], importance: Importance, ignore: frozenset[str]
) -> frozenset[str]:
    """The names of tensors to encode with importance; not those of types that ``ignore`` it. Raises ``PlanError`` if a
    vector has the wrong length."""
    names = set()
    for tensor in model.tensors:
        vector, type = importance.get(tensor.name), choices[tensor.name].type
        if vector is None or not type.is_quantized or type is tensor.qtype:
            continue
        if vector.size == importance_size(tensor):
            if type.name not in ignore:
                names.add(tensor.name)
        elif category_of(tensor.name) is not Category.TOKEN_EMBD:  # counts tokens; llama-quantize skips it
            raise PlanError(
                f"its importance has {vector.size} values, its rows have {importance_size(tensor)}",
                where=tensor.name,
                hint="this imatrix belongs to another model",
            )
    return frozenset(names)


def importance_size(tensor: Tensor) -> int:
    """How many values the importance of a tensor has: one for each column of each stacked matrix."""
    return tensor.width * n_matrices(tensor)


def n_matrices(tensor: Tensor) -> int:
    """The number of matrices stacked in a tensor. Each has importance of its own."""
    return math.prod(tensor.shape[:-2])
