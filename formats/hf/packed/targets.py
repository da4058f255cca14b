"""Which scheme of a compressed-tensors config a layer has, by the rules that compressed-tensors itself goes by.

A target is a module's whole name, a regular expression after ``re:`` that matches from the name's start, or the name of
a class. A layer's scheme is that of its most exact target; of two alike the first in the alphabet. Sources:
``match_targets``, ``match_name`` and ``is_match`` in utils/match.py, ``apply_quantization_config`` in
quantization/lifecycle/apply.py of compressed-tensors 0.20.1.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regex

from ...errors import FormatError, name_list
from ...json_types import shown
from .described import Config, Say, refusal

REGEX = "re:"
MAX_LENGTH = 4096  # characters of a regular expression, many times what a long list of layers takes
MAX_REGEXES = 1000  # of a config; each is tried on each layer
SECONDS = 4.0  # beyond the usual time, for all matches of a config: one whose time grows exponentially ends there
USUAL = 2e-5  # seconds that a match may take; most take a tenth of it
# An expression is simple if no repeated group is in it, and few repeats without a bound. Its time then grows with a
# power of the name's length, which is short where Python's own module, ten times faster, matches it.
_NESTED, _UNBOUNDED, MAX_REPEATS, SHORT = re.compile(r"\)[*+?{]|\\[1-9]|\(\?P="), re.compile(r"[*+]|,\}"), 4, 200
_LINEAR = frozenset({"Linear", "LinearBase", "Module"})  # classes that a layer of weights is of
_EMBEDDING = frozenset({"Embedding", "Module"})
# Modules that some models hold as one, by the names of those that other programs know them as. vLLM's and
# transformers' fused layers have the scheme of any of their shards.
_FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
_SHARD_OF = {shard: fused for fused, shards in _FUSED.items() for shard in shards}


@dataclass(frozen=True)
class Layer:
    """A linear layer of a checkpoint.

    Args:
        name: the module's, without the names of wrappers.
        stored: the module's in the file.
    """

    name: str
    stored: str

    @property
    def names(self) -> tuple[str, ...]:
        """The names that a target may have it by, its own first."""
        own = dict.fromkeys((self.stored, self.name))
        fused = (f"{stem}.{other}" for stem, last in map(_parted, own) for other in _FUSED.get(last, ()))
        return tuple(dict.fromkeys((*own, *fused)))

    @property
    def fused_names(self) -> tuple[str, ...]:
        """The names of the layer that other programs join it to."""
        own = dict.fromkeys((self.stored, self.name))
        return tuple(f"{stem}.{_SHARD_OF[last]}" for stem, last in map(_parted, own) if last in _SHARD_OF)

    @property
    def classes(self) -> frozenset[str]:
        return _EMBEDDING if "embed" in _parted(self.name)[1] else _LINEAR


def _parted(name: str) -> tuple[str, str]:
    stem, _, last = name.rpartition(".")
    return stem, last


class Patterns:
    """Targets or names to ignore, checked as they are taken in. Slow matches take ``SECONDS`` in all."""

    def __init__(self, texts: Sequence[str], path: Path, where: str) -> None:
        self._path, self._where = path, where
        self._exact = {text for text in texts if not text.startswith(REGEX)}
        expressions = sorted({text for text in texts if text.startswith(REGEX)})
        if len(expressions) > MAX_REGEXES:
            raise refusal(path, where, f"{len(expressions)} regular expressions are more than {MAX_REGEXES}")
        self._regexes = {text: self._compiled(text) for text in expressions}
        self._left = SECONDS

    def matching(self, layer: Layer, *, fused: bool = False) -> Iterator[tuple[str, ...]]:
        """The texts that match a layer: whole names, then regular expressions, then classes.

        Args:
            fused: go by the names of the layers that it is joined to in other programs, in place of its own.
        """
        names = layer.fused_names if fused else layer.names
        yield tuple(name for name in names if name in self._exact)
        start = time.thread_time()
        yield tuple(text for text in self._regexes if any(self._matches(text, name) for name in names))
        self._left -= max(0.0, time.thread_time() - start - len(self._regexes) * len(names) * USUAL)
        if self._left < 0:
            raise self._too_long(next(iter(self._regexes)), layer.stored)
        yield tuple(sorted(layer.classes & self._exact)) if not fused else ()

    def any(self, layer: Layer) -> str | None:
        """The first text that matches a layer."""
        return next((text for kind in self.matching(layer) for text in kind), None)

    def _compiled(self, text: str) -> regex.Pattern[str] | re.Pattern[str]:
        if len(text) > MAX_LENGTH:
            problem = f"{shown(text)} has {len(text)} characters, more than {MAX_LENGTH}"
            raise refusal(self._path, self._where, problem)
        try:
            simple = not _NESTED.search(text) and len(_UNBOUNDED.findall(text)) <= MAX_REPEATS
            return (re if simple else regex).compile(text.removeprefix(REGEX))
        except (re.error, regex.error) as error:
            problem = f"{shown(text)} is not a valid regular expression: {error.msg}"
        except (RecursionError, OverflowError, MemoryError):
            problem = f"{shown(text)} is not a valid regular expression"
        raise refusal(self._path, self._where, problem, "correct it, or get config.json again")

    def _matches(self, text: str, name: str) -> bool:
        """Match one name. A simple expression on a short name takes a bounded time, another is stopped by a clock."""
        pattern = self._regexes[text]
        if isinstance(pattern, re.Pattern) and len(name) <= SHORT:
            return pattern.match(name) is not None
        try:
            return regex.match(text.removeprefix(REGEX), name, timeout=SECONDS) is not None
        except TimeoutError:
            raise self._too_long(text, name) from None

    def _too_long(self, text: str, name: str) -> FormatError:
        problem = f"{shown(text)} takes too long to match {shown(name)}"
        return refusal(self._path, self._where, problem, "write it without repeats inside repeats")


def layer_schemes(
    config: Config, path: Path, packed: Sequence[Layer], others: Sequence[Layer], say: Say
) -> dict[str, Mapping[str, Any]]:
    """Find each packed layer's group in ``config_groups``.

    Args:
        config: the quantization's, its values checked for their types.
        path: its file.
        packed: the layers that are stored in parts.
        others: the layers that are stored as floats.
        say: called with a line about what is assumed or left out.

    Returns:
        by the layers' names, their groups.

    Raises:
        FormatError: an expression is not valid, a layer is packed and ignored, or two groups contradict each other.
    """
    groups = {name: group for name, group in (config.get("config_groups") or {}).items() if group is not None}
    owners: dict[str, str] = {}
    for name, group in groups.items():
        for target in group.get("targets") or ():
            known = owners.setdefault(target, name)
            if not _alike(groups[known], group):
                problem = f"{shown(target)} is a target of {known} and {name}, whose schemes differ"
                raise refusal(path, "config_groups", problem, "which of them was meant?")
    targets = Patterns(list(owners), path, "config_groups")
    ignored = Patterns(config.get("ignore") or [], path, "ignore")
    used: set[str] = set()
    found: dict[str, Mapping[str, Any]] = {}
    unmatched = []
    for layer in packed:
        if (text := ignored.any(layer)) is not None:
            problem = f"{shown(text)} leaves out {layer.stored}, whose weight is packed"
            raise refusal(path, "ignore", problem, "is config.json of the same checkpoint?")
        kinds = [*targets.matching(layer), *targets.matching(layer, fused=True)]
        matched = next((kind for kind in kinds if kind), ())
        used.update(text for kind in kinds for text in kind)
        if not matched:
            unmatched.append(layer)
            continue
        names = [owners[text] for text in matched]
        if other := next((name for name in names if not _alike(groups[name], groups[names[0]])), None):
            problem = f"{names[0]} and {other} both have {layer.stored}, and their schemes differ"
            raise refusal(path, "config_groups", problem, "which of them was meant?")
        found[layer.name] = groups[names[0]]
    found |= _of_the_only_scheme(unmatched, groups, path, say)
    for layer in others:
        used.update(text for kind in targets.matching(layer) for text in kind)
    if idle := [target for target in owners if target not in used]:
        verb = "matches" if len(idle) == 1 else "match"
        say(f"{path.parent}: {name_list(idle)} of config_groups {verb} no layer")
    return found


def _of_the_only_scheme(
    layers: Sequence[Layer], groups: Mapping[str, Mapping[str, Any]], path: Path, say: Say
) -> dict[str, Mapping[str, Any]]:
    """Layers that no target has: of the only scheme that there is, or refused."""
    if not layers:
        return {}
    names = name_list([layer.stored for layer in layers])
    schemes = [group for group in groups.values() if group.get("weights")]
    if not all(_alike(group, schemes[0]) for group in schemes):
        problem = f"no target matches {names}, whose weights are packed, and there are several schemes"
        raise refusal(path, "config_groups", problem, "is config.json of the same checkpoint?")
    say(f"{path.parent}: no target of config_groups matches {names}: read by the only scheme")
    return {layer.name: schemes[0] for layer in layers}


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two groups store weights alike."""
    return all(one.get(key) == other.get(key) for key in ("weights", "format"))


def check_transforms(config: Config, path: Path) -> None:
    """Raise ``FormatError`` if activations are rotated as the model runs. What is rotated in the weights is in them."""
    transforms = config.get("transform_config") or {}
    for name, scheme in (transforms.get("config_groups") or {}).items():
        for args in scheme.get("apply") or ():
            if args.get("location") not in ("weight_input", "weight_output"):
                problem = (
                    f"{shown(scheme.get('type'))} transform {name} works on activations ({shown(args.get('location'))})"
                )
                raise refusal(path, "transform_config", problem, "llama.cpp has none: convert the original checkpoint")
