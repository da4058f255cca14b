"""The stages of a block in which two models are compared: which inputs arise together, and how they are recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch

from ..formats.errors import QuantmillError
from .record_inputs import record_inputs
from .record_residuals import record_residuals
from .runner import Runner
from .second_moments import measured
from .sums import RecordedWeight


@dataclass(frozen=True, eq=False)
class Input:
    """What enters one or several matrices.

    Args:
        names: the GGUF tensors that multiply it.
        matrix: which of their matrices; 0 for a plain tensor.
        n_matrices: how many they have.
        width: its columns.
        routed: whether it is an expert's, which other tokens may reach in another model.
    """

    names: tuple[str, ...]
    matrix: int
    n_matrices: int
    width: int
    routed: bool


@dataclass
class Seen:
    """What a stage saw of one batch.

    Args:
        inputs: float32 [tokens, width] by input.
        residuals: by tensor, what its product is added to, float32 [tokens, rows].
    """

    inputs: dict[Input, torch.Tensor] = field(default_factory=dict)
    residuals: dict[str, torch.Tensor] = field(default_factory=dict)


class _StageComplete(Exception):
    """Everything was recorded; the rest of the block need not run."""


_Key = tuple[tuple[str, ...], int]  # the names of a recorded weight, and which matrix


class Stage:
    """Inputs that are recorded in one pass.

    Args:
        inputs: by the weight that they are recorded at.
        targets: the weights that are recorded, by parameter.
        residuals: the tensors whose products are added to hidden states, by parameter.
        stop: whether each input is seen once in a pass, so that the rest need not run.
    """

    def __init__(
        self,
        inputs: Mapping[_Key, Input],
        targets: Mapping[str, RecordedWeight],
        residuals: Mapping[str, str],
        stop: bool,
    ) -> None:
        self._by_key, self._targets, self._residuals, self._stop = dict(inputs), targets, dict(residuals), stop
        self.inputs = tuple(inputs.values())

    @property
    def paired(self) -> bool:
        """Whether an input is of the same tokens in both models."""
        return not all(one.routed for one in self.inputs)

    def run(self, runner: Runner, module: torch.nn.Module, batch: list[int]) -> Seen:
        """Run a batch up to what is recorded."""
        parts: dict[Input, list[torch.Tensor]] = {}
        seen = Seen()

        def complete() -> None:
            if self._stop and len(parts) == len(self.inputs) and len(seen.residuals) == len(self._residuals):
                raise _StageComplete

        def on_input(target: RecordedWeight, matrix: int, x: torch.Tensor) -> None:
            one = self._by_key.get((target.names, matrix))
            if one is not None:
                parts.setdefault(one, []).append(x.reshape(-1, x.shape[-1]).float())
                complete()

        def on_sum(name: str, other: torch.Tensor) -> None:
            seen.residuals[name] = other.reshape(-1, other.shape[-1]).float()
            complete()

        hidden, inputs = runner.activations.get(batch), runner.inputs_for(batch)
        try:
            with ExitStack() as stack:
                if self._residuals:  # outside: an input is seen before its product is left out
                    recording = record_residuals(module, self._residuals, on_sum, compute=not self._stop)
                    stack.enter_context(recording)
                stack.enter_context(record_inputs(module, self._targets, on_input, by_head=True))
                runner.skeleton.run_block(module, hidden, inputs)
        except _StageComplete:
            pass
        seen.inputs = {one: x[0] if len(x) == 1 else torch.cat(x) for one, x in parts.items()}
        return seen


def stages_of(runner: Runner, module: torch.nn.Module, wanted: Collection[str], limit: int) -> Iterator[Stage]:
    """Divide a block into stages, by recording one chunk.

    Args:
        runner: of the model whose block it is.
        module: the block, with its weights.
        wanted: the names of the tensors whose inputs are wanted.
        limit: bytes of one float32 [width, width] for each input of a stage.

    Raises:
        QuantmillError: the block's output is not finite.
    """
    targets = {
        name: target
        for name, target in runner.weights.recorded_weights(runner.layer, module).items()
        if any(one in wanted and measured(one) for one in target.names)
    }
    calls, sums = _probe(runner, module, targets)
    times = Counter((target.names, matrix) for target, matrix, _ in calls)
    leaders: dict[object, tuple[RecordedWeight, list[str]]] = {}
    known: set[tuple[str, ...]] = set()
    for target, _, x in calls:
        own = [name for name in target.names if name in wanted]
        if target.names in known or not own:
            continue
        known.add(target.names)
        # a stack's inputs are slices, and heads' are too: they share with no other
        key = (x.data_ptr(), x.numel()) if target.n_matrices == 1 else target.names
        leaders.setdefault(key, (target, []))[1].extend(own)
    seen = {name for _, names in leaders.values() for name in names}
    for target in targets.values():  # experts that nothing of the chunk was routed to
        if target.n_matrices > 1 and target.heads is None and not seen & {*target.names}:
            leaders[target.names] = (target, [name for name in target.names if name in wanted])
    stacks = {target.names for target in targets.values() if target.heads is None and target.n_matrices > 1}
    for target, names in leaders.values():
        width, routed = runner.weights.tensors[names[0]].width, target.names in stacks
        residuals = {parameter: name for parameter, name in sums.items() if name in names and not routed}
        inputs = {
            (target.names, matrix): Input(tuple(names), matrix, target.n_matrices, width, routed)
            for matrix in range(target.n_matrices)
        }
        once = not routed and all(times[key] == 1 for key in inputs)
        for part in _parts(inputs, limit):
            yield Stage(part, targets, residuals, stop=once)


def _probe(
    runner: Runner, module: torch.nn.Module, targets: Mapping[str, RecordedWeight]
) -> tuple[list[tuple[RecordedWeight, int, torch.Tensor]], dict[str, str]]:
    """(weight, matrix, input) of each product of a chunk, in order; and the tensors whose products are added to hidden
    states, by parameter."""
    calls: list[tuple[RecordedWeight, int, torch.Tensor]] = []
    found: set[str] = set()
    plain = {name: target.names[0] for name, target in targets.items() if len(target.names) == target.n_matrices == 1}
    batch = runner.batches[0][:1]
    hidden, inputs = runner.activations.get(batch), runner.inputs_for(batch)
    with (
        record_residuals(module, plain, lambda name, _: found.add(name)),
        record_inputs(module, targets, lambda target, matrix, x: calls.append((target, matrix, x)), by_head=True),
    ):
        out = runner.skeleton.run_block(module, hidden, inputs)
    if not torch.isfinite(out.sum()):
        problem = f"NaN or Inf in the activations of layer {runner.layer}"
        raise QuantmillError(problem, path=runner.weights.model.path, hint="the model is damaged")
    return calls, {parameter: name for parameter, name in plain.items() if name in found}


def _parts(inputs: Mapping[_Key, Input], limit: int) -> Iterator[dict[_Key, Input]]:
    """Divide the inputs of a stack by the memory that their sums take."""
    part: dict[_Key, Input] = {}
    for key, one in inputs.items():
        if part and 4 * one.width**2 * (len(part) + 1) > limit:
            yield part
            part = {}
        part[key] = one
    yield part
