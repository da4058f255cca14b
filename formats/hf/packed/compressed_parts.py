"""The parts of a layer in the layouts of compressed-tensors: their names, dtypes and shapes, and how codes are packed.

Source: compressors/ of compressed-tensors 0.20.1. ``compressed.py`` reads what is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bits import pack_bits
from .schemes import Numbers, Scheme

Parts = dict[str, NDArray[Any]]


def packed_integers(
    codes: NDArray[np.uint8], scales: NDArray[Any], bits: int, zeros: NDArray[np.uint8] | None = None
) -> Parts:
    """A layer of ``pack-quantized``: W[n, k] = (codes[n, k] - zeros[n, g]) * scales[n, g].

    Args:
        codes: uint8 [N, K], each below 2**bits.
        scales: of a float type [N, G].
        bits: of a code.
        zeros: uint8 [N, G], of codes; None for a symmetric scheme, whose zero is 2**(bits - 1).

    Returns:
        its parts, by the last part of their names in the checkpoint.
    """
    parts: Parts = {
        "weight_packed": pack_bits(codes, bits),
        "weight_scale": np.ascontiguousarray(scales),
        "weight_shape": np.array(codes.shape, np.int64),
    }
    if zeros is not None:
        parts["weight_zero_point"] = pack_zeros(zeros, bits)
    return parts


def pack_zeros(zeros: NDArray[np.uint8], bits: int) -> NDArray[np.int32]:
    """Pack zero points, uint8 [N, G], along the first axis: int32 [ceil(N * bits / 32), G]."""
    return np.ascontiguousarray(pack_bits(np.ascontiguousarray(zeros.T), bits).T)


def pack_nibbles(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pack E2M1 codes, uint8 [N, K], two in a byte, the first in the low half: uint8 [N, K / 2]."""
    return codes[:, ::2] | codes[:, 1::2] << np.uint8(4)


@dataclass(frozen=True)
class Part:
    """A part of a stored layer.

    Args:
        dtype: its type in the file; ``scale`` is the type of the weight that was quantized.
        shape: by the weight's rows and width.
    """

    dtype: str
    shape: Callable[[Numbers, int, int], tuple[int, ...]]


def scale_shape(numbers: Numbers, rows: int, width: int) -> tuple[int, ...]:
    """The shape of a weight's scales: [1] for a tensor, [rows, 1], or [rows, groups], or [blocks, blocks]."""
    if numbers.strategy == "tensor":
        return (1,)
    if numbers.block is not None:
        return -(-rows // numbers.block[0]), -(-width // numbers.block[1])
    return rows, 1 if numbers.group_size is None else width // numbers.group_size


def _whole(numbers: Numbers, rows: int, width: int) -> tuple[int, ...]:
    return rows, width


def _words(numbers: Numbers, rows: int, width: int) -> tuple[int, ...]:
    return rows, -(-width * numbers.num_bits // 32)


def _zero_words(numbers: Numbers, rows: int, width: int) -> tuple[int, ...]:
    return -(-rows * numbers.num_bits // 32), scale_shape(numbers, rows, width)[1]


def _pairs(numbers: Numbers, rows: int, width: int) -> tuple[int, ...]:
    return rows, width // 2


def _of(*shape: int) -> Callable[[Numbers, int, int], tuple[int, ...]]:
    return lambda numbers, rows, width: shape


# The parts of a layer in each layout. `weight_zero_point` is there if the scheme has zero points, `input_global_scale`
# if activations have a scale of their own that is not dynamic.
LAYOUTS: Mapping[str, Mapping[str, Part]] = {
    "pack-quantized": {
        "weight_packed": Part("I32", _words),
        "weight_scale": Part("scale", scale_shape),
        "weight_shape": Part("I64", _of(2)),
        "weight_zero_point": Part("I32", _zero_words),
    },
    "int-quantized": {"weight": Part("I8", _whole), "weight_scale": Part("scale", scale_shape)},
    "float-quantized": {"weight": Part("F8_E4M3", _whole), "weight_scale": Part("scale", scale_shape)},
    "nvfp4-pack-quantized": {
        "weight_packed": Part("U8", _pairs),
        "weight_scale": Part("F8_E4M3", scale_shape),
        "weight_global_scale": Part("F32", _of(1)),
        "input_global_scale": Part("F32", _of(1)),
    },
    "mxfp4-pack-quantized": {"weight_packed": Part("U8", _pairs), "weight_scale": Part("U8", scale_shape)},
}


def layout(scheme: Scheme) -> dict[str, Part]:
    """The parts of a layer in a scheme's layout, in the order of their names here."""
    absent = {
        "weight_zero_point": scheme.weights.symmetric,
        "input_global_scale": scheme.inputs is None or scheme.inputs.dynamic is True,
    }
    return {name: part for name, part in LAYOUTS[scheme.format].items() if not absent.get(name, False)}
