"""Where the factors of a checkpoint's NVFP4 weights go: to tensors beside them where llama.cpp applies these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from ..errors import name_list
from ..gguf.factors import factor_tensors, holds_factor
from ..ir import Tensor
from .tables.packed_tensors import NVFP4, ScaledTensor, unpack_blocks


def place_factors(arch: str, tensors: tuple[Tensor, ...], say: Callable[[str], object]) -> tuple[Tensor, ...]:
    """Put each factor into a tensor after its weight, or decode weights whose factor llama.cpp would not apply.

    Args:
        arch: GGUF's name of the architecture.
        tensors: a model's, under GGUF's names.
        say: called with a line about what is decoded.
    """
    names = {tensor.name for tensor in tensors}
    decoded: list[str] = []
    out = [made for tensor in tensors for made in _placed(arch, tensor, names, decoded)]
    if decoded:
        said = name_list(decoded, 3)
        say(f"{len(decoded)} weights of NVFP4 are decoded, as llama.cpp applies no factor to them: {said}")
    return tuple(out)


def _placed(arch: str, tensor: Tensor, names: set[str], decoded: list[str]) -> Iterator[Tensor]:
    if tensor.qtype is not NVFP4 or not isinstance(tensor, ScaledTensor) or not tensor.factors:
        yield tensor
    elif holds_factor(arch, tensor, names):
        yield tensor
        yield from factor_tensors(tensor, tensor.multipliers, tensor.inputs)
    elif (tensor.multipliers == 1).all():
        yield replace(tensor, factors=())
    else:
        decoded.append(tensor.name)
        yield unpack_blocks(tensor)
