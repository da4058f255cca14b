"""Perplexity and KL divergence by llama.cpp's definitions (tools/perplexity/perplexity.cpp).

Only the second half of each chunk is judged: position i of ``n_ctx // 2 <= i < n_ctx - 1`` predicts token i + 1.
Errors are standard errors of the mean over those positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]
_ROWS = 64  # positions at a time: a slice of 128 k logits in float32 is 33 MB


def first_judged(n_ctx: int) -> int:
    """The first position of a chunk whose prediction is judged."""
    return n_ctx // 2


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts a text.

    Args:
        perplexity: exp of the mean negative log-likelihood of the text's tokens.
        perplexity_error: its standard error.
        tokens: how many predictions were judged.

    Example:
        >>> from quantmill import Evaluation
        >>> Evaluation(perplexity=12.9, perplexity_error=1.1, tokens=1020).tokens
        1020
    """

    perplexity: float
    perplexity_error: float
    tokens: int


@dataclass(frozen=True)
class BaseComparison(Evaluation):
    """How well a model predicts a text, and how far its predictions are from a base model's.

    Each ``_error`` is the standard error of the mean before it. Probabilities and shares are from 0 to 1.

    Args:
        base_perplexity: the base model's perplexity.
        log_ppl_ratio: ln(perplexity / base_perplexity).
        kld_mean, kld_median, kld_p90, kld_p99, kld_p999, kld_max: of KL(base || model) over the positions, in nats.
        dp_mean: the mean change of the true token's probability.
        dp_rms: the root of the mean square of that change.
        top1: the share of positions where both models find the same token most likely.

    Example:
        >>> from quantmill import BaseComparison
        >>> [name for name in BaseComparison.__dataclass_fields__ if name.startswith("kld")][:3]
        ['kld_mean', 'kld_mean_error', 'kld_median']
    """

    base_perplexity: float
    base_perplexity_error: float
    log_ppl_ratio: float
    log_ppl_ratio_error: float
    kld_mean: float
    kld_mean_error: float
    kld_median: float
    kld_p90: float
    kld_p99: float
    kld_p999: float
    kld_max: float
    dp_mean: float
    dp_mean_error: float
    dp_rms: float
    dp_rms_error: float
    top1: float
    top1_error: float


@dataclass
class Record:
    """The figures of each judged position, added chunk by chunk: lists of float64 [positions].

    Args:
        nll: negative log-likelihood of the true token, nats.
        nll_base: the same of the base model.
        kld: KL(base || model), nats.
        same_top: 1 where both models find the same token most likely.

    Example:
        >>> import torch
        >>> record = Record()
        >>> record.add(torch.zeros(3, 8), torch.tensor([1, 5, 7]))  # all of 8 tokens are equally likely
        >>> round(record.report().perplexity, 4)
        8.0
    """

    nll: list[Floats] = field(default_factory=list)
    nll_base: list[Floats] = field(default_factory=list)
    kld: list[Floats] = field(default_factory=list)
    same_top: list[Floats] = field(default_factory=list)

    def add(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Add a chunk.

        Args:
            logits: float32 [positions, vocab].
            targets: int64 [positions], the tokens that follow.
        """
        self.nll.append(token_nll(logits, targets))

    def add_against(self, logits: torch.Tensor, base: torch.Tensor, targets: torch.Tensor) -> None:
        """Add a chunk that both models predicted; see ``add``."""
        for start in range(0, len(targets), _ROWS):
            part = slice(start, start + _ROWS)
            log_q, log_p = _log_softmax(logits[part]), _log_softmax(base[part])
            at = targets[part, None]
            self.nll.append(_doubles(-log_q.gather(1, at).squeeze(1)))
            self.nll_base.append(_doubles(-log_p.gather(1, at).squeeze(1)))
            divergence = (log_p.exp() * (log_p - log_q)).cpu().double().sum(1)
            self.kld.append(divergence.numpy())
            self.same_top.append(_doubles(log_q.argmax(1) == log_p.argmax(1)))

    def perplexity(self) -> float:
        """The perplexity over all positions added until now."""
        return float(np.exp(np.concatenate(self.nll).mean()))

    def report(self) -> Evaluation:
        """Compute all figures; a ``BaseComparison`` where chunks were added with a base model's logits."""
        assert self.nll, "no chunk was judged"
        return self.compared() if self.nll_base else evaluation(np.concatenate(self.nll))

    def compared(self) -> BaseComparison:
        """``report()`` where chunks were added with a base model's logits."""
        return comparison(*map(np.concatenate, (self.nll, self.nll_base, self.kld, self.same_top)))


def _log_softmax(logits: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.log_softmax(logits.float(), dim=-1)


def _doubles(values: torch.Tensor) -> Floats:
    """float64 in memory: not every device has the type."""
    doubles: Floats = values.cpu().double().numpy()
    return doubles


def token_nll(logits: torch.Tensor, targets: torch.Tensor) -> Floats:
    """Compute -log p(target) as float64 [positions], from logits [positions, vocab] and targets int64 [positions]."""
    parts = []
    for start in range(0, len(targets), _ROWS):
        part = slice(start, start + _ROWS)
        parts.append(_doubles(-_log_softmax(logits[part]).gather(1, targets[part, None]).squeeze(1)))
    return np.concatenate(parts)


def mean_and_error(values: Floats) -> tuple[float, float]:
    """The mean and its standard error, sqrt(variance / (n - 1)); as in llama.cpp, 0 for ten values or fewer."""
    n = len(values)
    variance = float(np.mean(values**2) - np.mean(values) ** 2)
    return float(np.mean(values)), float(np.sqrt(variance / (n - 1))) if n > 10 and variance > 0 else 0.0


def evaluation(nll: Floats) -> Evaluation:
    """The figures of a model alone.

    Args:
        nll: float64 [positions], negative log-likelihoods of the true tokens, nats.

    Example:
        >>> import numpy as np
        >>> evaluation(np.log([2.0, 8.0, 4.0]))
        Evaluation(perplexity=4.0, perplexity_error=0.0, tokens=3)
    """
    mean, error = mean_and_error(nll)
    perplexity = float(np.exp(mean))
    return Evaluation(perplexity, perplexity * error, len(nll))


def comparison(nll: Floats, nll_base: Floats, kld: Floats, same_top: Floats) -> BaseComparison:
    """The figures of a model against its base; all arrays float64 [positions], see ``Record``."""
    alone, base = evaluation(nll), evaluation(nll_base)
    mean, error = mean_and_error(nll)
    base_mean, base_error = mean_and_error(nll_base)
    covariance = float(np.mean(nll * nll_base) - nll.mean() * nll_base.mean()) / max(1, len(nll) - 1)
    kld_mean, kld_mean_error = mean_and_error(kld)
    kld_p90, kld_p99, kld_p999, kld_max = (float(np.quantile(kld, share)) for share in (0.9, 0.99, 0.999, 1.0))
    dp = np.exp(-nll) - np.exp(-nll_base)
    dp_mean, dp_mean_error = mean_and_error(dp)
    square, square_error = mean_and_error(dp**2)
    dp_rms = float(np.sqrt(square))
    top1 = float(same_top.mean())
    return BaseComparison(
        **vars(alone),
        base_perplexity=base.perplexity,
        base_perplexity_error=base.perplexity_error,
        log_ppl_ratio=mean - base_mean,
        log_ppl_ratio_error=float(np.sqrt(max(0.0, error**2 + base_error**2 - 2 * covariance))),
        kld_mean=kld_mean,
        kld_mean_error=kld_mean_error,
        kld_median=float(np.median(kld)),
        kld_p90=kld_p90,
        kld_p99=kld_p99,
        kld_p999=kld_p999,
        kld_max=kld_max,
        dp_mean=dp_mean,
        dp_mean_error=dp_mean_error,
        dp_rms=dp_rms,
        dp_rms_error=0.5 / dp_rms * square_error if square > 0 else 0.0,
        top1=top1,
        top1_error=float(np.sqrt(top1 * (1 - top1) / max(1, len(same_top) - 1))),
    )
