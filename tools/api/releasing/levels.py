"""The levels of a release, and the words of its model card about each."""

from __future__ import annotations

from collections.abc import Sequence

from ....formats.errors import PlanError
from ....formats.qtypes import BY_NAME

# From small to large. PLAIN has those whose quality does not depend much on an importance matrix.
WITH_IMPORTANCE = (
    "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "Q2_K", "IQ3_XXS", "IQ3_XS", "Q3_K_S", "IQ3_S", "IQ3_M",
    "Q3_K_M", "Q3_K_L", "IQ4_XS", "IQ4_NL", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0",
)  # fmt: skip
PLAIN = (
    "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "IQ4_XS", "Q4_0", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0",
)  # fmt: skip

# The use case of each level, as the card's table shows it.
USES = {
    "IQ1_S": "smallest file, very low quality; only where nothing larger fits",
    "IQ1_M": "very small file, very low quality; only where nothing larger fits",
    "IQ2_XXS": "very small, low quality; usable with large models",
    "IQ2_XS": "very small, low quality; usable with large models",
    "IQ2_S": "small, noticeable quality loss",
    "IQ2_M": "small, noticeable quality loss; the best of the 2-bit levels",
    "Q2_K": "small, fast on every device, noticeable quality loss",
    "Q2_K_S": "small, fast on every device, high quality loss",
    "IQ3_XXS": "small; better quality than Q2_K at a similar size",
    "IQ3_XS": "small; good quality where memory is short",
    "Q3_K_S": "small, fast on every device, some quality loss",
    "IQ3_S": "small; better quality than Q3_K_S at the same size",
    "IQ3_M": "small; the best of the 3-bit levels for its size",
    "Q3_K_M": "small, fast on every device; IQ3_M is smaller at the same quality",
    "Q3_K_L": "between 3 and 4 bits, fast on every device",
    "IQ4_XS": "good quality, smaller than Q4_K_M; recommended where Q4_K_M does not fit",
    "IQ4_NL": "similar to IQ4_XS, slightly larger; fast on some ARM processors",
    "Q4_0": "legacy format; fast on some phones and ARM processors",
    "Q4_1": "legacy format; fast on some Apple processors",
    "Q4_K_S": "good quality, slightly smaller than Q4_K_M",
    "Q4_K_M": "good quality, medium size; recommended for most uses",
    "MXFP4": "4-bit floats, fast on hardware that has them; elsewhere prefer IQ4_XS",
    "NVFP4": "4-bit floats, fast on hardware that has them (NVIDIA Blackwell); elsewhere prefer Q4_K_M",
    "Q5_0": "legacy format; prefer Q5_K_M",
    "Q5_1": "legacy format; prefer Q5_K_M",
    "Q5_K_S": "high quality, slightly smaller than Q5_K_M; recommended",
    "Q5_K_M": "high quality; recommended",
    "Q6_K": "very high quality, almost no loss; recommended",
    "Q8_0": "almost the original's quality; larger than most uses need",
    "F16": "16-bit weights of the original, to quantize from",
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
    "IQ1_S": "eight weights at a time from a codebook of 2048 ternary points, shifted; 3-bit scales for 32 weights",
    "IQ1_M": "as IQ1_S, with a scale for 16 weights and a shift for 8",
    "IQ2_XXS": "eight magnitudes at a time from a codebook of 256 points, signs apart; 4-bit scales for 32 weights",
    "IQ2_XS": "eight magnitudes at a time from a codebook of 512 points, signs apart; 4-bit scales for 16 weights",
    "IQ2_S": "eight magnitudes at a time from a codebook of 1024 points, with all signs; 4-bit scales for 16 weights",
    "IQ3_XXS": "four magnitudes at a time from a codebook of 256 points, signs apart; 4-bit scales for 32 weights",
    "IQ3_S": "four magnitudes at a time from a codebook of 512 points, with all signs; 4-bit scales for 32 weights",
    "IQ4_NL": "blocks of 32 weights with one scale; 16 unevenly spaced values",
    "IQ4_XS": "the 16 values of IQ4_NL in super-blocks of 8 blocks of 32 weights with 6-bit scales",
    "TQ1_0": "ternary weights, five to a byte",
    "TQ2_0": "ternary weights, four to a byte",
    "MXFP4": "blocks of 32 4-bit floats with a shared power of two as scale",
    "NVFP4": "blocks of 16 4-bit floats with an 8-bit float as scale",
    "F16": "half precision",
    "BF16": "bfloat16",
    "F32": "single precision",
}


def chosen_levels(levels: Sequence[str] | None, *, importance: bool, recipe_set: str = "current") -> tuple[str, ...]:
    """Give the levels of a release.

    Args:
        levels: the requested levels; None for the usual ones.
        importance: whether there is an importance matrix.
        recipe_set: the recipe set that the levels are of.

    Raises:
        PlanError: a level is unknown, or none is given.

    Example:
        >>> chosen_levels(["q4_k_m", "Q8_0", "Q4_K_M"], importance=False)
        ('Q4_K_M', 'Q8_0')
    """
    from ....quantize.recipes import find_recipe

    if levels is None:
        return WITH_IMPORTANCE if importance else PLAIN
    if not levels:
        raise PlanError("names no level", where="--levels", hint="all, or levels such as Q4_K_M,Q5_K_M")
    return tuple(dict.fromkeys(find_recipe(level, recipe_set).level for level in levels))


def method(type_name: str) -> str:
    """Describe a type in words, with its bits per weight.

    Example:
        >>> method("Q8_0")
        'Q8_0: 8.5 bits per weight; blocks of 32 weights with one scale'
    """
    bpw = f"{BY_NAME[type_name].bpw:.4f}".rstrip("0").rstrip(".")
    return f"{type_name}: {bpw} bits per weight; {_METHODS.get(type_name, 'see the source of llama.cpp')}"
