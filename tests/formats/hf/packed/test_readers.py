"""Every layout against a dense decode in torch, and each repacked block against the same floats, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oracles import packed
from quantmill.formats.hf.tables.ops import Regroup, Split, Transpose
from quantmill.formats.hf.tables.packed_tensors import apply_op
from quantmill.formats.ir import Tensor

SHARED = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FLOAT_TYPES = {"half": torch.float16, "bfloat16": torch.bfloat16, "float": torch.float32}


def same_bits(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool(np.array_equal(ours.numpy().view(np.uint32), theirs.contiguous().numpy().view(np.uint32)))


@SHARED
@given(
    bits=st.sampled_from((2, 3, 4, 8)),
    size=st.sampled_from((32, 64, 128, -1, 16)),
    symmetric=st.booleans(),
    act_order=st.booleans(),
    v2=st.booleans(),
    scale_type=st.sampled_from(sorted(FLOAT_TYPES)),
    seed=st.integers(0, 1 << 20),
)
def test_gptq(
    decode: Any,
    floats: Any,
    bits: int,
    size: int,
    symmetric: bool,
    act_order: bool,
    v2: bool,
    scale_type: str,
    seed: int,
) -> None:
    n_out, width = 64, 128
    codes, zeros, scales = packed.random_grid(
        n_out, width, size, bits, seed, symmetric=symmetric, dtype=FLOAT_TYPES[scale_type]
    )
    order = torch.randperm(width, generator=torch.Generator().manual_seed(seed)) if act_order else None
    group = packed.groups(width, size, order)
    parts = {f"m.{k}": v for k, v in packed.gptq(codes, zeros, scales, group, bits, v2).items()}
    layout = "gptq_v2" if v2 else "gptq"
    config = {"quant_method": "gptq", "bits": bits, "group_size": size, "checkpoint_format": layout}
    found = decode(parts, config)
    assert list(found) == ["m.weight"]
    assert found["m.weight"].shape == (n_out, width)
    assert same_bits(floats(found["m.weight"]), packed.dense(codes, zeros, scales, group))
    whole_blocks = size in (32, 64, 128, -1) and (not act_order or size in (128, -1))
    if symmetric and whole_blocks and scale_type == "half":
        assert found["m.weight"].qtype.name == ("Q8_0" if bits == 8 else "Q4_0")
    if bits < 8 and whole_blocks and scale_type != "float":
        assert found["m.weight"].qtype.is_quantized
    if not whole_blocks:
        assert found["m.weight"].qtype.name == "F32"


@SHARED
@given(
    size=st.sampled_from((32, 64, 128, -1, 16)),
    version=st.sampled_from(("gemm", "GEMM", "gemv")),
    seed=st.integers(0, 1 << 20),
)
def test_awq(decode: Any, floats: Any, size: int, version: str, seed: int) -> None:
    n_out, width = 40, 128
    codes, zeros, scales = packed.random_grid(n_out, width, size, 4, seed, symmetric=False)
    zeros = zeros - 1  # 0 is a zero like any other here
    gemm = version.lower() == "gemm"
    parts = packed.awq_gemm(codes, zeros, scales) if gemm else packed.awq_gemv(codes, zeros, scales, size)
    config = {"quant_method": "awq", "bits": 4, "group_size": size, "zero_point": True, "version": version}
    found = decode({f"m.{k}": v for k, v in parts.items()}, config)["m.weight"]
    assert same_bits(floats(found), packed.dense(codes, zeros, scales, packed.groups(width, size)))
    assert found.qtype.name in (("F32",) if size == 16 else ("Q5_0", "Q4_1"))


@pytest.mark.parametrize(
    ("zero", "scale", "bits", "expected"),
    [
        (8, 0.0137, 4, "Q4_0"),  # the symmetric zero
        (5, 0.25, 4, "Q4_1"),  # -5 * 0.25 is a half
        (5, 0.0137, 4, "Q5_0"),  # -5 * 0.0137 is not: code - zero needs 5 bits
        (4, 0.0137, 3, "Q4_0"),
        (3, 0.0137, 2, "Q4_0"),  # codes 0..3 less 3: well within -8..7
        (128, 0.0137, 8, "Q8_0"),
        (127, 0.0137, 8, "F32"),  # 255 - 127 = 128 is one too many
    ],
)
def test_the_smallest_exact_type(decode: Any, floats: Any, zero: int, scale: float, bits: int, expected: str) -> None:
    codes = torch.arange(32 * 64).reshape(32, 64) % (1 << bits)
    zeros, scales = torch.full((32, 2), zero), torch.full((32, 2), scale).half()
    group = packed.groups(64, 32)
    said: list[str] = []
    parts = {f"m.{k}": v for k, v in packed.gptq(codes, zeros, scales, group, bits).items()}
    found = decode(parts, {"quant_method": "gptq", "bits": bits, "group_size": 32}, said)["m.weight"]
    assert found.qtype.name == expected
    assert same_bits(floats(found), packed.dense(codes, zeros, scales, group))
    how = f"exactly as {expected}" if expected != "F32" else "decoded (zeros that no block of 8 bits holds)"
    assert said[-1].endswith(f": gptq, {bits} bits, groups of 32: 1 weights read {how}")
    if expected != "F32":  # and as the official library decodes the same bytes
        raw = found.rows(0, 32)
        theirs = gguf.dequantize(raw, gguf.GGMLQuantizationType[expected])
        assert same_bits(torch.from_numpy(np.ascontiguousarray(theirs)), floats(found))


def test_a_q4_0_block_by_hand(decode: Any) -> None:
    codes = torch.cat([torch.arange(16), torch.arange(15, -1, -1)]).repeat(8, 1)
    parts = packed.gptq(codes, torch.full((8, 1), 8), torch.full((8, 1), 0.5).half(), packed.groups(32, 32), 4)
    config = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    found = decode({f"m.{k}": v for k, v in parts.items()}, config)["m.weight"]
    assert found.rows(3, 4).tobytes().hex() == "0038" + "".join(f"{15 - i:x}{i:x}" for i in range(16))


SCHEMES: dict[str, Callable[[int, int], tuple[int, ...]]] = {
    "tensor": lambda n, g: (1,),
    "channel": lambda n, g: (n, 1),
    "group": lambda n, g: (n, g),
}


@SHARED
@given(
    bits=st.sampled_from((2, 3, 4, 5, 8)),
    strategy=st.sampled_from(sorted(SCHEMES)),
    symmetric=st.booleans(),
    g_idx=st.booleans(),
    plain=st.booleans(),
    width=st.sampled_from((64, 96, 40)),
    seed=st.integers(0, 1 << 20),
)
def test_compressed_integers(
    decode: Any, floats: Any, bits: int, strategy: str, symmetric: bool, g_idx: bool, plain: bool, width: int, seed: int
) -> None:
    n_out, bits = 24, 8 if plain else bits
    size = width // 2 if strategy == "group" else -1
    codes, zeros, scales = packed.random_grid(n_out, width, size, bits, seed, symmetric=symmetric, dtype=torch.bfloat16)
    if strategy == "tensor":
        scales, zeros = scales[:1, 0], zeros[:1, 0]
    offset = 1 << (bits - 1)
    parts = {"m.weight_scale": scales}
    if plain:
        parts["m.weight"] = (codes - offset).to(torch.int8)
    else:
        parts |= {"m.weight_packed": packed.stream(codes, bits), "m.weight_shape": torch.tensor([n_out, width])}
    if not symmetric:
        unpacked = plain or strategy == "tensor"
        signed = (zeros - offset).to(torch.int8)
        parts["m.weight_zero_point"] = signed if unpacked else packed.stream(zeros.T, bits).T
    group = packed.groups(width, size)
    if g_idx and strategy == "group":
        group = group[torch.randperm(width, generator=torch.Generator().manual_seed(seed))]
        parts["m.weight_g_idx"] = group.to(torch.int32)
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy, "group_size": size}
    layout = "int-quantized" if plain else "pack-quantized"
    config = {
        "quant_method": "compressed-tensors",
        "format": layout,
        "config_groups": {"group_0": {"weights": weights, "targets": ["Linear"]}},
    }
    found = decode(parts, config)
    assert list(found) == ["m.weight"]
    spread = SCHEMES["group" if size > 0 else "channel"](n_out, 2)
    zeros, scales = (x.reshape(-1, x.shape[-1] if x.dim() > 1 else 1).expand(spread) for x in (zeros, scales))
    assert same_bits(floats(found["m.weight"]), packed.dense(codes, zeros, scales, group))


@SHARED
@given(
    shape=st.sampled_from(((40, 72), (256, 130), (2, 33, 64))),
    scheme=st.sampled_from(("tensor", "row", "row1", "block")),
    dtype=st.sampled_from((torch.float8_e4m3fn, torch.float8_e5m2)),
    inverse=st.booleans(),
    seed=st.integers(0, 1 << 20),
)
def test_fp8(
    decode: Any, floats: Any, shape: tuple[int, ...], scheme: str, dtype: Any, inverse: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    weight = (torch.randn(shape) * 8).to(dtype)
    blocks = (*shape[:-2], -(-shape[-2] // 16), -(-shape[-1] // 32))
    sizes = {"tensor": (), "row": shape[:-1], "row1": (*shape[:-1], 1), "block": blocks}
    scale = torch.rand(sizes[scheme]) + 0.1
    wide = scale
    if scheme == "block":
        wide = scale.repeat_interleave(16, -2).repeat_interleave(32, -1)[..., : shape[-2], : shape[-1]]
    elif scheme == "row":
        wide = scale[..., None]
    name = "weight_scale_inv" if inverse else "weight_scale"
    config = {"quant_method": "fp8", "weight_block_size": [16, 32] if inverse else "16x32"}
    found = decode({"m.weight": weight, f"m.{name}": scale, "m.input_scale": torch.ones(1)}, config)
    assert list(found) == ["m.weight"]
    assert same_bits(floats(found["m.weight"]), weight.float() * wide)


def test_every_fp8_code_as_torch_has_it() -> None:
    from quantmill.formats.hf.packed.fp8 import table

    codes = torch.arange(256, dtype=torch.uint8)
    for name, dtype in (("F8_E4M3", torch.float8_e4m3fn), ("F8_E5M2", torch.float8_e5m2)):
        np.testing.assert_array_equal(table(name), codes.view(dtype).float().numpy())


def test_fp8_scales_that_are_powers_of_two(decode: Any, floats: Any) -> None:
    weight = torch.randn(128, 128).to(torch.float8_e4m3fn)
    scale = torch.tensor([[0.0625]]).to(torch.float8_e8m0fnu)
    found = decode({"m.weight": weight, "m.weight_scale_inv": scale}, {"quant_method": "fp8"})
    assert same_bits(floats(found["m.weight"]), weight.float() * 0.0625)


def test_mxfp4_is_ggml_s(decode: Any, floats: Any) -> None:
    """Against transformers' own unpacking of gpt-oss' experts, and the official reader of GGML's blocks."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    torch.manual_seed(3)
    blocks = torch.randint(0, 256, (2, 6, 3, 16), dtype=torch.uint8)
    scales = torch.randint(100, 150, (2, 6, 3), dtype=torch.uint8)
    parts = {"mlp.experts.gate_up_proj_blocks": blocks, "mlp.experts.gate_up_proj_scales": scales}
    found = decode(parts, {"quant_method": "mxfp4"})["mlp.experts.gate_up_proj"]
    theirs = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    assert (found.qtype.name, found.shape) == ("F32", (2, 96, 6))
    assert torch.equal(floats(found), theirs)

    # Transposed, and its interleaved rows taken apart, it never leaves its blocks.
    tensors: tuple[Tensor, ...] = (found,)
    for op in (Transpose(), Regroup((-1, 2), (1, 0), axis=1), Split((3, 3), axis=1)):
        tensors = apply_op(op, tensors, {})
    assert [(part.qtype.name, part.shape) for part in tensors] == [("MXFP4", (2, 3, 96))] * 2
    for part, want in zip(tensors, (theirs[..., ::2], theirs[..., 1::2]), strict=True):
        assert torch.equal(floats(part), want.transpose(1, 2))
        official = gguf.dequantize(part.rows(0, 6), gguf.GGMLQuantizationType.MXFP4)
        assert np.array_equal(official.reshape(2, 3, 96), want.transpose(1, 2).numpy())


def test_columns_come_in_panels(decode: Any, floats: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small panels, few kept: the same weights, whatever ranges are asked for and in whatever order."""
    from quantmill.formats.hf.packed import stored

    monkeypatch.setattr(stored, "PANEL_BYTES", 1 << 10)
    codes, zeros, scales = packed.random_grid(96, 64, 16, 4, 1, symmetric=False)
    group = packed.groups(64, 16)
    parts = {f"m.{k}": v for k, v in packed.gptq(codes, zeros, scales, group, 4).items()}
    found = decode(parts, {"quant_method": "gptq", "bits": 4, "group_size": 16})["m.weight"]
    meant = packed.dense(codes, zeros, scales, group)
    for a, b in ((90, 96), (0, 96), (31, 33), (5, 5), (32, 64)):
        assert np.array_equal(found.rows(a, b).view(np.float32).reshape(b - a, 64), meant[a:b].numpy())


def test_kept_panels_stay_within_their_limit(tmp_path: Any) -> None:
    from safetensors.numpy import save_file

    from quantmill.formats.hf.files.safetensors import read_safetensors
    from quantmill.formats.hf.packed.stored import Matrix, Panels

    save_file({f"t{i}": np.full((64, 64), i, np.int32) for i in range(5)}, tmp_path / "x.safetensors")
    panels = Panels(limit=3 * 64 * 64 * 4)
    for stored in read_safetensors(tmp_path / "x.safetensors").values():
        Matrix(stored, panels).columns(0, 64)
        assert sum(panel.nbytes for panel in panels._kept.values()) <= 3 * 64 * 64 * 4
    assert len(panels._kept) == 3
