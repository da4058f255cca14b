"""The type that each key of a config.json must have: what the architecture's rows, rules and conditions take it for.

Transformers 5 checks the same types (its configs are strict dataclasses), so what is refused here loads nowhere. A key
that nothing reads may hold anything.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FormatError
from ..gguf.keys import key_type
from ..ir import ValueType
from ..json_types import (
    FLAG,
    NUMBER,
    NUMBERS,
    OBJECT,
    TEXT,
    TEXTS,
    WHOLE,
    WHOLES,
    JsonType,
    by_name,
    check,
    either,
    list_of,
    optional,
    shown,
)
from .tables.constants import Filled
from .tables.dimensions import (
    CLASS_HEAD,
    KV_HEADS,
    LAYER_INDEX,
    MLP_TYPES,
    Config,
    Dim,
    Is,
    LayerIn,
    LayerOverrides,
    Number,
    OrDefault,
)
from .tables.hybrid_rows import AttentionLayers, ListedAttention, MixerLayers, PeriodicAttention
from .tables.layer_kinds import NoOther, Paired
from .tables.layer_rows import InLayersOf, LayerNumbers, LayerThetas, Limits, PerLayer, Repeated, SizeOfLayer
from .tables.layer_words import Letters, ListedLayers, WordsFrom
from .tables.ngrams import CountedFromOne, TableLayer, TableRows
from .tables.rows import AfterPadding, Alternating, Key, Labels, LayerFlags, LeadingDense, Mapped, Times
from .tables.rules import Further, Rule
from .tables.sparsity import SHARES, Sparsity
from .tables.tower_rows import Activation, EvenlySpaced, Inverted, LayersListed, Same, Square, TokensPerImage, Values

if TYPE_CHECKING:
    from .tables.rules import Arch

_OF_GGUF = {
    ValueType.BOOL: FLAG,
    ValueType.UINT32: WHOLE,
    ValueType.INT32: WHOLE,
    ValueType.FLOAT32: NUMBER,
    ValueType.STRING: TEXT,
}
_KINDS = "layer_types"
_OF_PYTHON = ((bool, FLAG), (int, WHOLE), (float, NUMBER), (str, TEXT))
# What the readers of every checkpoint look up beside the architecture's data.
_ALWAYS = {
    "bos_token_id": optional(WHOLE),
    "eos_token_id": optional(WHOLE, WHOLES),
    "pad_token_id": optional(WHOLE),
    "dtype": optional(TEXT),
    "torch_dtype": optional(TEXT),
    "rope_theta": optional(NUMBER, NUMBERS),  # of the kinds of layers where there are two
    "partial_rotary_factor": optional(NUMBER, NUMBERS),
    "rope_scaling": optional(OBJECT),
    "rope_parameters": optional(OBJECT),
    "original_max_position_embeddings": optional(WHOLE),
    "per_layer_config": optional(OBJECT),
}


def check_types(
    config: Config,
    arch: Arch,
    defaults: Config,
    path: Path,
    implied: Container[str] = (),
    names: Mapping[str, str] | None = None,
) -> None:
    """Check the values of a config.json, under quantmill's names and without defaults.

    Args:
        defaults: what missing keys stand for.
        implied: keys that are inferred where they are null.
        names: the file's names of keys, where they are others.

    Raises:
        FormatError: a value is not of the type that the architecture takes it for.
    """
    types = {**types_of(arch, defaults), **_ALWAYS}
    for key, type in types.items():
        value = config.get(key)
        if key not in config or (value is None and _may_be_null(key, arch, defaults, implied)):
            continue
        if type is WHOLE and isinstance(value, list) and value and len(value) == config.get("num_hidden_layers"):
            type = WHOLES  # a value for each layer
        check(value, type, path=path, where=(names or {}).get(key, key))
    for layer, own in (config.get("per_layer_config") or {}).items():
        check(own, OBJECT, path=path, where=f"per_layer_config.{layer}")
        for key in types.keys() & own.keys():
            check(own[key], types[key], path=path, where=f"per_layer_config.{layer}.{key}")
    _check_words(config, arch, path)


def _may_be_null(key: str, arch: Arch, defaults: Config, implied: Container[str]) -> bool:
    """Whether null says no more than a missing key would, or has a meaning of its own."""
    rows = [row for row in arch.config if isinstance(row, Key) and row.hf == key]
    return defaults.get(key) is None or key in implied or any(row.optional or row.null is not None for row in rows)


def types_of(arch: Arch, defaults: Config) -> dict[str, JsonType]:
    """The keys that the architecture reads, and their types: where only a default tells, that of the default."""
    types: dict[str, JsonType] = {}
    for noun in arch.nouns:
        for key, type in _reads(noun):
            usual = _of_example(defaults.get(key))
            found = type or usual
            if isinstance(noun, Is) and type and usual and type is not usual:  # a flag that may be a word, too
                found = either(type, usual)
            if found is not None:
                types.setdefault(key, found)
    for key in (str(LAYER_INDEX.of), CLASS_HEAD):  # which no config holds
        types.pop(key, None)
    return types


def _reads(noun: Any) -> Iterator[tuple[str, JsonType | None]]:
    if isinstance(noun, Dim) and isinstance(noun.of, str):
        yield noun.of, WHOLE
    elif isinstance(noun, Is):
        yield noun.key, TEXTS if noun.key in (_KINDS, MLP_TYPES) else _of_example(noun.value)
    elif isinstance(noun, NoOther):
        yield noun.key, None if isinstance(noun.value, Dim) else _of_example(noun.value)
    elif isinstance(noun, Number):
        yield noun.key, NUMBER if noun.at is None else NUMBERS
    elif isinstance(noun, LayerIn):
        yield noun.key, optional(WHOLES)
    elif isinstance(noun, (OrDefault, Same)):
        yield noun.key, WHOLE
    elif isinstance(noun, WordsFrom):
        for key, words in noun.sources.items():
            yield key, TEXTS if all(isinstance(entry, str) for entry in words) else WHOLES
    elif isinstance(noun, Paired):
        yield from ((noun.key, TEXTS), (noun.other, TEXTS))
    elif isinstance(noun, LayerOverrides):
        yield from ((held, WHOLE) for held in noun.keys.values())
    elif isinstance(noun, Limits):
        yield noun.hf, optional(list_of(optional(NUMBER), "numbers, or null"))
    elif isinstance(noun, Repeated):
        known = key_type(noun.gguf)
        yield noun.hf, NUMBER if known is None else _OF_GGUF.get(known[0], NUMBER)
    elif isinstance(noun, ListedLayers):
        yield from ((key, optional(WHOLES)) for key in noun.keys.values())
    elif isinstance(noun, Key):
        known = key_type(noun.gguf)
        yield noun.hf, None if known is None else _OF_GGUF.get(known[0])
    elif isinstance(noun, Times):
        yield noun.hf, WHOLE
    elif isinstance(noun, AfterPadding):
        yield noun.hf, WHOLE
        yield "pad_token_id", WHOLE
    elif isinstance(noun, Labels):
        yield noun.hf, optional(by_name(TEXT, "texts"))
    elif isinstance(noun, LayerThetas):
        yield noun.hf, optional(NUMBERS)
    elif isinstance(noun, PerLayer) and noun.each:
        yield noun.hf, optional(WHOLES)
    elif isinstance(noun, Values):
        yield noun.hf, NUMBERS
    elif isinstance(noun, Sparsity):
        yield noun.hf, optional(SHARES)
    elif isinstance(noun, Inverted):
        yield noun.hf, NUMBER
    elif isinstance(noun, Filled) and isinstance(noun.value, str):
        yield noun.value, NUMBER
    elif isinstance(noun, Activation):
        yield noun.hf, TEXT
    elif isinstance(noun, TokensPerImage):
        yield noun.hf, WHOLE
    elif isinstance(noun, Square):
        yield noun.hf, either(WHOLE, WHOLES)
    elif isinstance(noun, InLayersOf):
        yield noun.hf, WHOLE
    elif isinstance(noun, TableRows):
        yield from ((key, WHOLE) for key in noun.keys)
    elif isinstance(noun, (TableLayer, CountedFromOne)):
        yield (noun.key if isinstance(noun, TableLayer) else noun.hf), optional(WHOLES)
    elif isinstance(noun, (LayersListed, EvenlySpaced)):
        yield noun.hf, WHOLES
    elif isinstance(noun, LayerFlags):
        yield noun.hf, TEXTS
        if noun.every:
            yield noun.every, WHOLE
    elif isinstance(noun, (LayerNumbers, LeadingDense)):
        yield noun.hf, TEXTS
    elif isinstance(noun, SizeOfLayer):
        yield from ((noun.hf, WHOLE), (noun.flag, FLAG))
    elif isinstance(noun, AttentionLayers):
        yield _KINDS, TEXTS
    elif isinstance(noun, MixerLayers):
        yield from ((_KINDS, TEXTS), (noun.width, WHOLE), (str(KV_HEADS.of), WHOLE))
    elif isinstance(noun, ListedAttention):
        yield from ((noun.hf, optional(WHOLES)), (str(KV_HEADS.of), WHOLE))
    elif isinstance(noun, PeriodicAttention):
        yield from ((key, WHOLE) for key in (noun.period, noun.offset, str(KV_HEADS.of)))
    elif isinstance(noun, Letters):
        yield noun.key, optional(TEXT)
    elif isinstance(noun, Mapped):
        yield noun.hf, TEXT
    elif isinstance(noun, Further) and noun.hf:
        yield noun.hf, optional(WHOLE)
    elif isinstance(noun, Alternating):
        yield from ((key, WHOLE) for key in (noun.hf, noun.other))
    elif isinstance(noun, Rule):
        yield from ((key, FLAG) for key in (noun.bias, noun.unless) if isinstance(key, str))
        if noun.per_layer:
            yield noun.layers, WHOLE


def _of_example(value: object) -> JsonType | None:
    return next((of for type, of in _OF_PYTHON if isinstance(value, type)), None)


def _check_words(config: Config, arch: Arch, path: Path) -> None:
    """Check that ``layer_types`` has a word for each layer, and that the architecture knows the words of every key."""
    for noun in arch.config:
        if isinstance(noun, Mapped):
            _check_word(config.get(noun.hf), noun.names, path, noun.hf)
    others = {noun.hf: noun.words for noun in arch.config if isinstance(noun, LayerFlags)}
    for key, kinds in {**others, _KINDS: {word for noun in arch.nouns for word in _words(noun)}}.items():
        words = config.get(key)
        if words is None or not kinds:
            continue
        for word in words:
            _check_word(word, kinds, path, key)
        if len(words) != config.get("num_hidden_layers", len(words)):
            problem = f"{len(words)} words for {config['num_hidden_layers']} layers"
            raise FormatError(problem, path=path, where=key, hint="is config.json of one model?")


def _words(noun: Any) -> tuple[Any, ...]:
    """The words of ``layer_types`` that a noun knows."""
    if isinstance(noun, Is):
        return (noun.value,) if noun.key == _KINDS else ()
    if isinstance(noun, Paired):
        return tuple(noun.pairs) if noun.key == _KINDS else ()
    if isinstance(noun, (LayerFlags, LayerNumbers)):
        return noun.words if noun.hf == _KINDS else ()
    return noun.words if isinstance(noun, (AttentionLayers, MixerLayers)) else ()


def _check_word(word: Any, known: Collection[Any], path: Path, where: str) -> None:
    if word is not None and word not in known:
        hint = f"known: {', '.join(sorted(str(one) for one in known if one is not None))}"
        raise FormatError(f"{shown(word)} has no meaning here", path=path, where=where, hint=hint)
