"""Complete a config.json for the rules, restore it from GGUF metadata, and find what no standard key can hold."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError, located
from ..ir import Metadata, Role, Tensor
from ..json_types import OBJECT, POSITIVE_WHOLE, WHOLE, check, shown, take
from .config_types import check_types
from .tables import rope
from .tables.dimensions import (
    CLASS_HEAD,
    DENSE_SIZES,
    EMBD,
    FURTHER,
    HEADS,
    VOCAB,
    WRAPPER,
    Config,
    Implied,
    Is,
    at_layer,
)
from .tables.extras import TIED
from .tables.further import with_further, without_further
from .tables.rows import Rope, metadata_key
from .tables.rules import Arch, HFClass

# Stored elsewhere (class and dtype have keys of their own), or true only of the folder it was found in.
_NOT_KEPT = {
    "architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "auto_map",
    "quantization_config", "compression_config", CLASS_HEAD,
}  # fmt: skip
_TOKEN_IDS = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
# Keys of the outer config that apply to the text model in ``text_config``, too.
_OUTER = (TIED, "dtype", "torch_dtype", "quantization_config", *_TOKEN_IDS)
# Defaults of every config class.
_COMMON = {
    "attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": True, "pad_token_id": None, "head_dim": None,
    TIED: False,
}  # fmt: skip

RECORDED = "quantmill.hf.config"  # what no standard key of GGUF can hold, as JSON
_OF_WRAPPER = ("_config", "_id", "_index")  # how its keys end where a published config.json has all in one
_SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
    "head_dim",
)  # fmt: skip
_IMPLIED: dict[str, Implied] = {"num_key_value_heads": HEADS, "head_dim": EMBD // HEADS}


def text_config(raw: Config) -> dict[str, Any]:
    """The text model's config, out of ``text_config`` if it is nested there; class and origin are the outer ones."""
    inner = raw.get("text_config")
    if not isinstance(inner, Mapping):
        return dict(raw)
    outer = {key: raw[key] for key in _OUTER if raw.get(key) is not None}
    whole = {key: raw[key] for key in ("architectures", "_name_or_path") if key in raw}
    merged = {**outer, **inner, **whole}
    if outer.get(TIED):  # the wrapper ties what its text model alone would not
        merged[TIED] = True
    merged.pop(WRAPPER, None)
    return merged


def of_class(raw: Config, outer: Config, cls: HFClass) -> dict[str, Any]:
    """The text model's config as a class with other towers reads it; what is around it is under ``WRAPPER``.

    Args:
        raw: from ``text_config``.
        outer: the whole config.json.
    """
    nested = isinstance(outer.get("text_config"), Mapping)
    found = dict(raw)
    if nested and cls.ties and outer.get(TIED) is None:
        found[TIED] = True
    elif cls.wraps:  # whatever its text model alone would do
        found.setdefault(TIED, bool(outer.get(TIED)))
    if nested:
        found |= {key: outer[key] for key in cls.outer if outer.get(key) is not None and key not in found}
    if not cls.wraps:
        return found
    known = {*_COMMON, *_TOKEN_IDS, *cls.defaults, *_NOT_KEPT}
    if nested:
        around = {key for key in outer if key not in ("text_config", *_NOT_KEPT)}
    else:
        around = {key for key in outer if key.endswith(_OF_WRAPPER) and cls.names.get(key, key) not in known}
        found = {key: value for key, value in found.items() if key not in around}
    return {**found, WRAPPER: {key: outer[key] for key in around}} if around else found


def token_ids(raw: Config) -> dict[str, Any]:
    """A config with the ids of special tokens that only the config around it has."""
    around = raw.get(WRAPPER, {})
    return {**raw, **{key: around[key] for key in _TOKEN_IDS if key in around and raw.get(key) is None}}


def config_json(name: str, cls: HFClass, written: Config) -> dict[str, Any]:
    """The config.json of a class: with the text model's config in it, if other towers belong to the class."""
    text = {"model_type": cls.model_type, **written}
    if not cls.wraps:
        return {"architectures": [name], **text}
    around = {**text.pop(WRAPPER, {}), TIED: text.get(TIED)}
    if TIED not in cls.defaults:
        text.pop(TIED, None)
    return {"architectures": [name], "model_type": cls.wraps, **around, "text_config": text}


def _without_longer(config: Config) -> dict[str, Any]:
    """A config whose lists have no entries for the layers that predict further tokens, as Step's have."""
    layers, further = config.get("num_hidden_layers"), config.get("num_nextn_predict_layers")
    if not (WHOLE.holds(layers) and WHOLE.holds(further) and further):
        return dict(config)
    longer = {key for key, value in config.items() if isinstance(value, list) and len(value) == layers + further}
    return {key: value[:layers] if key in longer else value for key, value in config.items()}


def complete_config(raw: Config, arch: Arch, cls: HFClass, path: Path) -> dict[str, Any]:
    """Complete and check a config: quantmill's names, every default filled in, rope in the form of transformers 5.

    Raises:
        FormatError: a size is not a positive number, heads do not divide, or a value is not supported by llama.cpp.
    """
    flat = _flat(raw, cls, path)
    flat = _without_longer(flat)
    given = {cls.names.get(key, key): value for key, value in flat.items()}
    for key, same in arch.synonyms.items():
        if isinstance(words := given.get(key), list):
            given[key] = [same.get(word, word) if isinstance(word, str) else word for word in words]
    for key in flat:
        if cls.names.get(key, key) in _SIZES:
            _check_size(flat, key, path, needed=arch.needed)
    names = {cls.names.get(key, key): key for key in flat}
    check_types(given, arch, {**_COMMON, **cls.defaults}, path, _IMPLIED, names)
    for layer, own in (given.get("per_layer_config") or {}).items():
        for key in _SIZES:
            if key in own:
                _check_size(own, key, path, f"per_layer_config.{layer}.", arch.needed)
    with located(path):
        config = with_defaults(given, arch, cls)
    for key in _SIZES:
        _check_size(config, key, path, needed=arch.needed)
    for seen in _views(config):
        heads, kv = seen.get("num_attention_heads"), seen.get("num_key_value_heads")
        if isinstance(heads, int) and isinstance(kv, int) and heads % kv:
            problem = f"{heads} heads cannot share {kv} key/value heads"
            raise FormatError(problem, path=path, where=names.get("num_key_value_heads", "num_key_value_heads"))
    for key, value in arch.fixed.items():
        allowed = value if isinstance(value, tuple) else (value,)
        if key in config and not any(_same(config[key], one) for one in allowed):
            problem = f"is {shown(config[key])}; llama.cpp's {arch.gguf} computes {allowed[0]!r}"
            raise FormatError(problem, path=path, where=names.get(key, key))
    if row := rope_row(arch):
        if row.partial is not None and config.get("partial_rotary_factor") is None:
            config["partial_rotary_factor"] = row.partial
        config["rope_parameters"] = row.canonical(config, path)
        for key in row.spent:
            config.pop(key, None)
    for key, condition in arch.needs.items():
        with located(path, names.get(key, key)):
            met = condition(config)
        if not met:
            problem = f"{shown(config.get(key))} is not what llama.cpp's {arch.gguf} takes for granted"
            raise FormatError(problem, path=path, where=names.get(key, key))
    return config


def _same(value: object, wanted: object) -> bool:
    """Whether they are equal, and neither is a number where the other is true or false."""
    return value == wanted and isinstance(value, bool) == isinstance(wanted, bool)


def _views(config: Config) -> Iterator[Config]:
    """The config, and as layers see it that have other numbers of heads."""
    yield config
    n_layers = config.get("num_hidden_layers", 0)
    own = [int(layer) for layer in config.get("per_layer_config") or () if layer.isdecimal()]
    heads = config.get("num_attention_heads")
    layers = range(n_layers) if isinstance(heads, list) and len(heads) == n_layers else own
    yield from (at_layer(config, layer, n_layers) for layer in layers)


def with_recorded(derived: Config, recorded: Config, arch: Arch, cls: HFClass, path: Path) -> dict[str, Any]:
    """A config that was derived from a file's metadata, with what was recorded of the original.

    Raises:
        FormatError: a recorded value is of another type than a config.json has, or makes no rope.
    """
    config = {**derived, **recorded}
    try:
        check(recorded.get(WRAPPER, {}), OBJECT, path=path, where=WRAPPER)
        n_layers = {key: derived[key] for key in ("num_hidden_layers",) if key in derived}
        check_types({**n_layers, **recorded}, arch, {**_COMMON, **cls.defaults}, path, _IMPLIED)
        for key in recorded.keys() & set(_SIZES):
            _check_size(recorded, key, path, needed=arch.needed)
        if (row := rope_row(arch)) and "rope_parameters" in recorded:
            config["rope_parameters"] = row.canonical(config, path)
    except FormatError as error:
        where = f"{RECORDED}: {error.where}"
        raise FormatError(error.problem, path=path, where=where, hint="convert the original again") from None
    return config


def rope_row(arch: Arch) -> Rope | None:
    """The row of rotary embeddings; None for architectures without them, whatever a config says."""
    return next((row for row in arch.config if isinstance(row, Rope)), None)


def _flat(config: Config, cls: HFClass, path: Path) -> dict[str, Any]:
    """Move the entries of the class's nested parts to the top, under dotted names."""
    out = {key: value for key, value in config.items() if key not in cls.parts}
    for part in cls.parts:
        inner = take(config, part, OBJECT, path=path) or {}
        out |= {f"{part}.{key}": value for key, value in inner.items()}
    return out


def _nested(config: Config, cls: HFClass) -> dict[str, Any]:
    """Undo ``_flat``."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        part, _, inner = key.partition(".")
        if part in cls.parts:
            out.setdefault(part, {})[inner] = value
        else:
            out[key] = value
    return out


def with_defaults(config: Config, arch: Arch, cls: HFClass) -> dict[str, Any]:
    """Add the class's defaults and the sizes that other keys imply."""
    out = {**_COMMON, **cls.defaults, **config, CLASS_HEAD: cls.head}
    for key, size in implied(arch, out).items():
        if out.get(key) is None:
            out[key] = size(out)
    return out


def implied(arch: Arch, config: Config) -> dict[str, Implied]:
    """The keys that are inferred where a config leaves them out, and how."""
    has_heads = isinstance(config.get("num_attention_heads"), int) and config["num_attention_heads"] > 0
    return {**(_IMPLIED if has_heads else {}), **arch.implied}


def _check_size(config: Config, key: str, path: Path, inside: str = "", needed: Container[str] = ()) -> None:
    value = config.get(key)
    if value is None and key not in needed:
        return
    for size in value if isinstance(value, list) and value else (value,):
        if not POSITIVE_WHOLE.holds(size):
            raise FormatError(f"{shown(size)} is not a positive integer", path=path, where=inside + key)


def derive_config(
    arch: Arch, cls: HFClass, metadata: Metadata, tensors: tuple[Tensor, ...], path: Path
) -> dict[str, Any]:
    """Restore a config, in the form of ``complete_config``, from the standard keys and the tensors of a GGUF file."""

    def get(suffix: str, *, each: bool = False) -> Any:
        key = metadata_key(arch.gguf, suffix)
        value = metadata.get(key)
        return None if value is None else plain_number(value.data, path, key, each=each)

    config = {key: value[0] if isinstance(value, tuple) else value for key, value in arch.fixed.items()}
    for row in arch.config:
        config = {**row.to_hf(get), **config}
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    if "token_embd.weight" in shapes:
        config.setdefault("vocab_size", shapes["token_embd.weight"][0])
    if config.get("hidden_size"):
        further, config = config.get(FURTHER, 0), without_further(config, arch)
        for key, size in implied(arch, config).items():
            config.setdefault(key, size(config))
        config = with_further(config, arch, further)
    roles = {(tensor.role, tensor.name.rpartition(".")[2]) for tensor in tensors}
    for rule in arch.rules:
        if isinstance(rule.bias, str) and rule.roles[0] is not Role.OTHER:  # a tower's: ``tower_sizes.py``
            found = (rule.roles[0], "bias") in roles
            if found or rule.bias in cls.defaults:
                config[rule.bias] = found or bool(config.get(rule.bias))
        if rule.roles == (Role.OUTPUT,) and rule.shape[0] == VOCAB and not rule.optional:
            config[TIED] = (Role.OUTPUT, "weight") not in roles
    config = {**dict(_optional_flags({role for role, _ in roles}, arch, cls)), **config}
    config |= _words_by_shape(arch, cls, config, shapes)
    if "rope_parameters" in config:
        found_longrope = rope.longrope_from_factors(tensors, get("rope.scaling.original_context_length"))
        if found_longrope and (own := rope_row(arch)):
            found_longrope |= own.longrope
        config["rope_parameters"] |= found_longrope
        if "partial_rotary_factor" in cls.defaults:  # whose default is not 1
            config["rope_parameters"].setdefault("partial_rotary_factor", 1.0)
    for hf, name in _TOKEN_IDS.items():
        if (value := metadata.get(f"tokenizer.ggml.{name}_token_id")) is not None:
            config.setdefault(hf, value.data)  # a row may know better
    return config


def _optional_flags(found: Container[Role], arch: Arch, cls: HFClass) -> Iterator[tuple[str, bool]]:
    """The flags of optional tensors that have a role of their own: true if such a tensor is there."""
    for rule in arch.rules:
        flag = rule.when.key if isinstance(rule.when, Is) and rule.when.value is None else None
        others = {role for other in arch.rules if other.when != rule.when for role in other.roles}
        if flag is not None and cls.defaults.get(flag) is False and rule.roles[0] not in others:
            yield flag, rule.roles[0] in found


def _words_by_shape(arch: Arch, cls: HFClass, config: Config, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The words that only a tensor's shape tells: of rules for the same tensor, that whose shape it has."""
    found: dict[str, Any] = {}
    for rule in arch.rules:
        word = rule.when if isinstance(rule.when, Is) and rule.when.value is not None else None
        if word is None or word.key in config or word.key not in cls.defaults or rule.ops:
            continue
        others = [other for other in arch.rules if other.modules == rule.modules and other.when == ~word]
        shape = shapes.get(rule.targets(0, "weight")[0])
        if others and shape is not None:
            first = at_layer({**config, word.key: word.value}, 0, config.get("num_hidden_layers", 0))
            found |= {word.key: word.value} if rule.size("weight", first) == shape else {}
    return found


def plain_number(value: Any, path: Path, where: str, *, each: bool = False) -> Any:
    """A hyper-parameter as config.json writes it: a float as the shortest decimal of this float32, equal numbers of all
    layers as one (as a list, if ``each``).

    Raises:
        FormatError: the numbers differ from layer to layer, and not ``each``.
    """
    if isinstance(value, np.ndarray):
        if each:
            return [plain_number(item, path, where) for item in value.tolist()]
        if value.size == 0 or (value != value[0]).any():
            problem = f"differs from layer to layer, which this model class cannot say: {value.tolist()}"
            raise FormatError(problem, path=path, where=where)
        value = value[0].item()
    return float(str(np.float32(value))) if isinstance(value, float) else value


def config_residue(original: Config, derived: Config, cls: HFClass) -> dict[str, Any]:
    """What a completed config has that neither ``derived`` nor the defaults give: the key ``quantmill.hf.config``."""
    defaults = {**_COMMON, **cls.defaults}
    rest = {}
    for key, value in original.items():
        known = derived[key] if key in derived else defaults.get(key, _MISSING)
        if key not in _NOT_KEPT and value != known:
            rest[key] = value
    return rest


_MISSING = object()


def config_for_class(config: Config, recorded: Config, arch: Arch, cls: HFClass) -> dict[str, Any]:
    """A completed config as the class writes it: under its own names, without sizes that it infers itself."""
    config = without_further(config, arch)
    theirs = {ours: name for name, ours in cls.names.items()}
    sizes = implied(arch, config).items()
    inferred = {key for key, size in sizes if config.get(key) == size(config)} - set(cls.defaults) - set(recorded)
    unsaid = {*inferred, *arch.layouts, CLASS_HEAD, *DENSE_SIZES}
    known = {key: value for key, value in config.items() if key not in unsaid}
    known = _old_rope(known, cls) if rope_row(arch) else known
    if known.get("partial_rotary_factor", _MISSING) == cls.defaults.get("partial_rotary_factor"):
        del known["partial_rotary_factor"]
    return _nested({theirs.get(key, key): value for key, value in known.items()}, cls)


def _old_rope(config: Config, cls: HFClass) -> dict[str, Any]:
    """Rope as transformers 4 writes it, which 5 reads as well."""
    out = dict(config)
    parameters = dict(out.get("rope_parameters") or {})
    if rope.INDEXED in (out.get("layer_types") or ()) and "full_attention" in parameters:
        out["rope_parameters"] = {rope.INDEXED: parameters.pop("full_attention"), **parameters}
    if "rope_theta" not in parameters:  # none, or one for each kind of layer
        return out
    del out["rope_parameters"]
    for key in ("rope_theta", "partial_rotary_factor"):
        if key in parameters:
            out[key] = parameters.pop(key)
    beside = "original_max_position_embeddings"
    if beside in cls.defaults and parameters.get(beside, _MISSING) == out.get(beside):
        del parameters[beside]  # Phi-3's
    if parameters != {"rope_type": "default"}:
        out["rope_scaling"] = parameters
    return out
