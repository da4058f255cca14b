"""GPTQ of one decoder block: linear layers are replaced by what readers of the packed checkpoint compute with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from ...formats.hf.packed.gptq import pack_columns, pack_rows
from ..linears import Linear, LinearGroup, LinearReport, unseen, unseen_remarks
from .layer import Factor, GPTQWeight, Hessian, factorize, quantize_linear, round_to_nearest
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
        zeros_less_one: store zero points less one, as the older checkpoint format does.
        threads: how many to use.
    """

    def __init__(self, settings: GPTQSettings, zeros_less_one: bool, threads: int) -> None:
        self.settings, self.zeros_less_one, self.threads = settings, zeros_less_one, threads
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
                if factor is None:
                    result = round_to_nearest(linear.weight, self.settings, linear.name)
                else:
                    result = quantize_linear(linear.weight, factor, self.settings, self.threads, linear.name)
                linear.weight.copy_(torch.from_numpy(result.decode()))
                self._pack(linear, result)
                errors = (result.loss, result.relative, result.damp)
                self.reports.append(
                    GPTQReport(linear.name, linear.role.value, tokens, *errors, by_text=factor is not None)
                )
        self.remarks += unseen_remarks(rounded, least)

    def _pack(self, linear: Linear, result: GPTQWeight) -> None:
        bits = self.settings.bits
        self.arrays |= {
            f"{linear.name}.qweight": pack_rows(result.codes, bits),
            f"{linear.name}.qzeros": pack_columns(result.zeros - self.zeros_less_one, bits),
            f"{linear.name}.scales": result.scales,
            f"{linear.name}.g_idx": result.g_idx,
        }

    def _remark(self, group: LinearGroup, factor: Factor) -> None:
        if factor.damp > self.settings.damp:
            self.remarks.append(f"{group.name}: its inputs depend on each other: damping raised to {factor.damp:g}")
        if factor.dead:
            self.remarks.append(f"{group.name}: {factor.dead} inputs are always zero, rounded to nearest")
