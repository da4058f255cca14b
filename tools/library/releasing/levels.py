"""The levels of a published set, and what a card says of each."""

from __future__ import annotations

from ....formats.errors import PlanError
from ....formats.qtypes import BY_NAME

# From small to large. Without importance only those that do not suffer much from the lack of it.
WITH_IMPORTANCE = (
    "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "Q2_K", "IQ3_XXS", "IQ3_XS", "Q3_K_S", "IQ3_S", "IQ3_M",
    "Q3_K_M", "Q3_K_L", "IQ4_XS", "IQ4_NL", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0",
)  # fmt: skip
PLAIN = (
    "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "IQ4_XS", "Q4_0", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0",
)  # fmt: skip

# What each is for.
USES = {
    "IQ1_S": "the smallest there is; for models so large that nothing else fits",
    "IQ1_M": "a little more than the smallest; for the desperate",
    "IQ2_XXS": "very small; usable for large models",
    "IQ2_XS": "very small; usable for large models",
    "IQ2_S": "small, with noticeable loss",
    "IQ2_M": "small, with noticeable loss; the best of the 2-bit levels",
    "Q2_K": "small, fast everywhere, with noticeable loss",
    "Q2_K_S": "small, fast everywhere, with much loss",
    "IQ3_XXS": "small; better than Q2_K at about its size",
    "IQ3_XS": "small; good where memory is short",
    "Q3_K_S": "small, fast everywhere, with some loss",
    "IQ3_S": "small; better than Q3_K_S at its size",
    "IQ3_M": "small; the best of the 3-bit levels for its size",
    "Q3_K_M": "small, fast everywhere; IQ3_M is smaller and as good",
    "Q3_K_L": "between 3 and 4 bits, fast everywhere",
    "IQ4_XS": "recommended where Q4_K_M does not fit: nearly as good and smaller",
    "IQ4_NL": "as IQ4_XS, a little larger; suits some ARM processors",
    "Q4_0": "an old format; suits some phones and ARM processors",
    "Q4_1": "an old format; suits some Apple processors",
    "Q4_K_S": "good quality, a little smaller than Q4_K_M",
    "Q4_K_M": "recommended: good quality in a moderate size; what most people take",
    "Q5_0": "an old format; take Q5_K_M",
    "Q5_1": "an old format; take Q5_K_M",
    "Q5_K_S": "high quality, recommended where it fits",
    "Q5_K_M": "high quality, recommended where it fits",
    "Q6_K": "very high quality, almost without loss",
    "Q8_0": "as good as the original in practice; more than most need",
    "F16": "the original weights in 16 bits, to quantize from",
    "BF16": "the original weights, to quantize from",
    "TQ1_0": "for models trained with ternary weights",
    "TQ2_0": "for models trained with ternary weights",
}

_METHODS = {
    "Q4_0": "blocks of 32 weights with one scale",
    "Q4_1": "blocks of 32 weights with a scale and a minimum",
    "Q5_0": "blocks of 32 weights with one scale",
    "Q5_1": "blocks of 32 weights with a scale and a minimum",
    "Q8_0": "blocks of 32 weights with one scale",
    "Q2_K": "super-blocks of 16 blocks of 16 weights; each block has a 4-bit scale and a 4-bit minimum",
    "Q3_K": "super-blocks of 16 blocks of 16 weights; each block has a 6-bit scale",
    "Q4_K": "super-blocks of 8 blocks of 32 weights; each block has a 6-bit scale and a 6-bit minimum",
    "Q5_K": "super-blocks of 8 blocks of 32 weights; each block has a 6-bit scale and a 6-bit minimum",
    "Q6_K": "super-blocks of 16 blocks of 16 weights; each block has an 8-bit scale",
    "IQ1_S": "eight weights at a time from a codebook of 2048 ternary points, shifted; scales of 3 bits for 32 weights",
    "IQ1_M": "as IQ1_S, with scales for 16 weights and shifts for 8",
    "IQ2_XXS": "eight magnitudes at a time from a codebook of 256 points, signs apart; scales of 4 bits for 32 weights",
    "IQ2_XS": "eight magnitudes at a time from a codebook of 512 points, signs apart; scales of 4 bits for 16 weights",
    "IQ2_S": "eight magnitudes at a time from a codebook of 1024 points, with all signs; scales for 16 weights",
    "IQ3_XXS": "four magnitudes at a time from a codebook of 256 points, signs apart; scales of 4 bits for 32 weights",
    "IQ3_S": "four magnitudes at a time from a codebook of 512 points, with all signs; scales of 4 bits for 32 weights",
    "IQ4_NL": "blocks of 32 weights with one scale; 16 uneven values instead of even steps",
    "IQ4_XS": "the 16 uneven values of IQ4_NL in super-blocks of 8 blocks of 32 weights with 6-bit scales",
    "TQ1_0": "ternary weights, five in a byte",
    "TQ2_0": "ternary weights, four in a byte",
    "MXFP4": "blocks of 32 four-bit floats with a shared power of two",
    "F16": "half precision",
    "BF16": "bfloat16",
    "F32": "single precision",
}


def chosen_levels(text: str | None, importance: bool) -> tuple[str, ...]:
    """``all`` or None: the usual set. Otherwise levels with commas between, each once."""
    from ....quantize.recipes import find_recipe

    if text is None or text.lower() == "all":
        return WITH_IMPORTANCE if importance else PLAIN
    levels = [find_recipe(word.strip(), "current").level for word in text.split(",") if word.strip()]
    if not levels:
        raise PlanError("names no level", where="--levels", hint="all, or levels such as Q4_K_M,Q5_K_M")
    return tuple(dict.fromkeys(levels))


def method(type_name: str) -> str:
    """A type in words, with its bits per weight."""
    bpw = f"{BY_NAME[type_name].bpw:.4f}".rstrip("0").rstrip(".")
    return f"{type_name}: {bpw} bits per weight; {_METHODS.get(type_name, 'see the source of llama.cpp')}"
