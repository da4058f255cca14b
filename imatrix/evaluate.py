"""Perplexity and KL divergence by llama.cpp's definitions (tools/perplexity/perplexity.cpp).

Only the second half of each window is judged: position i of ``n_ctx // 2 <= i < n_ctx - 1`` predicts token i + 1.
Errors are standard errors of the mean over those positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]
_ROWS = 64  # positions at a time: a slice of 128 k logits in float32 is 33 MB


def first_judged(n_ctx: int) -> int:
    """The first position of a window whose prediction counts."""
    return n_ctx // 2


@dataclass
class Record:
    """What is kept of each judged position; float64 [positions] each, filled chunk by chunk.

    Args:
        nll: negative log-likelihood of the true token, nats.
        nll_base: the base model's.
        kld: KL(base || model), nats.
        same_top: 1 where both models like the same token most.
    """

    nll: list[Floats] = field(default_factory=list)
    nll_base: list[Floats] = field(default_factory=list)
    kld: list[Floats] = field(default_factory=list)
    same_top: list[Floats] = field(default_factory=list)

    def add(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """A chunk without a base: float32 [positions, vocab] and int64 [positions]."""
        self.nll.append(token_nll(logits, targets))

    def add_against(self, logits: torch.Tensor, base: torch.Tensor, targets: torch.Tensor) -> None:
        """A chunk of both models' logits."""
        for start in range(0, len(targets), _ROWS):
            part = slice(start, start + _ROWS)
            log_q, log_p = _log_softmax(logits[part]), _log_softmax(base[part])
            at = targets[part, None]
            self.nll.append((-log_q.gather(1, at)).squeeze(1).double().numpy())
            self.nll_base.append((-log_p.gather(1, at)).squeeze(1).double().numpy())
            divergence = (log_p.exp() * (log_p - log_q)).double().sum(1)
            self.kld.append(divergence.numpy())
            self.same_top.append((log_q.argmax(1) == log_p.argmax(1)).double().numpy())

    def perplexity(self) -> float:
        """So far."""
        return float(np.exp(np.concatenate(self.nll).mean()))

    def report(self) -> dict[str, Any]:
        """Every figure, ready for JSON. See ``summarize``."""
        joined = {name: np.concatenate(rows) if rows else None for name, rows in vars(self).items()}
        nll = joined.pop("nll")
        assert nll is not None, "no chunk was judged"
        return summarize(nll, **joined)


def _log_softmax(logits: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.log_softmax(logits.float(), dim=-1).cpu()


def token_nll(logits: torch.Tensor, targets: torch.Tensor) -> Floats:
    """float64 [positions]: -log p(target), from logits [positions, vocab]."""
    parts = []
    for start in range(0, len(targets), _ROWS):
        part = slice(start, start + _ROWS)
        parts.append(-_log_softmax(logits[part]).gather(1, targets[part, None]).squeeze(1).double().numpy())
    return np.concatenate(parts)


def mean_and_error(values: Floats) -> tuple[float, float]:
    """The mean and its standard error, sqrt(variance / (n - 1)); 0 for ten values or fewer, as llama.cpp has it."""
    n = len(values)
    variance = float(np.mean(values**2) - np.mean(values) ** 2)
    return float(np.mean(values)), float(np.sqrt(variance / (n - 1))) if n > 10 and variance > 0 else 0.0


def summarize(
    nll: Floats, nll_base: Floats | None = None, kld: Floats | None = None, same_top: Floats | None = None
) -> dict[str, Any]:
    """The figures of an evaluation.

    Returns:
        ``perplexity``, ``perplexity_error``, ``tokens``; with a base also ``base_perplexity`` and its error,
        ``log_ppl_ratio`` (ln PPL/PPL base), ``kld_mean``, ``kld_median``, ``kld_p90``, ``kld_p99``, ``kld_p999``,
        ``kld_max`` (nats), ``dp_mean``, ``dp_rms`` (change of the true token's probability, 0 to 1), ``top1``
        (0 to 1), and the errors of means under their names with ``_error``.
    """
    mean, error = mean_and_error(nll)
    perplexity = float(np.exp(mean))
    figures: dict[str, Any] = {"perplexity": perplexity, "perplexity_error": perplexity * error, "tokens": len(nll)}
    if nll_base is None or kld is None or same_top is None:
        return figures
    base_mean, base_error = mean_and_error(nll_base)
    covariance = float(np.mean(nll * nll_base) - nll.mean() * nll_base.mean()) / max(1, len(nll) - 1)
    figures["base_perplexity"] = float(np.exp(base_mean))
    figures["base_perplexity_error"] = float(np.exp(base_mean)) * base_error
    figures["log_ppl_ratio"] = mean - base_mean
    figures["log_ppl_ratio_error"] = float(np.sqrt(max(0.0, error**2 + base_error**2 - 2 * covariance)))
    figures["kld_mean"], figures["kld_mean_error"] = mean_and_error(kld)
    figures["kld_median"] = float(np.median(kld))
    for name, fraction in (("kld_p90", 0.9), ("kld_p99", 0.99), ("kld_p999", 0.999), ("kld_max", 1.0)):
        figures[name] = float(np.quantile(kld, fraction))
    dp = np.exp(-nll) - np.exp(-nll_base)
    figures["dp_mean"], figures["dp_mean_error"] = mean_and_error(dp)
    mse, mse_error = mean_and_error(dp**2)
    figures["dp_rms"] = float(np.sqrt(mse))
    figures["dp_rms_error"] = 0.5 / figures["dp_rms"] * mse_error if mse > 0 else 0.0
    top1 = float(same_top.mean())
    figures["top1"] = top1
    figures["top1_error"] = float(np.sqrt(top1 * (1 - top1) / max(1, len(same_top) - 1)))
    return figures
