"""Convert generation_config.json to GGUF metadata and back: token ids, sampling, and what no standard key holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import FormatError
from ...gguf.keys import key_type, typed
from ...ir import Metadata, Value, ValueType
from ...json_text import read_json
from ...json_types import NUMBER, TEXT, WHOLE, WHOLES, either, take
from ..config import plain_number
from .card import SAMPLING

FILE = "generation_config.json"
KEY = "quantmill.hf.generation_config"
# Not kept: what transformers notes when it saves, and values that are its defaults.
_NOT_KEPT = {"transformers_version", "_from_model_config"}
_DEFAULTS = {"use_cache": True, "output_attentions": False, "output_hidden_states": False, "do_sample": False}
_TYPES = {ValueType.INT32: WHOLE, ValueType.FLOAT32: NUMBER, ValueType.STRING: TEXT}  # by the key in GGUF
SUPPRESSED = "tokenizer.ggml.suppress_tokens"
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")


def read_generation(path: Path) -> dict[str, Any]:
    """Read generation_config.json; {} if there is none.

    Raises:
        FormatError: it is no JSON object, or a token's id or a setting of sampling is of another type.
    """
    found = read_json(path)
    take(found, "suppress_tokens", WHOLES, path=path)
    for key, type in {"bos_token_id": WHOLE, "eos_token_id": either(WHOLE, WHOLES), "pad_token_id": WHOLE}.items():
        take(found, key, type, path=path)
    for name, key in SAMPLING.items():
        known = key_type(f"general.sampling.{name}")
        assert known is not None, name
        for one in (key, "penalty_repeat") if name == "penalty_repeat" else (key,):
            take(found, one, _TYPES[known[0]], path=path)
    return found


def suppressed(generation: Mapping[str, Any], n_tokens: int, path: Path) -> dict[str, Value]:
    """The key with the tokens that are never generated, such as those that stand for images; {} without any.

    Raises:
        FormatError: one is no token of the vocabulary.
    """
    tokens = generation.get("suppress_tokens") or []
    if beyond := [token for token in tokens if not 0 <= token < n_tokens]:
        raise FormatError(f"{beyond[0]} is not one of {n_tokens} tokens", path=path, where="suppress_tokens")
    return {SUPPRESSED: typed(SUPPRESSED, tokens)} if tokens else {}


def derive_generation(metadata: Metadata) -> dict[str, Any]:
    """Restore a generation_config from the standard keys: the tokens that end a turn, and the sampling."""
    found: dict[str, Any] = {}
    for key, name in (("bos_token_id", "bos_token_id"), ("pad_token_id", "padding_token_id")):
        if (value := metadata.get(f"tokenizer.ggml.{name}")) is not None:
            found[key] = value.data
    ends = [v.data for name in _ENDS if (v := metadata.get(f"tokenizer.ggml.{name}")) is not None]
    ends = list(dict.fromkeys(ends))
    if ends:
        found["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    for name, hf in SAMPLING.items():
        if (value := metadata.get(f"general.sampling.{name}")) is not None:
            found[hf] = plain_number(value.data, Path(), f"general.sampling.{name}")
            found["do_sample"] = True
    if (value := metadata.get(SUPPRESSED)) is not None:
        found["suppress_tokens"] = list(map(int, value.items))
    return found


def generation_residue(original: Mapping[str, Any], metadata: Metadata) -> dict[str, Value]:
    """The private key that corrects ``derive_generation`` to ``original``, if needed; null means an absent key."""
    if not original:
        return {}
    kept = {key: value for key, value in original.items() if key not in _NOT_KEPT}
    derived = derive_generation(metadata)
    known = {**_DEFAULTS, **derived}
    rest = {key: kept.get(key) for key in (*kept, *derived) if kept.get(key) != known.get(key)}
    return {KEY: typed(KEY, json.dumps(rest, sort_keys=True))} if rest else {}


def restore_generation(metadata: Metadata) -> dict[str, Any]:
    """The content of generation_config.json, restored from the metadata."""
    value = metadata.get(KEY)
    rest = read_private(value)
    merged = {**derive_generation(metadata), **rest}
    return {key: value for key, value in merged.items() if value is not None}


def read_private(value: Value | None) -> dict[str, Any]:
    """The JSON object of a private key; {} if the key is missing or its value was changed to something else."""
    try:
        data = json.loads(value.data) if value is not None and isinstance(value.data, str) else {}
        json.dumps(data, ensure_ascii=False).encode()  # half of a surrogate pair has no bytes
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
