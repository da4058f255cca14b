"""One linear layer in a scheme of compressed-tensors, as lazy tensors: codes and scales are computed as they are read.

A weight is read a few million numbers at a time, once for its codes and once for its scales, so that memory does not
depend on its size. What is written is a function of the weight alone, whatever the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...formats.errors import FormatError
from ...formats.floats import from_f32, to_f32
from ...formats.hf.files.safetensors import FILE_TYPES
from ...formats.hf.packed.bits import pack_bits
from ...formats.hf.packed.compressed_parts import layout, pack_nibbles, pack_zeros
from ...formats.hf.packed.schemes import Numbers, Scheme
from ...formats.ir import Bytes, Role, Tensor
from ...formats.qtypes import BF16, F16, F32, QType
from . import kernels

_AT_ONCE = 1 << 20  # weights that a thread rounds together: a few MB, which stay in its cache
_DTYPE = {F32: kernels.F32, F16: kernels.F16, BF16: kernels.BF16}
_EPS = {F32: 2.0**-23, F16: 2.0**-10, BF16: 2.0**-7}  # what stands for a scale of zero
_FP8_MAX, _FP4_MAX = 448.0, 6.0
Observer = Literal["minmax", "mse"]
_SEARCH = 20  # steps of a hundredth by which ranges may be smaller than the least and greatest, as in llm-compressor


@dataclass(frozen=True)
class Source:
    """A linear layer's weight, as it was.

    Args:
        name: the module's in the new checkpoint.
        qtype: F32, F16 or BF16.
        shape: rows and width.
        read: ``read(a, b)`` gives rows a to b.
        where: file and tensor, for messages.
    """

    name: str
    qtype: QType
    shape: tuple[int, int]
    read: Callable[[int, int], Bytes]
    where: str

    def floats(self, a: int, b: int) -> NDArray[np.float32]:
        """Rows a to b: float32 [b-a, width].

        Raises:
            FormatError: a weight is NaN or infinite.
        """
        values = to_f32(self.read(a, b), self.qtype)
        finite = np.isfinite(values)
        if not finite.all():
            row, column = (int(i) for i in np.argwhere(~finite)[0])
            problem = f"weight [{a + row}, {column}] is {values[row, column]}"
            raise FormatError(problem, where=self.where, hint="the checkpoint is damaged: get it again")
        return values


@dataclass(frozen=True)
class Scales:
    """Scales of some rows, spread over them: float32 [rows, groups]; zero points [rows, groups], of signed codes; and
    what is stored of the scales: codes, or None where they are stored as they are."""

    values: NDArray[np.float32]
    zeros: NDArray[np.int32]
    codes: NDArray[np.int32] | None = None


class Shared:
    """The scale that the weights of several layers share, which programs run as one: the first is of NVFP4.

    Args:
        sources: their weights.
        scheme: how they are stored.
        executor: what reads them.
        observer: what finds the ranges of groups.
    """

    def __init__(self, sources: Sequence[Source], scheme: Scheme, executor: Executor, observer: Observer) -> None:
        self.layers = [Layer(source, scheme, executor, None, None, observer) for source in sources]

    @cached_property
    def value(self) -> np.float32:
        """What scales are multiplied by so that they fit E4M3, by the greatest of all weights' ranges."""
        return shared_scale(max(layer.greatest() for layer in self.layers), self.layers[0].source.qtype)


def shared_scale(most: float, qtype: QType) -> np.float32:
    """The scale beside scales of groups, whose greatest number is ``most``, computed in the type of these numbers.

    Source: ``generate_gparam`` of compressed-tensors 0.20.1: one where the division overflows.
    """
    tiny = {F32: 2.0**-126, F16: 2.0**-14, BF16: 2.0**-126}[qtype]
    with np.errstate(over="ignore"):
        inverse = _in_type(np.float32(1) / np.float32(max(most, tiny)), qtype)  # torch divides a number so
        scale = _in_type(np.float32(_FP8_MAX * _FP4_MAX) * inverse, qtype)
    return scale if np.isfinite(scale) else np.float32(1)


def _in_type(value: np.float32, qtype: QType) -> np.float32:
    return np.float32(to_f32(from_f32(np.array([[value]], np.float32), qtype), qtype)[0, 0])


def row_runs(shape: tuple[int, int], unit: int) -> Iterator[tuple[int, int]]:
    """Divide a weight's rows into runs of about ``_AT_ONCE`` weights, each of whole units of rows."""
    step = max(1, _AT_ONCE // max(1, shape[1]) // unit) * unit
    return ((a, min(a + step, shape[0])) for a in range(0, shape[0], step))


class Layer:
    """A layer's parts.

    Args:
        source: the weight.
        scheme: how it is stored.
        shared: the scale that it shares with others; None for schemes without one.
        input_scale: the activations' scale beside those of groups, from a text; None for schemes without one.
        executor: the threads.
        observer: what finds ranges: the least and greatest (``minmax``), or a search for less error (``mse``).
    """

    def __init__(
        self, source: Source, scheme: Scheme, executor: Executor, shared: Shared | None, input_scale: float | None,
        observer: Observer = "minmax",
    ) -> None:  # fmt: skip
        self.observer = observer
        self.source, self.scheme, self.executor, self.shared = source, scheme, executor, shared
        self.numbers: Numbers = scheme.weights
        self.input_scale = input_scale
        self.unit = 1 if self.numbers.block is None else self.numbers.block[0]
        self.group = self.numbers.group_size or source.shape[1]
        if self.numbers.block is not None:
            self.group = self.numbers.block[1]

    def tensors(self) -> list[Tensor]:
        """The parts as tensors of the new checkpoint."""
        readers = {
            "weight": self._codes, "weight_packed": self._codes, "weight_scale": self._scales,
            "weight_zero_point": self._zeros, "weight_shape": self._shape, "weight_global_scale": self._shared,
            "input_global_scale": self._input_scale,
        }  # fmt: skip
        return [
            Tensor(
                f"{self.source.name}.{name}", Role.OTHER, None, part.shape(self.numbers, *self.source.shape),
                self.source.qtype if part.dtype == "scale" else FILE_TYPES[part.dtype], readers[name],
                self.source.where,
            )
            for name, part in layout(self.scheme).items()
        ]  # fmt: skip

    def greatest(self) -> float:
        """The end of all groups' ranges that is farthest from zero."""

        def run(rows: tuple[int, int]) -> float:
            low, high = self._spans(self.source.floats(*rows))
            return float(max(abs(low).max(), abs(high).max()))

        return max(self.executor.map(run, self._runs(0, 1 << 62)), default=0.0)

    def _codes(self, a: int, b: int) -> Bytes:
        def run(rows: tuple[int, int]) -> Bytes:
            first = rows[0] // self.unit * self.unit  # a block's scale needs the whole block
            last = min(-(-rows[1] // self.unit) * self.unit, self.source.shape[0])
            x = self.source.floats(first, last)
            scales = self._of_rows(x)
            part = slice(rows[0] - first, rows[1] - first)
            return self._pack(x[part], scales.values[part], scales.zeros[part])

        self._prepare()
        runs = [(max(p, a), min(q, b)) for p, q in row_runs(self.source.shape, self.unit) if q > a and p < b]
        return np.concatenate(list(self.executor.map(run, runs)))

    def _prepare(self) -> None:
        """Find what all rows need, before threads wait for each other."""
        if self.shared is not None:
            _ = self.shared.value
        if self.numbers.strategy == "tensor":
            _ = self._whole

    def _pack(self, x: NDArray[np.float32], scales: NDArray[np.float32], zeros: NDArray[np.int32]) -> Bytes:
        numbers, kind = self.numbers, self._kind
        codes = np.empty(x.shape, np.uint8)
        # Scales beside one of the tensor are float32, and so are the quotients.
        dtype = kernels.F32 if numbers.strategy == "tensor_group" else _DTYPE[self.source.qtype]
        kernels.round_rows(x, self.group, dtype, kind, self._half, scales, zeros, codes)
        if self.scheme.format == "pack-quantized":
            return pack_bits(codes, numbers.num_bits).view(np.uint8)
        if kind == kernels.FP4:
            return pack_nibbles(codes)
        return codes ^ np.uint8(self._half) if kind == kernels.INT else codes

    def _scales(self, a: int, b: int) -> Bytes:
        self._prepare()
        if self.numbers.strategy == "tensor":
            return from_f32(self._whole.values[:1], self.source.qtype)
        rows = slice(None, None, self.unit)
        runs = self._runs(a * self.unit, b * self.unit)
        found = list(self.executor.map(lambda run: self._of_rows(self.source.floats(*run)), runs))
        if self.numbers.scale_dtype is None:
            return from_f32(np.concatenate([scales.values[rows] for scales in found]), self.source.qtype)
        return np.concatenate([scales.codes[rows] for scales in found if scales.codes is not None]).astype(np.uint8)

    def _runs(self, a: int, b: int) -> list[tuple[int, int]]:
        b = min(b, self.source.shape[0])
        step = max(1, _AT_ONCE // max(1, self.source.shape[1]) // self.unit) * self.unit
        return [(p, min(p + step, b)) for p in range(a, b, step)]

    def _zeros(self, a: int, b: int) -> Bytes:
        """Rows of words, each of the zero points of several rows: there are few, and all are made."""
        found = self.executor.map(lambda rows: self._of_rows(self.source.floats(*rows)).zeros, self._runs(0, 1 << 62))
        zeros = np.concatenate(list(found)) + np.int32(1 << (self.numbers.num_bits - 1))
        return pack_zeros(zeros.astype(np.uint8), self.numbers.num_bits)[a:b].view(np.uint8)

    def _shape(self, a: int, b: int) -> Bytes:
        return np.array([self.source.shape], "<i8").view(np.uint8)

    def _shared(self, a: int, b: int) -> Bytes:
        assert self.shared is not None
        return np.array([[self.shared.value]], "<f4").view(np.uint8)

    def _input_scale(self, a: int, b: int) -> Bytes:
        return np.array([[self.input_scale]], "<f4").view(np.uint8)

    def _of_rows(self, x: NDArray[np.float32]) -> Scales:
        """The scales of rows, the first of which begins a block."""
        if self.numbers.strategy == "tensor":
            whole = self._whole
            return Scales(np.repeat(whole.values, len(x), 0), np.repeat(whole.zeros, len(x), 0))
        low, high = self._spans(x)
        found = self._of_spans(low, high)
        if self.unit == 1:
            return found
        return Scales(
            np.repeat(found.values, self.unit, 0)[: len(x)], np.repeat(found.zeros, self.unit, 0)[: len(x)]
        )  # fmt: skip

    def _spans(self, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        low = np.empty((len(x), -(-x.shape[1] // self.group)), np.float32)
        high = np.empty_like(low)
        kernels.spans(x, self.group, low, high)
        if self.unit > 1:
            starts = np.arange(0, len(x), self.unit)
            low, high = np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts)
        return self._searched(x, low, high) if self.observer == "mse" else (low, high)

    def _searched(
        self, x: NDArray[np.float32], low: NDArray[np.float32], high: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Ranges up to a fifth smaller with the least sum of errors to the power of 2.4.

        Source: ``_grid_search_mse`` of llm-compressor 0.14.0.1, without its early end for all groups together.
        """
        least = np.full(low.shape, np.inf, np.float32)
        best = low.copy(), high.copy()
        starts = np.arange(0, len(x), self.unit)
        for step in range(_SEARCH):
            part = np.float32(1 - step / 100)
            ends = self._rounded(low * part), self._rounded(high * part)
            found = self._candidates(*ends)
            scales, zeros = (np.repeat(one, self.unit, 0)[: len(x)] for one in (found.values, found.zeros))
            errors = np.zeros(scales.shape, np.float32)
            kernels.add_errors(
                x, self.group, _DTYPE[self.source.qtype], self._kind, self._half, scales, zeros, errors
            )  # fmt: skip
            errors = self._rounded(np.add.reduceat(errors, starts) if self.unit > 1 else errors)
            better = errors < least
            for one, other in ((least, errors), (best[0], ends[0]), (best[1], ends[1])):
                one[better] = other[better]
        return best

    def _rounded(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Numbers in the weight's own type."""
        return to_f32(from_f32(values, self.source.qtype), self.source.qtype)

    def _candidates(self, low: NDArray[np.float32], high: NDArray[np.float32]) -> Scales:
        """Scales of ranges as the search tries them: beside one of the tensor, before that is known."""
        return self._plain_scales(low, high) if self.numbers.strategy == "tensor_group" else self._of_spans(low, high)

    @property
    def _kind(self) -> int:
        """What codes are, for the kernels."""
        if self.numbers.type == "int":
            return kernels.INT
        return kernels.FP8 if self.numbers.num_bits == 8 else kernels.FP4

    @property
    def _half(self) -> np.int32:
        """The middle of unsigned codes."""
        return np.int32(1 << (self.numbers.num_bits - 1))

    def _of_spans(self, low: NDArray[np.float32], high: NDArray[np.float32]) -> Scales:
        values, zeros = np.empty_like(low), np.zeros(low.shape, np.int32)
        dtype, numbers = _DTYPE[self.source.qtype], self.numbers
        flat = low.reshape(-1), high.reshape(-1), dtype
        if numbers.strategy == "tensor_group":
            assert self.shared is not None
            codes = np.empty_like(zeros)
            kernels.scale_tensor_groups(*flat, self.shared.value, values.reshape(-1), codes.reshape(-1))
            return Scales(values, zeros, codes)
        if numbers.scale_dtype is not None:
            codes = np.empty_like(zeros)
            kernels.scale_mx(*flat, values.reshape(-1), codes.reshape(-1))
            return Scales(values, zeros, codes)
        return self._plain_scales(low, high)

    def _plain_scales(self, low: NDArray[np.float32], high: NDArray[np.float32]) -> Scales:
        values, zeros = np.empty_like(low), np.zeros(low.shape, np.int32)
        half = float(self._half)
        top = {kernels.INT: half - 1, kernels.FP8: _FP8_MAX, kernels.FP4: _FP4_MAX}[self._kind]
        bottom = -half if self._kind == kernels.INT else -top
        kernels.scale_spans(
            low.reshape(-1), high.reshape(-1), _DTYPE[self.source.qtype], np.float32(top), np.float32(bottom),
            self.numbers.symmetric, np.float32(_EPS[self.source.qtype]), values.reshape(-1), zeros.reshape(-1),
        )  # fmt: skip
        return Scales(values, zeros)

    @cached_property
    def _whole(self) -> Scales:
        """The one scale of a tensor."""
        found = list(self.executor.map(lambda rows: self._spans(self.source.floats(*rows)), self._runs(0, 1 << 62)))
        low, high = np.min([low.min() for low, _ in found]), np.max([high.max() for _, high in found])
        return self._of_spans(np.array([[low]], np.float32), np.array([[high]], np.float32))
