"""AWQ's two searches: the scales of a linear layer's inputs, and the ranges to clip its weights to.

Source: Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration" (arXiv:2306.00978),
section 3.2; the clipping is that of their llm-awq. Both minimise the squared error of outputs over a sample of inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from .grid import TOP, USUAL, Grid, ranges, rounded, steps

EXPONENTS = tuple(i / 20 for i in range(20))
RATIOS = tuple(1 - i / 20 for i in range(10))  # of a group's range that are tried: 1, 0.95, ... 0.55
_MOST = 1e4  # a scale above it (or below its inverse) would depend on the sample more than on the model
_CLIP_ROWS = 256  # outputs clipped at a time: their errors are several times the weights' memory


@dataclass
class Sample:
    """A sample of the inputs of a group of linear layers, and the magnitudes of all of them.

    Args:
        keep: how many rows are kept at most.
        count: how many inputs were added.
    """

    keep: int
    count: int = 0
    _magnitudes: torch.Tensor | None = None  # float64 [in], their sum, in memory: not every device has the type
    _kept: list[torch.Tensor] = field(default_factory=list)
    _n_kept: int = 0
    _stride: int = 1

    def add(self, x: torch.Tensor) -> None:
        """Add a batch of inputs [tokens, in]. Every ``_stride``-th of the whole text is kept."""
        magnitudes = x.float().abs().sum(0).cpu().double()
        self._magnitudes = magnitudes if self._magnitudes is None else self._magnitudes + magnitudes
        rows = x[-self.count % self._stride :: self._stride].to(torch.float32, copy=True)
        self._kept.append(rows)
        self._n_kept += len(rows)
        self.count += len(x)
        while self._n_kept > self.keep:
            self._stride *= 2
            thinned = torch.cat(self._kept)[::2].clone()
            self._kept, self._n_kept = [thinned], len(thinned)

    @property
    def rows(self) -> torch.Tensor:
        """float32 [kept, in], where the inputs are"""
        if len(self._kept) > 1:
            self._kept = [torch.cat(self._kept)]
        return self._kept[0]

    @property
    def magnitude(self) -> torch.Tensor:
        """float64 [in]: the sum of each input's magnitudes over all tokens."""
        assert self._magnitudes is not None, "nothing was added"
        return self._magnitudes

    def scale(self, scales: torch.Tensor) -> None:
        """Divide the inputs by ``scales`` [in]."""
        self._kept = [self.rows / scales]
        self._magnitudes = self.magnitude / scales.cpu().double()


class SquaredOutputs:
    """Computes the squared outputs that any weight gives for a sample's inputs.

    Args:
        sample: its rows represent all inputs that were added.
    """

    def __init__(self, sample: Sample) -> None:
        rows = sample.rows
        self.weight = sample.count / max(1, len(rows))  # inputs that a row represents
        self.sample = sample
        self.gram = rows.T @ rows if rows.shape[1] <= len(rows) else None

    def sum(self, weight: torch.Tensor) -> float:
        """The sum of ``(weight @ x)**2`` over all inputs x and outputs."""
        if self.gram is not None:
            return self.weight * float(((weight @ self.gram) * weight).sum())
        return self.weight * float((self.sample.rows @ weight.T).square_().sum())

    def scale(self, scales: torch.Tensor) -> None:
        """Follow a sample that was divided by ``scales`` [in]."""
        if self.gram is not None:
            self.gram.div_(scales).div_(scales[:, None])


@dataclass(frozen=True)
class FoundScales:
    """The result of ``search_scales``.

    Args:
        scales: float32 [in]: the weights' columns are multiplied by them, the inputs divided.
        exponent: the exponent of the paper's formula; 0 for no scales.
        error: the squared error of the outputs with these scales.
        plain: the squared error without scales.
    """

    scales: torch.Tensor
    exponent: float
    error: float
    plain: float


def search_scales(
    magnitude: torch.Tensor,
    layers: Sequence[tuple[torch.Tensor, SquaredOutputs]],
    group_size: int,
    settle: Callable[[torch.Tensor], torch.Tensor] = lambda scales: scales,
    grid: Grid = USUAL,
) -> FoundScales:
    """Find the exponent a for which the scales magnitude**a leave the least error once the weights are rounded.

    Args:
        magnitude: float [in], mean magnitude of each input.
        layers: each linear layer that reads these inputs: its weight, float32 [out, in], and its ``SquaredOutputs``.
        group_size: inputs that share a scale when weights are rounded.
        settle: gives the scales that result when some are stored.
        grid: what weights are rounded to.

    Returns:
        the best of ``EXPONENTS``; exponent 0, no scales at all, where nothing is better.
    """
    best: FoundScales | None = None
    for exponent in EXPONENTS:
        scales = settle(scales_of(magnitude, exponent))
        error = 0.0
        for weight, squared in layers:
            error += squared.sum((rounded(weight * scales, group_size, grid) / scales).sub_(weight))
        if best is None or error < best.error:
            best = FoundScales(scales, exponent, error, error if best is None else best.plain)
    assert best is not None
    return best


def scales_of(magnitude: torch.Tensor, exponent: float) -> torch.Tensor:
    """magnitude**exponent, over the root of its greatest times its least; 1 for inputs that are always zero."""
    alive = magnitude > 0
    if exponent == 0 or not bool(alive.any()):
        return torch.ones(len(magnitude))
    scales = magnitude.double().clamp_min(1e-30) ** exponent
    scales /= (scales[alive].max() * scales[alive].min()).sqrt()
    return torch.where(alive, scales, torch.ones_like(scales)).clamp(1 / _MOST, _MOST).float()


def search_clipping(
    weight: torch.Tensor, sample: Sample, group_size: int, grid: Grid = USUAL
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find for each group of each output the part of its range that leaves the least error in the output.

    Args:
        weight: float32 [out, in].
        sample: its inputs.
        group_size: inputs that share a scale when weights are rounded.
        grid: what they are rounded to.

    Returns:
        the limits, least and greatest, for ``quantize_to_grid``: two float32 [out, G].
    """
    low, high = ranges(weight, group_size)
    rows = sample.rows.reshape(len(sample.rows), low.shape[1], -1).transpose(0, 1)  # [G, tokens, group]
    grams = rows.transpose(1, 2) @ rows  # [G, group, group]
    best = torch.full_like(low, torch.inf)
    ratio = torch.ones_like(low)
    for start in range(0, len(weight), _CLIP_ROWS):
        part = slice(start, start + _CLIP_ROWS)
        grouped = weight[part].reshape(-1, low.shape[1], rows.shape[2])
        for candidate in RATIOS:
            found = steps(low[part] * candidate, high[part] * candidate, grid)
            scales, zeros = (each.unsqueeze(-1) for each in found)
            error = (grouped / scales).round_().clamp_(-zeros, TOP - zeros).mul_(scales).sub_(grouped).transpose(0, 1)
            loss = ((error @ grams) * error).sum(-1).T
            better = loss < best[part]
            best[part] = torch.where(better, loss, best[part])
            ratio[part] = torch.where(better, candidate, ratio[part])
    return low * ratio, high * ratio
