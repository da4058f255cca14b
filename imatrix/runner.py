"""Text through a model larger than memory: one block's weights at a time, and every chunk through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ..formats.errors import QuantmillError
from ..formats.progress import Progress, RunStarted, StepDone
from .activations import Activations
from .collect import Collector, NonFinite
from .corpus import Corpus
from .evaluate import first_judged
from .record_inputs import record_inputs
from .skeleton import BlockInputs, Skeleton
from .sums import RecordedWeight
from .weights import Weights

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
_TOKENS = 2048  # in a batch: enough for the matrix products, small enough for the cache and for memory
_LOGITS = 64 << 20  # values of logits held at a time


@dataclass(frozen=True)
class ComputeOptions:
    """How to run.

    Args:
        dtype: ``f32`` or ``bf16``.
        device: a torch device.
        batch: chunks at a time; 0 to choose.
        skip_bad: go on without a chunk whose activations are not finite, instead of stopping.
    """

    dtype: str = "f32"
    device: str = "cpu"
    batch: int = 0
    skip_bad: bool = False


class Runner:
    """A model and a text: ``embed``, then ``advance`` for each block (or ``finish``), then ``logits``.

    Args:
        weights: the model.
        corpus: the text.
        options: how.
        activations: where the activations are kept between blocks.
    """

    def __init__(self, weights: Weights, corpus: Corpus, options: ComputeOptions, activations: Activations) -> None:
        _check_device(options.device)
        self.weights, self.corpus, self.options, self.activations = weights, corpus, options, activations
        self.skeleton = Skeleton(weights, DTYPES[options.dtype], options.device)
        self.dropped: dict[int, str] = {}  # chunk -> where it went wrong
        self.layer = 0
        size = options.batch or max(1, _TOKENS // corpus.n_ctx)
        self.batches = [list(range(a, min(a + size, corpus.n_chunks))) for a in range(0, corpus.n_chunks, size)]
        self._inputs: dict[int, list[BlockInputs]] = {}  # by chunks in the batch

    @property
    def n_layers(self) -> int:
        return len(self.skeleton.layers)

    def started(self) -> RunStarted:
        """The event that announces the run: it goes on from the layer that is next."""
        corpus = self.corpus
        return RunStarted(corpus.name, corpus.n_chunks, corpus.n_ctx, self.n_layers, self.layer)

    @torch.inference_mode()
    def embed(self, keep: bool = True) -> None:
        """Tokens to what enters the first block. Without ``keep``, for a resumed run, only the masks."""
        ids = [torch.from_numpy(self.corpus.inputs[batch]).long() for batch in self.batches]
        for batch, (hidden, inputs) in zip(self.batches, self.skeleton.embed(ids), strict=True):
            self._inputs.setdefault(len(batch), inputs)
            if keep:
                self.activations.put(batch, hidden)
        if keep:
            self.activations.flip()

    @torch.inference_mode()
    def advance(self, collector: Collector | None = None, progress: Progress | None = None) -> None:
        """Every chunk through the next block.

        Raises:
            QuantmillError: an activation is not finite, and chunks are not to be skipped.
        """
        with self.skeleton.block(self.layer) as module:
            self.through(module, collector, progress)

    @torch.inference_mode()
    def through(
        self, module: torch.nn.Module, collector: Collector | None = None, progress: Progress | None = None
    ) -> None:
        """``advance`` for who holds the next block already, ``skeleton.block(layer)``, and may have changed it."""
        targets = self.weights.recorded_weights(self.layer, module)
        for number, batch in enumerate(self.batches):
            self._run(module, targets, batch, collector)
            if progress is not None:
                progress(layer_step(self.layer, self.n_layers, number + 1, len(self.batches)))
        self.activations.flip()
        self.layer += 1

    def _run(
        self, module: torch.nn.Module, targets: dict[str, RecordedWeight], batch: list[int], collector: Collector | None
    ) -> None:
        alive = [chunk for chunk in batch if chunk not in self.dropped]
        if not alive:
            return
        try:
            out = self._block(module, targets, alive, collector)
        except NonFinite as error:
            if collector is not None:
                collector.discard()
            if len(alive) > 1:  # which of them? One by one, then
                for chunk in alive:
                    self._run(module, targets, [chunk], collector)
                return
            self._drop(alive[0], error.name)
            return
        if collector is not None:
            collector.commit()
        self.activations.put(alive, out)

    def _block(
        self,
        module: torch.nn.Module,
        targets: dict[str, RecordedWeight],
        chunks: list[int],
        collector: Collector | None,
    ) -> torch.Tensor:
        inputs, hidden = self.inputs_for(len(chunks)), self.activations.get(chunks)
        if collector is None:
            out = self.skeleton.run_block(module, hidden, inputs)
        else:
            with record_inputs(module, targets, collector.see):
                out = self.skeleton.run_block(module, hidden, inputs)
        if not torch.isfinite(out.sum()):
            raise NonFinite(f"the output of block {self.layer}")
        return out

    def inputs_for(self, n: int) -> BlockInputs:
        """What the next block is given, besides the hidden states, with a batch of ``n`` chunks."""
        if n not in self._inputs:
            ids = [torch.from_numpy(self.corpus.inputs[:n]).long()]
            for _, inputs in self.skeleton.embed(ids):
                self._inputs[n] = inputs
        return self._inputs[n][self.layer]

    def _drop(self, chunk: int, where: str) -> None:
        number = self.corpus.first_chunk + chunk
        problem = f"NaN or Inf in the activations of layer {self.layer}, chunk {number}"
        if not self.options.skip_bad:
            raise QuantmillError(
                problem, path=self.weights.model.path, where=where, hint="--skip-bad-chunks goes on without such chunks"
            )
        self.dropped[chunk] = f"{problem}: {where}"

    def finish(self, collector: Collector | None = None, progress: Progress | None = None) -> None:
        """Every block that is left."""
        while self.layer < self.n_layers:
            self.advance(collector, progress)

    @torch.inference_mode()  # around each step of the generator, not around whoever takes what it yields
    def logits(self, collector: Collector | None = None) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """(chunk, float logits [judged positions, vocab], int64 tokens to be predicted) for every chunk left.

        With a collector the output matrix's inputs are counted too, under the name of the matrix it is.
        """
        n_ctx = self.corpus.n_ctx
        keep = n_ctx - first_judged(n_ctx)
        head = self.weights.head
        target = RecordedWeight((head.name,))
        see: Callable[[torch.Tensor], None] | None = None
        if collector is not None:
            see = lambda x: collector.see(target, 0, x)  # noqa: E731
        size = max(1, min(_TOKENS // n_ctx, _LOGITS // (keep * head.n_rows)))
        alive = ([chunk for chunk in batch if chunk not in self.dropped] for batch in self.batches)
        with self.skeleton.head(keep, see) as run:
            for part in (batch[a : a + size] for batch in alive for a in range(0, len(batch), size)):
                logits = run(self.activations.get(part)).cpu()
                if collector is not None:
                    collector.commit()
                for chunk, rows in zip(part, logits, strict=True):
                    yield chunk, rows[:-1].float(), self._wanted(chunk)

    def _wanted(self, chunk: int) -> torch.Tensor:
        tokens = self.corpus.tokens[chunk, first_judged(self.corpus.n_ctx) + 1 :]
        return torch.from_numpy(tokens.astype(np.int64))


def layer_step(layer: int, n_layers: int, done: int, total: int) -> StepDone:
    """The event that ``done`` of ``total`` parts of a layer (counted from 0) are through."""
    return StepDone(f"layer {layer + 1}/{n_layers}", done, total, layer)


def _check_device(device: str) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise QuantmillError(f"no device {device!r} here", hint="--device cpu") from None
