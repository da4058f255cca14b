"""Run a text through a model that may be larger than memory: one block at a time, with every chunk of the text."""

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

Forward = Callable[[list[int]], torch.Tensor]
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
_TOKENS = 2048  # in a batch: enough for the matrix products, small enough for the cache and for memory
_LOGITS = 64 << 20  # logits that are held at a time


@dataclass(frozen=True)
class ComputeOptions:
    """How a model is run.

    Args:
        dtype: the arithmetic's type, ``f32`` or ``bf16``.
        device: a torch device, such as ``cpu`` or ``cuda:1``, that is there.
        batch: how many chunks run at a time; 0 to choose.
        skip_bad: leave out a chunk whose activations are not finite, instead of stopping.
    """

    dtype: str = "f32"
    device: str = "cpu"
    batch: int = 0
    skip_bad: bool = False


class Runner:
    """One run of a text through a model: ``embed``, then ``advance`` for each block (or ``finish``), then ``logits``.

    Of a model that predicts no tokens, ``last_hidden`` comes instead of ``logits``.

    Args:
        weights: the model.
        corpus: the text.
        options: how it is run.
        activations: keeps the activations between two blocks.

    Attributes:
        layer: the next block's number.
        dropped: the chunks that were left out, and where each went wrong.
        batches: the chunks' numbers, batch by batch.

    Raises:
        UnknownArchitecture: transformers cannot build the model.
    """

    def __init__(self, weights: Weights, corpus: Corpus, options: ComputeOptions, activations: Activations) -> None:
        self.weights, self.corpus, self.options, self.activations = weights, corpus, options, activations
        self.skeleton = Skeleton(weights, DTYPES[options.dtype], options.device)
        self.dropped: dict[int, str] = {}
        self.layer = 0
        size = options.batch or max(1, _TOKENS // corpus.n_ctx)
        self.batches = [list(range(a, min(a + size, corpus.n_chunks))) for a in range(0, corpus.n_chunks, size)]
        self._inputs: dict[int, list[BlockInputs]] = {}  # by the number of chunks in a batch

    @property
    def n_layers(self) -> int:
        """How many blocks the model has."""
        return len(self.skeleton.layers)

    def started(self) -> RunStarted:
        """The event that announces the run, from the block that is next."""
        corpus = self.corpus
        return RunStarted(corpus.name, corpus.n_chunks, corpus.n_ctx, self.n_layers, self.layer)

    @torch.inference_mode()
    def embed(self, keep: bool = True) -> None:
        """Compute what enters the first block.

        Args:
            keep: False where activations were restored: only the blocks' other inputs, such as masks, are computed.
        """
        ids = [torch.from_numpy(self.corpus.inputs[batch]).long() for batch in self.batches]
        for batch, (hidden, inputs) in zip(self.batches, self.skeleton.embed(ids), strict=True):
            self._inputs.setdefault(len(batch), inputs)
            if keep:
                self.activations.put(batch, hidden)
        if keep:
            self.activations.flip()

    @torch.inference_mode()
    def advance(self, collector: Collector | None = None, progress: Progress | None = None) -> None:
        """Run every chunk through the next block.

        Args:
            collector: collects the inputs of the block's weights.
            progress: called with a ``StepDone`` after each batch.

        Raises:
            QuantmillError: an activation is not finite, and such chunks may not be left out.
        """
        with self.skeleton.block(self.layer) as module:
            self.advance_with(module, collector, progress)

    @torch.inference_mode()
    def advance_with(
        self,
        module: torch.nn.Module,
        collector: Collector | None = None,
        progress: Progress | None = None,
        forward: Forward | None = None,
    ) -> None:
        """Run every chunk through ``module``: the next block, ``skeleton.block(layer)``, possibly changed.

        Args:
            collector, progress: see ``advance``.
            forward: computes the output of a batch of chunks, without a collector; None for all of the block.
        """
        targets = self.weights.recorded_weights(self.layer, module)
        for number, batch in enumerate(self.batches):
            self._run(module, targets, batch, collector, forward)
            if progress is not None:
                progress(layer_step(self.layer, self.n_layers, number + 1, len(self.batches)))
        self.activations.flip()
        self.layer += 1

    def _run(
        self,
        module: torch.nn.Module,
        targets: dict[str, RecordedWeight],
        batch: list[int],
        collector: Collector | None,
        forward: Forward | None,
    ) -> None:
        alive = [chunk for chunk in batch if chunk not in self.dropped]
        if not alive:
            return
        try:
            out = self._block(module, targets, alive, collector, forward)
        except NonFinite as error:
            if collector is not None:
                collector.discard()
            if len(alive) > 1:  # to find out which chunk it is, run them one by one
                for chunk in alive:
                    self._run(module, targets, [chunk], collector, forward)
                return
            self.drop(alive[0], error.name)
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
        forward: Forward | None,
    ) -> torch.Tensor:
        inputs, hidden = self.inputs_for(chunks), self.activations.get(chunks)
        if forward is not None:
            out = forward(chunks)
        elif collector is None:
            out = self.skeleton.run_block(module, hidden, inputs)
        else:
            with record_inputs(module, targets, collector.see, by_head=True):
                out = self.skeleton.run_block(module, hidden, inputs)
        if not torch.isfinite(out.sum()):
            raise NonFinite(f"the output of block {self.layer}")
        return out

    def inputs_for(self, chunks: list[int], layer: int | None = None) -> BlockInputs:
        """A block's other inputs for a batch of chunks: masks, positions and the like.

        Args:
            layer: the block's number; None for the next.
        """
        n = len(chunks)
        if n not in self._inputs:
            ids = [torch.from_numpy(self.corpus.inputs[:n]).long()]
            for _, inputs in self.skeleton.embed(ids):
                self._inputs[n] = inputs
        tokens = torch.from_numpy(self.corpus.inputs[chunks]).long()
        return self._inputs[n][self.layer if layer is None else layer].with_tokens(tokens.to(self.options.device))

    def drop(self, chunk: int, where: str) -> None:
        """Leave out a chunk with an activation that is not finite.

        Raises:
            QuantmillError: such chunks may not be left out.
        """
        number = self.corpus.first_chunk + chunk
        problem = f"NaN or Inf in the activations of layer {self.layer}, chunk {number}"
        if not self.options.skip_bad:
            raise QuantmillError(
                problem, path=self.weights.model.path, where=where, hint="--skip-bad-chunks goes on without such chunks"
            )
        self.dropped[chunk] = f"{problem}: {where}"

    def finish(self, collector: Collector | None = None, progress: Progress | None = None) -> None:
        """Run all blocks that are left; see ``advance``."""
        while self.layer < self.n_layers:
            self.advance(collector, progress)

    @torch.inference_mode()  # it holds during each step of the generator, not for the code that takes what it yields
    def logits(self, collector: Collector | None = None) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Compute the predictions of every chunk that was not left out, after the last block.

        Args:
            collector: collects the inputs of the output matrix too, under its tensor's name.

        Yields:
            The chunk's number, its logits as float32 [judged positions, vocab], and the tokens that they are to predict
            as int64 [judged positions], both on the run's device.
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
                logits = run(self.activations.get(part))
                if collector is not None:
                    collector.commit()
                for chunk, rows in zip(part, logits, strict=True):
                    yield chunk, rows[:-1].float(), self._following(chunk).to(rows.device)

    @torch.inference_mode()
    def last_hidden(self, collector: Collector | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """Compute what the model gives before any output matrix, after the last block.

        Args:
            collector: collects the inputs of the projection that a model without a head may end with.

        Yields:
            The number of each chunk that was not left out, and its hidden states as float32 [n_ctx, width].
        """
        see = collector.see if collector is not None else lambda target, expert, x: None
        alive = ([chunk for chunk in batch if chunk not in self.dropped] for batch in self.batches)
        with self.skeleton.last_norm() as run:
            for part in filter(None, alive):
                with record_inputs(self.skeleton.model, self.weights.projection(), see):
                    hidden = run(self.activations.get(part)).cpu()
                if collector is not None:
                    collector.commit()
                yield from ((chunk, rows.float()) for chunk, rows in zip(part, hidden, strict=True))

    def _following(self, chunk: int) -> torch.Tensor:
        tokens = self.corpus.tokens[chunk, first_judged(self.corpus.n_ctx) + 1 :]
        return torch.from_numpy(tokens.astype(np.int64))


def layer_step(layer: int, n_layers: int, done: int, total: int) -> StepDone:
    """The event that ``done`` of ``total`` parts of a layer (counted from 0) are through."""
    return StepDone(f"layer {layer + 1}/{n_layers}", done, total, layer)
