"""What ``imatrix`` and ``evaluate`` share: opening a model and a text for a run, and showing how far it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .models import read_model

if TYPE_CHECKING:
    from ...imatrix.corpus import Corpus
    from ...imatrix.runner import Runner
    from ...imatrix.weights import Weights


def open_weights(model: Path) -> Weights:
    """A model of any kind and type, its quantized tensors decoded as they are read."""
    from ...imatrix.weights import Weights
    from ...quantize.decode import as_float

    return Weights(as_float(read_model(model)))


def open_text(weights: Weights, text: Path | None, n_ctx: int, options: Mapping[str, Any]) -> Corpus:
    """The chunks of a text under a model's tokenizer; without a text, of the one that ships with the package."""
    from ...imatrix.corpus import cut, default_text, read_text

    path = text or default_text()
    tokenizer = weights.tokenizer()
    tokens = tokenizer.encode(read_text(path), options.get("parse_special", False))
    return cut(
        tokens,
        n_ctx,
        tokenizer.bos,
        chunks=options.get("chunks", -1),
        from_chunk=options.get("from_chunk", 0),
        name=str(path) if text else path.name,
    )


def start_run(weights: Weights, corpus: Corpus, folder: Path, options: Mapping[str, Any]) -> Runner:
    """A runner whose activations go to ``folder`` if they are too many for memory."""
    from ...imatrix.activations import Hidden
    from ...imatrix.runner import DTYPES, Options, Runner

    dtype = options.get("dtype", "f32")
    shape = (corpus.n_chunks, corpus.n_ctx, weights.embedding.width)
    how = Options(dtype, options.get("device", "cpu"), options.get("batch", 0), options.get("skip_bad_chunks", False))
    return Runner(weights, corpus, how, Hidden(shape, DTYPES[dtype], folder))


def open_run(model: Path, text: Path | None, n_ctx: int, folder: Path, options: Mapping[str, Any]) -> Runner:
    """All three."""
    weights = open_weights(model)
    return start_run(weights, open_text(weights, text, n_ctx, options), folder, options)


class Ticker:
    """One line on stderr, redrawn on a terminal, printed now and then elsewhere: layer, chunks, time left."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.live = quiet, sys.stderr.isatty()
        self.began, self.first, self.shown = time.monotonic(), 0, 0.0
        self.layers = self.chunks = 1

    def start(self, runner: Runner) -> None:
        """The clock starts; ``runner`` may be past some layers already."""
        self.began, self.first = time.monotonic(), runner.layer
        self.layers, self.chunks = runner.n_layers, runner.corpus.n_chunks
        if not self.quiet:
            corpus = runner.corpus
            print(f"{corpus.name}: {corpus.n_chunks} chunks of {corpus.n_ctx} tokens", file=sys.stderr)

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self.quiet or (now - self.shown < (0.2 if self.live else 30) and done < total):
            return
        if not self.live and now - self.shown < 10:
            return
        self.shown = now
        line = f"{what}, {done}/{total}{self._left(what, done / total, now)}"
        print(f"\r\033[K{line}" if self.live else line, end="" if self.live else "\n", file=sys.stderr, flush=True)

    def _left(self, what: str, share: float, now: float) -> str:
        if not what.startswith("layer "):
            return ""
        layer = int(what.removeprefix("layer ").partition("/")[0]) - 1
        done = layer - self.first + share
        seconds = (now - self.began) / max(done, 1e-9) * (self.layers - self.first - done)
        return f", {_clock(seconds)} left"

    def end(self) -> None:
        """The line is done with."""
        if self.live and not self.quiet:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
