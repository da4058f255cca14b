"""Packed checkpoints that cannot be read: one line each, naming the file, the place and the remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from oracles import packed
from quantmill.formats.errors import FormatError
from quantmill.formats.hf.files.weights import read_weights
from quantmill.formats.hf.packed import decode_packed
from quantmill.formats.hf.packed.methods import UNREAD
from quantmill.formats.hf.packed.save import check_unquantized
from quantmill.formats.ir import Tensor

Parts = dict[str, torch.Tensor]
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "checkpoint_format": "gptq"}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}
INT4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {"group_0": {"weights": INT4, "targets": ["Linear"]}},
}


def gptq_parts() -> Parts:
    codes, zeros, scales = packed.random_grid(32, 64, 32, 4, 0)
    return {f"m.{k}": v for k, v in packed.gptq(codes, zeros, scales, packed.groups(64, 32), 4).items()}


def awq_parts() -> Parts:
    codes, zeros, scales = packed.random_grid(32, 64, 32, 4, 0)
    return {f"m.{k}": v for k, v in packed.awq_gemm(codes, zeros, scales).items()}


def compressed_parts() -> Parts:
    codes, _, scales = packed.random_grid(32, 64, 32, 4, 0)
    shape = torch.tensor([32, 64])
    return {"m.weight_packed": packed.stream(codes, 4), "m.weight_scale": scales, "m.weight_shape": shape}


def fp8_parts() -> Parts:
    return {"m.weight": torch.zeros(32, 64).to(torch.float8_e4m3fn), "m.weight_scale_inv": torch.ones(1, 1)}


def without(parts: Parts, name: str) -> Parts:
    return {key: value for key, value in parts.items() if key != name}


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., str]:
    """The one line about a checkpoint of these parts and this config, its folder left out; rows are read too."""

    def tell(parts: Parts, quantization: Any, beside: Any = None, read: bool = False) -> str:
        save_file({name: part.contiguous() for name, part in parts.items()}, tmp_path / "model.safetensors")
        raw = {} if quantization is None else {"quantization_config": quantization}
        (tmp_path / "config.json").write_text(json.dumps(raw))
        if beside is not None:
            (tmp_path / "quantize_config.json").write_text(json.dumps(beside))
        act = partial(decode_packed, read_weights(tmp_path), raw, tmp_path)
        if read:  # no error before that
            act = partial(act()["m.weight"].rows, 0, 32)
        with pytest.raises(FormatError) as error:
            act()
        text = str(error.value)
        assert "\n" not in text
        return text.replace(f"{tmp_path}/", "").replace(f"{tmp_path}: ", "")

    return tell


CONFIGS: list[tuple[Any, str]] = [
    ({**GPTQ, "bits": 5}, "quantization_config.bits: 5 bits are none of 2, 3, 4, 8"),
    ({**GPTQ, "bits": True}, "quantization_config.bits: True bits are none of 2, 3, 4, 8"),
    (
        {**GPTQ, "group_size": 0},
        "quantization_config.group_size: 0 is not a valid group size (a positive number, or -1",
    ),
    ({**GPTQ, "group_size": 48}, "m.qweight: groups of 48 do not divide its 64 columns"),
    ({**GPTQ, "group_size": 64}, "m.scales: its shape is [2, 32], the config makes it [1, 32]"),
    ({**GPTQ, "bits": 8}, "m.qweight: 8 words a column do not hold 64 codes of 8 bits (is the config"),
    ({**GPTQ, "checkpoint_format": "marlin"}, "quantization_config.checkpoint_format: 'marlin' is not read (gptq and"),
    ({**GPTQ, "pack_dtype": "int16"}, "quantization_config.pack_dtype: 'int16' is not read, int32 is"),
    ({"quant_method": "tomorrow's"}, 'config: the weights are quantized by "tomorrow\'s" (gptq, awq, auto-round, '),
    ("gptq", "quantization_config: is not a JSON object"),
    (None, "m.g_idx is packed, and no quantization_config says how"),
]


@pytest.mark.parametrize(("quantization", "expected"), CONFIGS)
def test_gptq_configs(told: Callable[..., str], quantization: Any, expected: str) -> None:
    if quantization is None:
        expected = expected.replace("m.g_idx", "m.qweight")
    assert expected in told(gptq_parts(), quantization)


def test_gptq_without_g_idx(told: Callable[..., str]) -> None:
    said = told(without(gptq_parts(), "m.g_idx"), GPTQ)
    hint = "old files without it are ambiguous: ask for a newer version of the checkpoint"
    assert said == f"model.safetensors: m.qweight: no g_idx beside it ({hint})"


def test_gptq_layers_that_dynamic_leaves_out(decode: Callable[..., Any]) -> None:
    """A rule that begins with "-:" leaves layers as floats; one with "+:", or none, gives them bits of their own."""
    dynamic: dict[str, Any] = {"-:.*n$": {}, r"+:.*o$": {"bits": 8}}
    found = decode({**gptq_parts(), "n.weight": torch.ones(4, 8).half()}, {**GPTQ, "dynamic": dynamic})
    assert [(name, getattr(one, "qtype", one).name) for name, one in found.items()] == [
        ("m.weight", "Q4_0"),
        ("n.weight", "n.weight"),
    ]


@pytest.mark.parametrize("name", ["m.qzeros", "m.scales"])
def test_gptq_without_a_part(told: Callable[..., str], name: str) -> None:
    said = told(without(gptq_parts(), name), GPTQ)
    assert said == f"model.safetensors: {name}: missing, though the layer is packed"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"m.qzeros": torch.zeros(2, 3, dtype=torch.int32)},
            "m.qzeros: its shape is [2, 3], the config makes it",
        ),
        ({"m.qweight": torch.zeros(8, 32)}, "m.qweight: its dtype is F32, not I32"),
        ({"m.g_idx": torch.full((64,), 2, dtype=torch.int32)}, "m.g_idx: names group 2 of 2"),
        ({"m.g_idx": torch.full((64,), -1, dtype=torch.int32)}, "m.g_idx: names group -1 of 2"),
        ({"m.g_idx": torch.zeros(60, dtype=torch.int32)}, "m.qweight: 8 words a column do not hold 60 codes of 4 bits"),
    ],
)
def test_gptq_parts_that_disagree(told: Callable[..., str], changes: Parts, expected: str) -> None:
    assert expected in told({**gptq_parts(), **changes}, GPTQ)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scales_that_are_no_numbers(told: Callable[..., str], value: float) -> None:
    for parts, config in ((gptq_parts(), GPTQ), (awq_parts(), AWQ)):
        parts["m.scales"][1, 7] = value
        said = told(parts, config, read=True)
        problem = f"m.qweight: the scale of row 7, group 1 is {value} (the checkpoint is damaged: get it again)"
        assert said == f"model.safetensors: {problem}"


def test_configs_of_the_two_places(told: Callable[..., str], tmp_path: Path) -> None:
    """One of them is enough, and said; two that disagree are an error."""
    said = told(gptq_parts(), GPTQ, beside={"bits": 8, "group_size": 32})
    assert said == "quantize_config.json: bits is 8 here and 4 in config.json (get both of the same checkpoint)"

    lines: list[str] = []
    (tmp_path / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 32, "desc_act": False}))
    assert list(decode_packed(read_weights(tmp_path), {}, tmp_path, say=lines.append)) == ["m.weight"]
    assert lines[0].startswith(f"{tmp_path}: only quantize_config.json says that the weights are packed")
    (tmp_path / "quantize_config.json").unlink()
    raw = {"quantization_config": GPTQ}
    lines.clear()
    assert list(decode_packed(read_weights(tmp_path), raw, tmp_path, say=lines.append)) == ["m.weight"]
    assert lines[0].startswith(f"{tmp_path}: no quantize_config.json beside config.json")


LEFT_OVER: list[dict[str, Any]] = [
    {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    {"quant_method": "bitsandbytes", "load_in_8bit": True},
    {"load_in_8bit": True},
    *({"quant_method": name} for name in (
        "hqq", "torchao", "quanto", "eetq", "aqlm", "vptq", "higgs", "spqr", "quark", "auto-round", "mxfp4", "gptq",
        "awq", "fp8", "fbgemm_fp8", "something of tomorrow",
    )),
    {"quant_method": "gptq", "bits": 5},
    {"quant_method": "compressed-tensors", "format": "dense", "config_groups": {}},
]  # fmt: skip


@pytest.mark.parametrize("config", LEFT_OVER, ids=str)
def test_a_config_left_over_on_plain_floats(config: dict[str, Any], tmp_path: Path) -> None:
    """Adapters merged into a decoded base leave it behind. transformers, for the methods that it loads without their
    libraries (fp8, mxfp4, unknown ones), takes the floats as they are."""
    parts = {"m.weight": torch.randn(4, 8).double(), "n.weight": torch.randn(4).bfloat16(), "mask": torch.arange(4)}
    save_file(parts, tmp_path / "model.safetensors")
    raw = {"quantization_config": config}
    lines: list[str] = []
    weights = read_weights(tmp_path)
    assert decode_packed(weights, raw, tmp_path, unread={"mask"}, say=lines.append) == weights
    method = config.get("quant_method", "bitsandbytes")
    what = f"says that the weights are quantized by {method!r}, but all are plain floats"
    assert lines == [f"{tmp_path}: quantization_config {what}: they are read as they are"]


def test_a_file_left_over_beside_plain_floats(tmp_path: Path) -> None:
    """The line names the file that says so, and no loader of packed weights is spoken of."""
    save_file({"m.weight": torch.randn(4, 8)}, tmp_path / "model.safetensors")
    (tmp_path / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 128}))
    lines: list[str] = []
    decode_packed(read_weights(tmp_path), {}, tmp_path, say=lines.append)
    what = "says that the weights are quantized by 'gptq', but all are plain floats: they are read as they are"
    assert lines == [f"{tmp_path}: quantize_config.json {what}"]


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        ({"quant_method": "torchao"}, {"m.weight": torch.zeros(4, 8, dtype=torch.int8)}),
        ({"quant_method": "bitnet"}, {"m.weight": torch.ones(4, 8)}),  # made ternary as it runs
    ],
)
def test_methods_that_are_not_read(told: Callable[..., str], config: dict[str, Any], parts: Parts) -> None:
    """The hint of each says what makes floats of it."""
    method = config["quant_method"]
    said = f"the weights are quantized by {method!r} ({UNREAD[method]})"
    assert told(parts, config) == f"config.json: quantization_config: {said}"


@pytest.mark.parametrize("method", UNREAD)
def test_every_method_that_is_not_read_says_what_to_do(method: str, told: Callable[..., str]) -> None:
    said = told({"m.weight": torch.zeros(4, 8, dtype=torch.uint8)}, {"quant_method": method})
    assert said.startswith(f"config.json: quantization_config: the weights are quantized by {method!r} (")
    assert any(word in said for word in ("convert", "export", "load"))


def test_a_left_over_config_does_not_make_a_checkpoint_quantized(tmp_path: Path) -> None:
    """For `gptq` and `awq`, which quantize plain checkpoints, and write a config of their own."""
    quantization = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8, "quantization_config": quantization}))
    save_file({"m.weight": torch.randn(4, 8)}, tmp_path / "model.safetensors")
    assert check_unquantized(tmp_path) == {"hidden_size": 8}
    save_file({"m.weight": torch.zeros(32, 1, dtype=torch.uint8)}, tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match="is already quantized, by bitsandbytes"):
        check_unquantized(tmp_path)


def test_scales_without_a_config(told: Callable[..., str]) -> None:
    parts = {"m.weight": torch.zeros(4, 8).to(torch.float8_e4m3fn), "m.weight_scale": torch.ones(1)}
    assert told(parts, None).startswith("m.weight_scale is packed, and no quantization_config says how")


def test_a_folder_of_autogptq_s_day(tmp_path: Path) -> None:
    """Weights and config under the names of 2023, config.json silent: as the 13B set was first published."""
    save_file(gptq_parts(), tmp_path / "gptq_model-4bit-32g.safetensors")
    beside = {
        "bits": 4,
        "group_size": 32,
        "desc_act": False,
        "sym": True,
        "damp_percent": 0.01,
        "true_sequential": True,
    }
    (tmp_path / "quantize_config.json").write_text(json.dumps(beside))
    found = decode_packed(read_weights(tmp_path), {}, tmp_path)
    assert [(name, tensor.qtype.name) for name, tensor in found.items()] == [("m.weight", "Q4_0")]  # type: ignore[union-attr]


def test_a_truncated_shard(told: Callable[..., str], tmp_path: Path) -> None:
    save_file(gptq_parts(), tmp_path / "model.safetensors")
    raw = {"quantization_config": GPTQ}
    whole = (tmp_path / "model.safetensors").read_bytes()
    weights = read_weights(tmp_path)
    tensor = decode_packed(weights, raw, tmp_path)["m.weight"]
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FormatError, match="the file became shorter while it was read"):
        tensor.rows(0, 32)
    with pytest.raises(FormatError, match="truncated: its data ends at byte"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({**AWQ, "bits": 8}, "quantization_config.bits: 8 bits: AWQ checkpoints of 4 bits are read"),
        ({**AWQ, "version": "gemv_fast"}, "quantization_config.version: 'gemv_fast' is not read (gemm and gemv are)"),
        ({**AWQ, "version": ["gemm"]}, "quantization_config.version: ['gemm'] is not a text"),
        ({**AWQ, "version": ""}, "quantization_config.version: '' is not read"),
        ({**AWQ, "group_size": 10**30}, f"quantization_config.group_size: {10**30} is not a valid group size"),
        ({**AWQ, "group_size": 48}, "m.qweight: groups of 48 do not divide its 64 columns"),
        ({**AWQ, "group_size": 64}, "m.qzeros: its shape is [2, 4], qweight makes it [1, 4]"),
    ],
)
def test_awq(told: Callable[..., str], config: Any, expected: str) -> None:
    assert expected in told(awq_parts(), config)


@pytest.mark.parametrize(
    ("config", "changes", "expected"),
    [
        (
            {**COMPRESSED, "format": "marlin-24"},
            {},
            "compressed-tensors format 'marlin-24' is not read (pack-",
        ),
        (
            {**COMPRESSED, "sparsity_config": {"format": "sparse-24-bitmask"}},
            {},
            "format 'sparse-24-bitmask' is not read",
        ),
        ({**COMPRESSED, "config_groups": [1]}, {}, "quantization_config.config_groups: [1] is not an object"),
        (
            {**COMPRESSED, "config_groups": {"g": {"weights": {**INT4, "num_bits": "4"}}}},
            {},
            "quantization_config.config_groups.g.weights.num_bits: '4' is not a whole number",
        ),
        ({**COMPRESSED, "config_groups": {}}, {}, "quantization_config.config_groups: no scheme for weights"),
        (COMPRESSED, {"m.weight_shape": torch.tensor([32, 128])}, "8 words a row do not hold 128 codes of 4 bits"),
        (
            COMPRESSED,
            {"m.weight_shape": torch.tensor([31, 64])},
            "weight_shape: [31, 64] does not fit the [32, 8]",
        ),
        (COMPRESSED, {"m.weight_scale": torch.ones(32, 3)}, "weight_scale: 3 scales a row, groups of 32 make it 2"),
        (COMPRESSED, {"m.weight_scale": torch.ones(31, 2)}, "weight_scale: [31, 2] scales for 32 rows"),
        (COMPRESSED, {"m.weight_g_idx": torch.full((64,), 2)}, "weight_g_idx: names group 2 of 2"),
    ],
)
def test_compressed(told: Callable[..., str], config: Any, changes: Parts, expected: str) -> None:
    assert expected in told({**compressed_parts(), **changes}, config)


@pytest.mark.parametrize(
    ("config", "changes", "expected"),
    [
        (
            {},
            {"m.weight_scale_inv": torch.ones(3, 1)},
            "[3, 1] scales fit neither the tensor, its rows nor blocks",
        ),
        ({}, {"m.weight_scale_inv": torch.full((1, 1), float("nan"))}, "m.weight_scale_inv: a scale is nan"),
        ({"weight_block_size": [0, 128]}, {}, "weight_block_size: [0, 128] is not a valid block size"),
        ({}, {"m.weight": torch.zeros(32, 64)}, "m.weight: its dtype is F32, not F8_E4M3 or F8_E5M2"),
    ],
)
def test_fp8(told: Callable[..., str], config: Any, changes: Parts, expected: str) -> None:
    assert expected in told({**fp8_parts(), **changes}, {"quant_method": "fp8", **config})


def test_an_fp8_weight_that_is_no_number(told: Callable[..., str]) -> None:
    parts = fp8_parts()
    parts["m.weight"].view(torch.uint8)[3, 5] = 0x7F
    assert "m.weight: weight [3, 5] is NaN" in told(parts, {"quant_method": "fp8"}, read=True)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 40), 1 << 40) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=4,
)
BASES: list[tuple[Callable[[], Parts], dict[str, Any]]] = [
    (gptq_parts, GPTQ),
    (awq_parts, AWQ),
    (compressed_parts, COMPRESSED),
    (fp8_parts, {"quant_method": "fp8", "weight_block_size": [128, 128]}),
]


def replaced(value: Any, data: st.DataObject) -> Any:
    """The config with one of its values, at some depth, another."""
    if isinstance(value, dict) and value and data.draw(st.integers(0, 4)):
        key = data.draw(st.sampled_from(sorted(value)))
        return {**value, key: replaced(value[key], data)}
    return data.draw(VALUES)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), base=st.sampled_from(BASES))
def test_any_config_is_read_or_refused(tmp_path: Path, data: st.DataObject, base: Any) -> None:
    parts, config = base
    if data.draw(st.booleans()):
        save_file(parts(), tmp_path / "model.safetensors")
    else:  # and a part of another shape
        name = data.draw(st.sampled_from(sorted(parts())))
        shape = data.draw(st.lists(st.integers(0, 5), max_size=3))
        other = torch.zeros(shape).to(parts()[name].dtype)
        save_file({**parts(), name: other}, tmp_path / "model.safetensors")
    raw = {"quantization_config": replaced(config, data)}
    try:
        for tensor in decode_packed(read_weights(tmp_path), raw, tmp_path).values():
            tensor.rows(0, tensor.n_rows if isinstance(tensor, Tensor) else 0)
    except FormatError as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_mxfp4(told: Callable[..., str]) -> None:
    parts = {
        "x_blocks": torch.zeros(2, 32, 3, 16, dtype=torch.uint8),
        "x_scales": torch.zeros(2, 32, 2, dtype=torch.uint8),
    }
    assert "x_scales: its shape is [2, 32, 2], blocks makes it [2, 32, 3]" in told(parts, {"quant_method": "mxfp4"})


def test_packed_weights_of_a_pickle(tmp_path: Path) -> None:
    torch.save(gptq_parts(), tmp_path / "pytorch_model.bin")
    with pytest.raises(FormatError) as error:
        decode_packed(read_weights(tmp_path), {"quantization_config": GPTQ}, tmp_path)
    assert str(error.value) == (
        "m.g_idx: packed weights are read from safetensors only (convert the checkpoint to safetensors first)"
    )
