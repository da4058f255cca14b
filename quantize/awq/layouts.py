"""The layouts that AWQ's weights are written in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...formats.hf.packed.awq import pack
from ...formats.hf.packed.compressed_parts import packed_integers

CheckpointFormat = Literal["awq", "compressed-tensors"]
Parts = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Layout:
    """A layout.

    Args:
        parts: gives the parts of a layer, by the last part of their names in the checkpoint, from its codes, uint8
            [out, in], its zero points, uint8 [out, G], its scales [out, G], and whether zero points are the middle.
        own_scales: whether scales are of the type that the checkpoint's own weights have, instead of halves.
    """

    parts: Callable[[NDArray[np.uint8], NDArray[np.uint8], NDArray[Any], bool], Parts]
    own_scales: bool = False


def _gemm(codes: NDArray[np.uint8], zeros: NDArray[np.uint8], scales: NDArray[Any], symmetric: bool) -> Parts:
    return {
        "qweight": pack(np.ascontiguousarray(codes.T)),
        "qzeros": pack(np.ascontiguousarray(zeros.T)),
        "scales": np.ascontiguousarray(scales.T),
    }


def _compressed(codes: NDArray[np.uint8], zeros: NDArray[np.uint8], scales: NDArray[Any], symmetric: bool) -> Parts:
    return packed_integers(codes, scales, 4, None if symmetric else zeros)


LAYOUTS: dict[CheckpointFormat, Layout] = {
    "awq": Layout(_gemm),
    "compressed-tensors": Layout(_compressed, own_scales=True),
}
