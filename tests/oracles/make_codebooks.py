"""Writes quantize/kernels/codebooks.npz: the lattice codebooks, read out of llama.cpp's own decoder.

Blocks that name every point of a codebook once, with no signs and a scale that makes the decoder's factor 1, go through
``to_float`` of xllamacpp; the sorted distinct values that come back are the levels, their ranks the coordinates. Made
with xllamacpp 2026.10.11549. Run it in the repository root: ``python tests/oracles/make_codebooks.py``; then put the
checksum it prints into quantize/kernels/codebooks.py.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.formats.qtypes import qtype

if __package__:
    from .ggml import ggml_dequantize
else:
    from ggml import ggml_dequantize


def _decode(type_name: str, dims: int, **fields: Any) -> NDArray[np.float32]:
    """The points [n, dims] that blocks with these fields decode to."""
    n = len(next(v for v in fields.values() if np.ndim(v)))
    blocks = np.zeros(n, qtype(type_name).block)
    for name, value in fields.items():
        blocks[name] = value
    return ggml_dequantize(type_name, blocks.view(np.uint8).reshape(1, -1), 256 * n).reshape(-1, dims)


def _high_bits(index: NDArray[np.int64], group: int, bits: int) -> NDArray[np.int64]:
    """What exceeds 8 bits, ``group`` indices to an integer of ``bits``-wide fields."""
    high = (index >> 8).reshape(len(index), -1, group)
    return (high << (bits * np.arange(group))).sum(axis=2)


def points() -> dict[str, NDArray[np.float32]]:
    """What each point decodes to, float32 [points, dims], by codebook."""
    byte = np.arange(256)
    pairs = (byte[0::2] | byte[1::2] << 8).reshape(-1, 8, 2)  # the even u16 pairs carry indices, the odd ones signs
    xxs = np.concatenate([pairs, np.zeros_like(pairs)], axis=2).reshape(-1, 32)
    xs, s, three, one = (np.arange(n).reshape(-1, k) for n, k in ((512, 32), (1024, 32), (512, 64), (2048, 32)))
    low = np.concatenate([s & 255, np.zeros_like(s)], axis=1)  # then 32 bytes of signs
    return {
        "iq1": _decode("IQ1_S", 8, d=1, qs=one & 255, qh=_high_bits(one, 4, 3)) - np.float32(0.125),
        "iq2_xxs": _decode("IQ2_XXS", 8, d=8, qs=xxs),
        "iq2_xs": _decode("IQ2_XS", 8, d=8, qs=xs),
        "iq2_s": _decode("IQ2_S", 8, d=8, qs=low, qh=_high_bits(s, 4, 2)),
        "iq3_xxs": _decode("IQ3_XXS", 4, d=4, qs=byte.reshape(-1, 64)),
        "iq3_s": _decode("IQ3_S", 4, d=1, qs=three & 255, qh=_high_bits(three, 8, 1)),
    }


def main() -> None:
    packed = {}
    for name, values in points().items():
        levels = np.unique(values)
        bits = 2 if values.shape[1] == 8 else 3
        coordinates = np.searchsorted(levels, values)
        packed[name] = (coordinates << (bits * np.arange(values.shape[1]))).sum(axis=1).astype(np.uint16)
        print(name, len(values), levels)
    path = Path(__file__).parents[2] / "quantize" / "kernels" / "codebooks.npz"
    np.savez_compressed(path, **packed)
    print(path, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
