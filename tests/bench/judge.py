"""Figures of several files on one text, chunk by chunk, and the errors of their differences.

Tokens of a chunk depend on each other, so chunks are the samples: each error is that of the mean over chunks. Files are
judged on the same chunks, and what makes a chunk hard for both cancels out in their difference.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantmill import RunOptions, evaluate
from quantmill.imatrix.corpus import Corpus
from quantmill.tools.api.judging import judge_against_saved, open_judged, open_saved
from quantmill.tools.api.running import open_text, open_weights

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Figures:
    """A file's figures on a text, float64 [chunks] each: means over the judged half of a chunk.

    Args:
        kld: KL divergence from the base model, nats.
        nll: negative log-likelihood of the text's tokens, nats.
        top1: share of positions where both find the same token most likely.
    """

    kld: Floats
    nll: Floats
    top1: Floats

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-likelihood."""
        return float(np.exp(self.nll.mean()))


@dataclass(frozen=True)
class Judge:
    """A base model's predictions of a text, to judge files by.

    Args:
        base: the file that ``evaluate`` saved.
        corpus: the text in the base's tokens, which every file is given: another program's may cut the text otherwise.
        options: of its chunks.
    """

    base: Path
    corpus: Corpus
    options: RunOptions

    @classmethod
    def of(cls, model: Path, text: Path, n_ctx: int, chunks: int, folder: Path) -> Judge:
        """Predict ``text`` with the base model."""
        check_length(model, text, n_ctx, chunks)
        base, options = folder / f"{text.name}.base.npz", RunOptions(n_ctx=n_ctx, chunks=chunks)
        base.unlink(missing_ok=True)
        evaluate(model, text, save_base=base, run=options)
        return cls(base, open_text(open_weights(model), text, options), options)

    def figures(self, file: Path) -> Figures:
        """Judge a file."""
        side = open_judged(file, None)
        saved = open_saved(self.base, [side], self.corpus)
        with tempfile.TemporaryDirectory() as name:
            record = judge_against_saved(side, saved, self.corpus, Path(name), self.options, None)
        return Figures(*(_by_chunk(parts, self.corpus.n_chunks) for parts in (record.kld, record.nll, record.same_top)))


def check_length(model: Path, text: Path, n_ctx: int, chunks: int) -> None:
    """Exit if a text has fewer chunks in the model's tokens than are asked for: figures would be of fewer."""
    found = open_text(open_weights(model), text, RunOptions(n_ctx=n_ctx)).n_chunks
    if found < chunks:
        raise SystemExit(f"{text.name} has {found} chunks of {n_ctx} tokens, and {chunks} are asked for")


def _by_chunk(parts: list[Floats], n_chunks: int) -> Floats:
    means: Floats = np.concatenate(parts).reshape(n_chunks, -1).mean(1)
    return means


def mean(values: Floats) -> tuple[float, float]:
    """The mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def change(first: Floats, second: Floats) -> tuple[float, float]:
    """How much larger the second's mean is, as a share of the first's, and the standard error of that.

    The error is the delta method's for a ratio of means of pairs.

    >>> first = np.array([1.0, 2.0, 4.0])
    >>> change(first, first * 0.75)  # each chunk says the same: no error
    (-0.25, 0.0)
    """
    ratio = float(second.mean() / first.mean())
    return ratio - 1, mean(second - ratio * first)[1] / float(first.mean())
