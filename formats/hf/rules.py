"""How an architecture is written down: config keys <-> hyper-parameters, tensor names <-> roles. Read both ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ..errors import FormatError
from ..gguf.names import tensor_name
from ..ir import Role, Tensor
from .dimensions import ALWAYS, EXPERTS, Condition, Config, Dim, Implied, Maybe, at_layer
from .ops import Op, Tensors, Transpose
from .packed_tensors import apply_op

if TYPE_CHECKING:
    from .rows import ConfigRow

# No checkpoint has so many tensors (DeepSeek V3 has 91,000); a config that claims them is wrong or hostile.
MAX_TENSORS = 2_000_000


@dataclass(frozen=True)
class Rule:
    """Modules of the checkpoint and the role their weights (and biases) play.

    Args:
        hf: the module's name, or several that are made into one; with ``{layer}`` for a block's number and ``{expert}``
            where each expert has a tensor of its own (then the ops begin with ``Stack``).
        role: its role in GGUF, or several if the ops split it.
        shape: of each weight in the checkpoint (one expert's, if ``{expert}``); a bias has its first size, that of a
            weight which is transposed its last.
        ops: what happens on the way to GGUF; on the way back their inverses run from last to first.
        bias: when the module has a bias: a condition (``ALWAYS``, ``MAYBE``...), or the config key that says so; None
            if it never has.
        when: the layers and configs that have the module.
        unless: the config key that makes the weight optional (tied embeddings).
        optional: no key tells whether it is there.
        tensor: ``hf`` names the tensor itself: no ``.weight`` follows.
        part: the last part of its GGUF name, where that is not ``weight``.
        stack: ``enc.`` or ``dec.`` before the block's name in GGUF, for models that have both.
        layers: how many blocks there are.
        each: how many ``{expert}`` stands for, where that is not the experts.
    """

    hf: str | tuple[str, ...]
    role: Role | tuple[Role, ...]
    shape: tuple[Dim, ...]
    ops: tuple[Op, ...] = ()
    bias: str | Condition | None = None
    when: Condition = ALWAYS
    unless: str | None = None
    optional: bool = False
    tensor: bool = False
    part: str = "weight"
    stack: str = ""
    layers: str = "num_hidden_layers"
    each: Dim = EXPERTS

    @cached_property
    def modules(self) -> tuple[str, ...]:
        return (self.hf,) if isinstance(self.hf, str) else self.hf

    @cached_property
    def roles(self) -> tuple[Role, ...]:
        return (self.role,) if isinstance(self.role, Role) else self.role

    @property
    def per_layer(self) -> bool:
        return "{layer}" in self.modules[0]

    @property
    def exact(self) -> bool:
        """Whether the way back gives the same bits whatever they were."""
        return all(op.exact for op in self.ops)

    def sources(self, layer: int | None, part: str, config: Config) -> tuple[str, ...]:
        """The checkpoint's names: one a module, or one an expert."""
        experts = range(self.each(config)) if "{expert}" in self.modules[0] else (None,)
        leaf = "" if self.tensor else f".{part}"
        return tuple(name.format(layer=layer, expert=expert) + leaf for name in self.modules for expert in experts)

    def targets(self, layer: int | None, part: str) -> tuple[str, ...]:
        """GGUF's names: one a role."""
        part = self.part if part == "weight" else part
        return tuple(tensor_name(role, layer, part, self.stack) for role in self.roles)

    def size(self, part: str, config: Config) -> tuple[int, ...]:
        """The shape of that part in the checkpoint."""
        turned = any(isinstance(op, Transpose) for op in self.ops[:1])
        shape = self.shape if part == "weight" else self.shape[-1:] if turned else self.shape[:1]
        return tuple(dim(config) for dim in shape)


@dataclass(frozen=True)
class Slot:
    """A rule at one layer: which tensors become which.

    Args:
        part: ``weight`` or ``bias``.
        config: as the layer sees it.
        required: whether a checkpoint must have it.
    """

    rule: Rule
    layer: int | None
    part: str
    config: Config = field(repr=False)
    required: bool

    @cached_property
    def sources(self) -> tuple[str, ...]:
        return self.rule.sources(self.layer, self.part, self.config)

    @cached_property
    def targets(self) -> tuple[str, ...]:
        return self.rule.targets(self.layer, self.part)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of each source."""
        return self.rule.size(self.part, self.config)

    def to_gguf(self, tensors: Tensors) -> Tensors:
        for op in self.rule.ops:
            tensors = apply_op(op, tensors, self.config)
        return tensors

    def to_hf(self, tensors: Tensors) -> Tensors:
        for op in reversed(self.rule.ops):
            tensors = op.inverse.apply(tensors, self.config)
        return tensors


@dataclass(frozen=True)
class HFClass:
    """What differs between the model classes that share an architecture.

    Args:
        model_type: ``config.json``'s, by which transformers picks the config class.
        defaults: what transformers assumes for keys a config.json leaves out, as far as it matters here; under our
            names. A size that we only infer (``head_dim``) is written back to classes that list it here.
        names: its names of config keys -> ours (``n_embd`` -> ``hidden_size``).
        text_of: the class whose checkpoints these are once vision and sound are left out; it is the one written back.
        parts: keys that hold dicts of the text model's own; a key ``k`` in ``ffn_config`` counts as ``ffn_config.k``.
    """

    model_type: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    text_of: str | None = None
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Arch:
    """An architecture, as pure data.

    Args:
        name: ours, unique.
        classes: the model classes of config.json's ``architectures``; the first is written for files that name none.
            ``Wrapper/type`` is that wrapper around a text model of that ``model_type``.
        config: config keys <-> ``{gguf}.*`` keys, in the order they are written.
        rules: the tensors, in the model's own order.
        gguf_name: ``general.architecture`` where that is not ``name``; several of ours may share one of GGUF's.
        fixed: config keys that are the same for every model of the architecture; a tuple lists values that mean the
            same, the first is written.
        needs: what llama.cpp takes for granted of other config keys, by the key that a message names.
        implied: what a config may leave out (or set to null), and what it is then.
        roots: beginnings of tensor names -> the ones the rules use, for checkpoints of other wrappers.
        ignored: patterns (``*``) of tensor names that carry no weights of the text model.
        beyond: what the names of layers begin with, where checkpoints have more of them than the model: layers that
            predict further tokens are left out, as transformers does.
    """

    name: str
    classes: Mapping[str, HFClass]
    config: tuple[ConfigRow, ...]
    rules: tuple[Rule, ...]
    gguf_name: str = ""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    needs: Mapping[str, Condition] = field(default_factory=dict)
    implied: Mapping[str, Implied] = field(default_factory=dict)
    roots: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    beyond: str = ""

    @property
    def gguf(self) -> str:
        """``general.architecture`` of its files."""
        return self.gguf_name or self.name

    def slots(self, config: Config) -> Iterator[Slot]:
        """Every tensor that a model of this config may have, in the model's order.

        Raises:
            FormatError: the config makes a size no number, or more tensors than any checkpoint has.
        """
        for layers, run in groupby(self.rules, lambda rule: rule.layers if rule.per_layer else None):
            rules = tuple(run)
            count = Dim(layers)(config) if layers else 1
            each = sum(rule.each(config) if "{expert}" in rule.modules[0] else 1 for rule in rules)
            if count * each > MAX_TENSORS:
                raise FormatError(f"{count * each} tensors are more than any model has", where=layers)
            for layer in range(count) if layers else (None,):
                seen = at_layer(config, layer, count)
                for rule in rules:
                    yield from _slots(rule, layer, seen)


def _slots(rule: Rule, layer: int | None, config: Config) -> Iterator[Slot]:
    if not rule.when(config):
        return
    tied = rule.unless is not None and bool(config.get(rule.unless))
    yield Slot(rule, layer, "weight", config, not (tied or rule.optional))
    if isinstance(rule.bias, str):
        yield Slot(rule, layer, "bias", config, bool(config.get(rule.bias)))
    elif rule.bias is not None and rule.bias(config):
        yield Slot(rule, layer, "bias", config, not (rule.optional or isinstance(rule.bias, Maybe)))


def named(slot: Slot, tensors: Tensors) -> Iterator[Tensor]:
    """What ``slot.to_gguf`` gave, under GGUF's names."""
    for tensor, name, role in zip(tensors, slot.targets, slot.rule.roles, strict=True):
        # Ops move rows: an index in a message is then one of our tensor, and says so.
        source = f"{tensor.source}, as {name}" if slot.rule.ops else tensor.source
        yield replace(tensor, name=name, role=role, layer=slot.layer, source=source)
