"""Weights on AWQ's grid: 4 bits, asymmetric, one scale and one zero point for each group of a row.

Source of the form: ``pseudo_quantize_tensor`` of llm-awq. Two things differ: a group's range always takes in zero, so
that the codes say it exactly, and codes are found with the scale as it will be stored, a half.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...formats.errors import PlanError, QuantmillError

TOP = 15  # the greatest code
GROUPS = (32, 64, 128, -1)  # inputs that share a scale; -1: all of a row
_LARGEST = 65504.0  # half


@dataclass(frozen=True)
class Packed:
    """A weight [out, in] in codes: ``(codes - zeros) * scales``, G groups of in / G inputs.

    Args:
        codes: uint8 [out, in], 0 to 15.
        zeros: uint8 [out, G], 0 to 15.
        scales: float32 [out, G], each a half.
    """

    codes: torch.Tensor
    zeros: torch.Tensor
    scales: torch.Tensor

    def weight(self) -> torch.Tensor:
        """float32 [out, in], what a client computes with."""
        grouped = self.codes.reshape(*self.zeros.shape, -1).float()
        return ((grouped - self.zeros.unsqueeze(-1)) * self.scales.unsqueeze(-1)).reshape(self.codes.shape)


@dataclass(frozen=True)
class Settings:
    """What is asked for.

    Args:
        group_size: inputs that share a scale; -1 for all of a row.
        scales: whether inputs are spread before rounding.
        clip: whether ranges are clipped. Without both the result is each weight rounded to nearest.
    """

    group_size: int = 128
    scales: bool = True
    clip: bool = True

    def check(self) -> None:
        """Raises PlanError for a group size that no client takes."""
        if self.group_size not in GROUPS:
            raise PlanError(f"AWQ has no groups of {self.group_size}", hint=f"one of {', '.join(map(str, GROUPS))}")

    def check_shape(self, name: str, n_out: int, n_in: int) -> None:
        """Raises PlanError if a weight [n_out, n_in] cannot be written so."""
        if self.group_size > 0 and n_in % self.group_size:
            fits = next((size for size in (128, 64, 32) if n_in % size == 0), -1)
            problem = f"groups of {self.group_size} do not divide its {n_in} inputs"
            raise PlanError(problem, where=name, hint=f"--group-size {fits}")
        if n_out % 8:
            raise PlanError(f"{n_out} outputs do not fill words of eight codes", where=name, hint="quantize to GGUF")


def ranges(weight: torch.Tensor, group_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The least and the greatest weight of each group, zero among them: two of [out, G]."""
    grouped = weight.reshape(len(weight), -1, group_size if group_size > 0 else weight.shape[1])
    return grouped.amin(-1).clamp_max(0), grouped.amax(-1).clamp_min(0)


def steps(low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale (of half precision; 1 for a group of zeros) and zero point for ranges, float32 like them."""
    scales = ((high - low) / TOP).half().float()
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    return scales, (-low / scales).round().clamp(0, TOP)


def quantize(
    weight: torch.Tensor, group_size: int, limits: tuple[torch.Tensor, torch.Tensor] | None = None, name: str = ""
) -> Packed:
    """Each weight to the nearest point of its group's grid.

    Args:
        weight: float32 [out, in], finite.
        group_size: divides in; -1 for all of a row.
        limits: instead of ``ranges``, for groups that are to be clipped.
        name: for messages.

    Raises:
        QuantmillError: a range is too wide for a scale of half precision.
    """
    low, high = limits or ranges(weight, group_size)
    scales, zeros = steps(low, high)
    if not bool(torch.isfinite(scales).all()):
        widest = float((high - low).max())
        raise QuantmillError(f"a range of {widest:g} needs a scale above {_LARGEST:g}", where=name)
    grouped = weight.reshape(*scales.shape, -1)
    codes = ((grouped / scales.unsqueeze(-1)).round() + zeros.unsqueeze(-1)).clamp(0, TOP)
    return Packed(codes.to(torch.uint8).reshape(weight.shape), zeros.to(torch.uint8), scales)


def rounded(weight: torch.Tensor, group_size: int) -> torch.Tensor:
    """``quantize(...).weight()`` without the codes: what the searches look at hundreds of times."""
    scales, zeros = steps(*ranges(weight, group_size))
    scales, zeros = scales.unsqueeze(-1), zeros.unsqueeze(-1)
    grouped = weight.reshape(*scales.shape[:2], -1)
    return (grouped / scales).round_().clamp_(-zeros, TOP - zeros).mul_(scales).reshape(weight.shape)
