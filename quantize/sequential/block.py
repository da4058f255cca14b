"""Encodes the weights of a model block by block, while a text runs through it and through what it becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ...formats.floats import to_f32
from ...formats.ir import Bytes, Tensor
from ...formats.qtypes import QType
from ..decode import decoded
from .matrix import Choice, Matrix
from .sums import Pair, Sums
from .threads import Threads
from .ways import Known

PRIOR_TOKENS = 256  # experts that saw fewer borrow the rest from their layer, as importance matrices let them
_PRIOR_ASIDE = 64  # likewise of the inputs that are kept aside


class Input(Protocol):
    """What enters one or several matrices; see ``imatrix.paired_stages.Input``."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def matrix(self) -> int: ...

    @property
    def n_matrices(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def routed(self) -> bool: ...


class AsidePair(Pair, Protocol):
    """One batch, and whether it is for judging alone."""

    @property
    def kept_aside(self) -> bool: ...


@dataclass(frozen=True)
class MatrixReport:
    """How one matrix was encoded.

    Args:
        name: its tensor's.
        matrix: its number there.
        tokens: how many inputs it was chosen by, without those that were kept aside.
        ridge: the damping with which its weights were moved to repair the errors of those before; 0 if they were not.
        width: columns that repaired each other's errors; 0 for the plain encoder's bytes.
        damping: of the second moments.
        relative: the squared error of its output on the inputs that were kept aside, as a share of the output's square;
            less what the errors that came with the inputs would cost alone, so that it can be negative.
        plain: the same of the plain encoder's bytes.
    """

    name: str
    matrix: int
    tokens: int
    ridge: float
    width: int
    damping: float
    relative: float
    plain: float


class SequentialEncoder:
    """Encodes tensors stage by stage; an ``imatrix.paired_run.PairedVisitor``.

    Args:
        tensors: the tensors to encode, of float types, by name.
        kinds: the type of each.
        width: the only width of blocks to try; None to choose.
        workers: the threads that compute.

    Attributes:
        arrays: uint8 [rows, row bytes] of each tensor that is finished.
        reports: one for each matrix.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], kinds: Mapping[str, QType], width: int | None, workers: Threads
    ) -> None:
        self.tensors, self.kinds, self.width, self.workers = tensors, kinds, width, workers
        self.arrays: dict[str, Bytes] = {}
        self.reports: list[MatrixReport] = []
        self._sums: dict[Input, tuple[Sums, Sums]] = {}
        self._left: dict[str, set[int]] = {}  # matrices that are not encoded yet

    def forget(self) -> None:
        """Begin the next block: what was made of the last was taken."""
        self.arrays, self.reports = {}, []

    def begin(self, layer: int, inputs: Sequence[Input]) -> None:
        """Take sums of the inputs of a stage from now on."""
        for one in inputs:
            weights = None if one.routed else self._weights(one)
            seen, aside = (Sums(one.width, self.workers.each, weights) for _ in range(2))
            self._sums[one] = (seen, aside)

    def _weights(self, one: Input) -> Mapping[str, torch.Tensor] | None:
        """The weights that multiply an input, if their rows are fewer than its columns."""
        found = [self.tensors[name] for name in one.names]
        n = [tensor.shape[-2] for tensor in found]
        if sum(n) > one.width:
            return None
        rows = (t.rows(one.matrix * r, (one.matrix + 1) * r) for t, r in zip(found, n, strict=True))
        floats = (to_f32(raw, t.qtype).reshape(-1, one.width) for raw, t in zip(rows, found, strict=True))
        return {name: torch.tensor(np.ascontiguousarray(w)) for name, w in zip(one.names, floats, strict=True)}

    def see(self, one: Input, pair: AsidePair) -> None:
        """Add a batch of an input's tokens."""
        self._sums[one][pair.kept_aside].add(pair)

    def replace(self, inputs: Sequence[Input]) -> dict[str, Tensor]:
        """Encode what multiplies the inputs of a stage.

        Returns:
            the tensors that are finished, as they decode.
        """
        tokens = {one: self._sums[one][0].tokens for one in inputs}
        self._lend([one for one in inputs if one.routed])
        for one in inputs:
            seen, aside = self._sums.pop(one)
            known = Known(seen, one.names[0])
            judge = Known(aside, one.names[0]) if aside.tokens else known
            matrices = [Matrix(self.tensors[name], one.matrix, self.kinds[name]) for name in one.names]
            choices = [matrix.choose(known, judge, self.width, self.workers.each) for matrix in matrices]
            if judge is not known:  # they have judged: now all that is known serves
                seen.absorb(aside)
                known = Known(seen, one.names[0])
            for matrix, choice in zip(matrices, choices, strict=True):
                self._keep(matrix, tokens[one], choice, matrix.encode(choice.way, known, self.workers.each))
        done = {name for one in inputs for name in one.names if not self._left[name]}
        return {name: decoded(self.encoded(name)) for name in sorted(done)}

    def _lend(self, experts: Sequence[Input]) -> None:
        """Let experts that saw few tokens borrow from those of all."""
        by_names: dict[tuple[str, ...], list[Input]] = {}
        for one in experts:
            by_names.setdefault(tuple(one.names), []).append(one)
        for group in by_names.values():
            for part, least in ((0, PRIOR_TOKENS), (1, _PRIOR_ASIDE)):
                thin = [self._sums[one][part] for one in group if self._sums[one][part].tokens < least]
                if not thin:
                    continue
                total = Sums(group[0].width, self.workers.each)
                for one in group:
                    total.merge(self._sums[one][part], self._sums[one][part].tokens)
                if total.tokens:
                    for sums in thin:
                        sums.merge(total, least - sums.tokens)

    def _keep(self, matrix: Matrix, tokens: int, choice: Choice, data: Bytes) -> None:
        tensor, kind = matrix.tensor, matrix.kind
        if tensor.name not in self.arrays:
            self.arrays[tensor.name] = np.empty((tensor.n_rows, kind.row_bytes(tensor.width)), np.uint8)
            self._left[tensor.name] = set(range(tensor.n_rows // matrix.n_rows))
        at = matrix.matrix * matrix.n_rows
        self.arrays[tensor.name][at : at + matrix.n_rows] = data
        self._left[tensor.name].discard(matrix.matrix)
        way, signal = choice.way, max(choice.signal, 1e-30)
        costs = (choice.cost / signal, choice.plain / signal)
        self.reports.append(MatrixReport(tensor.name, matrix.matrix, tokens, way.ridge, way.width, way.damping, *costs))

    def encoded(self, name: str) -> Tensor:
        """A tensor that is finished, in its new type."""
        data: NDArray[np.uint8] = self.arrays[name]
        tensor = self.tensors[name]
        return Tensor(name, tensor.role, tensor.layer, tensor.shape, self.kinds[name], lambda a, b: data[a:b])
