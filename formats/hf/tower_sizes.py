"""Restore a tower's config from a file: what its keys say, and what only its tensors' names and shapes tell.

llama.cpp's files hold no sizes of projectors and positions, nor which biases there are: these follow from the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import reduce
from math import prod
from operator import mul
from pathlib import Path
from typing import Any

from ..errors import FormatError
from ..ir import Metadata, Tensor
from .config import derive_config, with_defaults
from .tables.dimensions import Config, Dim, If, Is
from .tables.ops import PermuteRope
from .tables.rules import HFClass, Rule
from .tables.tower import Tower
from .tables.tower_ops import Roll
from .tables.values import ValueOp

_BLOCK = re.compile(r"(?<=\.blk)\.\d+\.")
_LARGEST = 1 << 16  # no size of a tower is larger
Shapes = Mapping[str, tuple[int, ...]]  # by name, with {layer} for a block's number


def derive_tower(
    tower: Tower, cls: HFClass, metadata: Metadata, tensors: tuple[Tensor, ...], path: Path
) -> dict[str, Any]:
    """As ``derive_config``, with the flags and sizes that the tensors tell."""
    derived = derive_config(tower, cls, metadata, tensors, path)
    shapes = {_BLOCK.sub(".{layer}.", tensor.name): tensor.shape for tensor in tensors}
    derived |= dict(_flags(tower, cls, shapes))
    while found := _next_size(tower, cls, derived, shapes):
        derived |= found
    return derived


def _name(rule: Rule, part: str = "weight") -> str:
    return _BLOCK.sub(".{layer}.", rule.targets(0 if rule.per_layer else None, part)[0])


def _flags(tower: Tower, cls: HFClass, shapes: Shapes) -> Iterator[tuple[str, bool]]:
    """The flags of biases, and of tensors that only a flag asks for: true if such a tensor is there."""
    for rule in tower.rules:
        found = _name(rule, "bias") in shapes
        if isinstance(rule.bias, str) and (found or rule.bias in cls.defaults):
            yield rule.bias, found
        flag = rule.when.key if isinstance(rule.when, Is) and rule.when.value is None else None
        others = {_name(other) for other in tower.rules if other.when != rule.when}
        if flag is not None and isinstance(cls.defaults.get(flag), bool) and _name(rule) not in others:
            yield flag, _name(rule) in shapes


def _next_size(tower: Tower, cls: HFClass, derived: Config, shapes: Shapes) -> dict[str, int]:
    """A size that no key says, from a tensor whose shape has no other unknown one; {} if there is none."""
    config = with_defaults(derived, tower, cls)
    for rule in tower.rules:
        shape = shapes.get(_name(rule))
        if (
            shape is None
            or len(rule.roles) > 1
            or len(rule.modules) > 1
            or rule.borrowed
            or "{expert}" in rule.modules[0]
        ):
            continue
        whole = reduce(mul, rule.shape, Dim(1))
        kept = all(isinstance(op, (PermuteRope, Roll, ValueOp)) for op in rule.ops) and len(shape) == len(rule.shape)
        each = zip(rule.shape, shape, strict=True) if kept else ()
        for size, number in (*each, (whole, prod(shape))):  # operations move weights, and keep their number
            unknown = {key for key in _keys(size) if key not in derived and key not in tower.implied}
            if len(unknown) == 1 and (value := _solve(size, min(unknown), number, config)) is not None:
                return {unknown.pop(): value}
    return {}


def _keys(size: Dim | If) -> Iterator[str]:
    """The config keys that a size is made of."""
    if isinstance(size, If):
        return
    if isinstance(size.of, str):
        yield size.of
    elif isinstance(size.of, tuple):
        for side in size.of[1:]:
            assert isinstance(side, Dim)
            yield from _keys(side)


def _solve(size: Dim | If, key: str, number: int, config: Config) -> int | None:
    """The smallest value of a key with which a size is a number; sizes grow with their keys."""
    for value in range(1, _LARGEST):
        try:
            found = size({**config, key: value})
        except FormatError:  # a share of it that would be nothing
            continue
        if found == number:
            return value
        if found > number:
            return None
    return None
