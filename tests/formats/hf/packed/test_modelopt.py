"""ModelOpt's checkpoints: what its layers become, its config inside and beside config.json, and what is refused."""

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

FP8, NVFP4, AWQ = "FP8_DEFAULT_CFG", "NVFP4_DEFAULT_CFG", "NVFP4_AWQ_LITE_CFG"
Parts = dict[str, torch.Tensor]


@pytest.mark.parametrize(
    ("case", "type", "said"),
    [
        (FP8, "F32", "decoded"),
        (NVFP4, "NVFP4", "exactly as NVFP4"),
        ("MXFP8_DEFAULT_CFG", "F32", "decoded (GGUF has no MXFP8)"),
        ("MXFP4_DEFAULT_CFG", "MXFP4", "exactly as MXFP4"),
        (AWQ, "F32", "decoded (times pre_quant_scale, by column)"),
        ("INT8_WEIGHT_ONLY_CFG", "F32", "decoded (scales that are not halves)"),
    ],
)
def test_what_it_becomes(case: str, type: str, said: str, decode: Callable[..., Any]) -> None:
    parts, config, _ = golden_layer("modelopt", case)
    lines: list[str] = []
    assert decode(parts, config, lines)["m.weight"].qtype.name == type
    assert lines[-1].endswith(f": modelopt: 1 weights read {said}")


@pytest.fixture
def found(tmp_path: Path) -> Callable[..., Any]:
    """``found(parts, inside, beside, said=[])``: the tensors of a folder with a config in either place."""

    def read(parts: Parts, inside: Any, beside: Any, said: list[str] | None = None) -> Any:
        save_file(parts, tmp_path / "model.safetensors")
        raw = {} if inside is None else {"quantization_config": inside}
        if beside is not None:
            (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
        return decode_packed(read_weights(tmp_path), raw, tmp_path, say=([] if said is None else said).append)

    return read


def file(**changes: Any) -> dict[str, Any]:
    inner = {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "group_size": 16, "exclude_modules": ["lm_head"]}
    return {"producer": {"name": "modelopt", "version": "0.47.0"}, "quantization": {**inner, **changes}}


def test_a_file_of_its_own(found: Callable[..., Any], floats: Any) -> None:
    """Alone, as old checkpoints have it, or agreeing with config.json; scales of the cache are left aside, and said."""
    parts, _, wanted = golden_layer("modelopt", NVFP4)
    lines: list[str] = []
    caches = {"n.k_proj.k_scale": torch.ones(()), "n.v_proj.v_scale": torch.ones(())}
    read = found({**parts, **caches}, None, file(), lines)
    assert list(read) == ["m.weight"]
    assert torch.equal(floats(read["m.weight"]), wanted)
    assert "only hf_quant_config.json says that the weights are packed" in lines[0]
    assert lines[-1].endswith(": 2 scales of the cache of keys and values are left aside")
    inside = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}
    assert list(found(parts, inside, file())) == ["m.weight"]
    assert list(found(parts, {**inside, "quant_method": "modelopt_fp4"}, file())) == ["m.weight"]


def test_a_quantized_cache_alone(found: Callable[..., Any]) -> None:
    lines: list[str] = []
    parts = {"m.weight": torch.ones(4, 8), "n.k_proj.k_scale": torch.ones(())}
    assert list(found(parts, None, file(quant_algo=None), lines)) == ["m.weight"]
    assert "quantized by 'modelopt', but all are plain floats" in lines[0]


def test_several_algorithms(found: Callable[..., Any], floats: Any) -> None:
    """By layer; one that the config does not list is what its parts are."""
    both: Parts = {}
    wanted = {}
    for module, case in (("a", FP8), ("b", NVFP4), ("c", "INT4_AWQ_CFG")):
        parts, _, wanted[module] = golden_layer("modelopt", case)
        both |= {f"{module}{name[1:]}": part for name, part in parts.items()}
    layers = {"a": {"quant_algo": "FP8"}, "b": {"quant_algo": "NVFP4", "group_size": 16}}
    inside = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    read = found(both, inside, None)
    for module, weight in wanted.items():
        assert torch.equal(floats(read[f"{module}.weight"]), weight)
    with pytest.raises(FormatError, match=r"a.weight: the config says NVFP4, its parts are those of FP8"):
        found(both, {**inside, "quantized_layers": {**layers, "a": {"quant_algo": "NVFP4"}}}, None)


BAD_FILES: list[tuple[Any, Any, str]] = [
    (None, file(quant_algo="NVFP3"), "hf_quant_config.json: quant_algo: 'NVFP3' is not read (FP8, "),
    (None, file(quant_algo=None), "hf_quant_config.json: quant_algo: is missing"),
    (None, file(quant_algo=4), "hf_quant_config.json: quant_algo: 4 is not a text"),
    (None, {"quantization": [1]}, "hf_quant_config.json: quantization: [1] is not an object"),
    (None, file(exclude_modules="lm_head"), "hf_quant_config.json: exclude_modules: 'lm_head' is not a list of texts"),
    (
        None,
        file(exclude_modules=["m*"]),
        "exclude_modules: 'm*' says that m is not quantized, but it is",
    ),
    (None, file(quantized_layers={"a": 1}), "hf_quant_config.json: quantized_layers.a: 1 is not an object"),
    (None, file(quantized_layers={"a": {"quant_algo": "X"}}), "quantized_layers.a.quant_algo: 'X' is not read"),
    (None, file(quant_algo="FP8"), "m.weight: the config says FP8, its parts are those of NVFP4"),
    (
        {"quant_method": "modelopt", "quant_algo": "FP8"},
        file(),
        "hf_quant_config.json: quant_algo is 'NVFP4' here and 'FP8' in config.json (get both of the same checkpoint)",
    ),
    (
        {"quant_method": "modelopt", "ignore": []},
        file(),
        "hf_quant_config.json: exclude_modules is ['lm_head'] here and [] in config.json",
    ),
    ({"quant_method": "fp8"}, file(), "hf_quant_config.json: quant_method is 'modelopt' here and 'fp8' in config.json"),
]


@pytest.mark.parametrize(("inside", "beside", "expected"), BAD_FILES, ids=[bad[2][:60] for bad in BAD_FILES])
def test_bad_files(inside: Any, beside: Any, expected: str, found: Callable[..., Any]) -> None:
    with pytest.raises(FormatError) as error:
        found(golden_layer("modelopt", NVFP4)[0], inside, beside)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


SVD = "m.weight_quantizer._svdquant_lora_a"
BAD: list[tuple[str, Parts, list[str], str]] = [
    (NVFP4, {}, ["m.weight_scale"], "m.weight_scale: missing, though the layer is packed"),
    (NVFP4, {}, ["m.weight_scale_2"], "m.weight_scale_2: missing, though the layer is packed"),
    (NVFP4, {"m.weight_scale_2": torch.tensor(torch.nan)}, [], "m.weight_scale_2: a factor is nan"),
    (NVFP4, {"m.weight_scale": torch.ones(16, 8).to(torch.float8_e4m3fn)}, [], "groups of 32 weights (W4A8_NVFP4_FP8)"),
    (NVFP4, {SVD: torch.ones(4, 256)}, [], f"{SVD}: a low-rank branch beside the weight is not read"),
    (NVFP4, {"m.weight": torch.ones(2, 16, 128).byte()}, [], "m.weight: its shape is [2, 16, 128]: stacks of experts"),
    (NVFP4, {"m.weight_scale": torch.ones(16).to(torch.int32)}, [], "m.weight_scale: its dtype is I32, not F16 or"),
    (AWQ, {"m.pre_quant_scale": torch.ones(255)}, [], "m.pre_quant_scale: its shape is [255], weight makes it [256]"),
    (AWQ, {"m.pre_quant_scale": torch.full((256,), torch.inf)}, [], "m.pre_quant_scale: of column 0 is inf"),
    (FP8, {}, ["m.weight_scale"], "m.weight_scale: missing, though the layer is packed"),
    ("FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG", {"m.weight_scale": torch.ones(1, 1, 3, 1)}, [], "blocks do not divide [128, "),
    ("INT4_AWQ_CFG", {"m.weight_scale": torch.ones(15, 2)}, [], "m.weight_scale: [15, 2] scales do not fit 16 rows of"),
    ("INT8_WEIGHT_ONLY_CFG", {"m.weight_scale": torch.ones(15)}, [], "m.weight_scale: its shape is [15], weight makes"),
]


@pytest.mark.parametrize(("case", "changes", "left_out", "expected"), BAD, ids=[bad[3][:40] for bad in BAD])
def test_bad_parts(case: str, changes: Parts, left_out: list[str], expected: str, decode: Callable[..., Any]) -> None:
    parts, config, _ = golden_layer("modelopt", case)
    parts = {name: part for name, part in {**parts, **changes}.items() if name not in left_out}
    with pytest.raises(FormatError) as error:
        decode(parts, config)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
