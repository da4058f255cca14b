"""adapter_config.json: what PEFT does with the pairs of an adapter.

Defaults and matching are those of ``LoraConfig``, ``get_pattern_key`` and ``check_target_module_exists`` of peft 0.19.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from ...errors import FormatError
from ...json_text import read_json
from ...json_types import (
    FLAG,
    LIST,
    NUMBER,
    OBJECT,
    POSITIVE_WHOLE,
    TEXT,
    TEXTS,
    WHOLE,
    WHOLES,
    JsonType,
    check,
    either,
    shown,
    take,
)

CONFIG = "adapter_config.json"
_DEFAULT = 8  # of both rank and alpha
_LEAST = 1e-37  # in float32 less would be 0, by which llama.cpp means a scale of 1
_END = r"(.*\.)?({})$"  # by which PEFT looks for a pattern
_LAYER_OF = r".*\.{}\.(\d+)\."
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq")  # beginnings of init_lora_weights by which PEFT changes the base


@dataclass(frozen=True)
class LoraConfig:
    """An adapter's config.

    Args:
        path: the file.
        base: the name of the base model.
        alpha: alpha of all modules but those of ``alphas``; not 0.
        rank: the rank of all modules but those of ``ranks``.
        root: whether scales are alpha / sqrt(rank), not alpha / rank.
        alphas: patterns of modules' names, and alpha.
        ranks: patterns of modules' names, and ranks.
        targets: modules with pairs: a pattern, ends of names, or None for those in the file.
        excluded: modules without pairs: a pattern, or ends of names.
        layers: the numbers of layers with pairs; empty for all.
        lists: patterns of the list of layers in a module's name; empty for any.
        invocation: the tokens that switch the adapter on.
    """

    path: Path
    base: str | None
    alpha: float
    rank: int
    root: bool
    alphas: Mapping[str, float]
    ranks: Mapping[str, int]
    targets: str | list[str] | None
    excluded: str | list[str] | None
    layers: list[int]
    lists: list[str]
    invocation: list[int]

    def scale(self, module: str, rank: int) -> float:
        """What PEFT multiplies a module's pair by.

        Args:
            module: its name in the base.
            rank: the rank of its pair in the file.

        Raises:
            FormatError: PEFT would not apply the pair: its rank is another, or the module is none of the targets.
        """
        known = _of_pattern(self.ranks, module, self.rank)
        if rank != known:
            problem = f"the pair of {module} has rank {rank}, the config makes it {known}"
            raise FormatError(problem, path=self.path, where="r", hint="correct r or rank_pattern")
        if not self.targeted(module):
            hint = "remove it, or correct target_modules, exclude_modules, layers_to_transform, layers_pattern"
            problem = f"leaves out {module}, which the file has a pair for"
            raise FormatError(problem, path=self.path, where="target_modules", hint=hint)
        alpha: float = _of_pattern(self.alphas, module, self.alpha)
        return alpha / sqrt(rank) if self.root else alpha / rank

    def targeted(self, module: str) -> bool:
        """Whether PEFT gives the module a pair."""
        if self.excluded and _matches(self.excluded, module):
            return False
        if self.targets is None or self.targets == "all-linear":
            return True
        if isinstance(self.targets, str) or module in self.targets or not self.layers:
            return _matches(self.targets, module)
        matches = (re.match(_LAYER_OF.format(name), module) for name in self.lists or [r"[^.]*"])
        number = next((match[match.re.groups] for match in matches if match), None)
        return _matches(self.targets, module) and number is not None and int(number) in self.layers


def read_lora_config(path: Path) -> LoraConfig:
    """Read an adapter_config.json.

    Raises:
        FormatError: it is not of a LoRA, PEFT would not take it, or it has parts that llama.cpp cannot apply.
    """
    raw = read_json(path, required=True)

    def found(key: str, type: JsonType, missing: Any = None) -> Any:
        return take(raw, key, type, missing, path=path)

    _check_supported(raw, path)
    named, numbered = either(TEXT, TEXTS), either(WHOLE, WHOLES)
    alpha = found("lora_alpha", NUMBER, _DEFAULT)
    if abs(alpha) < _LEAST:
        raise FormatError(f"{shown(alpha)} makes the adapter do nothing", path=path, where="lora_alpha")
    layers, lists = found("layers_to_transform", numbered), found("layers_pattern", named)
    config = LoraConfig(
        path,
        found("base_model_name_or_path", TEXT),
        float(alpha),
        found("r", POSITIVE_WHOLE, _DEFAULT),
        bool(found("use_rslora", FLAG)),
        _patterns(raw, "alpha_pattern", NUMBER, path),
        _patterns(raw, "rank_pattern", POSITIVE_WHOLE, path),
        found("target_modules", named),
        found("exclude_modules", named),
        [layers] if isinstance(layers, int) else layers or [],
        [lists] if isinstance(lists, str) and lists else lists or [],
        found("alora_invocation_tokens", WHOLES) or [],
    )
    for key, wanted in (("target_modules", config.targets), ("exclude_modules", config.excluded)):
        if isinstance(wanted, str):
            _check_pattern(wanted, path, key)
    for name in config.lists:
        _check_pattern(_LAYER_OF.format(name), path, "layers_pattern")
    if isinstance(config.targets, str) and (config.layers or config.lists):
        problem = "stands beside a pattern of target_modules, which names the layers itself"
        raise FormatError(problem, path=path, where="layers_to_transform", hint="remove one of them")
    return config


def _check_supported(raw: Mapping[str, Any], path: Path) -> None:
    def refuse(key: str, problem: str, hint: str) -> FormatError:
        return FormatError(problem, path=path, where=key, hint=hint)

    kind = raw.get("peft_type")
    if kind != "LORA":
        raise refuse("peft_type", f"is {shown(kind)}; llama.cpp adds LoRA adapters only", "merge it")
    if take(raw, "use_dora", FLAG, path=path):
        raise refuse("use_dora", "a GGUF adapter cannot hold DoRA", "merge it into the base")
    if take(raw, "modules_to_save", TEXTS, path=path):
        raise refuse("modules_to_save", "a GGUF adapter cannot hold whole modules", "merge it")
    if take(raw, "layer_replication", LIST, path=path):
        raise refuse("layer_replication", "a GGUF adapter cannot repeat layers of the base", "merge it")
    start = take(raw, "init_lora_weights", either(FLAG, TEXT), path=path)
    if isinstance(start, str) and start.startswith(_CHANGES_BASE):
        problem = f"{shown(start)} changes the weights of the base, which a GGUF adapter cannot"
        hint = "save it with path_initial_model_for_weight_conversion, as PEFT's manual says"
        raise refuse("init_lora_weights", problem, hint)


def _patterns(raw: Mapping[str, Any], key: str, type: JsonType, path: Path) -> dict[str, Any]:
    patterns: dict[str, Any] = take(raw, key, OBJECT, path=path) or {}
    for pattern, value in patterns.items():
        _check_pattern(_END.format(pattern), path, key)
        check(value, type, path=path, where=f"{key}.{pattern}")
    return patterns


def _check_pattern(pattern: str, path: Path, where: str) -> None:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        problem = f"{shown(pattern)} is not a regular expression: {error}"
        raise FormatError(problem, path=path, where=where) from None


def _of_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that a module's name ends with."""
    found = (value for pattern, value in patterns.items() if re.match(_END.format(pattern), module))
    return next(found, patterns.get(module, default))


def _matches(wanted: str | list[str], module: str) -> bool:
    if isinstance(wanted, str):
        return re.fullmatch(wanted, module) is not None
    return module in wanted or any(module.endswith(f".{end}") for end in wanted)
