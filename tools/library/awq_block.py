"""One block by AWQ: scales where they fold into what stands before, clipped ranges, then 4-bit codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...formats.errors import PlanError
from ...formats.hf.packed.awq import pack
from ...formats.hf.values import Add
from ...formats.ir import Role
from ...imatrix.layerwise import Group, Linear, Stage
from ...imatrix.runner import Runner
from ...quantize.awq.folds import FOLDS, ROUTERS, UNCLIPPED, Fold
from ...quantize.awq.grid import Packed, Settings, quantize
from ...quantize.awq.search import Product, Sample, clip, search_scales

_SAMPLE = 4096  # inputs kept of a group of linears: a hundred times the choices that are made from them
_SAMPLE_BYTES = 1 << 30  # of all samples of a block
_EXACT = 1e-4  # a fold must leave the block's output the same to this share of it
_NUDGE = 0.02  # further than a rounding to 8 bits can move a scale
_TORCH: Mapping[str, torch.dtype] = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class Place:
    """A fold in a block: its tensors.

    Args:
        fold: which.
        name: of the source in the checkpoint, without ``.weight``.
        source: the norm's or the linear's weight, [n] or [n, in].
        bias: its bias, or None.
        offset: what the norm adds to its weight.
        into: linears and the groups they belong to.
        routers: (checkpoint's name, weight) of what reads the same and stays in floats.
        shared: [n_kv, heads, dim] of the inputs, where several are one row of the source.
    """

    fold: Fold
    name: str
    source: torch.Tensor
    bias: torch.Tensor | None
    offset: float
    into: tuple[tuple[Linear, Group], ...]
    routers: tuple[tuple[str, torch.Tensor], ...] = ()
    shared: tuple[int, int, int] | None = None

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(dict.fromkeys(group for _, group in self.into))

    def even(self, values: torch.Tensor) -> torch.Tensor:
        """float [in] with the mean in place of the inputs that are one row of the source."""
        if self.shared is None:
            return values
        return values.reshape(self.shared).mean(1, keepdim=True).expand(self.shared).reshape(-1)

    def own(self, scales: torch.Tensor) -> torch.Tensor:
        """Scales of the linears' inputs as those of the source's rows."""
        return scales if self.shared is None else scales.reshape(self.shared)[:, 0].reshape(-1)

    def spread(self, own: torch.Tensor) -> torch.Tensor:
        """The inverse of ``own``."""
        if self.shared is None:
            return own
        kv, _, dim = self.shared
        return own.reshape(kv, 1, dim).expand(self.shared).reshape(-1)

    def apply(self, scales: torch.Tensor) -> None:
        """The linears' columns times ``scales`` [in], the source's rows divided by them."""
        for weight in (*(linear.weight for linear, _ in self.into), *(weight for _, weight in self.routers)):
            weight.mul_(scales)
        own = self.own(scales)
        if self.source.dim() == 1:
            self.source.add_(self.offset).div_(own).sub_(self.offset)
        else:
            self.source.div_(own[:, None])
        if self.bias is not None:
            self.bias.div_(own)


class Quantizer:
    """A ``layerwise.Visitor`` for one block, to be walked with ``sequential=False`` and its stage in one piece.

    Args:
        runner: at the block.
        settings: what is asked for.
        dtype_of: a tensor's dtype in the checkpoint, by its name there.
    """

    def __init__(self, runner: Runner, settings: Settings, dtype_of: Callable[[str], str]) -> None:
        self.runner, self.settings, self.dtype_of = runner, settings, dtype_of
        self.samples: dict[Group, Sample] = {}
        self.products: dict[Group, Product] = {}
        self.keep = _rows_to_keep(runner)
        self.arrays: dict[str, Any] = {}
        self.report: list[dict[str, Any]] = []
        self.remarks: list[str] = []

    def see(self, group: Group, x: torch.Tensor) -> None:
        self.samples.setdefault(group, Sample(self.keep)).add(x)

    def replace(self, layer: int, module: torch.nn.Module, stage: Stage) -> None:
        exponents: dict[Linear, float] = {}
        if self.settings.scales:
            for fold, places in groupby(self._places(layer, module, stage), lambda place: place.fold):
                seen = [place for place in places if not self.samples.keys().isdisjoint(place.groups)]
                if seen and self._holds(module, seen):
                    for place in seen:
                        exponents.update(dict.fromkeys((linear for linear, _ in place.into), self._spread(place)))
                elif seen:
                    into = ", ".join(dict.fromkeys(linear.role.value for linear, _ in seen[0].into))
                    self.remarks.append(f"{fold.source.value} cannot take the scales of {into}: left unscaled")
        for group in stage:
            product = self._product(group)
            sample = self.samples.pop(group, None)
            self.products.pop(group, None)
            if sample is None:
                self.remarks.append(f"{group.name}: saw no tokens, rounded to nearest")
            for linear in group.linears:
                packed = self._pack(linear, sample)
                lost = share = 0.0
                if product is not None:
                    lost = product.squares(packed.weight() - linear.weight)
                    share = lost / (product.squares(linear.weight) or 1.0)
                linear.weight.copy_(packed.weight())
                tokens = 0 if sample is None else sample.count
                self.report.append({
                    "name": linear.name, "role": linear.role.value, "tokens": tokens,
                    "exponent": exponents.get(linear, 0.0), "relative": share,
                    "loss": lost / max(1, tokens) / len(linear.weight),
                })  # fmt: skip

    def _pack(self, linear: Linear, sample: Sample | None) -> Packed:
        size = self.settings.group_size
        limits = None
        if self.settings.clip and sample is not None and linear.role not in UNCLIPPED:
            limits = clip(linear.weight, sample, size)
        packed = quantize(linear.weight, size, limits, linear.name)
        self.arrays |= {
            f"{linear.name}.qweight": pack(np.ascontiguousarray(packed.codes.numpy().T)),
            f"{linear.name}.qzeros": pack(np.ascontiguousarray(packed.zeros.numpy().T)),
            f"{linear.name}.scales": np.ascontiguousarray(packed.scales.half().numpy().T),
        }
        return packed

    def _places(self, layer: int, module: torch.nn.Module, stage: Stage) -> Iterator[Place]:
        """The folds that the block has the parts for."""
        weights = self.runner.weights
        prefix = f"{weights.layers_at}.{layer}."
        parameters = dict(module.named_parameters())
        by_tensor = {target.names: name for name, target in weights.recorded_weights(layer, module).items()}
        floats: dict[tuple[Role, str], tuple[str, torch.Tensor | None, float]] = {}
        for slot in weights.arch.slots(weights.config):
            if slot.layer == layer and len(slot.sources) == 1 and len(slot.rule.roles) == 1:
                name = slot.sources[0]
                own = by_tensor.get(slot.targets, name.removeprefix(prefix))
                offset = sum(op.number for op in slot.rule.ops if isinstance(op, Add))
                floats[slot.rule.roles[0], slot.part] = (name, parameters.get(own), offset)
        linears: dict[Role, list[tuple[Linear, Group]]] = {}
        for group in stage:
            for linear in group.linears:
                linears.setdefault(linear.role, []).append((linear, group))
        for fold in FOLDS:
            into = [pair for role in fold.into for pair in linears.get(role, ())]
            if fold.source in linears:
                yield from self._from_linears(fold, linears[fold.source], into)
            elif into and (fold.source, "weight") in floats:
                name, norm, offset = floats[fold.source, "weight"]
                _, bias, _ = floats.get((fold.source, "bias"), ("", None, 0.0))
                readers = [
                    floats[role, "weight"] for role in fold.into if role in ROUTERS and (role, "weight") in floats
                ]
                routers = tuple((router, weight) for router, weight, _ in readers if weight is not None)
                if norm is not None and norm.dim() == 1 and len(routers) == len(readers):
                    stem = name.removesuffix(".weight")
                    yield Place(fold, stem, norm, bias, offset, tuple(into), routers)

    def _from_linears(
        self, fold: Fold, sources: list[tuple[Linear, Group]], into: list[tuple[Linear, Group]]
    ) -> Iterator[Place]:
        for source, _ in sources:
            mine = tuple((linear, group) for linear, group in into if linear.expert == source.expert)
            rows = len(source.weight)
            if not mine or mine[0][1].width % rows:
                continue
            heads, shared = mine[0][1].width // rows, None
            if heads > 1:
                dim = int(self.runner.weights.config.get("head_dim") or 0)
                if not fold.heads or not dim or rows % dim:
                    continue
                shared = (rows // dim, heads, dim)
            yield Place(fold, source.name, source.weight, source.bias, 0.0, mine, (), shared)

    def _spread(self, place: Place) -> float:
        """Find and apply a place's scales; gives their exponent."""
        samples = {group: self.samples[group] for group in place.groups if group in self.samples}
        count = sum(sample.count for sample in samples.values())
        magnitude = torch.stack([sample.magnitude for sample in samples.values()]).sum(0) / count
        products = {group: product for group in samples if (product := self._product(group)) is not None}
        layers = [(linear.weight, products[group]) for linear, group in place.into if group in products]
        found = search_scales(
            place.even(magnitude), layers, self.settings.group_size, lambda scales: self._settle(place, scales)
        )
        if found.exponent:
            place.apply(found.scales)
            for group, sample in samples.items():
                sample.scale(found.scales)
                products[group].scale(found.scales)
            self._store(place)
        return found.exponent

    def _product(self, group: Group) -> Product | None:
        """Of the group's inputs as they are now; None if there were none."""
        if group not in self.products and group in self.samples:
            self.products[group] = Product(self.samples[group])
        return self.products.get(group)

    def _settle(self, place: Place, scales: torch.Tensor) -> torch.Tensor:
        """Scales moved a little, so that what takes them is exact once it is rounded to the checkpoint's type: a norm's
        weight, or a linear's bias (its weight is quantized anyway)."""
        linear = place.source.dim() > 1
        vector = place.bias if linear else place.source
        if vector is None:
            return scales
        own = place.own(scales)
        whole = vector + place.offset
        dtype = self._bias_dtype(place) if linear else self.dtype_of(f"{place.name}.weight")
        kept = (whole / own - place.offset).to(_TORCH[dtype]).float() + place.offset
        exact = whole / kept
        fine = torch.isfinite(exact) & torch.isfinite(kept) & ((exact / own - 1).abs() < _NUDGE)
        other = torch.where(whole == 0, own, 1.0) if linear else torch.ones_like(own)  # no bias needs no care
        return place.spread(torch.where(fine, exact, other))

    def _holds(self, module: torch.nn.Module, places: list[Place]) -> bool:
        """Whether scales at these places leave the block's output as it is: tried with powers of two on one chunk."""
        runner = self.runner
        hidden, inputs = runner.activations.get(runner.batches[0][:1]), runner.inputs_for(1)
        before = runner.skeleton.run_block(module, hidden, inputs)
        norms = [(place, place.source.clone()) for place in places if place.source.dim() == 1]
        tried = [(place, place.spread(_powers(len(place.source)))) for place in places]
        for place, powers in tried:
            place.apply(powers)
        after = runner.skeleton.run_block(module, hidden, inputs)
        for place, powers in tried:
            place.apply(1 / powers)
        for place, weight in norms:
            place.source.copy_(weight)  # (1 + w) / 2 - 1 does not come back to the bit
        return float((after - before).norm()) <= _EXACT * float(before.norm())

    def _store(self, place: Place) -> None:
        """The changed tensors that stay floats, as the checkpoint shall have them."""
        if place.source.dim() == 1:
            name = f"{place.name}.weight"
            self.arrays[name] = _array(place.source, self.dtype_of(name))
        if place.bias is not None:
            self.arrays[f"{place.name}.bias"] = _array(place.bias, self._bias_dtype(place))
        for name, weight in place.routers:
            self.arrays[name] = _array(weight, self.dtype_of(name))

    def _bias_dtype(self, place: Place) -> str:
        """A packed linear's clients hold its bias as halves; what BF16 holds, they hold too."""
        dtype = self.dtype_of(f"{place.name}.bias")
        return "F16" if dtype == "F32" and place.source.dim() > 1 else dtype


def _powers(n: int) -> torch.Tensor:
    """1/2, 1, 2, 1/2, 1, 2..."""
    return torch.tensor([0.5, 1.0, 2.0]).repeat(-(-n // 3))[:n]


def _array(values: torch.Tensor, dtype: str) -> NDArray[Any]:
    """``values``, rounded in place, as the checkpoint shall have them. numpy has no BF16: F32 that BF16 holds, then."""
    rounded = values.to(_TORCH[dtype])
    values.copy_(rounded)
    kept: NDArray[Any] = (rounded if dtype == "F16" else rounded.float()).numpy().copy()
    return kept


def _rows_to_keep(runner: Runner) -> int:
    """Rows of each sample, so that all of a block's fit their room."""
    layer = runner.layer
    width = 0
    for tensor in runner.weights.model.tensors:
        if tensor.layer == layer and len(tensor.shape) > 1:
            width += tensor.width * int(np.prod(tensor.shape[:-2], dtype=np.int64))
    return max(256, min(_SAMPLE, _SAMPLE_BYTES // (4 * max(1, width))))


def check_linear(module: torch.nn.Module, linear: Linear, settings: Settings) -> None:
    """Whether a linear can be written.

    Raises:
        PlanError: its shape does not fit, or it is none of the modules that clients replace.
    """
    settings.check_shape(linear.name, *linear.weight.shape)
    if linear.expert is None:
        owner = next(one for one in module.modules() if getattr(one, "weight", None) is linear.weight)
        if not isinstance(owner, torch.nn.Linear):
            problem = f"is a {type(owner).__name__}, and AWQ's clients replace nn.Linear only"
            raise PlanError(problem, where=linear.name, hint="quantize to GGUF instead")
