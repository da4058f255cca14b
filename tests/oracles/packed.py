"""Packed checkpoints written the plain way, and what they mean: torch formulas that share no code with the readers.

``linear`` gives the tensors of one layer in a method's layout and the dense weight they stand for, float32.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

# The linear layers of a block, not its router.
_LAYER = re.compile(r"\.(layers|h)\..*(_proj|_with_mqa|_attn|_fc|\.w[123])\.weight$")
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def stream(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Rows of codes as one bit stream each, in int32 words; the last word is padded with zeros."""
    spread = (codes.numpy().astype(np.uint8)[..., None] >> np.arange(bits)) & 1
    flat = np.packbits(spread.reshape(len(codes), -1), axis=1, bitorder="little")
    flat = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 4)))
    return torch.from_numpy(np.ascontiguousarray(flat).view("<i4").astype(np.int32))


def groups(width: int, size: int, order: torch.Tensor | None = None) -> torch.Tensor:
    """The group of each column; with an order, column order[i] is the i-th that was quantized."""
    found = torch.arange(width) // (size if size > 0 else width)
    if order is None:
        return found
    out = torch.empty_like(found)
    out[order] = found
    return out


def dense(codes: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """codes [N, K], zeros and scales [N, G] -> float32 [N, K]"""
    return (codes.to(torch.int32) - zeros.to(torch.int32)[:, group]).float() * scales.float()[:, group]


def gptq(
    codes: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor, group: torch.Tensor, bits: int, v2: bool = False
) -> dict[str, torch.Tensor]:
    stored = zeros if v2 else (zeros - 1) % (1 << bits)
    return {
        "qweight": stream(codes, bits).T.contiguous(),
        "qzeros": stream(stored.T, bits),
        "scales": scales.T.contiguous(),
        "g_idx": group.to(torch.int32),
    }


def awq_gemm(codes: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor) -> dict[str, torch.Tensor]:
    def pack(columns: torch.Tensor) -> torch.Tensor:
        shuffled = columns.reshape(len(columns), -1, 8)[:, :, AWQ_ORDER].reshape(len(columns), -1)
        return stream(shuffled, 4)

    return {"qweight": pack(codes.T), "qzeros": pack(zeros.T), "scales": scales.T.contiguous()}


def awq_gemv(codes: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor, size: int) -> dict[str, torch.Tensor]:
    """Zeros are padded to words, and words to pairs or fours for groups of 64 and 32."""
    n_groups = zeros.shape[1]
    multiple = {64: 16, 32: 32}.get(size, 8)
    pad = -n_groups % multiple
    return {
        "qweight": stream(codes, 4),
        "qzeros": stream(torch.nn.functional.pad(zeros, (0, pad)), 4),
        "scales": torch.nn.functional.pad(scales, (0, pad)),
    }


def random_grid(
    n_out: int, width: int, size: int, bits: int, seed: int, *, symmetric: bool = True, dtype: Any = torch.float16
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes [N, K], zeros [N, G] (from 1, which every layout holds) and scales [N, G] of a layer."""
    generator = torch.Generator().manual_seed(seed)
    n_groups = 1 if size < 0 else width // size
    codes = torch.randint(0, 1 << bits, (n_out, width), generator=generator)
    zeros = torch.full((n_out, n_groups), 1 << (bits - 1))
    if not symmetric:
        zeros = torch.randint(1, 1 << bits, (n_out, n_groups), generator=generator)
    scales = (torch.rand((n_out, n_groups), generator=generator) + 0.5) * (0.5 / (1 << bits))
    return codes, zeros, scales.to(dtype)


def round_to_grid(
    weight: torch.Tensor, size: int, bits: int, *, symmetric: bool = True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A weight [N, K] rounded to nearest: its codes, zeros and half scales."""
    n_out, width = weight.shape
    parts = weight.float().reshape(n_out, -1, size if size > 0 else width)
    top = (1 << bits) - 1
    if symmetric:
        scales = (parts.abs().amax(-1) * 2 / top).half()
        zeros = torch.full(scales.shape, 1 << (bits - 1))
    else:
        low, high = parts.amin(-1).clamp(max=0), parts.amax(-1).clamp(min=0)
        scales = ((high - low) / top).half()
        zeros = (-low / scales.float()).round().clamp(1, top).to(torch.int64)
    codes = (parts / scales.float()[..., None]).round() + zeros[..., None]
    return codes.clamp(0, top).to(torch.int64).reshape(n_out, width), zeros, scales


def save_packed(
    source: Path, folder: Path, quantization: dict[str, Any], pack: Any, *, beside: bool = False
) -> dict[str, torch.Tensor]:
    """Copy a small dense checkpoint with each decoder linear packed; gives the dense weights it then stands for.

    Args:
        pack: ``pack(name, weight) -> (parts, dense)``; parts are stored under the module's name.
        beside: the config goes to quantize_config.json too.
    """
    folder.mkdir()
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    meant: dict[str, torch.Tensor] = {}
    out: dict[str, torch.Tensor] = {}
    for name, weight in load_file(source / "model.safetensors").items():
        if _LAYER.search(name) and weight.dim() == 2:
            parts, meant[name] = pack(name, weight)
            out |= {f"{name.removesuffix('.weight')}.{part}": tensor.contiguous() for part, tensor in parts.items()}
        else:
            out[name] = meant[name] = weight.half()
    save_file(out, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"quantization_config": quantization, "dtype": "float16", "torch_dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config))
    if beside:
        (folder / "quantize_config.json").write_text(json.dumps(quantization))
    return meant


def golden_layer(library: str, case: str) -> tuple[dict[str, torch.Tensor], dict[str, Any], torch.Tensor]:
    """A layer of a golden file: its parts as those of the module ``m``, its config, and the library's own decode."""
    path = Path(__file__).parents[1] / "formats/hf/packed/goldens" / f"{library}.safetensors"
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["configs"])[case]
        found = {name: file.get_tensor(name) for name in file.offset_keys() if name.startswith(f"{case}.")}
    parts = {f"m{name.removeprefix(case)}": part for name, part in found.items()}
    return parts, config, parts.pop("m.decoded")
