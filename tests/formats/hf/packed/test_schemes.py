"""Our layouts and configurations of compressed-tensors, against what its own compressors made of the same codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from quantmill.formats.errors import QuantmillError
from quantmill.formats.hf.packed.bits import pack_bits, unpack_bits
from quantmill.formats.hf.packed.compressed_parts import layout, pack_nibbles, packed_integers
from quantmill.formats.hf.packed.schemes import SCHEMES, Scheme, integer_scheme, quantization_config, scheme

GOLDEN = Path(__file__).parent / "goldens" / "layouts.safetensors"
E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


def scheme_of(case: str) -> Scheme:
    if case in SCHEMES:
        return SCHEMES[case]
    _, bits, *rest = case.removesuffix("-static").split("-")
    size = -1 if "" in rest else int(rest[0])
    return integer_scheme(
        int(bits), size, symmetric=case.removesuffix("-static").endswith("-sym"), reordered=case.endswith("-static")
    )  # fmt: skip


def cases() -> list[str]:
    with safe_open(GOLDEN, "pt") as file:
        assert file.metadata()["oracle"] == "compressed-tensors 0.20.1"
        return list(json.loads(file.metadata()["configs"]))


def test_every_scheme_has_a_golden() -> None:
    assert set(SCHEMES) < set(cases())
    assert len(cases()) == len(SCHEMES) + 25


@pytest.mark.parametrize("case", cases())
def test_as_the_compressor_writes(case: str) -> None:
    ours = scheme_of(case)
    with safe_open(GOLDEN, "pt") as file:
        wanted = json.loads(file.metadata()["configs"])[case]
        names = [name for name in file.offset_keys() if name.startswith(f"{case}.")]
        state = {name.removeprefix(f"{case}."): file.get_tensor(name) for name in names}
    config = quantization_config(ours, ["lm_head"])
    assert {**wanted, "version": "0.20.1", "sparsity_config": {}, "transform_config": {}} == config
    parts = {name.removeprefix("parts."): part for name, part in state.items() if name.startswith("parts.")}
    codes, rows, width = state["codes"], *state["codes"].shape
    if case == "nvfp4":  # the compressor copies what calibration found
        parts["input_global_scale"] = torch.ones(1)
    assert {name: (file_dtype(part, case), tuple(part.shape)) for name, part in parts.items()} == {
        name: (part.dtype, part.shape(ours.weights, rows, width)) for name, part in layout(ours).items()
    }
    if ours.format == "pack-quantized":
        bits = ours.weights.num_bits
        half = 1 << (bits - 1)
        zeros = (state["zeros"].numpy().astype(np.int16) + half).astype(np.uint8) if "zeros" in state else None
        unsigned = (codes.numpy().astype(np.int16) + half).astype(np.uint8)
        made = packed_integers(unsigned, state["scale"].numpy(), bits, zeros)
        assert list(made) == list(layout(ours))
        for name, part in made.items():
            assert part.dtype == parts[name].numpy().dtype, name
            assert np.array_equal(part, parts[name].numpy()), name
    elif ours.weights.num_bits == 4:
        values = codes.float()
        magnitude = sum((values.abs() == value) * code for code, value in enumerate(E2M1))
        nibbles = (magnitude + 8 * torch.signbit(values)).to(torch.uint8).numpy()
        assert np.array_equal(pack_nibbles(nibbles), parts["weight_packed"].numpy())
    else:
        assert torch.equal(parts["weight"].view(torch.uint8), codes.view(torch.uint8))


def file_dtype(part: torch.Tensor, case: str) -> str:
    name = {torch.float8_e4m3fn: "F8_E4M3", torch.uint8: "U8", torch.int8: "I8", torch.int32: "I32"}.get(part.dtype)
    if name is None:
        name = "I64" if part.dtype == torch.int64 else "scale"
    return "F32" if name == "scale" and case.startswith("nvfp4") else name


@pytest.mark.parametrize("bits", range(1, 9))
def test_bits_come_back(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (3, 77), np.uint8)
    words = pack_bits(codes, bits)
    assert words.shape == (3, -(-77 * bits // 32))
    assert np.array_equal(unpack_bits(words.view(np.uint8), bits, 77), codes)


def test_a_code_that_does_not_fit() -> None:
    with pytest.raises(QuantmillError, match="a code of 9 does not fit 3 bits"):
        pack_bits(np.full((1, 4), 9, np.uint8), 3)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("w4a15", None, "there is no scheme 'w4a15'"),
        ("zz", None, "one of fp8, "),
        ("fp8", 64, "the groups of fp8 have a size of their own"),
        ("w4a16", 33, "groups of 33 weights are not supported"),
    ],
)
def test_bad_requests(name: str, size: int | None, message: str) -> None:
    with pytest.raises(QuantmillError) as caught:
        scheme(name, size)
    assert message in str(caught.value)


def test_names_in_any_spelling() -> None:
    assert scheme("W4A16_ASYM") is SCHEMES["w4a16-asym"]
    assert scheme("w8a16", -1).weights.strategy == "channel"
