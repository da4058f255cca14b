"""How an architecture is described: config keys <-> hyper-parameters, tensor names <-> roles, for both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ...errors import FormatError
from ...gguf.names import GLOBAL_ROLES, tensor_name
from ...ir import Role, Tensor
from ...json_types import FLAG, WHOLE, WHOLES, optional
from .dimensions import ALWAYS, EXPERTS, FURTHER, Condition, Config, Dim, If, Implied, Maybe, at_layer
from .ngrams import TableRows
from .ops import Op, Tensors, Transpose
from .packed_tensors import apply_op
from .reads import Noun, OfParts, Reads

if TYPE_CHECKING:
    from .extras import Extra
    from .rows import ConfigRow, Getter

Target = Role | str  # a role, or a name in GGUF

# No checkpoint has so many tensors (DeepSeek V3 has 91,000); a config that claims them is wrong or hostile.
MAX_TENSORS = 2_000_000
_MOST_FURTHER = 64  # published models have one to three

LANGUAGE_MODEL = "model.language_model."  # where transformers 5 has the text model of most classes around one


@dataclass(frozen=True)
class Rule:
    """Modules of the checkpoint, and the roles of their weights and biases in GGUF.

    Args:
        hf: the module's name, or several that become one; ``{layer}`` stands for a block's number, and ``{expert}`` for
            an expert's, if each expert has a tensor of its own (then the ops begin with ``Stack``).
        role: its role in GGUF, or several if the ops split it; for tensors without a role, such as a tower's, its name
            without the part, where ``{layer}`` stands for a block's number, too.
        shape: of each weight in the checkpoint (of one expert's, with ``{expert}``). A bias has its first dimension, or
            its last if the weight is transposed.
        ops: what happens on the way to GGUF; on the way back their inverses run from last to first.
        bias: when the module has a bias: a condition, or the config key that says so; None if it never has one.
        when: the configs and layers that have the module.
        unless: the config key that makes the weight optional (tied embeddings).
        optional: whether the module may be missing, whatever the config says.
        tensor: whether ``hf`` names the tensor itself, without ``.weight`` behind it.
        part: the last part of its GGUF name, if that is not ``weight``.
        stack: ``enc.`` or ``dec.`` before the block's name in GGUF, for models that have both.
        layers: the config key with the number of blocks.
        each: the number of tensors that ``{expert}`` stands for, if not the number of experts.
        numbers: the config key of a list with the number that each block has in GGUF, if that is not its own.
        whole: it holds whole numbers, which are I32 in GGUF.
        key: the metadata's key that holds the tensors' numbers, of one block after the other, where GGUF has no tensor,
            and ``role`` is an empty tuple.
        after: how many blocks of other rules come first in GGUF, which counts those of all stacks together.
        borrowed: the tensor is another part's, of which this one only keeps a copy: nothing is written back of it.
    """

    hf: str | tuple[str, ...]
    role: Target | tuple[Target, ...]
    shape: tuple[Dim | If | TableRows, ...]
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
    numbers: str = ""
    borrowed: bool = False
    whole: bool = False
    key: str = ""
    after: Dim | None = None

    def reads(self) -> Reads:
        return {
            **{key: FLAG for key in (self.bias, self.unless) if isinstance(key, str)},
            **({self.layers: WHOLE} if self.per_layer else {}),
            **({self.numbers: WHOLES} if self.numbers else {}),
        }

    @cached_property
    def modules(self) -> tuple[str, ...]:
        return (self.hf,) if isinstance(self.hf, str) else self.hf

    @cached_property
    def roles(self) -> tuple[Role, ...]:
        return tuple(one if isinstance(one, Role) else Role.OTHER for one in self._targets)

    @cached_property
    def _targets(self) -> tuple[Target, ...]:
        return self.role if isinstance(self.role, tuple) else (self.role,)

    @property
    def per_layer(self) -> bool:
        return "{layer}" in self.modules[0]

    @property
    def exact(self) -> bool:
        """Whether the inverse ops always restore the same bits."""
        return all(op.exact for op in self.ops)

    def sources(self, layer: int | None, part: str, config: Config) -> tuple[str, ...]:
        """The checkpoint's names: one for each module, or for each expert."""
        experts = range(self.each(config)) if "{expert}" in self.modules[0] else (None,)
        leaf = "" if self.tensor else f".{part}"
        return tuple(name.format(layer=layer, expert=expert) + leaf for name in self.modules for expert in experts)

    def targets(self, layer: int | None, part: str) -> tuple[str, ...]:
        """GGUF's names: one for each role. ``layer`` is the block's number there."""
        part = self.part if part == "weight" else part
        return tuple(_gguf_name(one, layer, part, self.stack) for one in self._targets)

    def size(self, part: str, config: Config) -> tuple[int, ...]:
        """The shape of a part (weight or bias) in the checkpoint."""
        turned = any(isinstance(op, Transpose) for op in self.ops[:1])
        shape = self.shape if part == "weight" else self.shape[-1:] if turned else self.shape[:1]
        return tuple(dim(config) for dim in shape)


@dataclass(frozen=True)
class Slot:
    """A rule at one layer: which tensors of the checkpoint become which in GGUF.

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
        return self.rule.targets(self.block, self.part)

    @property
    def block(self) -> int | None:
        """The layer's number in GGUF; None for what stands outside the blocks there."""
        if GLOBAL_ROLES.intersection(self.rule.roles[:1]):
            return None
        if self.rule.numbers:
            return int(self.config[self.rule.numbers])
        if self.layer is None or self.rule.after is None:
            return self.layer
        return self.layer + self.rule.after(self.config)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of each source in the checkpoint."""
        return self.rule.size(self.part, self.config)

    def to_gguf(self, tensors: Tensors) -> Tensors:
        """Apply the rule's ops to the sources."""
        for op in self.rule.ops:
            tensors = apply_op(op, tensors, self.config)
        return tensors

    def to_hf(self, tensors: Tensors) -> Tensors:
        """Apply the inverse ops, from last to first, to the targets."""
        for op in reversed(self.rule.ops):
            tensors = op.inverse.apply(tensors, self.config)
        return tensors


@dataclass(frozen=True)
class Further:
    """The row of an architecture whose models may have layers after the last that predict further tokens.

    llama.cpp calls them nextn; others, multi-token prediction (MTP). Such a layer is a block like the model's own,
    between tensors that join the next token's embedding to the last hidden states, and a norm.

    Args:
        hf: the config key with their number; empty where no config says it.
        rules: the tensors that only these layers have. A name without ``{layer}`` is one of the first such layer.
        at: what their tensors' names begin with in place of the model's layers, with ``{number}`` for the layer's own
            number from 0; empty where the names count on.
        sees: keys with a word for each of the model's layers, and the word of these.
        zero: whether the file says that there are none.
        kept: whether they stand in the model's own file; False if llama.cpp wants them alone.
    """

    hf: str
    rules: tuple[Rule, ...]
    at: str = ""
    sees: Mapping[str, Any] = field(default_factory=dict)
    zero: bool = False
    kept: bool = True
    gguf: str = "nextn_predict_layers"

    def reads(self) -> Reads:
        return {self.hf: optional(WHOLE)} if self.hf else {}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        if (count := config.get(FURTHER, 0)) or self.zero:
            yield self.gguf, count

    def to_hf(self, get: Getter) -> dict[str, Any]:
        count = get(self.gguf)
        return {FURTHER: count, **({self.hf: count} if self.hf else {})} if count else {}

    def promised(self, config: Config) -> int:
        """How many layers a completed config says that there are.

        Raises:
            FormatError: more than any model has.
        """
        count = config.get(self.hf) or 0
        if count > _MOST_FURTHER:
            raise FormatError(f"{count} layers for further tokens are more than any model has", where=self.hf)
        return int(count)

    def at_layer(self, rules: tuple[Rule, ...], number: int) -> Iterator[Rule]:
        """The rules of a further layer.

        Args:
            rules: those of the model's own layers.
            number: of the layer, from 0.
        """
        for rule in (*rules, *self.rules):
            if any("{layer}" in name for name in rule.modules):
                yield self._renamed(rule, number)
            elif number == 0:
                yield rule

    def marks(self, config: Config) -> tuple[str, ...]:
        """What the names of each further layer's tensors contain, whatever stands before it."""
        count = config.get(FURTHER, 0)
        first = config["num_hidden_layers"] - count
        return tuple(self.at.format(number=k) if self.at else f"layers.{first + k}." for k in range(count))

    def _renamed(self, rule: Rule, number: int) -> Rule:
        if not self.at:
            return rule
        start = self.at.format(number=number)
        names = tuple(start + name.partition("{layer}.")[2] for name in rule.modules)
        return replace(rule, hf=names[0] if isinstance(rule.hf, str) else names)


@dataclass(frozen=True)
class HFClass:
    """What differs between the model classes that share an architecture.

    Args:
        model_type: of config.json; transformers chooses the config class by it.
        defaults: the values that transformers assumes for missing keys, as far as they matter here, under quantmill's
            names. A size that is only inferred (``head_dim``) is written back to classes that list it here.
        names: the class's names of config keys, and quantmill's for them (``n_embd``: ``hidden_size``).
        text_of: for a class with vision or sound, the class of its text model, which is written back instead.
        parts: keys that hold nested dicts of the text model; a key ``k`` in ``ffn_config`` is called ``ffn_config.k``.
        bare: the class has no head: its result is the last hidden states.
        head: the kind of head that the file holds, if not one that predicts tokens: ``classifier``.
        without_head: for a class whose head llama.cpp has no place for, the class that is written back instead.
        when: for ``Class/kind``, where models of one class are of several architectures in GGUF: which configs, as they
            stand in the file, are of this one.
        wraps: for a class with vision or sound that is written back itself, without its towers, as transformers has no
            class of its text model with a head: the ``model_type`` of the whole, where ``model_type`` is that of its
            ``text_config``. Also of the classes of a tower, whose ``model_type`` is that of the tower's object.
        root: what its tensors' names begin with, where the rules have ``Arch.base``.
        outer: keys of the config around a text model that tell something of it.
        ties: the class around a text model ties the head to the embedding where its config does not say.
    """

    model_type: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    text_of: str | None = None
    parts: tuple[str, ...] = ()
    bare: bool = False
    head: str = ""
    without_head: str | None = None
    when: Condition | None = None
    wraps: str = ""
    root: str = ""
    outer: tuple[str, ...] = ()
    ties: bool = False


@dataclass(frozen=True)
class Shaped(OfParts):
    """Tensors of a checkpoint, by a pattern of names and their shape."""

    like: str
    shape: tuple[Dim, ...]

    def __call__(self, config: Config) -> tuple[int, ...]:
        return tuple(dim(config) for dim in self.shape)


@dataclass(frozen=True)
class Arch:
    """An architecture, as data.

    Args:
        name: quantmill's name for it, unique.
        classes: by their name in config.json's ``architectures``; the first is written for files that name none.
            ``Wrapper/type`` stands for the class ``Wrapper`` around a text model with the ``model_type`` ``type``, and
            ``Class/kind`` for those models of a class that ``HFClass.when`` tells from others.
        config: config keys <-> ``{gguf}.*`` keys, in the order they are written.
        rules: the tensors, in the model's own order.
        gguf_name: ``general.architecture``, if that is not ``name``; several architectures may share one of GGUF's.
        fixed: config keys that have the same value in every model of the architecture; a tuple lists values of the same
            meaning, of which the first is written.
        needs: conditions that llama.cpp takes for granted, by the config key that a message names.
        implied: config keys that may be missing or null, and their value then.
        synonyms: config keys with a word for each layer, words that some checkpoints have there, and the rules'.
        base: what tensor names begin with in a class with a head, and not in the bare class: ``base_model_prefix`` of
            transformers, and a dot.
        module: what transformers' own model calls ``base``, where checkpoints have another name.
        roots: beginnings of tensor names, and those that the rules use instead, for checkpoints of other wrappers.
        spellings: parts of tensors' names in transformers' memory, and those that the rules use instead, as it saves
            them.
        layouts: conditions of rules (``Is``) where checkpoints hold the same weights in different tensors: a key that
            no config.json has, and a pattern of names, or also a shape. It is true where such a tensor is there.
        pools: llama.cpp's converter writes the pooling that files of sentence-transformers name.
        refused: classes of the same family that llama.cpp cannot compute, and why.
        extras: tensors of checkpoints that become no tensor of the file, and why; ``extras.py`` adds what is common.
        needed: the sizes that no config may leave out.
        by_converter: why only llama.cpp's converter proves it: what llama.cpp computes, or holds, otherwise than
            transformers. Empty where logits prove it. A conversion says it.
        one_way: why its files make no checkpoint: what the file no longer tells exactly. Empty where they make one.
    """

    name: str
    classes: Mapping[str, HFClass]
    config: tuple[ConfigRow, ...]
    rules: tuple[Rule, ...]
    gguf_name: str = ""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    needs: Mapping[str, Condition] = field(default_factory=dict)
    implied: Mapping[str, Implied] = field(default_factory=dict)
    synonyms: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    base: str = "model."
    module: str = ""
    roots: Mapping[str, str] = field(default_factory=dict)
    spellings: Mapping[str, str] = field(default_factory=dict)
    layouts: Mapping[str, str | Shaped] = field(default_factory=dict)
    pools: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)
    extras: tuple[Extra, ...] = ()
    by_converter: str = ""
    one_way: str = ""
    needed: tuple[str, ...] = ("hidden_size", "num_hidden_layers", "vocab_size")

    @property
    def gguf(self) -> str:
        """``general.architecture`` of its files."""
        return self.gguf_name or self.name

    @cached_property
    def further(self) -> Further | None:
        """Its row of layers that predict further tokens; None if it keeps none."""
        return next((row for row in self.config if isinstance(row, Further)), None)

    @cached_property
    def nouns(self) -> tuple[Noun, ...]:
        """Its rows, rules and extras, and all sizes, conditions and ops in them: what reads a config."""
        left: list[Any] = [*self.extras, *self.layouts.values(), *self.needs.values(), *self.implied.values()]
        left += [*reversed(self.rules), *reversed(self.config)]
        found: dict[int, Any] = {}
        while left:
            noun = left.pop()
            if isinstance(noun, tuple):
                left += noun
            elif is_dataclass(noun) and id(noun) not in found:
                found[id(noun)] = noun
                no_experts = isinstance(noun, Rule) and "{expert}" not in noun.modules[0]
                left += [getattr(noun, one.name) for one in fields(noun) if not (no_experts and one.name == "each")]
        return tuple(found.values())

    @property
    def needs_head(self) -> bool:
        """Whether llama.cpp does not take the embedding where the output matrix is missing."""
        heads = (rule for rule in self.rules if Role.OUTPUT in rule.roles)
        return any(rule.unless is None and not rule.optional for rule in heads)

    @property
    def always_bare(self) -> bool:
        """Whether none of its classes has a head: what stands in a head's place then belongs to the model."""
        return all(cls.bare for cls in self.classes.values())

    def with_bare_classes(self) -> Arch:
        """The same with the class of transformers that has no head, for each that has one."""
        bare: dict[str, HFClass] = {}
        for name, cls in self.classes.items():
            if not cls.bare and (own := self._bare(name)) not in self.classes:
                text = cls.text_of and self._bare(cls.text_of)
                # whatever the names of the class with a head are
                root = LANGUAGE_MODEL if cls.wraps and not cls.text_of else cls.root
                bare.setdefault(own, replace(cls, bare=True, text_of=text, root=root))
        return replace(self, classes={**self.classes, **bare})

    def _bare(self, name: str) -> str:
        """``LlamaModel`` for ``LlamaForCausalLM``; ``Gemma3TextModel`` where ``Gemma3Model`` sees, too."""
        wrappers = {stem(other) for other, cls in self.classes.items() if cls.text_of}
        text = "Text" if stem(name) in wrappers and not self.classes[name].text_of else ""
        _, slash, kind = name.partition("/")
        return f"{stem(name)}{text}Model{slash}{kind}"

    def respelled(self, name: str) -> str:
        """A tensor's name with the rules' spellings."""
        for theirs, ours in self.spellings.items():
            name = name.replace(theirs, ours)
        return name

    def layout_of(self, shapes: Mapping[str, tuple[int, ...]], config: Config) -> dict[str, bool]:
        """The keys of ``layouts`` that are true of a checkpoint with tensors of these names and shapes."""
        found = {}
        for key, layout in self.layouts.items():
            like, wanted = (layout, None) if isinstance(layout, str) else (layout.like, layout(config))
            if any(fnmatchcase(name, like) and wanted in (None, shape) for name, shape in shapes.items()):
                found[key] = True
        return found

    def slots(self, config: Config) -> Iterator[Slot]:
        """Every tensor that a model of this config may have, in the model's order.

        Raises:
            FormatError: a size of the config is not a number, or there would be more tensors than any checkpoint has.
        """
        for layers, run in groupby(self.rules, lambda rule: rule.layers if rule.per_layer else None):
            rules = tuple(run)
            count = Dim(layers)(config) if layers else 1
            each = sum(rule.each(config) if "{expert}" in rule.modules[0] else 1 for rule in rules)
            if count * each > MAX_TENSORS:
                raise FormatError(f"{count * each} tensors are more than any model has", where=layers)
            for layer in range(count) if layers else (None,):
                seen = at_layer(config, layer, count)
                for rule in self._rules_at(rules, layer, config):
                    yield from _slots(rule, layer, seen)

    def _rules_at(self, rules: tuple[Rule, ...], layer: int | None, config: Config) -> Iterable[Rule]:
        number = further_number(layer, config) if self.further else None
        return rules if self.further is None or number is None else self.further.at_layer(rules, number)


def further_number(layer: int | None, config: Config) -> int | None:
    """Which further layer a block is, from 0; None for one of the model's own, and for what is in no block.

    Args:
        config: one ``with_further``.
    """
    number = -1 if layer is None else layer - (config["num_hidden_layers"] - config.get(FURTHER, 0))
    return number if number >= 0 else None


def _gguf_name(target: Target, layer: int | None, part: str, stack: str) -> str:
    if isinstance(target, Role):
        return tensor_name(target, layer, part, stack)
    name = target.format(layer=layer)
    return f"{name}.{part}" if part else name


def stem(name: str) -> str:
    """A model class's name without what says which head it has: ``Llama`` of ``LlamaForCausalLM``, ``LlamaModel``."""
    return re.sub(r"(For[A-Z]\w*|LMHeadModel|(Text)?Model)?(/.*)?$", "", name, count=1)


def _slots(rule: Rule, layer: int | None, config: Config) -> Iterator[Slot]:
    if not rule.when(config):
        return
    tied = rule.unless is not None and bool(config.get(rule.unless))
    yield Slot(rule, layer, "weight", config, not (tied or rule.optional))
    if isinstance(rule.bias, str):
        yield Slot(rule, layer, "bias", config, bool(config.get(rule.bias)))
    elif rule.bias is not None and rule.bias(config):
        yield Slot(rule, layer, "bias", config, not (rule.optional or isinstance(rule.bias, Maybe)))


def without_head(slots: Iterable[Slot]) -> list[Slot]:
    """The same slots for a model that may lack the output matrix."""
    return [replace(slot, required=False) if Role.OUTPUT in slot.rule.roles else slot for slot in slots]


def with_gguf_names(slot: Slot, tensors: Tensors) -> Iterator[Tensor]:
    """Give the results of ``slot.to_gguf`` their GGUF names, roles and layer."""
    for tensor, name, role in zip(tensors, slot.targets, slot.rule.roles, strict=True):
        # Ops move rows: an index in a message then belongs to the GGUF tensor, so the source names it.
        source = f"{tensor.source}, as {name}" if slot.rule.ops else tensor.source
        yield replace(tensor, name=name, role=role, layer=slot.block, source=source)
