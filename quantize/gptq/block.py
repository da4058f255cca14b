"""GPTQ of one decoder block: linear layers are replaced by what readers of the packed checkpoint compute with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from ..linears import Linear, LinearGroup, LinearReport, ScaleType, own_scale_type, unseen, unseen_remarks
from .layer import Factor, Hessian, factorize, quantize_linear, round_to_nearest
from .layouts import Layout
from .settings import GPTQSettings


@dataclass(frozen=True)
class GPTQReport(LinearReport):
    """How well one linear layer was quantized by GPTQ.

    Args:
        damp: the damping that was needed; 0 for a layer that was rounded to nearest.

    Example:
        >>> from quantmill import GPTQReport
        >>> GPTQReport("model.layers.0.mlp.up_proj", "ffn_up", tokens=512, loss=0.1, relative=0.004, damp=0.01).role
        'ffn_up'
    """

    damp: float


class GPTQBlock:
    """Quantizes the linear layers of one block, stage by stage, while a text runs through it.

    Args:
        settings: how.
        layout: what is written.
        threads: how many to use.
        stored_dtype: gives a tensor's type in the checkpoint, by its name there.
    """

    def __init__(
        self, settings: GPTQSettings, layout: Layout, threads: int, stored_dtype: Callable[[str], str]
    ) -> None:
        self.settings, self.layout, self.threads, self.stored_dtype = settings, layout, threads, stored_dtype
        self.hessians: dict[LinearGroup, Hessian] = {}
        self.arrays: dict[str, NDArray[Any]] = {}  # packed, by their names in the checkpoint
        self.reports: list[GPTQReport] = []
        self.remarks: list[str] = []

    def see(self, group: LinearGroup, x: torch.Tensor) -> None:
        """Add a batch of a group's inputs [tokens, width]."""
        if group not in self.hessians:
            self.hessians[group] = Hessian(group.width, x.device)
        self.hessians[group].add(x)

    def replace(self, layer: int, module: torch.nn.Module, stage: Sequence[LinearGroup]) -> None:
        """Quantize the layers of a stage, all of whose inputs were seen, and change their weights in place."""
        least, rounded = self.settings.min_tokens, []
        for group in stage:
            hessian = self.hessians.pop(group, None)
            tokens = 0 if hessian is None else hessian.tokens
            factor = None
            if hessian is None or unseen(group, tokens, least):
                rounded.append(group)
            else:
                factor = factorize(hessian, self.settings, group.name)
                self._remark(group, factor)
            for linear in group.linears:
                kind = self._scale_type(linear)
                if factor is None:
                    result = round_to_nearest(linear.weight, self.settings, linear.name, kind)
                else:
                    result = quantize_linear(linear.weight, factor, self.settings, self.threads, linear.name, kind)
                linear.weight.copy_(torch.from_numpy(result.decode()))
                parts = self.layout.parts(result, self.settings)
                self.arrays |= {f"{linear.name}.{part}": array for part, array in parts.items()}
                errors = (result.loss, result.relative, result.damp)
                self.reports.append(
                    GPTQReport(linear.name, linear.role.value, tokens, *errors, by_text=factor is not None)
                )
        self.remarks += unseen_remarks(rounded, least)

    def _scale_type(self, linear: Linear) -> ScaleType:
        return own_scale_type(self.stored_dtype(linear.stored)) if self.layout.own_scales else "F16"

    def _remark(self, group: LinearGroup, factor: Factor) -> None:
        if factor.damp > self.settings.damp:
            self.remarks.append(f"{group.name}: its inputs depend on each other: damping raised to {factor.damp:g}")
        if factor.dead:
            self.remarks.append(f"{group.name}: {factor.dead} inputs are always zero, rounded to nearest")
