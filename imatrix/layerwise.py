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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from ..formats.errors import QuantmillError, UnmatchedTensor
from ..formats.hf.tables.dimensions import at_layer
from ..formats.hf.tables.expert_names import expert_names
from ..formats.ir import Role
from ..formats.progress import Event, Progress
from .record_inputs import record_inputs
from .runner import Runner, layer_step
from .sums import RecordedWeight
from .weights import Weights

if TYPE_CHECKING:
    from ..formats.hf.tables.rules import Rule

# Routers are never quantized: they decide which expert runs.
_NEVER_QUANTIZED = (Role.FFN_GATE_INP, Role.FFN_GATE_INP_SHEXP)
_STAGE_BYTES = 2 << 30  # of one float32 [width, width] for each group; blocks of hundreds of experts have more


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear layer of the running block.

    Args:
        name: the module's name in the checkpoint, e.g. ``model.layers.0.self_attn.q_proj``.
        role: what it is for.
        weight: [out, in], float, the block's own memory: the block computes with what is written here.
        bias: [out], likewise, or None.
        expert: the expert's number in a stack of experts, else None.
        stored: the checkpoint's tensor that holds the weight, alone or with those of other experts.
    """

    name: str
    role: Role
    weight: torch.Tensor
    bias: torch.Tensor | None = None
    expert: int | None = None
    stored: str = ""


@dataclass(frozen=True, eq=False)
class Group:
    """Linears that read the same input."""

    linears: tuple[Linear, ...]

    @property
    def width(self) -> int:
        """Columns of the weights."""
        return int(self.linears[0].weight.shape[1])

    @property
    def name(self) -> str:
        """The first linear's name."""
        return self.linears[0].name


Stage = tuple[Group, ...]


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

        layer = runner.layer
        for stage in stages:
            for batch in runner.batches:
                stage.run(runner, module, batch, visitor.see)
                batch_done()
            visitor.replace(layer, module, stage.groups)
        runner.advance_with(module, progress=batch_done)
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

    def run(
        self, runner: Runner, module: torch.nn.Module, batch: list[int], see: Callable[[Group, torch.Tensor], None]
    ) -> None:
        """Run a batch up to the stage's inputs, and give them to ``see``."""
        n_recorded = 0

        def on_input(target: RecordedWeight, expert: int, x: torch.Tensor) -> None:
            nonlocal n_recorded
            group = self.by_key.get((target.names, expert))
            if group is not None:
                see(group, x.reshape(-1, x.shape[-1]))
                n_recorded += 1
                if self.stop and n_recorded == len(self.groups):
                    raise _StageComplete

        hidden, inputs = runner.activations.get(batch), runner.inputs_for(batch)
        try:
            with record_inputs(module, self.targets, on_input):
                runner.skeleton.run_block(module, hidden, inputs)
        except _StageComplete:
            pass


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


def block_linears(weights: Weights, layer: int, module: torch.nn.Module) -> dict[str, list[tuple[Linear, ...]]]:
    """Find a block's linears: by parameter of transformers, for each expert (or once, without experts), a tuple.

    Experts that the checkpoint keeps in one tensor have the names of the architecture's layout with a tensor for each.

    Raises:
        UnmatchedTensor: the architecture has no names of their own for the experts.
    """
    config = at_layer(weights.config, layer, weights.n_layers)
    per_layer = [rule for rule in weights.arch.rules if rule.per_layer and rule.when(config)]
    rule_of = {
        name: (rule, role)
        for rule in per_layer
        for name, role in zip(rule.targets(layer, "weight"), rule.roles, strict=True)
    }
    parameters = dict(module.named_parameters())
    found: dict[str, list[tuple[Linear, ...]]] = {}
    for name, target in weights.recorded_weights(layer, module).items():
        rules = [rule_of[tensor] for tensor in target.names]
        parameter: torch.Tensor = parameters[name]
        if any(role in _NEVER_QUANTIZED or role.value.startswith("ssm") for _, role in rules):
            continue
        if target.n_matrices == 1 and parameter.dim() != 2:  # a convolution's
            continue
        if target.n_matrices == 1:
            rule, role = rules[0]
            source, *others = rule.sources(layer, "weight", weights.config)
            if others or rule.size("weight", config) != tuple(parameter.shape):
                problem = "transformers has it in several parts, of which each would be replaced alone"
                raise UnmatchedTensor(problem, path=weights.model.path, where=source)
            bias = parameters.get(f"{name.removesuffix('.weight')}.bias")
            found[name] = [(Linear(source.removesuffix(".weight"), role, parameter, bias, None, source),)]
            continue
        if target.turned is not None:
            parameter = parameter.transpose(1, 2)
        halves = parameter.chunk(len(rules), dim=1)
        named = [_expert_names(weights, rule, role, layer) for rule, role in rules]
        found[name] = [
            tuple(
                Linear(names[expert].removesuffix(".weight"), role, half[expert], None, expert, stored[expert])
                for (_, role), (names, stored), half in zip(rules, named, halves, strict=True)
            )
            for expert in range(target.n_matrices)
        ]
    return found


def _expert_names(weights: Weights, rule: Rule, role: Role, layer: int) -> tuple[Sequence[str], Sequence[str]]:
    """For each expert its weight's name, and that of the checkpoint's tensor with it."""
    names = rule.sources(layer, "weight", weights.config)
    if "{expert}" in rule.modules[0]:
        return names, names
    alone = expert_names(weights.arch, rule, role, layer, weights.config)
    if not alone:
        problem = "the checkpoint keeps all experts in one tensor, and the architecture has no names for each"
        raise UnmatchedTensor(problem, path=weights.model.path, where=names[0], hint="quantize to GGUF instead")
    return alone, names * len(alone)
