"""What ``imatrix`` and ``evaluate`` share: opening a model and a text for a run, and showing how far it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...formats.progress import Event, RunStarted, StepDone
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
    from ...imatrix.activations import Activations
    from ...imatrix.runner import DTYPES, ComputeOptions, Runner

    dtype = options.get("dtype", "f32")
    shape = (corpus.n_chunks, corpus.n_ctx, weights.embedding.width)
    how = ComputeOptions(
        dtype, options.get("device", "cpu"), options.get("batch", 0), options.get("skip_bad_chunks", False)
    )
    return Runner(weights, corpus, how, Activations(shape, DTYPES[dtype], folder))


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
        self(runner.started())

    def __call__(self, event: Event) -> None:
        """Show an event of a run: ``RunStarted`` starts the clock."""
        if isinstance(event, RunStarted):
            self.began, self.first = time.monotonic(), event.first_layer
            self.layers, self.chunks = event.n_layers, event.n_chunks
            if not self.quiet:
                print(f"{event.text}: {event.n_chunks} chunks of {event.n_ctx} tokens", file=sys.stderr)
        elif isinstance(event, StepDone):
            self._step(event)

    def _step(self, event: StepDone) -> None:
        now, done, total = time.monotonic(), event.done, event.total
        if self.quiet or (now - self.shown < (0.2 if self.live else 30) and done < total):
            return
        if not self.live and now - self.shown < 10:
            return
        self.shown = now
        line = f"{event.stage}, {done}/{total}{self._left(event.layer, done / total, now)}"
        print(f"\r\033[K{line}" if self.live else line, end="" if self.live else "\n", file=sys.stderr, flush=True)

    def _left(self, layer: int | None, share: float, now: float) -> str:
        if layer is None:
            return ""
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
