"""A recipe: the default type of a level and an ordered list of overrides, and how it is applied to a tensor.

A level, such as ``Q4_K_M``, is what llama.cpp calls an ftype: the name of a recipe, and a number in the file.

A recipe is a pure function of facts about the model (``Traits``) and about one tensor (``Place``). llama.cpp keeps
counters while it visits the tensors; here a counter's value is the tensor's rank, a fact like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from ..formats.qtypes import BY_NAME, QType


class Category(Enum):
    """The kinds of tensors that recipes distinguish (``tensor_category`` in llama-quant.cpp)."""

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


VALUE_CATEGORIES = (
    Category.ATTN_V,
    Category.ATTN_QKV,
    Category.ATTN_KV_B,
)  # those with the value projection, counted as one sequence
FFN_CATEGORIES = (Category.FFN_UP, Category.FFN_GATE, Category.FFN_DOWN)

# llama.cpp finds the category by name, so that every tensor of any architecture has one, also those without a role
# here (ffn_down_shexp). The first match wins.
_CATEGORY_BY_NAME = {
    "output.weight": Category.OUTPUT,
    "token_embd.weight": Category.TOKEN_EMBD,
    "per_layer_token_embd.weight": Category.TOKEN_EMBD,
}
_CATEGORY_BY_INFIX = (
    ("attn_qkv.weight", Category.ATTN_QKV),
    ("attn_kv_b.weight", Category.ATTN_KV_B),
    ("attn_v.weight", Category.ATTN_V),
    ("attn_k.weight", Category.ATTN_K),
    ("attn_q.weight", Category.ATTN_Q),
    ("attn_output.weight", Category.ATTN_OUTPUT),
    ("ffn_up", Category.FFN_UP),
    ("ffn_gate", Category.FFN_GATE),
    ("ffn_down", Category.FFN_DOWN),
)


def category_of(name: str) -> Category:
    """The category of a tensor, by its GGUF name."""
    if name in _CATEGORY_BY_NAME:
        return _CATEGORY_BY_NAME[name]
    return next((category for infix, category in _CATEGORY_BY_INFIX if infix in name), Category.OTHER)


@dataclass(frozen=True)
class Traits:
    """The facts about a model that a recipe may depend on.

    Args:
        arch: GGUF's architecture name.
        gqa: query heads per key/value head of the first layer, in integer division; 0 without key/value heads.
        n_expert: experts in each layer; 0 for dense models.
        big: whether it is one of the models that llama.cpp calls 70B.
        importance: whether an importance matrix is given.
    """

    arch: str
    gqa: int
    n_expert: int
    big: bool
    importance: bool


@dataclass(frozen=True)
class Place:
    """The facts about a tensor that a recipe may depend on.

    Args:
        name: its GGUF name.
        category: its kind.
        rank: how many tensors of its kind come before it, in the order in which llama.cpp visits them.
        layer: its block's number, or None.
        of: how many tensors of its kind there are: value tensors for those, else the number of layers.
        width: weights in a row.
        stacked: whether it is a stack of matrices, such as those of experts.
    """

    name: str
    category: Category
    rank: int
    layer: int | None
    of: int
    width: int
    stacked: bool


@dataclass(frozen=True)
class Layers:
    """A condition on which layer a tensor is in.

    Args:
        text: the condition in words.
        test: ``test(i, n)`` says whether the ``i``-th of ``n`` tensors meets it; in integer division, as llama.cpp's.
    """

    text: str
    test: Callable[[int, int], bool]


@dataclass(frozen=True)
class Override:
    """A type other than the default for some tensors. Every condition that is set must hold.

    Args:
        categories: the kinds of tensors it applies to; empty for all.
        type: the type's name.
        layers: the layers it applies to.
        gqa: the smallest number of query heads per key/value head.
        experts: the number of experts; ``not_experts`` excludes a number, ``min_experts`` is the smallest.
        arch: the architecture; ``not_arch`` excludes one.
        importance: True if an importance matrix must be given, False if it must not.
        big: whether it applies to the 70B models only.
        misfit: whether it applies only to rows that are not a multiple of the default type's block.
        stacked: whether it applies to stacked tensors only.
        names: texts of which the tensor's name must contain one.
        over: the types that it may replace (in ``Recipe.lifts`` only).
    """

    categories: tuple[Category, ...]
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
            (not self.categories or place.category in self.categories)
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
        """The conditions in words, as ``--dry-run`` shows them."""
        words = ["/".join(category.value for category in self.categories) or "all"]
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
    """The ``i`` that ``Layers.test`` is given.

    Early Mixtral files do not hold their experts in the order of layers, so with experts llama.cpp reads the layer of
    ffn tensors from their name (``layer_info``); the recipes below 3 bits count tensors even then.
    """
    if by_rank or place.category not in FFN_CATEGORIES or traits.n_expert <= 1 or place.layer is None:
        return place.rank
    return place.layer


@dataclass(frozen=True)
class Recipe:
    """The types of a level: the default, the overrides (the first that applies wins), then the lifts (all that apply).

    Args:
        level: the level's name, such as ``Q4_K_M``.
        default: the default type's name.
        overrides: in order of precedence.
        lifts: applied in order to the type that the overrides gave.
        needs_importance: the types that are useless without importance in a file of this level, except for the token
            embeddings and the output matrix.
        by_rank: whether ffn tensors are counted even in models with experts.
        own: whether the level is quantmill's own, and not one of llama.cpp's.
    """

    level: str
    default: str
    overrides: tuple[Override, ...] = ()
    lifts: tuple[Override, ...] = ()
    needs_importance: frozenset[str] = frozenset()
    by_rank: bool = False
    own: bool = False

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
