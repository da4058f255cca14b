"""The layouts that GPTQ's weights are written in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...formats.hf.packed.compressed_parts import packed_integers
from ...formats.hf.packed.gptq import pack_columns, pack_rows
from ..linears import stored_scales
from .layer import GPTQWeight
from .settings import GPTQSettings

CheckpointFormat = Literal["gptq", "gptq_v2", "compressed-tensors"]
Parts = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Layout:
    """A layout.

    Args:
        parts: gives the parts of a layer, by the last part of their names in the checkpoint.
        own_scales: whether scales are of the type that the checkpoint's own weights have, instead of halves.
    """

    parts: Callable[[GPTQWeight, GPTQSettings], Parts]
    own_scales: bool = False


def _gptq(weight: GPTQWeight, settings: GPTQSettings, less: int) -> Parts:
    return {
        "qweight": pack_rows(weight.codes, settings.bits),
        "qzeros": pack_columns(weight.zeros - np.uint8(less), settings.bits),
        "scales": stored_scales(weight.scales, weight.scale_type, ""),
        "g_idx": weight.g_idx,
    }


def _compressed(weight: GPTQWeight, settings: GPTQSettings) -> Parts:
    codes, zeros = np.ascontiguousarray(weight.codes.T), np.ascontiguousarray(weight.zeros.T)
    scales = stored_scales(weight.scales, weight.scale_type, "")
    return packed_integers(codes, scales.T, settings.bits, None if settings.sym else zeros)


LAYOUTS: dict[CheckpointFormat, Layout] = {
    "gptq": Layout(lambda weight, settings: _gptq(weight, settings, 1)),
    "gptq_v2": Layout(lambda weight, settings: _gptq(weight, settings, 0)),
    "compressed-tensors": Layout(_compressed, own_scales=True),
}
