"""Weights on AWQ's grid: 4 bits, asymmetric, one scale and one zero point for each group of a row.

Source: ``pseudo_quantize_tensor`` of llm-awq. Two things differ: a group's range always includes zero, so that the
codes represent it exactly, and codes are found with the scale as it will be stored, in half precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...formats.errors import QuantmillError

TOP = 15  # the greatest code
_LARGEST = 65504.0  # half


@dataclass(frozen=True)
class Grid:
    """What the points of a group's grid are.

    Args:
        symmetric: whether the zero point is the middle code.
        dtype: of the scales as they are stored.
    """

    symmetric: bool = False
    dtype: torch.dtype = torch.float16


USUAL = Grid()


@dataclass(frozen=True)
class AWQWeight:
    """A weight [out, in] in codes: ``(codes - zeros) * scales``, with G groups of in / G inputs.

    Args:
        codes: uint8 [out, in], 0 to 15.
        zeros: uint8 [out, G], 0 to 15.
        scales: float32 [out, G], each of the type that is stored.
    """

    codes: torch.Tensor
    zeros: torch.Tensor
    scales: torch.Tensor

    def decode(self) -> torch.Tensor:
        """float32 [out, in]: the weight that clients compute with."""
        grouped = self.codes.reshape(*self.zeros.shape, -1).float()
        return ((grouped - self.zeros.unsqueeze(-1)) * self.scales.unsqueeze(-1)).reshape(self.codes.shape)


def ranges(weight: torch.Tensor, group_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The least and the greatest weight of each group, or zero where all have one sign: two of [out, G]."""
    grouped = weight.reshape(len(weight), -1, group_size if group_size > 0 else weight.shape[1])
    return grouped.amin(-1).clamp_max(0), grouped.amax(-1).clamp_min(0)


def steps(low: torch.Tensor, high: torch.Tensor, grid: Grid = USUAL) -> tuple[torch.Tensor, torch.Tensor]:
    """The scale (as it is stored; 1 for a group of zeros) and the zero point for each range, float32 [out, G]."""
    if grid.symmetric:
        high = torch.maximum(-low, high)
        low = -high
    scales = ((high - low) / TOP).to(grid.dtype).float()
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    if grid.symmetric:
        return scales, torch.full_like(scales, (TOP + 1) / 2)
    return scales, (-low / scales).round().clamp(0, TOP)


def quantize_to_grid(
    weight: torch.Tensor,
    group_size: int,
    limits: tuple[torch.Tensor, torch.Tensor] | None = None,
    name: str = "",
    grid: Grid = USUAL,
) -> AWQWeight:
    """Round each weight to the nearest point of its group's grid.

    Args:
        weight: float32 [out, in], finite.
        group_size: inputs that share a scale, a divisor of in; -1 for all of a row.
        limits: the least and the greatest value of each group's grid, two of [out, G]; None for ``ranges``.
        name: the layer's name, for messages.
        grid: the points.

    Raises:
        QuantmillError: a range is too wide for a scale in half precision.

    Example:
        >>> import torch
        >>> quantized = quantize_to_grid(torch.tensor([[-2.0, 13.0, 0.0, 0.4]]), group_size=4)
        >>> quantized.codes.tolist(), quantized.zeros.tolist(), quantized.scales.tolist()
        ([[0, 15, 2, 2]], [[2]], [[1.0]])
    """
    low, high = limits or ranges(weight, group_size)
    scales, zeros = steps(low, high, grid)
    if not bool(torch.isfinite(scales).all()):
        widest = float((high - low).max())
        raise QuantmillError(f"a range of {widest:g} needs a scale above {_LARGEST:g}", where=name)
    grouped = weight.reshape(*scales.shape, -1)
    codes = ((grouped / scales.unsqueeze(-1)).round() + zeros.unsqueeze(-1)).clamp(0, TOP)
    return AWQWeight(codes.to(torch.uint8).reshape(weight.shape), zeros.to(torch.uint8), scales)


def rounded(weight: torch.Tensor, group_size: int, grid: Grid = USUAL) -> torch.Tensor:
    """``quantize_to_grid(...).decode()`` without the codes: which the searches compute hundreds of times."""
    scales, zeros = steps(*ranges(weight, group_size), grid)
    scales, zeros = scales.unsqueeze(-1), zeros.unsqueeze(-1)
    grouped = weight.reshape(*scales.shape[:2], -1)
    return (grouped / scales).round_().clamp_(-zeros, TOP - zeros).mul_(scales).reshape(weight.shape)
