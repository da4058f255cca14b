"""Run a text through a model and, beside it, through what the model becomes while its weights are replaced.

Blocks come in order. A block's weights are divided into stages by the order in which their inputs arise: q, k and v
first, then the attention's output, gate and up, down. For each stage every chunk runs through both models up to its
inputs; what is seen goes to a visitor, who then gives new weights for the second model. So each weight is chosen for
the inputs that it will have, with all that came before already replaced.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import torch

from ..formats.errors import QuantmillError
from ..formats.ir import Tensor
from ..formats.progress import Event, Progress
from .activations import Activations
from .paired_stages import Input, Seen, Stage, stages_of
from .runner import Runner, layer_step

_STAGE_BYTES = 2 << 30  # of the sums of a stage: blocks of many experts are divided into several
_AHEAD = 2  # batches for each thread that may wait to be added to the sums


@dataclass(frozen=True)
class Pair:
    """One batch of what enters some tensors in both models.

    Args:
        changed: float [tokens, width], in the model whose weights are replaced.
        original: the same of the original; None where the two see different tokens, as experts do.
        residuals: by tensor whose product is added to hidden states, those of the original less those of the other,
            float [tokens, rows].
        kept_aside: whether the batch is for judging alone.
    """

    changed: torch.Tensor
    original: torch.Tensor | None = None
    residuals: Mapping[str, torch.Tensor] = field(default_factory=dict)
    kept_aside: bool = False


class PairedVisitor(Protocol):
    """What ``PairedRun.walk_block`` calls with inputs, and what gives the new weights."""

    def begin(self, layer: int, inputs: Sequence[Input]) -> None:
        """The inputs of the next stage; their batches follow."""

    def see(self, one: Input, pair: Pair) -> None:
        """Look at a batch. Nothing of it may be kept. There is no call for an expert without tokens."""

    def replace(self, inputs: Sequence[Input]) -> Mapping[str, Tensor]:
        """Give the new tensors, of a float type, that are finished with this stage, by name."""


class PairedRun:
    """Two runners that keep step. It is a ``run_state.Walk``.

    Args:
        original: the model as it is. Its corpus is the other's, and both have a half of ``activations``.
        changed: the model whose tensors are replaced; its ``weights.tensors`` are changed.
        activations: of both, the original's chunks first.
        kept_aside: the chunks that are for judging alone.
        threads: how many run at a time. The numbers are the same with any.
    """

    def __init__(
        self, original: Runner, changed: Runner, activations: Activations, kept_aside: Collection[int], threads: int
    ) -> None:
        self.original, self.changed, self.activations = original, changed, activations
        self.kept_aside, self.threads = frozenset(kept_aside), threads
        self.dropped: dict[int, str] = {}
        size = max(map(len, original.batches))
        parts = [[c for c in range(original.corpus.n_chunks) if (c in self.kept_aside) == aside] for aside in (0, 1)]
        batches = [part[a : a + size] for part in parts for a in range(0, len(part), size)]
        original.batches = changed.batches = batches

    @property
    def layer(self) -> int:
        """The next block's number."""
        return self.original.layer

    @layer.setter
    def layer(self, number: int) -> None:
        self.original.layer = self.changed.layer = number

    @property
    def n_layers(self) -> int:
        """How many blocks the model has."""
        return self.original.n_layers

    @property
    def batches(self) -> list[list[int]]:
        """The chunks' numbers, batch by batch; those that are kept aside are in batches of their own, at the end."""
        return self.original.batches

    def embed(self, keep: bool = True) -> None:
        """Compute what enters the first block of both; see ``Runner.embed``."""
        for runner in (self.original, self.changed):
            runner.embed(keep)
        if keep:
            self.activations.flip()

    @torch.inference_mode()
    def walk_block(
        self,
        visitor: PairedVisitor,
        wanted: Collection[str],
        progress: Progress | None = None,
        *,
        stage_bytes: int = _STAGE_BYTES,
    ) -> set[str]:
        """Run all chunks through the next block, whose weights the visitor replaces in the second model.

        Args:
            visitor: is called for each stage.
            wanted: the names of the tensors to be replaced.
            progress: called with a ``StepDone`` for each batch; the total is of all passes.
            stage_bytes: a stage is divided so that one float32 [width, width] for each input takes no more than this.

        Returns:
            the names of the tensors that the text reached.

        Raises:
            QuantmillError: an activation is not finite.
        """
        layer, skeleton = self.layer, self.changed.skeleton
        with self.original.skeleton.block(layer) as before, skeleton.block(layer) as after:
            stages = list(stages_of(self.original, before, wanted, stage_bytes))
            total, done = (len(stages) + 2) * len(self.batches), 0

            def batch_done(_: Event | None = None) -> None:
                nonlocal done
                done += 1
                if progress is not None:
                    progress(layer_step(layer, self.n_layers, done, total))

            for stage in stages:
                visitor.begin(layer, stage.inputs)
                for pairs in self._pairs(stage, before, after):
                    for one, pair in pairs:
                        visitor.see(one, pair)
                    batch_done()
                new = visitor.replace(stage.inputs)
                if new:
                    self.changed.weights.tensors.update(new)
                    skeleton.refill(layer, after)
            self._advance(self.original, before, batch_done)
            self._advance(self.changed, after, batch_done)
        self.activations.flip()
        return {name for stage in stages for one in stage.inputs for name in one.names}

    def _advance(self, runner: Runner, module: torch.nn.Module, batch_done: Progress) -> None:
        layer = runner.layer
        try:
            runner.advance_with(module, progress=batch_done)
        except QuantmillError as error:
            raise self._not_finite(runner, layer, f"the output of block {layer}") from error

    def _not_finite(self, runner: Runner, layer: int, where: str) -> QuantmillError:
        which = "the original model" if runner is self.original else "the quantized model"
        problem = f"NaN or Inf in the activations of layer {layer} of {which}"
        hint = "choose a level with more bits" if runner is self.changed else "the model is damaged"
        return QuantmillError(problem, path=self.original.weights.model.path, where=where, hint=hint)

    def _pairs(
        self, stage: Stage, before: torch.nn.Module, after: torch.nn.Module
    ) -> Iterator[list[tuple[Input, Pair]]]:
        """What the stage sees of each batch, in order, computed by several threads."""

        def run(batch: list[int]) -> list[tuple[Input, Pair]]:
            with torch.inference_mode():
                changed = stage.run(self.changed, after, batch)
                self._check(self.changed, changed)
                if not stage.paired:
                    return list(self._joined(stage, changed, None, batch))
                original = stage.run(self.original, before, batch)
                self._check(self.original, original)
                return list(self._joined(stage, changed, original, batch))

        if self.threads == 1:
            yield from map(run, self.batches)
            return
        with ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            waiting: list[Future[list[tuple[Input, Pair]]]] = []
            for batch in self.batches:
                waiting.append(pool.submit(run, batch))
                if len(waiting) > _AHEAD * self.threads:
                    yield waiting.pop(0).result()
            for future in waiting:
                yield future.result()

    def _check(self, runner: Runner, seen: Seen) -> None:
        for one, x in seen.inputs.items():
            if not torch.isfinite(x.sum()):
                raise self._not_finite(runner, runner.layer, one.names[0])

    def _joined(
        self, stage: Stage, changed: Seen, original: Seen | None, batch: list[int]
    ) -> Iterator[tuple[Input, Pair]]:
        aside = batch[0] in self.kept_aside
        for one in stage.inputs:
            x = changed.inputs.get(one)
            if x is None:
                continue
            first = None if original is None else original.inputs.get(one)
            if original is None or first is None or first.shape != x.shape:
                yield one, Pair(x, None, {}, aside)
                continue
            residuals = {
                name: original.residuals[name] - changed.residuals[name]
                for name in one.names
                if name in original.residuals and name in changed.residuals
            }
            yield one, Pair(x, first, residuals, aside)

    @torch.inference_mode()
    def head_pairs(self) -> Iterator[Pair]:
        """What enters the output matrix in both models, after the last block, batch by batch.

        Raises:
            QuantmillError: an activation is not finite.
        """
        with self.original.skeleton.last_norm() as before, self.changed.skeleton.last_norm() as after:
            for batch in self.batches:
                parts = []
                for runner, norm in ((self.original, before), (self.changed, after)):
                    x = norm(runner.activations.get(batch))
                    if not torch.isfinite(x.sum()):
                        raise self._not_finite(runner, self.n_layers - 1, runner.weights.head.name)
                    parts.append(x.reshape(-1, x.shape[-1]).float())
                yield Pair(parts[1], parts[0], {}, batch[0] in self.kept_aside)
