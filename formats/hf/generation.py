"""generation_config.json <-> the keys of GGUF: token ids and sampling, and what no key holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..gguf.keys import typed
from ..ir import Metadata, Value
from .card import SAMPLING
from .config import plain

KEY = "quantmill.hf.generation_config"
# Left out of what is kept: notes of the saving transformers, and values that are its defaults.
_NOT_KEPT = {"transformers_version", "_from_model_config"}
_DEFAULTS = {"use_cache": True, "output_attentions": False, "output_hidden_states": False, "do_sample": False}
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")


def derive_generation(metadata: Metadata) -> dict[str, Any]:
    """The generation_config that the standard keys tell: every token that ends a turn, and the sampling."""
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
            found[hf] = plain(value.data, Path(), f"general.sampling.{name}")
            found["do_sample"] = True
    return found


def generation_residue(original: Mapping[str, Any], metadata: Metadata) -> dict[str, Value]:
    """The private key that turns ``derive_generation`` into ``original`` (null: absent there), or nothing."""
    if not original:
        return {}
    kept = {key: value for key, value in original.items() if key not in _NOT_KEPT}
    derived = derive_generation(metadata)
    known = {**_DEFAULTS, **derived}
    rest = {key: kept.get(key) for key in (*kept, *derived) if kept.get(key) != known.get(key)}
    return {KEY: typed(KEY, json.dumps(rest, sort_keys=True))} if rest else {}


def restore_generation(metadata: Metadata) -> dict[str, Any]:
    """generation_config.json's content for the way back."""
    value = metadata.get(KEY)
    rest = read_private(value)
    merged = {**derive_generation(metadata), **rest}
    return {key: value for key, value in merged.items() if value is not None}


def read_private(value: Value | None) -> dict[str, Any]:
    """The JSON object of a private key; {} when it is absent or was edited into something else."""
    try:
        data = json.loads(value.data) if value is not None else {}
    except (ValueError, TypeError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
