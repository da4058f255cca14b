"""Walk through a model block by block and replace its linear layers on the way, as GPTQ and AWQ do.

Later layers see what the earlier ones became. The linears of a block are divided into stages, found by recording one
batch: q, k and v read the same input and are one group; the output projection's input depends on them, so it comes a
stage later; and so on to the feed forward's down projection. For each stage all chunks run up to its inputs, then the
visitor may change its weights in place.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from ..formats.errors import QuantmillError
from ..formats.progress import Event, Progress
from .block_linears import Group, Stage, block_linears
from .partial_runs import PartialRuns
from .record_inputs import OnInput, record_inputs
from .runner import Runner, layer_step
from .sums import RecordedWeight

_STAGE_BYTES = 2 << 30  # of one float32 [width, width] for each group; blocks of hundreds of experts have more


class Visitor(Protocol):
    """What ``walk_block`` calls with a model's linears, and what may replace them."""

    def see(self, group: Group, x: torch.Tensor) -> None:
        """Look at one batch's input x [tokens, width] of a group.

        The tensor may not be kept. There is no call for an expert without tokens.
        """

    def replace(self, layer: int, module: torch.nn.Module, stage: Stage) -> None:
        """Change ``linear.weight`` of a stage's linears in place, if at all, after all their inputs were seen.

        Args:
            layer: the block's number.
            module: the block as a module of transformers, all its weights in memory.
            stage: its groups.
        """


@torch.inference_mode()
def walk_block(
    runner: Runner,
    visitor: Visitor,
    progress: Progress | None = None,
    *,
    sequential: bool = True,
    stage_bytes: int = _STAGE_BYTES,
) -> None:
    """Run all chunks through the runner's next block, whose linears the visitor may replace.

    Each stage goes on where the one before stopped. The first batch is computed from the start as well, and where that
    gives anything else, so are the others.

    Args:
        runner: after ``embed``. It is past the block when this returns.
        visitor: is called for each stage of the block.
        progress: called with a ``StepDone`` for each batch; the total is of all passes.
        sequential: False makes all groups one stage, with the inputs that they have in the unchanged block.
        stage_bytes: a stage is split so that one float32 [width, width] for each of its groups takes no more than this.

    Raises:
        QuantmillError: an activation is not finite.
    """
    with runner.skeleton.block(runner.layer) as module:
        stages = _stages(runner, module, sequential, stage_bytes)
        batches, passed = (len(stages) + 1) * len(runner.batches), 0

        def batch_done(_: Event | None = None) -> None:
            nonlocal passed
            passed += 1
            if progress is not None:
                progress(layer_step(layer, runner.n_layers, passed, batches))

        layer, partial = runner.layer, PartialRuns(runner.activations.folder)
        try:
            for stage in stages:
                for number in range(len(runner.batches)):
                    stage.run(runner, module, number, partial, visitor.see)
                    batch_done()
                visitor.replace(layer, module, stage.groups)
            runner.advance_with(module, progress=batch_done, forward=_last_part(runner, module, partial))
        finally:
            partial.clear()
    _return_memory()


@torch.inference_mode()
def watch_block(runner: Runner, see: Callable[[Group, torch.Tensor], None], progress: Progress | None = None) -> None:
    """Run all chunks through the runner's next block once, and leave it as it is.

    Args:
        runner: after ``embed``. It is past the block when this returns.
        see: see ``Visitor.see``; a batch with an activation that is not finite is seen again, chunk by chunk.
        progress: called with a ``StepDone`` for each batch.

    Raises:
        QuantmillError: an activation is not finite.
    """
    with runner.skeleton.block(runner.layer) as module:
        (stage,) = _stages(runner, module, sequential=False, limit=sys.maxsize)

        def forward(batch: list[int]) -> torch.Tensor:
            with record_inputs(module, stage.targets, stage.passed_to(see)):
                return runner.skeleton.run_block(module, runner.activations.get(batch), runner.inputs_for(batch))

        runner.advance_with(module, progress=progress, forward=forward)
    _return_memory()


def _return_memory() -> None:
    """Give freed memory back to the system. glibc would keep it in fragments that grow with every block."""
    gc.collect()  # the commands switch automatic collection off, and some reference cycles hold arrays
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


class _StageComplete(Exception):
    """All inputs of the stage were recorded; the rest of the block need not run."""


class _Stage:
    """Groups, and how their inputs are recorded: where the first of a group's parameters is used."""

    def __init__(self, groups: dict[tuple[str, int], Group], targets: dict[str, RecordedWeight], stop: bool) -> None:
        self.groups: Stage = tuple(groups.values())
        self.by_key = {(targets[name].names, expert): group for (name, expert), group in groups.items()}
        self.targets = {name: targets[name] for name, _ in groups}
        self.stop = stop

    def passed_to(self, see: Callable[[Group, torch.Tensor], None]) -> OnInput:
        """What ``record_inputs`` is to call, so that ``see`` is given the inputs of the groups."""

        def on_input(target: RecordedWeight, expert: int, x: torch.Tensor) -> None:
            group = self.by_key.get((target.names, expert))
            if group is not None:
                see(group, x.reshape(-1, x.shape[-1]))

        return on_input

    def run(
        self,
        runner: Runner,
        module: torch.nn.Module,
        number: int,
        partial: PartialRuns,
        see: Callable[[Group, torch.Tensor], None],
    ) -> None:
        """Run a batch up to the stage's inputs, and give them to ``see``."""
        if number or number not in partial:
            self._run(runner, module, number, partial, see)
            return
        found: list[list[tuple[Group, torch.Tensor]]] = []
        for how in (partial, PartialRuns(partial.folder)):
            inputs: list[tuple[Group, torch.Tensor]] = []

            def keep(group: Group, x: torch.Tensor, inputs: list[tuple[Group, torch.Tensor]] = inputs) -> None:
                inputs.append((group, x.clone()))

            self._run(runner, module, number, how, keep)
            found.append(inputs)
        if not all(map(_same, *found)) or len(found[0]) != len(found[1]):
            partial.give_up()
        for group, x in found[1]:
            see(group, x)

    def _run(
        self,
        runner: Runner,
        module: torch.nn.Module,
        number: int,
        partial: PartialRuns,
        see: Callable[[Group, torch.Tensor], None],
    ) -> None:
        n_recorded = 0

        def see_and_stop(group: Group, x: torch.Tensor) -> None:
            nonlocal n_recorded
            stop()
            see(group, x)
            n_recorded += 1
            if self.stop and n_recorded == len(self.groups):
                raise _StageComplete

        batch = runner.batches[number]
        hidden, inputs = runner.activations.get(batch).to(runner.options.device), runner.inputs_for(batch)
        others = _tensors((inputs.args, inputs.kwargs))
        try:
            with (
                record_inputs(module, self.targets, self.passed_to(see_and_stop)),
                partial.run(number, module, hidden, others) as (entering, stop),
            ):
                runner.skeleton.run_block(module, entering, inputs)
        except _StageComplete:
            pass


def _last_part(runner: Runner, module: torch.nn.Module, partial: PartialRuns) -> Callable[[list[int]], torch.Tensor]:
    """What computes the block's output for a batch, from where its last stage stopped."""

    def whole(batch: list[int]) -> torch.Tensor:
        return runner.skeleton.run_block(module, runner.activations.get(batch), runner.inputs_for(batch))

    def forward(batch: list[int]) -> torch.Tensor:
        number = runner.batches.index(batch) if batch in runner.batches else -1
        if number not in partial:
            return whole(batch)
        hidden, inputs = runner.activations.get(batch).to(runner.options.device), runner.inputs_for(batch)
        others = _tensors((inputs.args, inputs.kwargs))
        with partial.run(number, module, hidden, others) as (entering, _):
            out = runner.skeleton.run_block(module, entering, inputs)
        if number == 0 and not torch.equal(out, exact := whole(batch)):
            partial.give_up()
            return exact
        return out

    return forward


def _same(one: tuple[Group, torch.Tensor], other: tuple[Group, torch.Tensor]) -> bool:
    return one[0] is other[0] and torch.equal(one[1], other[1])


def _tensors(nest: Any) -> list[torch.Tensor]:
    """The tensors in a nest of tuples, lists and dicts."""
    if isinstance(nest, torch.Tensor):
        return [nest]
    if isinstance(nest, dict):
        nest = list(nest.values())
    return [tensor for one in nest for tensor in _tensors(one)] if isinstance(nest, (list, tuple)) else []


def _stages(runner: Runner, module: torch.nn.Module, sequential: bool, limit: int) -> list[_Stage]:
    """Divide the block into stages, by recording its first batch."""
    weights, layer = runner.weights, runner.layer
    linears = block_linears(weights, layer, module)
    targets = {name: target for name, target in weights.recorded_weights(layer, module).items() if name in linears}
    calls = _calls(runner, module, targets)
    times = Counter((name, expert) for name, expert, _ in calls)
    members: dict[str, list[str]] = {}  # the parameter whose input is recorded for a group -> all of the group
    order: dict[tuple[int, int], str] = {}
    for name, _, x in calls:
        if any(name in names for names in members.values()):
            continue
        # each expert has its own slice as input; they are never in one group
        key = (x.data_ptr(), x.numel()) if targets[name].n_matrices == 1 else (id(name), -1)
        members.setdefault(order.setdefault(key, name), []).append(name)
    for name in targets:  # experts to which nothing in the batch was routed, or a weight that this text never uses
        if not any(name in names for names in members.values()):
            members[name] = [name]
    stages: list[dict[tuple[str, int], Group]] = []
    for leader, names in members.items():
        groups = {
            (leader, expert): Group(tuple(one for name in names for one in linears[name][expert]))
            for expert in range(targets[leader].n_matrices)
        }
        if sequential or not stages:
            stages.append(groups)
        else:
            stages[0].update(groups)
    return [
        _Stage(part, targets, stop=all(times[key] == 1 and targets[key[0]].n_matrices == 1 for key in part))
        for stage in stages
        for part in _split(stage, limit)
    ]


def _split(stage: dict[tuple[str, int], Group], limit: int) -> list[dict[tuple[str, int], Group]]:
    parts: list[dict[tuple[str, int], Group]] = []
    size = limit + 1
    for key, group in stage.items():
        if size + 4 * group.width**2 > limit:
            parts.append({})
            size = 0
        parts[-1][key] = group
        size += 4 * group.width**2
    return parts


def _calls(
    runner: Runner, module: torch.nn.Module, targets: dict[str, RecordedWeight]
) -> Sequence[tuple[str, int, torch.Tensor]]:
    """(parameter, expert, input) of each product, in order. The inputs stay alive, so that no two share an address."""
    calls: list[tuple[str, int, torch.Tensor]] = []
    by_names = {target.names: name for name, target in targets.items()}
    batch = runner.batches[0][:1]
    hidden, inputs = runner.activations.get(batch), runner.inputs_for(batch)
    with record_inputs(module, targets, lambda target, expert, x: calls.append((by_names[target.names], expert, x))):
        out = runner.skeleton.run_block(module, hidden, inputs)
    if not torch.isfinite(out).all():
        problem = f"NaN or Inf in the activations of layer {runner.layer}"
        raise QuantmillError(problem, path=runner.weights.model.path, hint="the model is damaged, or needs --dtype f32")
    return calls
