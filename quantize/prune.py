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
_INTERVAL = "full_attention_interval"
_PERIODS = (
    _INTERVAL, _WINDOWS, "interleave_moe_layer_step", "moe_every_n_layers", "attn_res.block_size",
    "rescale_every_n_layers",
)  # fmt: skip
# The same where llama.cpp's code has the number (src/models of b11549): where a file has a window and no pattern
# (``load_swa_pattern``), where it has neither an interval nor an array of its own, and whatever it has (the blocks
# without a rope, n_no_rope_layer_step).
_WINDOWS_OF_ARCH = {
    "gemma2": 2, "gemma3": 6, "gemma3n": 5, "gemma-embedding": 6, "gemma-embedding2": 6, "cohere2": 4, "cohere2moe": 4,
    "llama4": 4, "gpt-oss": 2, "exaone4": 4, "exaone-moe": 4, "olmo2": 4, "smallthinker": 4, "modern-bert": 3,
    "afmoe": 4, "plamo3": 8, "laguna": 4, "mellum": 4, "muse-glimmer": 4,
}  # fmt: skip
_INTERVALS_OF_ARCH = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4, "qwen4exp": 4, "minimax-01": 8}
_ROPE_OF_ARCH = {"smollm3": 4, "afmoe": 4, "llama4": 4, "smallthinker": 4}
_UNLESS_NO_WINDOW = ("llama4", "smallthinker")  # of the last: those that turn all blocks where the window is 0
# Numbers of blocks by which that code tells models of an architecture from others, which it computes otherwise.
_COUNTS_OF_ARCH = {
    "baichuan": ({32}, {40}), "gemma2": ({46},), "gemma3": ({62},), "exaone4": ({64},), "deepseek2": ({26, 27},),
}  # fmt: skip
_ALWAYS_WINDOWS = ("gemma2", "gemma3n", "cohere2", "llama4", "exaone-moe")
_RECURRENT = "attention.recurrent_layers"
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
    _check_count(model, n, len(left))
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


def _check_count(model: Model, before: int, after: int) -> None:
    """Refuse what would make another model of it to llama.cpp, which goes by the number of blocks."""
    for counts in _COUNTS_OF_ARCH.get(model.arch, ()):
        if (before in counts) != (after in counts):
            named = " or ".join(map(str, sorted(counts)))
            problem = f"llama.cpp computes a {model.arch} of {named} blocks otherwise than others"
            raise PlanError(problem, path=model.path, where=OPTION, hint="a GGUF file cannot hold what would be left")


def _periods(model: Model) -> Iterator[tuple[str, int]]:
    """After how many blocks a block is of the same kind again, and what says so."""
    arch = model.arch
    single = (key for key in _PERIODS if not isinstance(model.hparam(key), (np.ndarray, tuple)))
    yield from ((f"{arch}.{key}", model.number(key)) for key in single)
    has_window = model.hparam("attention.sliding_window") != 0
    if arch in _WINDOWS_OF_ARCH and model.hparam(_WINDOWS) is None and _may_have_windows(model):
        yield arch, _WINDOWS_OF_ARCH[arch]
    if arch in _INTERVALS_OF_ARCH and all(model.hparam(key) is None for key in (_INTERVAL, _RECURRENT)):
        yield arch, _INTERVALS_OF_ARCH[arch]
    if arch in _ROPE_OF_ARCH and (has_window or arch not in _UNLESS_NO_WINDOW):
        yield arch, _ROPE_OF_ARCH[arch]


def _may_have_windows(model: Model) -> bool:
    """Whether llama.cpp gives blocks a window: olmo2 and others only where the file says how wide it is."""
    width = model.hparam("attention.sliding_window")
    return bool(width) or (width is None and model.arch in _ALWAYS_WINDOWS)


def _check_periods(model: Model, left: Sequence[int]) -> None:
    """Refuse what would make another kind of block of one that is left."""
    for key, period in _periods(model):
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
