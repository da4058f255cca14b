"""HQQ's layers: what they become, and those that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from oracles.packed import golden_layer
from quantmill.formats.errors import FormatError

ROWS, ACROSS, THREE = "4-64-1", "4-16-0", "3-64-0"
Parts = dict[str, torch.Tensor]


@pytest.mark.parametrize(("case", "type"), [(ROWS, "BF16"), (ACROSS, "F16"), ("3-32-1", "F32")])
def test_what_it_becomes(case: str, type: str, decode: Callable[..., Any]) -> None:
    parts, config, _ = golden_layer("hqq", case)
    lines: list[str] = []
    found = decode({**parts, "m.bias": torch.ones(32)}, config, lines)
    assert list(found) == ["m.weight", "m.bias"]
    assert found["m.weight"].qtype.name == type
    assert lines[-1].endswith(": hqq: 1 weights read decoded (zeros that are fractions)")


@pytest.mark.parametrize("case", [ROWS, ACROSS, THREE])
def test_any_rows(case: str, decode: Callable[..., Any], floats: Any) -> None:
    """Also those that begin inside a group, or in another part of the words."""
    parts, config, _ = golden_layer("hqq", case)
    tensor = decode(parts, config)["m.weight"]
    whole = tensor.rows(0, 32)
    for a, b in ((0, 1), (15, 17), (31, 32), (7, 7), (3, 30)):
        assert (tensor.rows(a, b) == whole[a:b]).all()


BAD: list[tuple[str, Parts, list[str], str]] = [
    *((ROWS, {}, [f"m.{part}"], f"m.{part}: missing, though the layer is packed") for part in (
        "scale", "zero", "shape", "packing", "axis", "compute_dtype",
    )),
    (ROWS, {"m.quant_zero": torch.tensor(1).byte()}, [], "m.quant_zero: is set: such layers are not read"),
    (ROWS, {"m.view_as_float": torch.tensor(1).byte()}, [], "m.view_as_float: is set: such layers are not read"),
    (ROWS, {"m.packing": torch.tensor([52, 255]).byte()}, [], "is none of 8bit_u8, 4bit_u8, 3bit_32, 2bit_u8, 1bit_u8"),
    (ROWS, {"m.packing": torch.ones(9999).byte()}, [], "m.packing: '' is none of 8bit_u8"),
    (ROWS, {"m.compute_dtype": torch.tensor([116]).byte()}, [], "m.compute_dtype: 't' is none of torch.float16"),
    (ROWS, {"m.axis": torch.tensor(2).int()}, [], "m.axis: is 2, not 0 or 1"),
    (ROWS, {"m.shape": torch.tensor([32, -64])}, [], "m.shape: [32, -64] is not that of a matrix"),
    (ROWS, {"m.shape": torch.tensor([32, 1 << 40])}, [], "m.W_q: [16, 64] words of 2 codes do not hold [32, 10995"),
    (ROWS, {"m.shape": torch.tensor([32])}, [], "m.shape: its shape is [1], HQQ makes it [2]"),
    (ROWS, {"m.W_q": torch.ones(16, 65).byte()}, [], "m.W_q: [16, 65] words of 2 codes do not hold [32, 64] weights"),
    (ROWS, {"m.W_q": torch.ones(16, 64).int()}, [], "m.W_q: its dtype is I32, not U8"),
    (ROWS, {"m.W_q": torch.ones(4, 4, 64).byte()}, [], "m.W_q: its shape is [4, 4, 64]: stacks of experts"),
    (ROWS, {"m.scale": torch.ones(31, 1).bfloat16()}, [], "m.scale: its shape is [31, 1], W_q makes it [32, 1]"),
    (ROWS, {"m.scale": torch.ones(32, 1)}, [], "m.scale: its dtype is F32, the layer computes in BF16"),
    (ROWS, {"m.zero": torch.full((32, 1), torch.nan).bfloat16()}, [], "m.zero: that of group 0 is not finite"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "changes", "left_out", "expected"), BAD, ids=[bad[3][:40] for bad in BAD])
def test_bad_parts(case: str, changes: Parts, left_out: list[str], expected: str, decode: Callable[..., Any]) -> None:
    parts, config, _ = golden_layer("hqq", case)
    parts = {name: part for name, part in {**parts, **changes}.items() if name not in left_out}
    with pytest.raises(FormatError) as error:
        decode(parts, config)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
