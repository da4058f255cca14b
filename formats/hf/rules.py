"""How an architecture is written down: config keys <-> hyper-parameters, tensor names <-> roles. Read both ways."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

from ..ir import Role
from .config import ConfigRow
from .ops import Config, Op


class Dim(Enum):
    """The sizes that shapes are made of."""

    VOCAB = "vocab_size"
    EMBD = "hidden_size"
    FF = "intermediate_size"
    Q = "num_attention_heads"
    KV = "num_key_value_heads"

    def size(self, config: Config) -> int:
        """Its value for a completed config; Q and KV count rows: heads times ``head_dim``."""
        value = int(config[self.value])
        return value * int(config["head_dim"]) if self in (Dim.Q, Dim.KV) else value


@dataclass(frozen=True)
class Rule:
    """A module of the checkpoint and the role its weight (and bias) plays.

    Args:
        hf: the module's name, with ``{layer}`` for a block's number and ``{expert}`` where each expert has a tensor of
            its own (then the ops must make one of them).
        role: its role in GGUF.
        shape: of the weight in the checkpoint, one expert's if ``{expert}``; a bias has the first size.
        ops: what happens on the way to GGUF; on the way back their inverses run from last to first.
        bias: the config key that says whether the module has a bias; None if it never has.
        unless: the config key that makes the weight optional (tied embeddings).
    """

    hf: str
    role: Role
    shape: tuple[Dim, ...]
    ops: tuple[Op, ...] = ()
    bias: str | None = None
    unless: str | None = None

    @property
    def per_layer(self) -> bool:
        return "{layer}" in self.hf

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        number = r"(?P<%s>0|[1-9]\d{0,5})"  # six digits: no model has a million layers, and int() stays cheap
        name = re.escape(self.hf).replace(r"\{layer\}", number % "layer").replace(r"\{expert\}", number % "expert")
        return re.compile(name + (r"\.(?P<part>weight|bias)" if self.bias else r"\.(?P<part>weight)"), re.ASCII)

    def names(self, layer: int | None, part: str, config: Config) -> tuple[str, ...]:
        """The checkpoint's names of one tensor of GGUF: one, or one an expert."""
        experts = range(int(config["num_local_experts"])) if "{expert}" in self.hf else (None,)
        return tuple(self.hf.format(layer=layer, expert=expert) + f".{part}" for expert in experts)

    def size(self, part: str, config: Config) -> tuple[int, ...]:
        """The shape of that part in the checkpoint."""
        return tuple(dim.size(config) for dim in (self.shape if part == "weight" else self.shape[:1]))

    def parts(self, config: Config) -> tuple[str, ...]:
        """The parts that must be there."""
        weight = () if self.unless and config.get(self.unless) else ("weight",)
        return (*weight, "bias") if self.bias and config.get(self.bias) else weight


@dataclass(frozen=True)
class HFClass:
    """What differs between the model classes that share an architecture.

    Args:
        model_type: ``config.json``'s, by which transformers picks the config class.
        defaults: what transformers assumes for keys a config.json leaves out, as far as it matters here.
    """

    model_type: str
    defaults: Mapping[str, Any]


@dataclass(frozen=True)
class Arch:
    """An architecture, as pure data.

    Args:
        name: GGUF's ``general.architecture``.
        classes: the model classes of config.json's ``architectures``; the first is written for files that name none.
        config: config keys <-> ``{name}.*`` keys, in the order they are written.
        rules: the tensors, in the model's own order.
        fixed: config keys that are the same for every model of the architecture.
        ignored: endings of tensor names that carry no weights.
    """

    name: str
    classes: Mapping[str, HFClass]
    config: tuple[ConfigRow, ...]
    rules: tuple[Rule, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
