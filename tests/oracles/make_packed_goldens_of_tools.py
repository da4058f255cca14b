"""Golden layers of bitsandbytes: parts as the library stores them, and its own decode.

PYTHON tests/oracles/make_packed_goldens_of_tools.py tests/formats/hf/packed/goldens

Run it with a Python that has torch 2.13.0 and bitsandbytes 0.50.2; it writes the goldens of the libraries that it
finds. The files are laid out as those of ``make_packed_goldens.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from make_packed_goldens import Case, write

WIDTH, ROWS = 64, 32


def bitsandbytes_cases() -> Iterator[Case]:
    """4 bits by each type, block size, dtype, storage and nesting in turn; rows that end inside a block, decoded by the
    backend without a kernel (that of CPUs takes each row's blocks from the row's start); and int8."""
    from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
    from bitsandbytes.functional import (
        dequantize_4bit,
        dequantize_blockwise,
        get_4bit_type,
        int8_vectorwise_dequant,
        quantize_4bit,
    )
    from bitsandbytes.nn import Linear8bitLt

    settings = [
        ("nf4", 64, torch.bfloat16, torch.uint8, True, (ROWS, WIDTH)),
        ("nf4", 64, torch.float16, torch.uint8, False, (ROWS, WIDTH)),
        ("fp4", 64, torch.float32, torch.uint8, True, (ROWS, WIDTH)),
        ("fp4", 32, torch.bfloat16, torch.bfloat16, False, (ROWS, WIDTH)),
        ("nf4", 32, torch.float32, torch.float32, True, (260, WIDTH)),
        ("nf4", 256, torch.float16, torch.float16, False, (8, 512)),
        ("nf4", 64, torch.bfloat16, torch.uint8, True, (ROWS, 72)),
        ("fp4", 4096, torch.float32, torch.uint8, False, (9, 77)),
    ]
    for number, (kind, size, dtype, storage, nested, shape) in enumerate(settings):
        torch.manual_seed(number)
        weight = (torch.randn(shape) * 0.1).to(dtype)
        packed, state = quantize_4bit(weight, None, None, size, nested, kind, storage)
        decoded = dequantize_4bit(packed, state)
        if shape[1] % size:
            absmax = dequantize_blockwise(state.absmax, state.state2) + state.offset if nested else state.absmax
            raw, levels = packed.view(torch.uint8).reshape(-1), get_4bit_type(kind, device="cpu")
            decoded = _dequantize_4bit_compute(raw, absmax, levels, size, shape, dtype)
        parts = {f"weight.{name}": part for name, part in state.as_dict(packed=True).items()}
        config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
        name = f"{kind}-{size}-{storage}-{nested}-{shape[1]}"
        yield name, config, {"weight": packed, **parts, "decoded": decoded.float()}
    for step in (0.0137, 0.25):  # the latter's scales / 127 are halves
        torch.manual_seed(9)
        layer = Linear8bitLt(WIDTH, ROWS, bias=False, has_fp16_weights=False)
        codes = torch.randint(-127, 128, (ROWS, WIDTH)).index_fill_(1, torch.tensor([3]), 127)
        layer.weight.data.copy_(codes * step)
        layer = layer.to("cpu")  # quantizes
        parts = {k: torch.as_tensor(v) for k, v in layer.state_dict().items()}
        decoded = int8_vectorwise_dequant(parts["weight"], parts["SCB"])
        yield f"int8-{step}", {"quant_method": "bitsandbytes", "load_in_8bit": True}, {**parts, "decoded": decoded}


TOOLS = {"bitsandbytes": bitsandbytes_cases}


def main(folder: Path) -> None:
    for library, cases in TOOLS.items():
        if find_spec(library):
            write(folder / f"{library}.safetensors", library, cases())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
