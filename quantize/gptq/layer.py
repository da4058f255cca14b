"""GPTQ of one linear layer: weights are rounded one input after the other, and those not yet rounded compensate.

Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"
(arXiv:2210.17323), algorithm 1; the order that keeps groups whole is "group aware reordering" (arXiv:2505.14638).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...formats.errors import QuantmillError
from ..linears import ScaleType, stored_scales
from .settings import GPTQSettings

if TYPE_CHECKING:
    import torch

_BLOCK = 128  # inputs between two updates of all the weights that follow
_SEARCH = 40  # steps of a hundredth by which a scale may be smaller than the largest weight asks for
_CUTS: dict[ScaleType, int] = {"F32": 13, "F16": 13, "BF16": 16}  # bits of a float32's fraction that scales lack
_WITHOUT_FLOAT64 = ("mps",)  # types of torch devices: Apple's
_DAMPING_STEPS = 6  # each ten times the last, from the setting to a matrix that is nearly its diagonal


@dataclass(frozen=True)
class GPTQWeight:
    """A weight [out=N, in=K] in codes: W[n, k] = (codes[k, n] - zeros[g, n]) * scales[g, n] with g = g_idx[k].

    Args:
        codes: uint8 [K, N].
        zeros: uint8 [G, N], at least 1.
        scales: float32 [G, N], of values that their type has.
        g_idx: int32 [K].
        scale_type: what scales are stored as.
        loss: squared error of the outputs on the calibration text, per token and output.
        relative: the same as a share of the outputs' own square.
        damp: the damping that was needed.
    """

    codes: NDArray[np.uint8]
    zeros: NDArray[np.uint8]
    scales: NDArray[np.float32]
    g_idx: NDArray[np.int32]
    scale_type: ScaleType = "F16"
    loss: float = 0.0
    relative: float = 0.0
    damp: float = 0.0

    def decode(self) -> NDArray[np.float32]:
        """float32 [N, K]: the weight that clients compute with, whose products are rounded to the scales' type."""
        import torch

        out = np.empty(self.codes.shape, np.float16 if self.scale_type == "F16" else np.float32)
        zeros = self.zeros.astype(np.float32)
        for start in range(0, len(out), _BLOCK):
            part = slice(start, start + _BLOCK)
            group = self.g_idx[part]
            out[part] = (self.codes[part] - zeros[group]) * self.scales[group]
        if self.scale_type == "BF16":
            out = torch.from_numpy(out).bfloat16().float().numpy()
        return np.ascontiguousarray(out.T, np.float32)


class Hessian:
    """The sum of the outer products of a linear layer's inputs, the Hessian of its squared error.

    Args:
        width: how many inputs the layer has; the sum is float32 [width, width].
        device: the torch device that the inputs are on.
    """

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        import torch

        self.sum = torch.zeros(width, width, device=device)
        self.tokens = 0

    def add(self, x: torch.Tensor) -> None:
        """Add inputs [tokens, width] of any float type."""
        x = x.detach().float()
        self.sum.addmm_(x.T, x)
        self.tokens += len(x)


@dataclass(frozen=True)
class Factor:
    """A Hessian inverted and factorized, for all linear layers that share their input, on the Hessian's device.

    Args:
        upper: float32 [K, K], upper triangular U with U.T @ U the inverse of the damped Hessian, in ``order``.
        order: int64 [K]: the order in which inputs are quantized.
        hessian: the Hessian, as it was.
        damp: the damping that was needed.
        dead: how many inputs were always zero.
    """

    upper: torch.Tensor
    order: torch.Tensor
    hessian: Hessian
    damp: float
    dead: int


def factorize(hessian: Hessian, settings: GPTQSettings, name: str = "") -> Factor:
    """Order the inputs of a Hessian, damp it, invert it and factorize the inverse.

    A matrix that cannot be inverted (inputs that depend on each other) gets ten times the damping until it can be.

    Raises:
        QuantmillError: the inputs were not finite.
    """
    import torch

    where = hessian.sum.device
    diagonal = hessian.sum.diagonal()
    if not torch.isfinite(diagonal).all():
        raise QuantmillError("NaN or Inf among its inputs", where=name, hint="the model is damaged")
    order = _order(diagonal, settings)
    mean = float(diagonal.cpu().double().mean()) or 1.0
    dead = diagonal[order] == 0
    damp = settings.damp
    for _ in range(_DAMPING_STEPS):
        # reversed, so that one Cholesky and one triangular inverse give the inverse's own upper factor
        matrix = _reordered(hessian.sum, order.flip(0))
        matrix.diagonal().add_(damp * mean)
        matrix.diagonal()[dead.flip(0).to(matrix.device)] = (
            mean  # nothing is known of it: rounded to nearest, its error goes nowhere
        )
        lower, failed = torch.linalg.cholesky_ex(matrix)
        del matrix
        if not failed:
            inverse = torch.eye(len(order), dtype=torch.float64, device=lower.device)
            torch.linalg.solve_triangular(lower, inverse, upper=False, out=inverse)
            del lower
            factor = inverse.float().flip(0, 1).contiguous().to(where)
            if torch.isfinite(factor.sum()):
                return Factor(factor, order, hessian, damp, int(dead.sum()))
        damp = max(damp * 10, 1e-4)
    raise QuantmillError(
        "its inputs depend on each other too much: their Hessian cannot be inverted", where=name, hint="a larger --damp"
    )


def _reordered(matrix: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """float64 [K, K] with rows and columns in that order; made piece by piece, because it may be gigabytes.

    On the matrix's device, or in memory where that has no such numbers.
    """
    import torch

    where = "cpu" if matrix.device.type in _WITHOUT_FLOAT64 else matrix.device
    out = torch.empty(matrix.shape, dtype=torch.float64, device=where)
    for start in range(0, len(order), _BLOCK):
        out[start : start + _BLOCK] = matrix[order[start : start + _BLOCK]][:, order]
    return out


def _order(diagonal: torch.Tensor, settings: GPTQSettings) -> torch.Tensor:
    """The order of quantization: inputs with large activations first, because the most others can compensate then."""
    import torch

    if settings.desc_act or settings.static_groups or settings.group_size == -1:
        return torch.argsort(diagonal, descending=True, stable=True)
    whole = len(diagonal) // settings.group_size * settings.group_size
    groups = diagonal[:whole].reshape(-1, settings.group_size)
    inside = torch.argsort(groups, dim=1, descending=True, stable=True)
    greatest = groups.amax(1) if whole else diagonal[:0]
    rank = torch.argsort(greatest, descending=True, stable=True)
    first = torch.arange(0, whole, settings.group_size, device=diagonal.device)
    order = (inside + first[:, None])[rank].reshape(-1)
    rest = whole + torch.argsort(diagonal[whole:], descending=True, stable=True)
    return torch.cat([order, rest])


def quantize_linear(
    weight: torch.Tensor,
    factor: Factor,
    settings: GPTQSettings,
    threads: int = 1,
    name: str = "",
    scale_type: ScaleType = "F16",
) -> GPTQWeight:
    """Quantize a linear layer's weight by GPTQ.

    Codes are found in compiled loops on the processor, a block of inputs at a time; what each block's errors change in
    the inputs that follow is computed where the weight is.

    Args:
        weight: float [N, K], on the factor's device; it is not changed.
        factor: the factor of its inputs' Hessian.
        settings: the same as for the factor.
        threads: how many to use; the result does not depend on it.
        name: the layer's name, for messages.
        scale_type: what scales are stored as.

    Raises:
        QuantmillError: a weight is not finite.
    """
    import torch

    from .columns import find_params, quantize_block

    n_out, n_in = weight.shape
    upper, order = factor.upper, factor.order
    W = weight.detach().float().T[order].contiguous()  # [K, N]
    if not torch.isfinite(W.sum()):
        raise QuantmillError("NaN or Inf among its weights", where=name, hint="the checkpoint is damaged")
    search, cut = _SEARCH if settings.search else 0, _CUTS[scale_type]
    size = n_in if settings.group_size == -1 else settings.group_size
    places = order.cpu().numpy()
    of = np.arange(n_in) // size if settings.desc_act and not settings.static_groups else places // size
    g_idx = np.empty(n_in, np.int32)
    g_idx[places] = of
    rows = of.astype(np.int32)
    params = np.ones((2, settings.groups(n_in), n_out), np.float32)
    cost = (1 / upper.diagonal().square()).cpu().numpy()
    if settings.static_groups or settings.group_size == -1:
        whole = W.cpu().numpy()
        for group in range(params.shape[1]):
            at = np.flatnonzero(rows == group)
            find_params(whole[at], cost[at], settings.bits, settings.sym, search, cut, params[:, group])
    else:  # each found when its first input's turn comes
        starts = np.arange(0, n_in, size)
        rows[starts] = -1 - rows[starts]
    codes = np.empty((n_in, n_out), np.uint8)
    step = -(-_BLOCK // size) * size if size <= _BLOCK or settings.group_size != -1 else _BLOCK
    total = 0.0
    tiles = _tiles(n_out, threads)
    with ThreadPoolExecutor(max(1, len(tiles))) as pool:
        for start in range(0, n_in, step):
            stop = min(start + step, n_in)
            errors = W[start:stop].cpu()  # W's own memory where it is in the processor's
            block, inner = errors.numpy(), upper[start:stop, start:stop].cpu().contiguous().numpy()

            def run(tile: tuple[int, int], block: Any = block, inner: Any = inner, at: int = start) -> float:
                part = slice(at, at + len(block))
                return float(
                    quantize_block(block, inner, rows[part], settings.bits, settings.sym, search, cut,
                                   params, codes[part], *tile)
                )  # fmt: skip

            total += sum(pool.map(run, tiles))
            if stop < n_in:
                W[stop:].addmm_(upper[start:stop, stop:].T, errors.to(W.device), alpha=-1)
    unordered = np.empty_like(codes)
    unordered[places] = codes
    stored_scales(params[0], scale_type, name)  # which may not have them
    per = max(1, factor.hessian.tokens) * n_out
    own = _outputs_square(weight, factor.hessian)
    return GPTQWeight(
        unordered,
        params[1].astype(np.uint8),
        params[0],
        g_idx,
        scale_type,
        total / per,
        total / own if own else 0.0,
        factor.damp,
    )


def _outputs_square(weight: torch.Tensor, hessian: Hessian) -> float:
    w = weight.detach().float()
    return float(((w @ hessian.sum) * w).sum(dtype=w.dtype))


def _tiles(n_out: int, threads: int) -> list[tuple[int, int]]:
    from .columns import TILE

    tiles = -(-n_out // TILE)
    share = -(-tiles // max(1, threads)) * TILE
    return [(a, min(a + share, n_out)) for a in range(0, n_out, share)]


def round_to_nearest(
    weight: torch.Tensor, settings: GPTQSettings, name: str = "", scale_type: ScaleType = "F16"
) -> GPTQWeight:
    """Round each weight to its nearest code, without a text: for experts that saw no tokens.

    Args:
        weight: float [N, K].
        settings: ``desc_act`` and ``static_groups`` have no effect here.
        name: the layer's name, for messages.
        scale_type: what scales are stored as.

    Example:
        >>> import torch
        >>> weight = torch.tensor([[0.7, -0.7, 0.1, 0.0]])
        >>> round_to_nearest(weight, GPTQSettings(group_size=-1, search=False)).codes.tolist()
        [[15], [0], [9], [8]]

    Raises:
        QuantmillError: a weight is not finite, or too large.
    """
    from .columns import find_params

    w = np.ascontiguousarray(weight.detach().float().cpu().numpy().T)  # [K, N]
    if not np.isfinite(w).all():
        raise QuantmillError("NaN or Inf among its weights", where=name, hint="the checkpoint is damaged")
    n_in, n_out = w.shape
    size = n_in if settings.group_size == -1 else settings.group_size
    params = np.ones((2, settings.groups(n_in), n_out), np.float32)
    search, cut = _SEARCH if settings.search else 0, _CUTS[scale_type]
    ones = np.ones(size, np.float32)
    codes = np.empty((n_in, n_out), np.uint8)
    for group in range(params.shape[1]):
        part = slice(group * size, (group + 1) * size)
        find_params(w[part], ones, settings.bits, settings.sym, search, cut, params[:, group])
        scale, zero = params[:, group]
        codes[part] = np.clip(np.rint(w[part] / scale) + zero, 0, (1 << settings.bits) - 1)
    g_idx = (np.arange(n_in) // size).astype(np.int32)
    stored_scales(params[0], scale_type, name)
    return GPTQWeight(codes, params[1].astype(np.uint8), params[0], g_idx, scale_type)
