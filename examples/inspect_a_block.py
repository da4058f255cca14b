"""What a quantized block is made of: encode one row as Q4_K and look at its named fields."""

from __future__ import annotations

import numpy as np

from quantmill.formats.qtypes import F32, qtype
from quantmill.quantize.kernels import kernel_for


def main() -> None:
    row = np.random.default_rng(0).standard_normal((1, 256)).astype(np.float32)
    q4_k = qtype("Q4_K")
    kernel = kernel_for(q4_k)
    blocks = np.empty((1, q4_k.row_bytes(256)), np.uint8)
    kernel.encode(row.view(np.uint8), F32, None, blocks)

    block = blocks.view(q4_k.block)[0, 0]
    print(f"{q4_k}: {q4_k.block_size} weights in {q4_k.block_bytes} bytes, {q4_k.bpw} bits per weight")
    print(f"d = {block['d']:.6f}, dmin = {block['dmin']:.6f}, scales = {bytes(block['scales']).hex()}")

    decoded = np.empty_like(row)
    kernel.decode(blocks, decoded)
    error = float(np.sqrt(np.mean((decoded - row) ** 2)))
    print(f"root mean square error {error:.4f} of weights with standard deviation 1")
    assert error < 0.1


if __name__ == "__main__":
    main()
