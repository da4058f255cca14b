"""The type that each key of a config.json must have: what the architecture's rows, rules and conditions take it for.

Transformers 5 checks the same types (its configs are strict dataclasses), so what is refused here loads nowhere. A key
that nothing reads may hold anything.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FormatError
from ..json_types import (
    NUMBER,
    NUMBERS,
    OBJECT,
    TEXT,
    WHOLE,
    WHOLES,
    JsonType,
    check,
    either,
    optional,
    shown,
)
from .tables.dimensions import (
    CLASS_HEAD,
    LAYER_INDEX,
    Config,
    Is,
)
from .tables.hybrid_rows import AttentionLayers, MixerLayers
from .tables.layer_kinds import Paired
from .tables.layer_rows import LayerNumbers
from .tables.reads import LAYER_TYPES, of_example
from .tables.rows import Key, LayerFlags, Mapped

if TYPE_CHECKING:
    from .tables.rules import Arch

# What the readers of every checkpoint look up beside the architecture's data.
ALWAYS_READ = {
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
    types = {**types_of(arch, defaults), **ALWAYS_READ}
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
        for key, type in noun.reads().items():
            usual = of_example(defaults.get(key))
            found = type or usual
            if isinstance(noun, Is) and type and usual and type is not usual:  # a flag that may be a word, too
                found = either(type, usual)
            if found is not None:
                types.setdefault(key, found)
    for key in (str(LAYER_INDEX.of), CLASS_HEAD):  # which no config holds
        types.pop(key, None)
    return types


def _check_words(config: Config, arch: Arch, path: Path) -> None:
    """Check that ``layer_types`` has a word for each layer, and that the architecture knows the words of every key."""
    for noun in arch.config:
        if isinstance(noun, Mapped):
            _check_word(config.get(noun.hf), noun.names, path, noun.hf)
    others = {noun.hf: noun.words for noun in arch.config if isinstance(noun, LayerFlags)}
    for key, kinds in {**others, LAYER_TYPES: {word for noun in arch.nouns for word in _words(noun)}}.items():
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
        return (noun.value,) if noun.key == LAYER_TYPES else ()
    if isinstance(noun, Paired):
        return tuple(noun.pairs) if noun.key == LAYER_TYPES else ()
    if isinstance(noun, (LayerFlags, LayerNumbers)):
        return noun.words if noun.hf == LAYER_TYPES else ()
    return noun.words if isinstance(noun, (AttentionLayers, MixerLayers)) else ()


def _check_word(word: Any, known: Collection[Any], path: Path, where: str) -> None:
    if word is not None and word not in known:
        hint = f"known: {', '.join(sorted(str(one) for one in known if one is not None))}"
        raise FormatError(f"{shown(word)} has no meaning here", path=path, where=where, hint=hint)
