"""The rows of an architecture's config table: each maps a fact of config.json to ``{arch}.*`` keys and back.

Keys, their order and their defaults follow conversion/base.py (``TextModel.set_gguf_parameters``) of llama.cpp and the
modules beside it, which read the config through transformers' config classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ...errors import FormatError
from ...json_types import TEXT, TEXTS, WHOLE, by_name, optional, shown
from . import rope
from .dimensions import (
    ALWAYS,
    CLASSIFIES,
    CONTEXT,
    FURTHER,
    HEAD_DIM,
    LABELS,
    LAYERS,
    MLP_TYPES,
    Condition,
    Config,
    Dim,
    at_layer,
)
from .reads import LAYER_TYPES, Noun, OfParts, Reads, of_example, of_gguf


class Getter(Protocol):
    """Get a hyper-parameter by the part of its key after the architecture, or None.

    With ``each``, an array with a value for each layer is returned as a list; else values that differ are an error.
    """

    def __call__(self, suffix: str, *, each: bool = False) -> Any: ...


def metadata_key(arch: str, suffix: str) -> str:
    """The full metadata key of a row: below the architecture, but for the tokenizer's keys."""
    return suffix if suffix.startswith("tokenizer.") else f"{arch}.{suffix}"


class ConfigRow(Noun, Protocol):
    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]: ...

    def to_hf(self, get: Getter) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Key:
    """A config key that is one hyper-parameter. Of several rows with the same ``hf`` key, the first found is read back.

    Args:
        hf: the config key.
        gguf: the hyper-parameter's key, after the architecture.
        optional: the config key may be null, and the hyper-parameter missing.
        when: the condition under which it is written.
        null: what is written for null; None to write nothing.
    """

    hf: str
    gguf: str
    optional: bool = False
    when: Condition = ALWAYS
    null: Any = None

    def reads(self) -> Reads:
        return {self.hf: of_gguf(self.gguf)}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        value = config.get(self.hf)
        value = self.null if value is None else value
        if isinstance(value, list) and value and all(one == value[0] for one in value):
            value = value[0]  # the same in all layers
        if value is not None and self.when(config):
            yield self.gguf, value

    def to_hf(self, get: Getter) -> dict[str, Any]:
        value = get(self.gguf)
        return {} if value is None else {self.hf: None if value == self.null else value}


@dataclass(frozen=True)
class Constant(OfParts):
    """A hyper-parameter that is the same for every model of the architecture; it is not read back."""

    gguf: str
    value: Any
    when: Condition = ALWAYS

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        if self.when(config):
            yield self.gguf, self.value

    def to_hf(self, get: Getter) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Computed:
    """A hyper-parameter computed from config keys. It is not read back: the keys have rows of their own.

    Args:
        gguf: the hyper-parameter.
        size: what it is.
        when: the condition under which it is written.
        kind: the layers whose sizes count, by their word in ``layer_types``.
    """

    gguf: str
    size: Dim
    when: Condition = ALWAYS
    kind: str = ""

    def reads(self) -> Reads:
        return {LAYER_TYPES: TEXTS} if self.kind else {}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        kinds = config["layer_types"] if self.kind else []
        if self.kind in kinds:
            config = at_layer(config, kinds.index(self.kind), len(kinds))
        if self.when(config):
            yield self.gguf, self.size(config)

    def to_hf(self, get: Getter) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class GreaterThan(OfParts):
    """A config key that is true if a hyper-parameter is greater than a number. It is only read back."""

    hf: str
    gguf: str
    than: int

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        return iter(())

    def to_hf(self, get: Getter) -> dict[str, Any]:
        value = get(self.gguf)
        return {} if value is None else {self.hf: value > self.than}


@dataclass(frozen=True)
class Times:
    """A config key that is a whole part of its hyper-parameter: ``by`` times the number."""

    hf: str
    gguf: str
    by: int

    def reads(self) -> Reads:
        return {self.hf: WHOLE}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        yield self.gguf, Dim(self.hf)(config) * self.by

    def to_hf(self, get: Getter) -> dict[str, Any]:
        value = get(self.gguf)
        return {} if value is None else {self.hf: value // self.by}


@dataclass(frozen=True)
class AfterPadding:
    """A context whose positions are counted from the padding's id on: GGUF has the number of those that text can take.

    Args:
        hf: the config key, with the positions that are never taken.
        gguf: the hyper-parameter's key.
        pad: the padding's id, where neither config nor tokenizer says it.
    """

    hf: str = "max_position_embeddings"
    gguf: str = "context_length"
    pad: int = 1

    def reads(self) -> Reads:
        return {self.hf: WHOLE, "pad_token_id": WHOLE}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        room = Dim(self.hf)(config) - Dim("pad_token_id")(config) - 1
        if room < 1:
            raise FormatError(f"no position is left behind pad_token_id {config['pad_token_id']}", where=self.hf)
        yield self.gguf, room

    def to_hf(self, get: Getter) -> dict[str, Any]:
        room, pad = get(self.gguf), get("tokenizer.ggml.padding_token_id")
        return {} if room is None else {self.hf: room + 1 + (self.pad if pad is None else pad)}


@dataclass(frozen=True)
class Labels:
    """The names of a classifier's results: ``id2label``, and ``label2id`` with it."""

    hf: str = "id2label"
    gguf: str = "classifier.output_labels"

    def reads(self) -> Reads:
        return {self.hf: optional(by_name(TEXT, "texts")), **LABELS.reads()}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        if not CLASSIFIES(config):
            return
        count = LABELS(config)
        found = config.get(self.hf) or {str(i): f"LABEL_{i}" for i in range(count)}
        names = {str(number): name for number, name in found.items()}
        if not count or names.keys() != {str(i) for i in range(count)}:
            raise FormatError(f"not a name for each of {count} results: {shown(found)}", where=self.hf)
        yield self.gguf, [names[str(i)] for i in range(count)]

    def to_hf(self, get: Getter) -> dict[str, Any]:
        names = get(self.gguf, each=True)
        if names is None:
            return {}
        return {self.hf: {str(i): n for i, n in enumerate(names)}, "label2id": {n: i for i, n in enumerate(names)}}


@dataclass(frozen=True)
class Mapped:
    """A config key whose values have other names in GGUF.

    ``Mapped("scoring_func", "expert_gating_func", {"softmax": 1, "sigmoid": 2})`` writes 2 for sigmoid.
    """

    hf: str
    gguf: str
    names: Mapping[Any, Any]

    def reads(self) -> Reads:
        return {self.hf: of_example(next(name for name in self.names if name is not None))}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        if (value := config.get(self.hf)) in self.names:
            yield self.gguf, self.names[value]

    def to_hf(self, get: Getter) -> dict[str, Any]:
        value = get(self.gguf)
        return next(({self.hf: theirs} for theirs, ours in self.names.items() if ours == value), {})


@dataclass(frozen=True)
class LayerFlags:
    """A config key such as ``layer_types``, with one of two words for each layer, written as an array of bools.

    Args:
        true: the word that is True in GGUF.
        false: the word that is False.
        every: the key of old configs, a number n: each n-th layer has the other word. It is written as that number.
        when: the condition under which it is written.
        own: only the model's own layers have a flag, and none of those that predict further tokens.
    """

    hf: str
    gguf: str
    true: Any = "sliding_attention"
    false: Any = "full_attention"
    every: str = ""
    when: Condition = ALWAYS
    own: bool = False

    def reads(self) -> Reads:
        return {self.hf: TEXTS, **({self.every: WHOLE} if self.every else {})}

    @property
    def words(self) -> tuple[Any, ...]:
        """The words that a layer may have."""
        return self.true, self.false

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        if (words := config.get(self.hf)) is not None and self.when(config):
            words = words[: LAYERS(config) - config.get(FURTHER, 0)] if self.own else words
            yield self.gguf, [word == self.true for word in words]
        elif (every := config.get(self.every)) is not None:
            yield self.gguf, every

    def to_hf(self, get: Getter) -> dict[str, Any]:
        flags = get(self.gguf, each=True)
        if not isinstance(flags, list):
            return {} if flags is None or not self.every else {self.every: flags}
        return {self.hf: [self.true if flag else self.false for flag in flags]}


@dataclass(frozen=True)
class LeadingDense:
    """``mlp_layer_types``, a word for each layer: GGUF has the number of those of the first kind, which come first.

    Args:
        first, rest: the two words.
        last: the word of layers for further tokens, which are not counted; that of the rest by default.
    """

    hf: str = MLP_TYPES
    gguf: str = "leading_dense_block_count"
    first: str = "dense"
    rest: str = "sparse"
    last: str = ""

    def reads(self) -> Reads:
        return {self.hf: TEXTS}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        words = config[self.hf]
        if not isinstance(words, list) or len(words) != LAYERS(config) or not {*words} <= {self.first, self.rest}:
            problem = f"is not {self.first} or {self.rest} for each of {LAYERS(config)} layers: {shown(words)}"
            raise FormatError(problem, where=self.hf)
        words = words[: len(words) - config.get(FURTHER, 0)]
        first = words.count(self.first)
        if self.rest in words[:first]:
            problem = f"a {self.first} layer follows a {self.rest} one, which llama.cpp has no key for"
            raise FormatError(problem, where=self.hf)
        yield self.gguf, first

    def to_hf(self, get: Getter) -> dict[str, Any]:
        first, layers = get(self.gguf), get("block_count")
        if first is None or layers is None:
            return {}
        further = get("nextn_predict_layers") or 0
        words = [self.first if layer < first else self.rest for layer in range(layers - further)]
        return {self.hf: [*words, *[self.last or self.rest] * further]}


@dataclass(frozen=True)
class Alternating:
    """A config key with another value in layers of one kind (``per_layer_config``).

    Args:
        hf: the config key.
        gguf: the hyper-parameter of the full-attention layers.
        swa: the hyper-parameter of the other layers; empty if ``gguf`` is an array of both.
        other: the config key that holds the value of layers of the kind.
        kind: which layers these are.
    """

    hf: str
    gguf: str
    swa: str
    other: str
    kind: str = "full_attention"

    def reads(self) -> Reads:
        return {self.hf: WHOLE, self.other: WHOLE, LAYER_TYPES: TEXTS}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        kinds = config["layer_types"]
        each = [at_layer(config, layer, len(kinds))[self.hf] for layer in range(len(kinds))]
        of_kind = dict(zip(kinds, each, strict=True))
        if not self.swa:
            yield self.gguf, each[0] if len({*each}) == 1 else each
            return
        for kind in sorted(of_kind, key=_has_window):
            yield self.swa if _has_window(kind) else self.gguf, of_kind[kind]

    def to_hf(self, get: Getter) -> dict[str, Any]:
        full, sliding = get(self.gguf, each=True), get(self.swa) if self.swa else None
        if not self.swa and full is not None and not isinstance(full, list):
            return {self.hf: full}
        flags = get("attention.sliding_window_pattern", each=True)
        if isinstance(full, list) and isinstance(flags, list) and len(flags) == len(full):
            of_kind = dict(zip(map(bool, flags), full, strict=True))
            full, sliding = of_kind.get(False), of_kind.get(True)
        usual, other = (sliding, full) if self.kind == "full_attention" else (full, sliding)
        found = {self.hf: usual, self.other: other}
        return {key: value for key, value in found.items() if value is not None}


def _has_window(kind: str) -> bool:
    return kind == "sliding_attention"


@dataclass(frozen=True)
class ReadBack(OfParts):
    """A config key that is read back as this value, since the shapes in a file already include its effect."""

    hf: str
    value: Any

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        return iter(())

    def to_hf(self, get: Getter) -> dict[str, Any]:
        return {self.hf: self.value}


@dataclass(frozen=True)
class Rope:
    """``rope_parameters`` and the ``rope.*`` keys.

    Args:
        dimension: whether to write ``rope.dimension_count``, the number of rotated dimensions of a head.
        sliding: the old config key for the base of layers with a sliding window; with it, ``rope_parameters`` holds one
            set for each of the two kinds of layer.
        extra: further entries of ``rope_parameters``, and their hyper-parameters.
        scaled: like ``extra``, each with a factor by which the entry is multiplied in GGUF.
        partial: the rotated part of a head if the config does not say; None for all of it.
        sections: the rotated pairs that turn by time, height and width of images, taken in turn, if the config does not
            say; None where all turn by the position.
        interleaved: these take their pairs in turn, instead of one after the other.
        axes: how many they are: 4 in HunYuan-VL, whose ``alpha`` is a key, too.
        says_none: whether ``rope.scaling.type`` is ``none`` where nothing is scaled, instead of missing.
        parts: the rotated parts of layers without a window and with one, where llama.cpp takes them for granted.
        dimension_swa: whether to write ``rope.dimension_count_swa``, where layers with a window rotate another part.
        longrope: entries that ``longrope`` has in all models, and GGUF does not hold.
    """

    dimension: bool = False
    sliding: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)
    scaled: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    partial: float | None = None
    sections: tuple[int, ...] | None = None
    interleaved: bool = True
    axes: int = 3
    says_none: bool = False
    dimension_swa: bool = False
    parts: tuple[float, float] | None = None
    longrope: Mapping[str, float] = field(default_factory=dict)

    def reads(self) -> Reads:
        return {**HEAD_DIM.reads(), **CONTEXT.reads()}

    @property
    def spent(self) -> tuple[str, ...]:
        """The keys beside ``rope_parameters`` that are part of it once it is complete."""
        return "rope_theta", "rope_scaling", "partial_rotary_factor", self.sliding or ""

    def canonical(self, config: Config, path: Path) -> dict[str, Any]:
        """``rope_parameters`` in the form of transformers 5. Raises ``FormatError``."""
        return rope.canonical(config, path, sliding=self.sliding, axes=self.axes, longrope=self.longrope)

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        found = config["rope_parameters"]
        main = found.get("full_attention", found)
        if self.says_none:
            yield "rope.scaling.type", "none"
        yield from rope.to_gguf(main)
        if main["rope_type"] == "dynamic" and main.get("alpha"):
            if self.axes == 4:
                yield from rope.own_alpha_keys(main, CONTEXT(config))
            else:
                yield from rope.alpha_keys(main, HEAD_DIM(config), CONTEXT(config))
        if main["rope_type"] == "longrope":
            yield "rope.scaling.original_context_length", main["original_max_position_embeddings"]
            yield "rope.scaling.attn_factor", rope.longrope_attention_factor(main, CONTEXT(config))
        if main["rope_type"] == "yarn" and not any(main.get(key) for key in self.scaled):
            yield from rope.yarn_correction(main)
        if self.sections is not None:
            context = config.get("max_position_embeddings")
            found = rope.sections(main, self.sections, HEAD_DIM(config), context, interleaved=self.interleaved)
            yield "rope.dimension_sections", found
        yield from ((gguf, main[hf]) for hf, gguf in self.extra.items() if main.get(hf) is not None)
        yield from ((gguf, main[hf] * by) for hf, (gguf, by) in self.scaled.items() if main.get(hf) is not None)
        if "sliding_attention" in found:
            yield "rope.freq_base_swa", found["sliding_attention"]["rope_theta"]
        if self.dimension:
            yield "rope.dimension_count", rope.dimensions(main, HEAD_DIM(config))
        if self.dimension_swa:
            yield "rope.dimension_count_swa", rope.dimensions(found["sliding_attention"], HEAD_DIM(config))

    def to_hf(self, get: Getter) -> dict[str, Any]:
        found = rope.to_hf(get)
        found |= {hf: value for hf, gguf in self.extra.items() if (value := get(gguf)) is not None}
        found |= {hf: value / by for hf, (gguf, by) in self.scaled.items() if (value := get(gguf)) is not None}
        part = self._part(get, "rope.dimension_count") if self.dimension else {}
        found |= part
        if self.axes == 4 and (alpha := get("rope.scaling.alpha")) is not None:
            found |= {"rope_type": "dynamic", "alpha": alpha, "factor": get("rope.scaling.factor")}
        if self.sections is not None:
            found |= rope.sections_to_hf(get("rope.dimension_sections", each=True), interleaved=self.interleaved)
        if self.sliding is None:
            return {"rope_parameters": found}
        theta = get("rope.freq_base_swa")
        local = {"rope_type": "default", "rope_theta": rope.DEFAULT_THETA if theta is None else theta}
        local |= self._part(get, "rope.dimension_count_swa") if self.dimension_swa else part
        if self.parts is not None:
            found["partial_rotary_factor"], local["partial_rotary_factor"] = self.parts
        return {"rope_parameters": {"full_attention": found, "sliding_attention": local}}

    def _part(self, get: Getter, gguf: str) -> dict[str, float]:
        head_dim, turning = get("attention.key_length") or _head_dim(get), get(gguf)
        if head_dim and turning and (turning != head_dim or self.partial is not None):
            return {"partial_rotary_factor": turning / head_dim}
        return {}


def _head_dim(get: Getter) -> int | None:
    width, heads = get("embedding_length"), get("attention.head_count")
    return width // heads if width and heads else None
