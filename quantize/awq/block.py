"""AWQ of one decoder block: scales where they can be folded into the layer before, clipped ranges, then 4-bit codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from numpy.typing import NDArray

from ...formats.errors import PlanError
from ..linears import (
    Linear,
    LinearGroup,
    LinearReport,
    ScaleType,
    module_of,
    own_scale_type,
    stored_scales,
    unseen,
    unseen_remarks,
)
from .block_folds import BlockFold, FloatTensors, find_folds
from .folds import UNCLIPPED
from .grid import AWQWeight, Grid, quantize_to_grid
from .layouts import LAYOUTS, Layout
from .search import Sample, SquaredOutputs, search_clipping, search_scales
from .settings import AWQSettings

_SAMPLE = 4096  # inputs kept of a group of linear layers: a hundred times the choices that are made from them
_SAMPLE_BYTES = 1 << 30  # of all samples of a block
_EXACT = 1e-4  # a fold must leave the block's output the same to this share of it
_NUDGE = 0.02  # further than a rounding to 8 bits can move a scale
_TORCH: Mapping[str, torch.dtype] = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class AWQReport(LinearReport):
    """How well one linear layer was quantized by AWQ.

    Args:
        exponent: of the scales of its inputs; 0 for none.

    Example:
        >>> from quantmill import AWQReport
        >>> AWQReport("model.layers.0.mlp.up_proj", "ffn_up", tokens=512, loss=0.1, relative=0.004, exponent=0.5).role
        'ffn_up'
    """

    exponent: float


@dataclass(frozen=True)
class BlockContext:
    """What AWQ needs to know of a block besides its linear layers.

    Args:
        input_width: the sum of the widths of its matrices, each expert's counted.
        head_dim: width of an attention head; 0 where it is not known.
        output: gives the block's output for one chunk of the text, with its weights as they are.
        floats: gives its norms and routers.
        stored_dtype: gives a tensor's type in the checkpoint, by its name there.
    """

    input_width: int
    head_dim: int
    output: Callable[[torch.nn.Module], torch.Tensor]
    floats: Callable[[torch.nn.Module], FloatTensors]
    stored_dtype: Callable[[str], str]


class AWQBlock:
    """Quantizes the linear layers of one block, all in one stage, once a text has run through it.

    Args:
        block: the block.
        settings: how.
        layout: what is written.
    """

    def __init__(self, block: BlockContext, settings: AWQSettings, layout: Layout = LAYOUTS["awq"]) -> None:
        self.block, self.settings, self.layout = block, settings, layout
        self.samples: dict[LinearGroup, Sample] = {}
        self.squared: dict[LinearGroup, SquaredOutputs] = {}
        self.keep = max(256, min(_SAMPLE, _SAMPLE_BYTES // (4 * max(1, block.input_width))))  # rows of each sample
        self.arrays: dict[str, NDArray[Any]] = {}  # packed, by their names in the checkpoint
        self.reports: list[AWQReport] = []
        self.remarks: list[str] = []

    def see(self, group: LinearGroup, x: torch.Tensor) -> None:
        """Add a batch of a group's inputs [tokens, width]."""
        self.samples.setdefault(group, Sample(self.keep)).add(x)

    def replace(self, layer: int, module: torch.nn.Module, stage: Sequence[LinearGroup]) -> None:
        """Quantize the block's linear layers, all of whose inputs were seen, and change their weights in place."""
        counts = {group: sample.count for group, sample in self.samples.items()}
        least = self.settings.min_tokens
        rounded = [group for group in stage if unseen(group, counts.get(group, 0), least)]
        for group in rounded:
            self.samples.pop(group, None)
        self.remarks += unseen_remarks(rounded, least)
        exponents = self._scale(module, stage) if self.settings.scales else {}
        for group in stage:
            squared = self._squared(group)
            sample = self.samples.pop(group, None)
            self.squared.pop(group, None)
            tokens = counts.get(group, 0)
            for linear in group.linears:
                packed = self._pack(linear, sample)
                lost = share = 0.0
                if squared is not None:
                    lost = squared.sum(packed.decode() - linear.weight)
                    share = lost / (squared.sum(linear.weight) or 1.0)
                linear.weight.copy_(packed.decode())
                loss = lost / max(1, tokens) / len(linear.weight)
                exponent = exponents.get(linear, 0.0)
                self.reports.append(
                    AWQReport(linear.name, linear.role.value, tokens, loss, share, exponent, by_text=sample is not None)
                )

    def _scale(self, module: torch.nn.Module, stage: Sequence[LinearGroup]) -> dict[Linear, float]:
        """Scale the inputs at every fold that holds; gives the exponent for each linear layer."""
        exponents: dict[Linear, float] = {}
        folds = find_folds(stage, self.block.floats(module), self.block.head_dim)
        for fold, found in groupby(folds, lambda each: each.fold):
            seen = [each for each in found if not self.samples.keys().isdisjoint(each.groups)]
            if seen and self._holds(module, seen):
                for each in seen:
                    exponents.update(dict.fromkeys((linear for linear, _ in each.into), self._scale_inputs(each)))
            elif seen:
                into = ", ".join(dict.fromkeys(linear.role.value for linear, _ in seen[0].into))
                self.remarks.append(f"{fold.source.value} cannot take the scales of {into}: left unscaled")
        return exponents

    def _scale_inputs(self, fold: BlockFold) -> float:
        """Find and apply the scales of a fold; gives their exponent."""
        samples = {group: self.samples[group] for group in fold.groups if group in self.samples}
        count = sum(sample.count for sample in samples.values())
        magnitude = torch.stack([sample.magnitude for sample in samples.values()]).sum(0) / count
        squared = {group: each for group in samples if (each := self._squared(group)) is not None}
        layers = [(linear.weight, squared[group]) for linear, group in fold.into if group in squared]
        found = search_scales(
            fold.average_shared(magnitude),
            layers,
            self.settings.group_size,
            lambda scales: self._settle(fold, scales.to(fold.source.device)),
            self._grid(fold.into[0][0]),
        )
        if found.exponent:
            fold.apply(found.scales)
            for group, sample in samples.items():
                sample.scale(found.scales)
                squared[group].scale(found.scales)
            self._store(fold)
        return found.exponent

    def _squared(self, group: LinearGroup) -> SquaredOutputs | None:
        """For the group's inputs as they are now; None if there were none."""
        if group not in self.squared and group in self.samples:
            self.squared[group] = SquaredOutputs(self.samples[group])
        return self.squared.get(group)

    def _settle(self, fold: BlockFold, scales: torch.Tensor) -> torch.Tensor:
        """Move scales a little, so that what absorbs them is exact once it is rounded to the checkpoint's type: a
        norm's weight, or a linear layer's bias (its weight is quantized anyway)."""
        linear = fold.source.dim() > 1
        vector = fold.bias if linear else fold.source
        if vector is None:
            return scales
        own = fold.to_source(scales)
        whole = vector + fold.offset
        dtype = self._bias_dtype(fold) if linear else self.block.stored_dtype(f"{fold.name}.weight")
        kept = (whole / own - fold.offset).to(_TORCH[dtype]).float() + fold.offset
        exact = whole / kept
        fine = torch.isfinite(exact) & torch.isfinite(kept) & ((exact / own - 1).abs() < _NUDGE)
        other = torch.where(whole == 0, own, 1.0) if linear else torch.ones_like(own)  # a bias of 0 is always exact
        return fold.to_inputs(torch.where(fine, exact, other))

    def _holds(self, module: torch.nn.Module, folds: Sequence[BlockFold]) -> bool:
        """Whether scales at these folds leave the block's output as it is: tested with powers of two on one chunk."""
        before = self.block.output(module)
        norms = [(fold, fold.source.clone()) for fold in folds if fold.source.dim() == 1]
        tested = [(fold, fold.to_inputs(_powers(len(fold.source)).to(fold.source.device))) for fold in folds]
        for fold, powers in tested:
            fold.apply(powers)
        after = self.block.output(module)
        for fold, powers in tested:
            fold.apply(1 / powers)
        for fold, weight in norms:
            fold.source.copy_(weight)  # (1 + w) / 2 - 1 does not come back to the bit
        return float((after - before).norm()) <= _EXACT * float(before.norm())

    def _pack(self, linear: Linear, sample: Sample | None) -> AWQWeight:
        size, grid = self.settings.group_size, self._grid(linear)
        limits = None
        if self.settings.clip and sample is not None and linear.role not in UNCLIPPED:
            limits = search_clipping(linear.weight, sample, size, grid)
        packed = quantize_to_grid(linear.weight, size, limits, linear.name, grid)
        codes, zeros, steps = (part.cpu().numpy() for part in (packed.codes, packed.zeros, packed.scales))
        scales = stored_scales(steps, self._scale_type(linear), linear.name)
        parts = self.layout.parts(codes, zeros, scales, grid.symmetric)
        self.arrays |= {f"{linear.name}.{part}": array for part, array in parts.items()}
        return packed

    def _grid(self, linear: Linear) -> Grid:
        return Grid(self.settings.sym, torch.bfloat16 if self._scale_type(linear) == "BF16" else torch.float16)

    def _scale_type(self, linear: Linear) -> ScaleType:
        return own_scale_type(self.block.stored_dtype(linear.stored)) if self.layout.own_scales else "F16"

    def _store(self, fold: BlockFold) -> None:
        """Add the changed tensors that stay in floats, in the checkpoint's types."""
        if fold.source.dim() == 1:
            name = f"{fold.name}.weight"
            self.arrays[name] = _round_to(fold.source, self.block.stored_dtype(name))
        if fold.bias is not None:
            self.arrays[f"{fold.name}.bias"] = _round_to(fold.bias, self._bias_dtype(fold))
        for name, weight in fold.routers:
            self.arrays[name] = _round_to(weight, self.block.stored_dtype(name))

    def _bias_dtype(self, fold: BlockFold) -> str:
        """Clients hold a packed linear layer's bias in half precision, which holds what BF16 does."""
        dtype = self.block.stored_dtype(f"{fold.name}.bias")
        return "F16" if dtype == "F32" and fold.source.dim() > 1 else dtype


def _powers(n: int) -> torch.Tensor:
    """1/2, 1, 2, 1/2, 1, 2 ..."""
    return torch.tensor([0.5, 1.0, 2.0]).repeat(-(-n // 3))[:n]


def _round_to(values: torch.Tensor, dtype: str) -> NDArray[Any]:
    """Round ``values`` in place to a checkpoint's type, and copy them. numpy has no BF16: the copy is F32 then."""
    rounded = values.to(_TORCH[dtype])
    values.copy_(rounded)
    kept: NDArray[Any] = (rounded if dtype == "F16" else rounded.float()).cpu().numpy().copy()
    return kept


def check_linear(module: torch.nn.Module, linear: Linear, settings: AWQSettings) -> None:
    """Check that a linear layer of a block can be written.

    Raises:
        PlanError: its shape does not fit, or it is not one of the modules that clients replace.
    """
    settings.check_shape(linear.name, *linear.weight.shape)
    if linear.expert is None:
        owner = module_of(module, linear)
        if not isinstance(owner, torch.nn.Linear):
            problem = f"is a {type(owner).__name__}, and AWQ's clients replace nn.Linear only"
            raise PlanError(problem, where=linear.name, hint="quantize to GGUF instead")
