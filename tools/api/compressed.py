"""GPTQ's and AWQ's codes in the layout of compressed-tensors: what of them its readers take, and its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...formats.errors import PlanError
from ...formats.hf.packed.schemes import GROUP_SIZES, integer_scheme, quantization_config

if TYPE_CHECKING:
    from ...quantize.gptq.settings import GPTQSettings
    from ...quantize.linears import Linear

_BITS = (4, 8)  # of vLLM's kernels for compressed-tensors


def check_compressed_gptq(settings: GPTQSettings) -> None:
    """Raise ``PlanError`` for settings of GPTQ that no reader of compressed-tensors takes."""
    if settings.bits not in _BITS:
        problem = f"vLLM reads compressed-tensors of 4 and 8 bits, not of {settings.bits}"
        raise PlanError(problem, hint="--bits 4 or 8, or --format gptq")
    if settings.group_size not in GROUP_SIZES:
        sizes = ", ".join(map(str, GROUP_SIZES))
        raise PlanError(
            f"vLLM reads no groups of {settings.group_size} in compressed-tensors", hint=f"--group-size {sizes}"
        )
    if settings.desc_act and not settings.static_groups:
        problem = "compressed-tensors keeps no order of inputs, which --desc-act needs"
        raise PlanError(problem, hint="--static-groups takes the same order and leaves no trace, or --format gptq")


def check_compressed_linear(linear: Linear, group_size: int, sym: bool) -> None:
    """Raise ``PlanError`` for a linear layer that no reader of compressed-tensors takes."""
    width = linear.weight.shape[1]
    if group_size > 0 and width % group_size:
        fits = next((size for size in (128, 64, 32) if width % size == 0), -1)
        problem = f"groups of {group_size} do not divide its {width} inputs"
        raise PlanError(problem, where=linear.name, hint=f"--group-size {fits}")
    if linear.expert is not None and not sym:
        problem = "transformers leaves the zero points of experts in compressed-tensors out, and vLLM refuses them"
        raise PlanError(problem, where=linear.name, hint="--sym")


def compressed_config(bits: int, group_size: int, sym: bool, reordered: bool, ignore: Sequence[str]) -> dict[str, Any]:
    """The ``quantization_config``.

    Args:
        bits, group_size, sym: of the codes.
        reordered: whether GPTQ took the inputs in another order.
        ignore: names of modules that stay as they are.
    """
    scheme = integer_scheme(bits, group_size, symmetric=sym, reordered=reordered and group_size != -1)
    return quantization_config(scheme, ignore)
