"""bitsandbytes' layers: the types they become, their parts in several files, and those that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from oracles.packed import golden_layer
from quantmill.formats.errors import FormatError
from quantmill.formats.hf.files.weights import read_weights
from quantmill.formats.hf.packed import decode_packed

NESTED, PLAIN, INT8 = "nf4-64-torch.uint8-True-64", "nf4-64-torch.uint8-False-64", "int8-0.0137"
STATE = "m.weight.quant_state.bitsandbytes__nf4"
Parts = dict[str, torch.Tensor]


@pytest.mark.parametrize(
    ("case", "type", "said"),
    [
        (NESTED, "BF16", "bitsandbytes: 1 weights read decoded (levels that no GGUF type has)"),
        (PLAIN, "F16", "bitsandbytes: 1 weights read decoded (levels that no GGUF type has)"),
        (INT8, "F32", "bitsandbytes: 1 weights read decoded (scales / 127 that are not halves)"),
        ("int8-0.25", "Q8_0", "bitsandbytes: 1 weights read exactly as Q8_0"),
    ],
)
def test_what_it_becomes(case: str, type: str, said: str, decode: Callable[..., Any]) -> None:
    parts, config, _ = golden_layer("bitsandbytes", case)
    lines: list[str] = []
    found = decode(parts, config, lines)["m.weight"]
    assert found.qtype.name == type
    assert lines[-1].endswith(said)


def test_a_config_of_its_first_day(decode: Callable[..., Any]) -> None:
    """Without ``quant_method``."""
    parts, _, _ = golden_layer("bitsandbytes", INT8)
    assert list(decode(parts, {"load_in_8bit": True})) == ["m.weight"]


def test_parts_in_several_files(tmp_path: Path, floats: Any) -> None:
    parts, config, wanted = golden_layer("bitsandbytes", NESTED)
    index = {}
    for number, name in enumerate(parts):
        index[name] = f"model-{number % 3 + 1:05}-of-00003.safetensors"
    for file in set(index.values()):
        save_file({name: parts[name] for name in parts if index[name] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    found = decode_packed(read_weights(tmp_path), {"quantization_config": config}, tmp_path)
    assert torch.equal(floats(found["m.weight"]), wanted)


def state(**changes: Any) -> torch.Tensor:
    parts, _, _ = golden_layer("bitsandbytes", NESTED)
    found = {**json.loads(bytes(parts[STATE].tolist())), **changes}
    return torch.tensor(list(json.dumps(found).encode()), dtype=torch.uint8)


BAD: list[tuple[str, Parts, list[str], str]] = [
    (NESTED, {}, [STATE], "m.weight: no quant_state beside it (get the whole checkpoint"),
    (NESTED, {}, ["m.weight"], "m.weight: missing, though the layer is packed"),
    (NESTED, {}, ["m.weight.absmax"], "m.weight.absmax: missing, though the layer is packed"),
    (NESTED, {}, ["m.weight.nested_absmax"], "m.weight.nested_absmax: missing, though the layer is packed"),
    (NESTED, {}, ["m.weight.nested_quant_map"], "m.weight.nested_quant_map: missing, though the layer is packed"),
    (PLAIN, {"m.weight.nested_absmax": torch.ones(1)}, [], ".nested_blocksize: None is not a positive whole number"),
    (PLAIN, {"m.weight.absmax": torch.ones(33)}, [], "m.weight.absmax: its shape is [33], the state makes it [32]"),
    (PLAIN, {"m.weight.absmax": torch.ones(32).byte()}, [], "m.weight.absmax: its dtype is U8, not F16 or BF16 or F32"),
    (NESTED, {"m.weight.nested_absmax": torch.ones(2)}, [], "nested_absmax: its shape is [2], the state makes it [1]"),
    (NESTED, {"m.weight.nested_quant_map": torch.ones(16)}, [], "map: its shape is [16], bytes makes it [256]"),
    (PLAIN, {"m.weight.quant_map": torch.ones(15)}, [], "m.weight.quant_map: its shape is [15], nf4 makes it [16]"),
    (PLAIN, {"m.weight.quant_map": torch.ones(16)}, [], "m.weight.quant_map: its levels are not those of nf4"),
    (PLAIN, {"m.weight": torch.ones(1000, 1).byte()}, [], "m.weight: [1000, 1] of U8 are not the 1024 bytes"),
    (PLAIN, {"m.weight": torch.ones(1, 1024).byte()}, [], "m.weight: [1, 1024] of U8 are not the 1024 bytes, in one c"),
    (NESTED, {STATE: state(quant_type="fp4")}, [], "quant_type is 'fp4', the tensor's name says 'nf4'"),
    (NESTED, {STATE: state(quant_type="af4")}, [], "quant_type is 'af4', the tensor's name says 'nf4'"),
    (NESTED, {STATE: state(blocksize=48)}, [], ".blocksize: 48 is not one of 32, 64, 128, 256, 512, 1024, 2048, 4096"),
    (NESTED, {STATE: state(dtype="int8")}, [], ".dtype: 'int8' is not one of float16, bfloat16, float32"),
    (NESTED, {STATE: state(shape=[32, -64])}, [], ".shape: [32, -64] is not a list of positive whole numbers"),
    (
        NESTED,
        {STATE: state(shape=[32, 10**9])},
        [],
        "are not the 16000000000 bytes, in one column, of 320000000",
    ),
    (NESTED, {STATE: state(nested_offset="1")}, [], ".nested_offset: '1' is not a number"),
    (NESTED, {STATE: torch.zeros(9).byte()}, [], "m.weight.quant_state.bitsandbytes__nf4: not JSON"),
    (NESTED, {STATE.replace("nf4", "fp4"): state()}, [], "bitsandbytes__fp4 are both there"),
    (INT8, {}, ["m.SCB"], "m.SCB: missing, though the layer is packed"),
    (INT8, {"m.SCB": torch.ones(31)}, [], "m.SCB: [31] scales for 32 rows"),
    (INT8, {"m.SCB": torch.full((32,), torch.nan)}, [], "m.SCB: the scale of row 0 is not finite"),
    (INT8, {"m.weight_format": torch.tensor(2).byte()}, [], "m.weight_format: its rows are in another order"),
]


@pytest.mark.parametrize(("case", "changes", "left_out", "expected"), BAD, ids=[bad[3][:40] for bad in BAD])
def test_bad_parts(case: str, changes: Parts, left_out: list[str], expected: str, decode: Callable[..., Any]) -> None:
    parts, config, _ = golden_layer("bitsandbytes", case)
    parts = {name: part for name, part in {**parts, **changes}.items() if name not in left_out}
    with pytest.raises(FormatError) as error:
        decode(parts, config)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_an_absmax_that_is_no_number(decode: Callable[..., Any]) -> None:
    parts, config, _ = golden_layer("bitsandbytes", PLAIN)
    parts["m.weight.absmax"][3] = torch.nan
    with pytest.raises(FormatError, match=r"m.weight: the absmax of block 3 is nan"):
        decode(parts, config)["m.weight"].rows(0, 32)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"load_in_4bit": True, "load_in_8bit": True}, "config.load_in_8bit: is true, and load_in_4bit too"),
        ({"load_in_4bit": "yes"}, "config.load_in_4bit: 'yes' is not true or false"),
        ({"bnb_4bit_quant_type": "int4"}, "config.bnb_4bit_quant_type: 'int4' is not read (nf4 and fp4 are)"),
    ],
)
def test_bad_configs(config: dict[str, Any], expected: str, decode: Callable[..., Any]) -> None:
    with pytest.raises(FormatError) as error:
        decode(golden_layer("bitsandbytes", NESTED)[0], {"quant_method": "bitsandbytes", **config})
    assert expected in str(error.value)
