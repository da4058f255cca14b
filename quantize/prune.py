"""A model without some of its blocks: ``--prune-layers``.

llama-quantize leaves the blocks out, numbers the others anew and sets the new count; it leaves keys as they are that
hold a value for each block, or count blocks. Those are mended here, for no program loads such a file otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..formats.errors import PlanError
from ..formats.gguf.loadable import PER_LAYER
from ..formats.ir import Metadata, Model, Shard, Tensor, Value, ValueType
from .plan_options import Importance

OPTION = "--prune-layers"
_BLOCK = re.compile(r"blk\.(\d+)\.")
# Keys with a number of blocks after which, or every which, a block is of another kind.
_WINDOWS = "attention.sliding_window_pattern"
_PERIODS = ("full_attention_interval", _WINDOWS, "interleave_moe_layer_step", "moe_every_n_layers")
# The same where llama.cpp's code has the number (``set_swa_pattern`` and n_no_rope_layer_step in src/models).
_PERIODS_OF_ARCH = {
    "gemma2": 2, "gemma3": 6, "gemma3n": 5, "cohere2": 4, "llama4": 4, "gpt-oss": 2, "exaone4": 4, "exaone-moe": 4,
    "olmo2": 4, "smallthinker": 4, "smollm3": 4, "modern-bert": 3, "afmoe": 4, "plamo3": 8,
}  # fmt: skip
_SHARED = ("attention.shared_kv_layers",)  # the last blocks use keys and values of those before them


@dataclass(frozen=True)
class Pruned:
    """A model without some blocks, and what became of the names.

    Args:
        model: the model that is left.
        old_names: name now -> name before, of each tensor that is left.
    """

    model: Model
    old_names: Mapping[str, str]

    def importance(self, of: Importance) -> Importance:
        """The importance of what is left, by the names that it has now."""
        return {new: of[old] for new, old in self.old_names.items() if old in of}


def parse_layers(text: str) -> tuple[int, ...]:
    """Parse a list of blocks' numbers and ranges.

    Raises:
        PlanError: it is none.

    Example:
        >>> from quantmill.quantize.prune import parse_layers
        >>> parse_layers("3,7-9")
        (3, 7, 8, 9)
    """
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part, re.ASCII)
        first, last = (0, -1) if match is None else (int(match[1]), int(match[2] or match[1]))
        if last < first:
            raise PlanError(f"{part.strip()!r} is no block's number", where=OPTION, hint="such as 3,7-9")
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def prune(model: Model, layers: Sequence[int]) -> Pruned:
    """Leave blocks out of a model.

    Args:
        model: the model.
        layers: the numbers of the blocks.

    Raises:
        PlanError: there is no such block, none would be left, or the kind of a block follows from its number.
    """
    gone, n = frozenset(layers), model.n_layers
    _check(model, gone, n)
    left = [i for i in range(n) if i not in gone]
    _check_periods(model, left)
    number = {old: new for new, old in enumerate(left)}
    tensors: list[Tensor] = []
    old_names: dict[str, str] = {}
    for tensor in model.tensors:
        if tensor.layer in gone:
            continue
        name, layer = tensor.name, tensor.layer
        if layer is not None:
            layer = number[layer]
            name = _BLOCK.sub(f"blk.{layer}.", tensor.name, count=1)
        old_names[name] = tensor.name
        tensors.append(replace(tensor, name=name, layer=layer))
    metadata = dict(_mended(model, gone, n)) | {f"{model.arch}.block_count": Value(ValueType.UINT32, len(left))}
    shards = tuple(_shards(model, gone))
    return Pruned(replace(model, metadata=metadata, tensors=tuple(tensors), shards=shards), old_names)


def _check(model: Model, gone: frozenset[int], n: int) -> None:
    def refuse(problem: str, hint: str = "") -> PlanError:
        return PlanError(problem, path=model.path, where=OPTION, hint=hint)

    if other := next((t.name for t in model.tensors if (m := _BLOCK.search(t.name)) and m.start()), None):
        raise refuse(f"is for models with one row of blocks; this one has {other}")
    missing = sorted(layer for layer in gone if layer >= n)
    if missing:
        raise refuse(f"there is no block {missing[0]}: the model has {n}, 0 to {n - 1}")
    if len(gone) >= n:
        raise refuse("leaves no block")
    if wide := next((t.name for t in model.tensors if t.name.startswith("per_layer_")), None):
        raise refuse(f"{wide} holds columns of every block, which cannot be left out")
    if shared := next((key for key in _SHARED if model.number(key)), None):
        raise refuse(f"{model.arch}.{shared}: blocks use keys and values of others")


def _check_periods(model: Model, left: Sequence[int]) -> None:
    """Refuse what would make another kind of block of one that is left."""
    arch = model.arch
    periods = {f"{arch}.{key}": model.number(key) for key in _PERIODS if model.numbers(key).size == 1}
    if arch in _PERIODS_OF_ARCH and model.number(_WINDOWS) == 0 and model.numbers(_WINDOWS).size == 1:
        periods[arch] = _PERIODS_OF_ARCH[arch]
    for key, period in periods.items():
        bad = next((old for new, old in enumerate(left) if period > 1 and old % period != new % period), None)
        if bad is not None:
            problem = f"block {bad} would be of another kind, which follows from its number ({key}: {period})"
            raise PlanError(problem, path=model.path, where=OPTION, hint=f"leave out {period} in a row")


def _mended(model: Model, gone: frozenset[int], n: int) -> Iterator[tuple[str, Value]]:
    """The metadata with the values of the blocks that are left."""
    own = n - model.number("nextn_predict_layers")
    counts = {
        f"{model.arch}.leading_dense_block_count": range(model.number("leading_dense_block_count")),
        f"{model.arch}.nextn_predict_layers": range(own, n),
    }
    for key, value in model.metadata.items():
        arch, _, suffix = key.partition(".")
        if key in counts:
            yield key, replace(value, data=len([i for i in counts[key] if i not in gone]))
        elif arch == model.arch and value.type is ValueType.ARRAY and len(value.items) in (n, own):
            yield key, _without(value, gone) if _is_per_layer(suffix) else value
        else:
            yield key, value


def _is_per_layer(suffix: str) -> bool:
    return suffix in PER_LAYER or suffix == "activation_sparsity_scale"


def _without(value: Value, gone: frozenset[int]) -> Value:
    if isinstance(value.data, np.ndarray):
        return replace(value, data=np.delete(value.data, [i for i in gone if i < value.data.size]))
    return value  # texts: none of these keys


def _shards(model: Model, gone: frozenset[int]) -> Iterator[Shard]:
    start = 0
    for shard in model.shards:
        tensors = model.tensors[start : start + shard.n_tensors]
        start += shard.n_tensors
        yield replace(shard, n_tensors=sum(tensor.layer not in gone for tensor in tensors))


def with_count_last(metadata: Metadata, arch: str) -> dict[str, Value]:
    """The metadata with the number of blocks in last place, where llama-quantize sets it."""
    key = f"{arch}.block_count"
    return {**{name: value for name, value in metadata.items() if name != key}, key: metadata[key]}
