"""What a quantization's config says of its layers: values checked for their types, and errors that name their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...errors import FormatError
from ...json_text import read_json
from ...json_types import OBJECT, JsonType, shown, take

INSIDE = "quantization_config"  # the key of config.json
Config = Mapping[str, Any]
Say = Callable[[str], object]
MODELOPT_FILE, QUANTO_FILE = "hf_quant_config.json", "quanto_qmap.json"
# Files that AutoGPTQ, AutoAWQ, ModelOpt and Quanto write beside config.json, and the method that each is of.
BESIDE = {"quantize_config.json": "gptq", "quant_config.json": "awq", MODELOPT_FILE: "modelopt", QUANTO_FILE: "quanto"}
KEYS = (INSIDE, "compression_config")
# What these files call a key of config.json.
_NAMES = {"w_bit": "bits", "q_group_size": "group_size"}
# Names of a method that other programs read.
_METHODS = {
    "intel/auto-round": "auto-round",
    "modelopt_fp4": "modelopt",
    "modelopt_fp8": "modelopt",
    "modelopt_mixed": "modelopt",
}
# Keys of such a file that say what config.json says too, there under the same name but for the last.
_SHARED = {
    **{key: key for key in ("bits", "group_size", "checkpoint_format", "quant_algo", "quantized_layers")},
    "exclude_modules": "ignore",
}


def refusal(path: Path, key: str, problem: str, hint: str | None = None) -> FormatError:
    """An error of a key of a quantization's config, which is config.json's or a file of its own."""
    return FormatError(problem, path=path, where=_place(path) + key, hint=hint)


def check_types(config: Mapping[str, Any], types: Mapping[str, JsonType], path: Path, inside: str = "") -> None:
    """Check the values of keys.

    Args:
        config: the quantization's config, or an object inside it.
        types: of the keys.
        path: the file.
        inside: what comes before the keys, such as ``config_groups.``.

    Raises:
        FormatError: one is not of its type.
    """
    for key, type in types.items():
        take(config, key, type, path=path, inside=_place(path) + inside)


def _place(path: Path) -> str:
    return f"{INSIDE}." if path.name == "config.json" else ""


def method_of(config: Config) -> object:
    """The quantization method that a config names, which bitsandbytes did not do at first."""
    method = config.get("quant_method")
    if method is None and (config.get("load_in_4bit") or config.get("load_in_8bit")):
        return "bitsandbytes"
    return _METHODS.get(method, method) if isinstance(method, str) else method


def find_config(raw: Config, folder: Path, say: Say) -> tuple[Config | None, Path]:
    """Find the quantization's config, and its file: config.json or one beside it. None if there is no quantization.

    Raises:
        FormatError: it is not a JSON object, or the two places disagree.
    """
    path = folder / "config.json"
    for key in KEYS:
        if not (raw.get(key) is None or isinstance(raw[key], Mapping)):
            raise FormatError("is not a JSON object", path=path, where=key)
    inside = next((raw[key] for key in KEYS if raw.get(key)), None)
    beside = next(((name, found) for name in BESIDE if (found := read_json(folder / name))), None)
    if beside is None:
        if inside is not None and inside.get("quant_method") == "gptq":
            say(f"{folder}: no {next(iter(BESIDE))} beside config.json, which older programs look for")
        return inside, path
    name, found = beside[0], {_NAMES.get(key, key): value for key, value in _flat(*beside, folder).items()}
    if inside is None:
        say(
            f"{folder}: only {name} says that the weights are packed; loaders that read config.json alone will not know"
        )
        return {"quant_method": BESIDE[name], **found}, folder / name
    both = [(key, inside[theirs], found[key]) for key, theirs in _SHARED.items() if theirs in inside and key in found]
    if "quant_method" in found or name in (MODELOPT_FILE, QUANTO_FILE):
        both.append(("quant_method", method_of(inside), method_of({"quant_method": BESIDE[name], **found})))
    for key, in_config, here in both:
        if in_config is not None and in_config != here:
            problem = f"{key} is {shown(here)} here and {shown(in_config)} in config.json"
            raise FormatError(problem, path=folder / name, hint="get both of the same checkpoint")
    return {**found, **inside}, path


def _flat(name: str, found: Config, folder: Path) -> Config:
    """What a file beside config.json says: all of it; of ModelOpt's the object inside; Quanto's are modules alone."""
    if name == QUANTO_FILE:
        return {"modules": found}
    return found if name != MODELOPT_FILE else take(found, "quantization", OBJECT, {}, path=folder / name)
