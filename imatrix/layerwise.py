"""A model block by block, its linear layers replaced on the way, so that later ones see what the earlier became.

A block's linears stand in stages, found by watching one batch: q, k and v read the same input and are one group; the
output projection's input depends on them, so it comes a stage later; and so on to the feed forward's down projection.
Each stage is one pass of all chunks up to the stage's inputs, then the visitor may change its weights in place.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from ..formats.errors import QuantmillError, UnmatchedTensor
from ..formats.ir import Role
from ..formats.progress import Event, Progress
from .record_inputs import record_inputs
from .runner import Runner, layer_step
from .sums import RecordedWeight
from .weights import Weights

# Linears that nobody quantizes: routers decide which expert runs, the state-space projections are not attention's.
_LEFT_ALONE = (Role.FFN_GATE_INP, Role.FFN_GATE_INP_SHEXP)
_STAGE_BYTES = 2 << 30  # of float32 [width, width] per group, for blocks of hundreds of experts


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear layer of the running block.

    Args:
        name: the module's name in the checkpoint, e.g. ``model.layers.0.self_attn.q_proj``.
        role: what it is for.
        weight: [out, in], float, the block's own memory: what is written here is what the block computes with.
        bias: [out], likewise, or None.
        expert: its number, in a stack of experts.
    """

    name: str
    role: Role
    weight: torch.Tensor
    bias: torch.Tensor | None = None
    expert: int | None = None


@dataclass(frozen=True, eq=False)
class Group:
    """Linears with the same input."""

    linears: tuple[Linear, ...]

    @property
    def width(self) -> int:
        return int(self.linears[0].weight.shape[1])

    @property
    def name(self) -> str:
        return self.linears[0].name


Stage = tuple[Group, ...]


class Visitor(Protocol):
    """Who looks at a model's linears and may replace them."""

    def see(self, group: Group, x: torch.Tensor) -> None:
        """One batch's input [tokens, width] of a group; the tensor is not to be kept. An expert without tokens gets
        no call."""

    def replace(self, layer: int, module: torch.nn.Module, stage: Stage) -> None:
        """All inputs of the stage were seen: ``linear.weight`` may be changed in place. ``module`` is the block, in
        transformers' form, all its weights in memory."""


@torch.inference_mode()
def walk_block(
    runner: Runner,
    visitor: Visitor,
    progress: Progress | None = None,
    *,
    sequential: bool = True,
    stage_bytes: int = _STAGE_BYTES,
) -> None:
    """All chunks through the runner's next block, whose linears the visitor may replace; the runner is then past it.

    Args:
        runner: after ``embed``.
        visitor: is shown the block stage by stage.
        progress: called with a ``StepDone`` for each batch; the total is of all passes.
        sequential: False shows all groups as one stage, their inputs those of the block as it was.
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

        layer = runner.layer
        for stage in stages:
            for batch in runner.batches:
                stage.listen(runner, module, batch, visitor.see)
                batch_done()
            visitor.replace(layer, module, stage.groups)
        runner.through(module, progress=batch_done)
    _return_memory()


def _return_memory() -> None:
    """What a block took and freed goes back to the system: glibc keeps it in pieces, which grow by the block."""
    gc.collect()  # the command lets cycles wait, some of which hold arrays
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


class _Enough(Exception):
    """The stage has its inputs; the rest of the block need not run."""


class _Stage:
    """Groups, and how their inputs are heard: by the first of a group's parameters to be used."""

    def __init__(self, groups: dict[tuple[str, int], Group], targets: dict[str, RecordedWeight], stop: bool) -> None:
        self.groups: Stage = tuple(groups.values())
        self.by_key = {(targets[name].names, expert): group for (name, expert), group in groups.items()}
        self.targets = {name: targets[name] for name, _ in groups}
        self.stop = stop

    def listen(
        self, runner: Runner, module: torch.nn.Module, batch: list[int], see: Callable[[Group, torch.Tensor], None]
    ) -> None:
        heard = 0

        def on_input(target: RecordedWeight, expert: int, x: torch.Tensor) -> None:
            nonlocal heard
            group = self.by_key.get((target.names, expert))
            if group is not None:
                see(group, x.reshape(-1, x.shape[-1]))
                heard += 1
                if self.stop and heard == len(self.groups):
                    raise _Enough

        hidden, inputs = runner.activations.get(batch), runner.inputs_for(len(batch))
        try:
            with record_inputs(module, self.targets, on_input):
                runner.skeleton.run_block(module, hidden, inputs)
        except _Enough:
            pass


def _stages(runner: Runner, module: torch.nn.Module, sequential: bool, limit: int) -> list[_Stage]:
    """The block's stages, from watching its first batch."""
    weights, layer = runner.weights, runner.layer
    linears = block_linears(weights, layer, module)
    targets = {name: target for name, target in weights.recorded_weights(layer, module).items() if name in linears}
    calls = _calls(runner, module, targets)
    times = Counter((name, expert) for name, expert, _ in calls)
    heard: dict[str, list[str]] = {}  # the parameter that is heard for a group -> all of the group
    order: dict[tuple[int, int], str] = {}
    for name, _, x in calls:
        if any(name in names for names in heard.values()):
            continue
        # experts are given slices of their own, which say nothing about each other
        key = (x.data_ptr(), x.numel()) if targets[name].n_matrices == 1 else (id(name), -1)
        heard.setdefault(order.setdefault(key, name), []).append(name)
    for name in targets:  # experts that the batch did not reach, or something this text never uses
        if not any(name in names for names in heard.values()):
            heard[name] = [name]
    stages: list[dict[tuple[str, int], Group]] = []
    for leader, names in heard.items():
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
    """(parameter, expert, input) of each product, in order. The inputs stay alive, so no two share an address."""
    calls: list[tuple[str, int, torch.Tensor]] = []
    by_names = {target.names: name for name, target in targets.items()}
    batch = runner.batches[0][:1]
    hidden, inputs = runner.activations.get(batch), runner.inputs_for(1)
    with record_inputs(module, targets, lambda target, expert, x: calls.append((by_names[target.names], expert, x))):
        out = runner.skeleton.run_block(module, hidden, inputs)
    if not torch.isfinite(out).all():
        problem = f"NaN or Inf in the activations of layer {runner.layer}"
        raise QuantmillError(problem, path=runner.weights.model.path, hint="the model is damaged, or needs --dtype f32")
    return calls


def block_linears(weights: Weights, layer: int, module: torch.nn.Module) -> dict[str, list[tuple[Linear, ...]]]:
    """A block's linears by transformers' parameter: for each expert (one, where there are none) those in it.

    Raises:
        UnmatchedTensor: the checkpoint has no names of its own for the experts.
    """
    per_layer = [rule for rule in weights.arch.rules if rule.per_layer]
    rule_of = {name: rule for rule in per_layer for name in rule.targets(layer, "weight")}
    parameters = dict(module.named_parameters())
    found: dict[str, list[tuple[Linear, ...]]] = {}
    for name, target in weights.recorded_weights(layer, module).items():
        rules = [rule_of[tensor] for tensor in target.names]
        parameter = parameters[name]
        if any(rule.roles[0] in _LEFT_ALONE or rule.roles[0].value.startswith("ssm") for rule in rules):
            continue
        if target.n_matrices == 1:
            (source,) = rules[0].sources(layer, "weight", weights.config)
            bias = parameters.get(f"{name.removesuffix('.weight')}.bias")
            found[name] = [(Linear(source.removesuffix(".weight"), rules[0].roles[0], parameter, bias),)]
            continue
        halves = parameter.chunk(len(rules), dim=1)
        names = [rule.sources(layer, "weight", weights.config) for rule in rules]
        if any(len(each) != target.n_matrices for each in names):
            problem = "the checkpoint keeps all experts in one tensor"
            raise UnmatchedTensor(problem, path=weights.model.path, where=names[0][0])
        found[name] = [
            tuple(
                Linear(each[expert].removesuffix(".weight"), rule.roles[0], half[expert], None, expert)
                for rule, each, half in zip(rules, names, halves, strict=True)
            )
            for expert in range(target.n_matrices)
        ]
    return found
