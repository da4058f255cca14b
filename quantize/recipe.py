"""What a recipe is: a default type and an ordered list of overrides, and how one is applied to a tensor.

A recipe is a pure function of facts about the model (``Traits``) and about one tensor (``Place``). llama.cpp keeps
counters while it visits the tensors; here a counter's value is the tensor's rank, a fact like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from ..formats.qtypes import BY_NAME, QType


class Part(Enum):
    """The broad parts of a model that recipes tell apart (``tensor_category`` in llama-quant.cpp)."""

    OUTPUT = "output"  # with tied embeddings, the token embeddings too
    TOKEN_EMBD = "token embeddings"
    ATTN_QKV = "attention qkv"
    ATTN_KV_B = "attention kv_b"
    ATTN_V = "attention v"
    ATTN_K = "attention k"
    ATTN_Q = "attention q"
    ATTN_OUTPUT = "attention output"
    FFN_UP = "ffn up"
    FFN_GATE = "ffn gate"
    FFN_DOWN = "ffn down"
    OTHER = "other"


VALUE_PARTS = (Part.ATTN_V, Part.ATTN_QKV, Part.ATTN_KV_B)  # they hold the values, and count as one sequence
FFN_PARTS = (Part.FFN_UP, Part.FFN_GATE, Part.FFN_DOWN)

# The reference tells parts by name, so that the tensors of any architecture fall into one, also those without a role
# here (ffn_down_shexp). First match wins.
_EXACT_NAMES = {
    "output.weight": Part.OUTPUT,
    "token_embd.weight": Part.TOKEN_EMBD,
    "per_layer_token_embd.weight": Part.TOKEN_EMBD,
}
_NAME_PARTS = (
    ("attn_qkv.weight", Part.ATTN_QKV),
    ("attn_kv_b.weight", Part.ATTN_KV_B),
    ("attn_v.weight", Part.ATTN_V),
    ("attn_k.weight", Part.ATTN_K),
    ("attn_q.weight", Part.ATTN_Q),
    ("attn_output.weight", Part.ATTN_OUTPUT),
    ("ffn_up", Part.FFN_UP),
    ("ffn_gate", Part.FFN_GATE),
    ("ffn_down", Part.FFN_DOWN),
)


def part_of(name: str) -> Part:
    """The part a tensor belongs to, by its GGUF name."""
    if name in _EXACT_NAMES:
        return _EXACT_NAMES[name]
    return next((part for needle, part in _NAME_PARTS if needle in name), Part.OTHER)


@dataclass(frozen=True)
class Traits:
    """What a recipe may ask about the model.

    Args:
        arch: GGUF's architecture name.
        gqa: query heads per key/value head of the first layer, in integer division; 0 without kv heads.
        n_expert: experts a layer, 0 for dense models.
        big: one of the models llama.cpp calls 70B.
        importance: whether an importance matrix is given.
    """

    arch: str
    gqa: int
    n_expert: int
    big: bool
    importance: bool


@dataclass(frozen=True)
class Place:
    """What a recipe may ask about a tensor.

    Args:
        name: its GGUF name.
        part: see ``Part``.
        rank: how many tensors of its kind come before it, in llama.cpp's order of visits.
        layer: its block's number, or None.
        of: how many there are: value tensors for those, else the model's layers.
        width: weights in a row.
        stacked: a stack of matrices, such as experts.
    """

    name: str
    part: Part
    rank: int
    layer: int | None
    of: int
    width: int
    stacked: bool


@dataclass(frozen=True)
class Layers:
    """A condition on a tensor's place ``i`` among ``n``, in integer division."""

    text: str
    test: Callable[[int, int], bool]


@dataclass(frozen=True)
class Override:
    """Another type for some tensors. Every condition that is set must hold.

    Args:
        parts: the parts it speaks of; empty for all.
        type: the type's name.
        layers: the layers it speaks of.
        gqa: at least so many query heads per kv head.
        experts: exactly so many experts; ``not_experts`` any other number, ``min_experts`` at least.
        arch, not_arch: the architecture.
        importance: whether an importance matrix must be given, or must not.
        big: for the 70B models only.
        misfit: for rows that are no multiple of the default type's block.
        stacked: for stacked tensors only.
        names: any of these in the tensor's name.
        over: only instead of these types (in ``Recipe.lifts``).
    """

    parts: tuple[Part, ...]
    type: str
    layers: Layers | None = None
    gqa: int = 0
    experts: int | None = None
    not_experts: int | None = None
    min_experts: int = 0
    arch: str | None = None
    not_arch: str | None = None
    importance: bool | None = None
    big: bool = False
    misfit: bool = False
    stacked: bool = False
    names: tuple[str, ...] = ()
    over: tuple[str, ...] = ()

    def applies(self, place: Place, traits: Traits, default: QType, by_rank: bool) -> bool:
        return (
            (not self.parts or place.part in self.parts)
            and (self.layers is None or self.layers.test(_position(place, traits, by_rank), place.of))
            and traits.gqa >= self.gqa
            and self.experts in (None, traits.n_expert)
            and (self.not_experts is None or traits.n_expert != self.not_experts)
            and traits.n_expert >= self.min_experts
            and self.arch in (None, traits.arch)
            and (self.not_arch is None or traits.arch != self.not_arch)
            and self.importance in (None, traits.importance)
            and traits.big >= self.big
            and (not self.misfit or place.width % default.block_size != 0)
            and place.stacked >= self.stacked
            and (not self.names or any(name in place.name for name in self.names))
        )

    @property
    def reason(self) -> str:
        """Why, for ``--dry-run``: the conditions in words."""
        words = ["/".join(part.value for part in self.parts) or "all"]
        words += [self.layers.text] if self.layers else []
        words += [f"gqa >= {self.gqa}"] if self.gqa else []
        words += [f"{self.experts} experts"] if self.experts is not None else []
        words += [f"{self.min_experts} experts or more"] if self.min_experts else []
        words += [self.arch] if self.arch else []
        words += [f"{'with' if self.importance else 'without'} importance"] if self.importance is not None else []
        words += ["70B"] if self.big else []
        words += ["width fits no default block"] if self.misfit else []
        words += ["stacked"] if self.stacked else []
        return ", ".join(words)


def _position(place: Place, traits: Traits, by_rank: bool) -> int:
    """The ``i`` of a layer condition.

    Files of Mixtral's first days hold their experts in no order of layers, so with experts llama.cpp reads the layer
    of ffn tensors from the name (``layer_info``); the recipes below 3 bits count all the same.
    """
    if by_rank or place.part not in FFN_PARTS or traits.n_expert <= 1 or place.layer is None:
        return place.rank
    return place.layer


@dataclass(frozen=True)
class Recipe:
    """A level: the default type, the overrides (first that applies wins), then the lifts (each that applies).

    Args:
        level: its name, e.g. ``Q4_K_M``.
        default: the type's name.
        overrides: in order of precedence.
        lifts: applied in order to the type found so far.
        needs_importance: the types that make garbage without importance, in a file of this level; token embeddings
            and output are exempt.
        by_rank: ffn tensors are counted even with experts.
    """

    level: str
    default: str
    overrides: tuple[Override, ...] = ()
    lifts: tuple[Override, ...] = ()
    needs_importance: frozenset[str] = frozenset()
    by_rank: bool = False

    @property
    def default_type(self) -> QType:
        return BY_NAME[self.default]

    def choose(self, place: Place, traits: Traits) -> tuple[QType, str]:
        """The type for a tensor that may be quantized, before any fallback by width, and the reason."""
        name, reason = self.default, "default"
        for override in self.overrides:
            if override.applies(place, traits, self.default_type, self.by_rank):
                name, reason = override.type, override.reason
                break
        for lift in self.lifts:
            if name in lift.over and lift.applies(place, traits, self.default_type, self.by_rank):
                name, reason = lift.type, lift.reason
        return BY_NAME[name], reason
