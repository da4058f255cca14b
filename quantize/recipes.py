"""The recipes as data, in recipe sets: the mixes changed over time, and users hold files of each time.

``current`` is ``llama_tensor_get_type_impl`` of llama-quant.cpp, its conditions laid out by level; ``2023-12`` is what
GGUF files of late 2023 hold, ``ggml-v3`` the k-quant GGML files of mid 2023. The latter two reproduce the sizes
published for files of their time.
"""

from __future__ import annotations

from difflib import get_close_matches

from ..formats.errors import PlanError
from ..formats.gguf.keys import FILE_TYPES, LEVEL_OF_FILE_TYPE
from .image_recipes import IMAGE_RECIPES, IMAGE_SET
from .recipe import VALUE_CATEGORIES, Category, Layers, Override, Recipe

# Rows that are not a multiple of a type's block take a type with a smaller block (``tensor_type_fallback``); where that
# does not fit either, and for the 32-wide types, F16. For types that are not listed llama.cpp and quantmill give up.
WIDTH_FALLBACKS = {
    "IQ1_S": "IQ4_NL",
    "IQ1_M": "IQ4_NL",
    "IQ2_XXS": "IQ4_NL",
    "IQ2_XS": "IQ4_NL",
    "IQ2_S": "IQ4_NL",
    "IQ3_XXS": "IQ4_NL",
    "IQ3_S": "IQ4_NL",
    "IQ4_XS": "IQ4_NL",
    "Q2_0": "Q4_0",
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "TQ1_0": "Q4_0",
    "TQ2_0": "Q4_0",
    "NVFP4": "IQ4_NL",  # ours: llama.cpp gives up; the same size
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}

# Useless without importance (``tensor_requires_imatrix``).
NEEDS_IMPORTANCE = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"})
# Types whose encoder refuses to run without it, also for the embeddings (ggml.c and the asserts in ggml-quants.c).
REFUSES_WITHOUT = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS"})
# Types whose encoder does not look at importance: the bytes are the same with and without.
IGNORES_IMPORTANCE = frozenset({"Q8_0", "Q1_0", "Q2_0", "TQ1_0", "TQ2_0"})
# Types in which llama.cpp's encoder does not, and ours chooses scales with it; in the levels that are our own, and
# where tensors are refined. In a level of llama.cpp's the bytes are llama.cpp's.
OWN_SEARCH = frozenset({"MXFP4", "NVFP4"})

# Architecture -> layers of the model llama.cpp takes for its 70B (``LLM_TYPE_70B`` in src/models); for llama only with
# grouped-query attention and without 8 experts.
BIG_MODELS = {"llama": 80, "llama-embed": 80, "deci": 80, "qwen2": 80, "olmo": 80, "jais2": 68}

# Never quantized, whatever the level: any of these in the name (``tensor_allows_quantization``).
NEVER = (
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj",
    "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight",
    "time_mix_first.weight", "time_mix_w0.weight", "time_mix_w1.weight", "time_mix_w2.weight", "time_mix_v0.weight",
    "time_mix_v1.weight", "time_mix_v2.weight", "time_mix_a0.weight", "time_mix_a1.weight", "time_mix_a2.weight",
    "time_mix_g1.weight", "time_mix_g2.weight", "time_mix_decay_w1.weight", "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight", "attn_rel_b.weight", ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_",
    ".rel_pos", ".patch_embd", ".patch_merger", "a.rvq.codebook", "mm.a.code_embd",
)  # fmt: skip
NEVER_WHOLE = ("position_embd.weight", "token_types.weight")  # whole names
NEVER_IN_ARCH = {
    "glm5-next": (
        "hc_", "indexer.attn_q_b", "indexer.attn_k", "indexer.proj", "indexer_compressor_gate",
        "indexer_compressor_ape", "ssm_f_a.weight", "ssm_f_b.weight", "ssm_g_a.weight", "ssm_g_b.weight",
        "ssm_beta.weight", "attn_kv_a_mqa.weight", "attn_k_b.weight", "attn_v_b.weight",
    ),
}  # fmt: skip


def first(nth: int) -> Layers:
    """The first of ``nth`` equal parts of the layers."""
    return Layers(f"first 1/{nth} of layers", lambda i, n: i < n // nth)


def below(k: int) -> Layers:
    """The first ``k`` layers."""
    return Layers(f"first {k} layers", lambda i, n: i < k)


MORE_BITS = Layers(  # ``use_more_bits``
    "first and last 1/8 of layers and every third between",
    lambda i, n: i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2,
)
MIDDLE = Layers("middle 3/4 of layers", lambda i, n: n // 8 <= i < 7 * n // 8)

_EMBD = (Category.TOKEN_EMBD,)
_OUT = (Category.OUTPUT,)
_V = VALUE_CATEGORIES
_K = (Category.ATTN_K,)
_Q = (Category.ATTN_Q,)
_O = (Category.ATTN_OUTPUT,)
_DOWN = (Category.FFN_DOWN,)
_UP_GATE = (Category.FFN_UP, Category.FFN_GATE)

_GLM5 = Override((), "Q8_0", arch="glm5-next", names=("attn_q_a", "attn_q_b", "nextn.eh_proj"))
# With 8 experts attention is a small part of the model, and cheap to keep.
_EIGHT = (Override(_V + _K, "Q8_0", experts=8),)
_EIGHT_OUTPUT = (Override(_O, "Q5_K", experts=8, not_arch="falcon"),)
# 8 heads share a value matrix in the 70B models: more bits there cost next to nothing.
_LIFTS = (Override(_V, "Q5_K", big=True, over=("Q3_K", "Q4_K")),)


def _output(type: str) -> tuple[Override, ...]:
    return (Override(_OUT, "Q8_0", arch="falcon"), Override(_OUT, "Q8_0", misfit=True), Override(_OUT, type))


def _recipe(level: str, default: str, *rows: Override, embd: str | None = None, q2_k_needs: bool = False) -> Recipe:
    """A recipe of the current set from 3 bits up: what they have in common, around the level's own rows."""
    output = _output("Q8_0" if default == "Q8_0" else "Q6_K")
    embeddings = (Override(_EMBD, embd),) if embd else ()
    needs = NEEDS_IMPORTANCE | ({"Q2_K"} if q2_k_needs else set())
    return Recipe(level, default, (_GLM5, *output, *embeddings, *_EIGHT, *rows), _LIFTS, needs)


def _low_recipe(level: str, default: str, value: str, embd: str, attn_output: str | None) -> Recipe:
    """A recipe of the current set below 3 bits.

    Args:
        value: the type of the value matrices and of the first ffn_down.
        embd: the type of the token embeddings.
        attn_output: the type of the attention's output matrix; None for the default.
    """
    rows = (
        Override(_V, "Q4_K", gqa=4),
        Override(_V, "Q4_K", min_experts=4),
        Override(_V, value),
        Override(_K, "Q4_K", experts=8),
        Override(_DOWN, value, layers=first(8)),
        Override(_O, "Q5_K", experts=8),
        *((Override(_O, attn_output),) if attn_output else ()),
    )
    embeddings = Override(_EMBD, embd)
    overrides = (_GLM5, *_output("Q5_K"), embeddings, *rows)
    return Recipe(level, default, overrides, needs_importance=NEEDS_IMPORTANCE, by_rank=True)


def _attn_output(type: str) -> Override:
    return Override(_O, type, not_experts=8, not_arch="falcon")


_MXFP4_MOE = Recipe(
    "MXFP4_MOE",
    "MXFP4",
    (
        _GLM5,
        Override(_OUT, "Q8_0"),
        # bailingmoe3 stacks its attention projections as well, and those are no experts
        Override((), "MXFP4", stacked=True, not_arch="bailingmoe3"),
        Override((*_UP_GATE, *_DOWN), "MXFP4", stacked=True, arch="bailingmoe3"),
        Override((), "Q8_0"),
    ),
    needs_importance=NEEDS_IMPORTANCE,
)


def _fp4_recipe(level: str) -> Recipe:
    """A level of quantmill's own around a 4-bit float type, which the feed-forward layers keep throughout, for that is
    where hardware for these types gains.

    Embeddings and output are read at every token and err directly in the logits. Of the attention, values and output
    are the ones that matter, and small: queries and keys move the predictions least (see ``budget/losses.py``). So do
    the published checkpoints of these types: they leave embeddings and output whole, and attention whole or in 8 bits.
    """
    rows = (Override(_EMBD, "Q6_K"), *_EIGHT, Override((*_V, *_O), "Q6_K"))
    return Recipe(level, level, (_GLM5, *_output("Q6_K"), *rows), own=True)


_CURRENT = (
    Recipe("F32", "F32"),
    Recipe("F16", "F16"),
    Recipe("BF16", "BF16"),
    _recipe("Q8_0", "Q8_0"),
    # ffn_down of the first layers can go wild with importance in the types without a minimum
    _recipe("Q4_0", "Q4_0", Override(_DOWN, "Q4_1", layers=first(8), importance=True)),
    _recipe("Q4_1", "Q4_1"),
    _recipe("Q5_0", "Q5_0", Override(_DOWN, "Q5_1", layers=first(8), importance=True)),
    _recipe("Q5_1", "Q5_1"),
    _recipe(
        "Q2_K", "Q2_K",
        Override(_V, "Q4_K", gqa=4), Override((*_V, *_DOWN), "Q3_K"), *_EIGHT_OUTPUT, _attn_output("Q3_K"),
    ),
    _recipe(
        "Q2_K_S", "Q2_K", Override(_V, "Q4_K", gqa=4), Override(_DOWN, "Q4_K", layers=first(8)), q2_k_needs=True
    ),
    _recipe("Q3_K_S", "Q3_K", *_EIGHT_OUTPUT),
    _recipe(
        "Q3_K_M", "Q3_K",
        Override(_V, "Q5_K", layers=below(2)), Override(_V, "Q4_K"),
        Override(_DOWN, "Q5_K", layers=first(16)), Override(_DOWN, "Q4_K", not_arch="falcon"),
        Override(_DOWN, "Q4_K", layers=MORE_BITS),
        *_EIGHT_OUTPUT, _attn_output("Q4_K"),
    ),
    _recipe(
        "Q3_K_L", "Q3_K",
        Override(_V, "Q5_K"), Override(_DOWN, "Q4_K", arch="falcon"), Override(_DOWN, "Q5_K"),
        Override(_O, "Q4_K", arch="falcon"), _attn_output("Q5_K"),
    ),
    _recipe(
        "Q4_K_S", "Q4_K",
        Override(_V, "Q5_K", layers=below(4)), Override(_DOWN, "Q5_K", layers=first(8), not_arch="falcon"),
        *_EIGHT_OUTPUT,
    ),
    _recipe(
        "Q4_K_M", "Q4_K",
        Override(_V, "Q6_K", layers=MORE_BITS),
        Override(_DOWN, "Q6_K", layers=MORE_BITS, not_arch="falcon"),
        Override(_DOWN, "Q6_K", layers=first(16), arch="falcon"),
        Override(_DOWN, "Q5_K", layers=MORE_BITS, arch="falcon"),
        *_EIGHT_OUTPUT,
    ),
    _recipe("Q5_K_S", "Q5_K"),
    _recipe("Q5_K_M", "Q5_K", Override((*_V, *_DOWN), "Q6_K", layers=MORE_BITS)),
    _recipe("Q6_K", "Q6_K"),
    _low_recipe("IQ1_S", "IQ1_S", "Q2_K", "Q2_K", "IQ2_XXS"),
    _low_recipe("IQ1_M", "IQ1_M", "Q2_K", "Q2_K", "IQ2_XXS"),
    _low_recipe("IQ2_XXS", "IQ2_XXS", "Q2_K", "Q2_K", None),
    _low_recipe("IQ2_XS", "IQ2_XS", "Q2_K", "Q2_K", None),
    _low_recipe("IQ2_S", "IQ2_XS", "IQ3_S", "IQ3_S", "IQ3_S"),
    _low_recipe("IQ2_M", "IQ2_S", "IQ3_S", "IQ3_S", "IQ3_S"),
    Recipe(
        "IQ3_XXS", "IQ3_XXS",
        (
            _GLM5, *_output("Q5_K"), Override(_EMBD, "IQ3_S"), *_EIGHT,
            Override(_V, "Q4_K", gqa=4), Override(_V, "IQ3_S", importance=False),
            Override(_K + _Q, "IQ2_S"),
            Override(_DOWN, "Q4_K", layers=first(8), importance=False), Override(_DOWN, "Q3_K", importance=False),
            *_EIGHT_OUTPUT, _attn_output("IQ3_S"),
        ),
        _LIFTS, NEEDS_IMPORTANCE,
    ),
    _recipe(
        "IQ3_XS", "IQ3_S",
        Override(_V, "Q4_K", gqa=4), Override(_K + _Q, "IQ3_XXS"), Override(_UP_GATE, "IQ3_XXS", layers=MIDDLE),
        *_EIGHT_OUTPUT,
    ),
    _recipe("IQ3_S", "IQ3_S", Override(_V, "Q4_K", gqa=4), *_EIGHT_OUTPUT),
    _recipe(
        "IQ3_M", "IQ3_S",
        Override(_V, "Q4_K"), Override(_DOWN, "Q4_K", layers=first(8)),
        Override(_DOWN, "Q4_K", layers=MORE_BITS, experts=8),
        *_EIGHT_OUTPUT, _attn_output("Q4_K"),
    ),
    *(
        _recipe(
            level, level,
            Override(_V, "Q5_K", gqa=4), Override(_DOWN, "Q5_K", layers=first(8), importance=False), *_EIGHT_OUTPUT,
        )
        for level in ("IQ4_NL", "IQ4_XS")
    ),
    _recipe("TQ1_0", "TQ1_0", embd="Q4_K"),
    _recipe("TQ2_0", "TQ2_0", embd="Q4_K"),
    _MXFP4_MOE,
    _fp4_recipe("MXFP4"),
    _fp4_recipe("NVFP4"),
    _recipe("Q1_0", "Q1_0"),
    _recipe("Q2_0", "Q2_0", embd="Q4_K"),
)  # fmt: skip


# Q2_K was larger: only queries, keys and embeddings were in its own type.
_Q2_K_OF_2023 = Recipe(
    "Q2_K",
    "Q2_K",
    (
        *_output("Q6_K"),
        *_EIGHT,
        Override(_V, "Q4_K", gqa=4),
        Override((*_V, *_UP_GATE, *_DOWN, *_O), "Q3_K"),
    ),
    _LIFTS,
)
# The file types from 19 on came later (``llama_ftype``).
_OF_2023 = tuple(recipe for recipe in _CURRENT if FILE_TYPES[recipe.level] < 19 and recipe.level != "Q2_K")
_2023_12 = (_Q2_K_OF_2023, *_OF_2023)


def _ggml(level: str, default: str, *rows: Override) -> Recipe:
    return Recipe(level, default, (Override(_OUT, "Q6_K"), *rows))


_GGML_V3 = (
    Recipe("F32", "F32"),
    Recipe("F16", "F16"),
    *(_ggml(level, level) for level in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q6_K")),
    _ggml("Q2_K", "Q2_K", Override((*_V, *_DOWN, *_O), "Q4_K")),
    _ggml("Q3_K_S", "Q3_K"),
    _ggml("Q3_K_M", "Q3_K", Override((*_V, *_DOWN, *_O), "Q4_K")),
    _ggml("Q3_K_L", "Q3_K", Override((*_V, *_DOWN, *_O), "Q5_K")),
    _ggml("Q4_K_S", "Q4_K"),
    _ggml("Q4_K_M", "Q4_K", Override((*_V, *_DOWN), "Q6_K", layers=MORE_BITS)),
    _ggml("Q5_K_S", "Q5_K"),
    _ggml("Q5_K_M", "Q5_K", Override((*_V, *_DOWN), "Q6_K", layers=MORE_BITS)),
)

# What ggml-org publishes as Q4_K_M and Q8_0: FLAGS_Q4_K_M of models/qwen3.6-35b-a3b/convert.sh in
# github.com/ggml-org/convert at 9491811. The pattern output.weight has no anchor there, so that attn_output.weight
# becomes Q6_K, too.
_GGML_ORG = (
    *(recipe for recipe in _CURRENT if recipe.level in ("F32", "F16", "BF16", "Q8_0")),
    Recipe(
        "Q4_K_M",
        "Q4_K",
        (
            Override((), "Q6_K", names=("output.weight",)),
            Override((), "Q8_0", names=("shexp", "latent", "attn_", "ssm_")),
        ),
        needs_importance=NEEDS_IMPORTANCE,
    ),
)

RECIPE_SETS: dict[str, dict[str, Recipe]] = {
    name: {recipe.level: recipe for recipe in recipes}
    for name, recipes in (
        ("current", _CURRENT), ("2023-12", _2023_12), ("ggml-v3", _GGML_V3), ("ggml-org", _GGML_ORG),
        (IMAGE_SET, IMAGE_RECIPES),
    )
}  # fmt: skip
COPY = Recipe("COPY", "F32")  # no level: every tensor as it is; it stands in no set
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
DEFAULT_SET = "current"
LEVELS = tuple(RECIPE_SETS[DEFAULT_SET])


def recipes_of(recipe_set: str | None = None) -> dict[str, Recipe]:
    """The recipes of a set by level; of ``current`` if it is None. Raises ``PlanError`` if there is no such set."""
    name = recipe_set or DEFAULT_SET
    if name not in RECIPE_SETS:
        raise PlanError(f"unknown recipe set {name!r}", hint=f"one of {', '.join(RECIPE_SETS)}")
    return RECIPE_SETS[name]


def find_recipe(level: str, recipe_set: str | None = None) -> Recipe:
    """Find the recipe of a level.

    Args:
        level: its name in any case, an alias, or its number in ``general.file_type``.
        recipe_set: a key of ``RECIPE_SETS``; None for ``current``.

    Raises:
        PlanError: there is no such recipe set, or no such level in it; names the nearest level.

    Example:
        >>> from quantmill.quantize.recipes import find_recipe
        >>> find_recipe("q4_k").level, find_recipe("15").level
        ('Q4_K_M', 'Q4_K_M')
    """
    recipes = recipes_of(recipe_set)
    name = level.upper()
    if name.isascii() and name.isdigit():
        name = LEVEL_OF_FILE_TYPE.get(int(name), name)
    name = ALIASES.get(name, name)
    if name in recipes:
        return recipes[name]
    if name == COPY.level:
        return COPY
    near = get_close_matches(name, [*recipes, *ALIASES], n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(recipes)}"
    place = "" if recipe_set in (None, DEFAULT_SET) else f" in recipe set {recipe_set}"
    raise PlanError(f"unknown level {level!r}{place}", hint=hint)
