"""Whether llama.cpp can load what a file's metadata says: for ``verify --strict``, and before a key is changed.

The readers here take what they can use. llama.cpp is stricter in places: it wants a key's exact type, and ends the
whole program at some numbers. What it would only ignore (a token's id outside the vocabulary) counts, too.
Sources: gguf.cpp, ``load_hparams`` in llama-model.cpp, ``get_key`` and ``get_key_or_arr`` in llama-model-loader.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from ..ir import Metadata, Value, ValueType
from .image_archs import is_image
from .keys import (
    FILE_TYPES,
    GENERAL_ALIGNMENT,
    GENERAL_ARCHITECTURE,
    GENERAL_FILE_TYPE,
    NUMPY_TYPES,
    KeyType,
    is_token_id,
    key_type,
    type_name,
)  # fmt: skip
from .known import ARCHITECTURES, MAX_EXPERTS, MAX_LAYERS, ROPE_SCALINGS
from .loadable_towers import tower_problems
from .loadable_vocab import vocabulary_problems
from .shards import SPLIT_NO
from .wire import DEFAULT_ALIGNMENT

# Hyper-parameters that may be an array with a value for each layer, of either sign: get_key_or_arr and get_arr.
_PER_LAYER_WORDS = """
    feed_forward_length expert_feed_forward_length expert_used_count attention.head_count attention.head_count_kv
    attention.sliding_window_pattern attention.recurrent_layers attention.indexer.types attention.compress_ratios
    swiglu_clamp_exp swiglu_clamp_shexp
"""
PER_LAYER = frozenset(_PER_LAYER_WORDS.split())
_OF_OWN_LAYERS = {"attention.indexer.types"}  # none for layers that predict further tokens
_OF_THESE_OR_ALL = {"attention.sliding_window_pattern"}
_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", re.ASCII)
_REQUIRED = ("context_length", "embedding_length", "block_count")
_WHOLE_ROTARY = frozenset({"llama", "deci", "falcon", "llama-embed"})  # every axis of a head is rotated
_SIGNED = {ValueType.UINT32, ValueType.INT32}


@dataclass(frozen=True)
class KeyFinding:
    """Something that llama.cpp would refuse, or that cannot be meant.

    Args:
        key: the metadata key.
        problem: what is wrong.
        remade: whether only another file mends it; else a new value of the key does.
    """

    key: str
    problem: str
    remade: bool = False


def check_metadata(metadata: Metadata) -> Iterator[KeyFinding]:
    """Find what llama.cpp would refuse in the metadata of a file. A later shard of a model needs only its own keys.

    Example:
        >>> from quantmill.formats.gguf.keys import typed
        >>> from quantmill.formats.gguf.loadable import check_metadata
        >>> keys = {"general.alignment": typed("general.alignment", 3)}
        >>> [finding.problem for finding in check_metadata(keys)][:1]
        ['3 is not a power of two from 8 on']
    """
    for key, value in metadata.items():
        yield from (KeyFinding(key, problem, remade) for problem, remade in _value_problems(key, value))
    yield from _alignment(metadata)
    if not _whole(metadata, SPLIT_NO) and _text(metadata, "general.type") in (None, "model", "mmproj"):
        yield from _architecture(metadata)
        arch = _text(metadata, GENERAL_ARCHITECTURE) or ""
        if arch != "clip" and not is_image(arch):
            yield from (KeyFinding(*problem) for problem in vocabulary_problems(metadata))


def _value_problems(key: str, value: Value) -> Iterator[tuple[str, bool]]:
    """What is wrong with a value whatever the others are, and whether it needs another file."""
    if not _KEY.fullmatch(key):
        yield "is not made of words joined by dots", False
    if value.item is ValueType.ARRAY:
        yield "is an array of arrays; llama.cpp refuses the file", False
        return
    wanted = key_type(key)
    empty = value.type is ValueType.ARRAY and not len(value.items)
    if wanted is not None and not takes(key, value.type, value.item) and not (empty and wanted[0] is ValueType.ARRAY):
        yield f"is {type_name(value.type, value.item)}; must be {type_name(*wanted)}", False
    if isinstance(value.data, float) and not np.isfinite(value.data):
        yield f"is {value.data}", False
    if isinstance(value.data, np.ndarray) and value.data.dtype.kind == "f" and not _are_numbers(key, value.data).all():
        place = int(np.flatnonzero(~_are_numbers(key, value.data))[0])
        yield f"entry {place} is {value.data[place]}", True
    if (bad := next((i for i, text in enumerate(value.texts) if not _is_utf8(text)), None)) is not None:
        yield (f"entry {bad} is not UTF-8" if value.item else "is not UTF-8"), True


def _are_numbers(key: str, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which floats of an array may stand there: of Gemma 3n's layers that leave out no activation, -inf, too."""
    none_left_out = key.endswith(".activation_sparsity_scale") & (values == -np.inf)
    return np.asarray(np.isfinite(values) | none_left_out)


def takes(key: str, kind: ValueType, item: ValueType | None) -> bool:
    """Whether a key takes values of a type: its own, or an array of it where llama.cpp reads one for each layer.

    Whole numbers of such arrays may have signs or not. A key of no known type takes any.

    Example:
        >>> from quantmill.formats.gguf.keys import parse_type
        >>> from quantmill.formats.gguf.loadable import takes
        >>> takes("llama.feed_forward_length", *parse_type("int32[]")), takes("llama.block_count", *parse_type("int32"))
        (True, False)
    """
    wanted = key_type(key)
    if wanted is None or (kind, item) == wanted:
        return True
    if kind is not ValueType.ARRAY or key.startswith(("general.", "tokenizer.")):
        return False
    if wanted[0] is not ValueType.ARRAY and key.partition(".")[2] not in PER_LAYER:
        return False
    wanted_item = wanted[1] or wanted[0]
    return item is wanted_item or {item, wanted_item} <= _SIGNED or (item, wanted_item) in _FLAGS


def check_kinds(metadata: Metadata, path: Path | None = None) -> None:
    """Check that a model's hyper-parameters are what they are taken for: numbers, flags, texts.

    Unlike llama.cpp, readers here forgive the width of a number, and that a whole one has a sign.

    Raises:
        FormatError: naming the file and the key.

    Example:
        >>> from quantmill.formats.examples import tiny_llama
        >>> from quantmill.formats.gguf.loadable import check_kinds
        >>> check_kinds(tiny_llama().metadata)
    """
    arch = _text(metadata, GENERAL_ARCHITECTURE)
    for key, value in metadata.items():
        known = key.startswith(f"{arch}.") or is_token_id(key) or key == GENERAL_ARCHITECTURE
        wanted = key_type(key) if known else None
        if wanted is not None and not _is_of_kind(key, value, wanted):
            problem = f"is {_described(value)}; must be {type_name(*wanted)}"
            raise FormatError(problem, path=path, where=key, hint="gguf-set-metadata corrects it")


def _is_of_kind(key: str, value: Value, wanted: KeyType) -> bool:
    array = value.type is ValueType.ARRAY
    if array != (wanted[0] is ValueType.ARRAY) and not (array and key.partition(".")[2] in PER_LAYER):
        return False
    item = wanted[1] or wanted[0]
    if item is ValueType.STRING:
        return (value.item or value.type) is ValueType.STRING
    if value.item is ValueType.ARRAY:
        return False
    found = np.atleast_1d(np.asarray(value.data))
    if item is ValueType.BOOL or (array and found.dtype.kind == "b"):
        return found.dtype.kind == "b" or (array and found.dtype.kind in "iu")
    if item in (ValueType.FLOAT32, ValueType.FLOAT64):
        return found.dtype.kind == "f" and bool(_are_numbers(key, found).all())
    of_layers = array and item is ValueType.UINT32  # which llama.cpp reads with a sign, too
    limits = np.iinfo(NUMPY_TYPES[ValueType.INT32 if of_layers else item])
    return found.dtype.kind in "iu" and bool(((found >= limits.min) & (found <= limits.max)).all())


def _described(value: Value) -> str:
    plain = value.type is not ValueType.ARRAY
    return f"{value.data!r}" if plain and not isinstance(value.data, str) else type_name(value.type, value.item)


# (what is there, what is wanted)
_FLAGS = {(ValueType.BOOL, ValueType.UINT32), (ValueType.UINT32, ValueType.BOOL), (ValueType.INT32, ValueType.BOOL)}


def _alignment(metadata: Metadata) -> Iterator[KeyFinding]:
    value = metadata.get(GENERAL_ALIGNMENT)
    data = DEFAULT_ALIGNMENT if value is None else value.data
    if not isinstance(data, int) or data < 8 or data & (data - 1):
        yield KeyFinding(GENERAL_ALIGNMENT, f"{data} is not a power of two from 8 on", remade=True)


def _architecture(metadata: Metadata) -> Iterator[KeyFinding]:
    arch = _text(metadata, GENERAL_ARCHITECTURE)
    if not arch:
        yield KeyFinding(GENERAL_ARCHITECTURE, "is missing")
        return
    if is_image(arch):
        yield from _level(metadata)
        return
    if arch not in ARCHITECTURES:
        near = get_close_matches(arch, ARCHITECTURES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        yield KeyFinding(GENERAL_ARCHITECTURE, f"llama.cpp knows no architecture {arch!r}{hint}")
    yield from _level(metadata)
    if arch == "clip":
        yield from (KeyFinding(*problem) for problem in tower_problems(metadata))
        return
    missing = [name for name in _REQUIRED if f"{arch}.{name}" not in metadata]
    yield from (KeyFinding(f"{arch}.{name}", "is missing; llama.cpp refuses the file") for name in missing)
    numbers = _Numbers(metadata, arch)
    for check in (_layers, _experts, _heads):
        yield from check(numbers)
    scaling = _text(metadata, f"{arch}.rope.scaling.type")
    if scaling is not None and scaling not in ROPE_SCALINGS:
        yield KeyFinding(f"{arch}.rope.scaling.type", f"{scaling!r} is none of {', '.join(sorted(ROPE_SCALINGS))}")


def _level(metadata: Metadata) -> Iterator[KeyFinding]:
    if (level := _whole(metadata, GENERAL_FILE_TYPE)) is not None and level not in FILE_TYPES.values():
        yield KeyFinding(GENERAL_FILE_TYPE, f"{level} is not the number of a level")


@dataclass(frozen=True)
class _Numbers:
    """The hyper-parameters that are whole numbers, or a whole number for each layer."""

    metadata: Metadata
    arch: str

    def each(self, name: str) -> list[int]:
        """The values, one or as many as there are layers; none if there is no such key."""
        value = self.metadata.get(f"{self.arch}.{name}")
        items = [] if value is None else list(np.atleast_1d(np.asarray(value.data, object)))
        return [int(item) for item in items if isinstance(item, (int, np.integer)) and not isinstance(item, bool)]

    def most(self, name: str) -> int:
        """The largest value; 0 if there is none."""
        return max(self.each(name), default=0)

    def found(self, name: str, problem: str) -> KeyFinding:
        """A finding about a key."""
        return KeyFinding(f"{self.arch}.{name}", f"{problem}; llama.cpp refuses the file")


def _layers(numbers: _Numbers) -> Iterator[KeyFinding]:
    layers = numbers.each("block_count")
    if not layers:
        return
    if not 0 < layers[0] <= MAX_LAYERS:
        yield numbers.found("block_count", f"is {layers[0]}, not 1 to {MAX_LAYERS}")
        return
    if (extra := numbers.most("nextn_predict_layers")) > layers[0]:
        yield numbers.found("nextn_predict_layers", f"is {extra} of {layers[0]} layers")
    for name in sorted(PER_LAYER):
        value = numbers.metadata.get(f"{numbers.arch}.{name}")
        wanted = layers[0] - (extra if name in _OF_OWN_LAYERS else 0)
        also = layers[0] - (extra if name in _OF_THESE_OR_ALL else 0)
        if value is not None and value.type is ValueType.ARRAY and len(value.items) not in (wanted, also):
            yield numbers.found(name, f"has {len(value.items)} entries for {wanted} layers")


def _experts(numbers: _Numbers) -> Iterator[KeyFinding]:
    count, used = numbers.most("expert_count"), numbers.most("expert_used_count")
    groups, of_them = numbers.most("expert_group_count"), numbers.most("expert_group_used_count")
    if numbers.arch in ("hunyuan_vl", "hunyuan-dense") and count <= 1:
        return
    if count > MAX_EXPERTS:
        yield numbers.found("expert_count", f"is {count}; {MAX_EXPERTS} is the most")
    if used > count or (count and not used):
        yield numbers.found("expert_used_count", f"is {used} of {count} experts")
    if groups and groups >= count:
        yield numbers.found("expert_group_count", f"is {groups} for {count} experts")
    elif groups > 1 and count % groups:
        yield numbers.found("expert_group_count", f"{count} experts are not a multiple of {groups} groups")
    elif groups > 1 and not 0 < of_them < groups:
        yield numbers.found("expert_group_used_count", f"is {of_them} of {groups} groups")


def _heads(numbers: _Numbers) -> Iterator[KeyFinding]:
    heads, width = next(iter(numbers.each("attention.head_count")), 0), numbers.most("embedding_length")
    if heads <= 0:
        return
    size = next(iter(numbers.each("attention.key_length")), width // heads)
    rotated = next(iter(numbers.each("rope.dimension_count")), size)
    if numbers.arch in _WHOLE_ROTARY and rotated != size:
        yield numbers.found("rope.dimension_count", f"is {rotated}; a head has {size}")


def _text(metadata: Metadata, key: str) -> str | None:
    value = metadata.get(key)
    return value.data if value is not None and isinstance(value.data, str) else None


def _whole(metadata: Metadata, key: str) -> int | None:
    value = metadata.get(key)
    return value.data if value is not None and isinstance(value.data, int) else None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
