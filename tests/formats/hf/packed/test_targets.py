"""Which scheme a layer of compressed-tensors has, and configs that contradict themselves: one line each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from oracles.packed import golden_layer
from quantmill.formats.errors import FormatError
from quantmill.formats.hf.files.weights import read_weights
from quantmill.formats.hf.packed import decode_packed, targets
from quantmill.formats.hf.packed.targets import Layer, layer_schemes

NVFP4, INT4, FP8 = "21-nvfp4-pack-quantized", "1-pack-quantized", "9-float-quantized"
Q = "model.layers.0.self_attn.q_proj"


def group(case: str, *names: str) -> dict[str, Any]:
    _, config, _ = golden_layer("compressed", case)
    return {**config["config_groups"]["group_0"], "format": config["format"], "targets": list(names)}


def chosen(groups: dict[str, Any], *names: str, ignore: tuple[str, ...] = ()) -> tuple[dict[str, str], list[str]]:
    """The group of each packed layer, and what is said."""
    said: list[str] = []
    config = {"config_groups": groups, "ignore": list(ignore)}
    found = layer_schemes(config, Path("m/config.json"), [Layer(name, name) for name in names], [], said.append)
    by_id = {id(value): name for name, value in groups.items()}
    return {name: by_id[id(value)] for name, value in found.items()}, said


@pytest.mark.parametrize(
    ("groups", "layer", "expected"),
    [
        # match_targets: whole names, then expressions in the order of the alphabet, then classes, whatever comes first
        ({"a": group(NVFP4, "Linear"), "b": group(INT4, Q)}, Q, "b"),
        ({"a": group(NVFP4, "Linear"), "b": group(INT4, "re:.*q_proj")}, Q, "b"),
        ({"a": group(NVFP4, "re:.*q_proj"), "b": group(INT4, Q)}, Q, "b"),
        ({"a": group(NVFP4, "Linear"), "b": group(INT4, "re:layers")}, Q, "a"),  # from the name's start
        ({"a": group(NVFP4, "Linear"), "b": group(INT4, "re:.*q_pro")}, Q, "b"),  # not to its end
        ({"a": group(NVFP4, "Embedding"), "b": group(INT4, "Linear")}, "model.embed_tokens", "a"),
        ({"a": group(NVFP4, "Module"), "b": group(INT4, "re:.*k_proj")}, Q, "a"),
        # fused layers: those of the checkpoint by their shards, as is_match has them, and the other way round
        ({"a": group(NVFP4, "re:.*q_proj"), "b": group(INT4, "Linear")}, "model.layers.0.self_attn.qkv_proj", "a"),
        ({"a": group(NVFP4, "re:.*qkv_proj"), "b": group(INT4, "re:.*mlp")}, Q, "a"),
    ],
)
def test_the_most_exact_target(groups: dict[str, Any], layer: str, expected: str) -> None:
    assert chosen(groups, layer)[0] == {layer: expected}


def test_every_layer_as_the_library_has_it() -> None:
    """Of compressed-tensors' own choice for random configs; those that it resolves by the alphabet may be refused."""
    golden = json.loads((Path(__file__).parent / "goldens" / "targets.json").read_text())
    assert golden["oracle"] == "compressed-tensors 0.20.1"
    refused = 0
    for case in golden["cases"]:
        schemes = {name: {"targets": own, "weights": {"is": name}} for name, own in case["groups"].items()}
        try:
            found, _ = chosen(schemes, *case["found"], ignore=tuple(case["ignore"]))
        except FormatError as error:
            assert "schemes differ" in str(error)  # noqa: PT017
            refused += 1
            alike = {name: {**group, "weights": {"is": "one"}} for name, group in schemes.items()}
            found, _ = chosen(alike, *case["found"], ignore=tuple(case["ignore"]))
            assert found.keys() == case["found"].keys()
            continue
        assert found == case["found"]
    assert 0 < refused < len(golden["cases"]) - 20


def test_a_target_that_matches_nothing_is_said() -> None:
    groups = {"a": group(NVFP4, "Linear"), "b": group(INT4, "re:.*experts.*", "lm_head")}
    assert chosen(groups, Q) == ({Q: "a"}, ["m: re:.*experts.*, lm_head of config_groups match no layer"])


def test_a_layer_that_no_target_has() -> None:
    groups = {"a": group(NVFP4, "re:.*mlp")}
    assert chosen(groups, Q) == (
        {Q: "a"},
        [
            f"m: no target of config_groups matches {Q}: read by the only scheme",
            "m: re:.*mlp of config_groups matches no layer",
        ],
    )  # fmt: skip
    with pytest.raises(FormatError, match=rf"no target matches {Q}, whose weights are packed, and there are several"):
        chosen({**groups, "b": group(INT4, "re:.*down")}, Q)


@pytest.mark.parametrize(
    ("groups", "ignore", "expected"),
    [
        (
            {"a": group(NVFP4, "re:.*q_proj"), "b": group(INT4, "re:.*self_attn.*")}, (),
            f"config_groups: a and b both have {Q}, and their schemes differ (which of them was meant?)",
        ),
        (
            {"a": group(NVFP4, "Linear"), "b": group(INT4, "Linear")}, (),
            "config_groups: 'Linear' is a target of a and b, whose schemes differ",
        ),
        ({"a": group(NVFP4, "Linear")}, ("re:.*attn",), f"ignore: 're:.*attn' leaves out {Q}, whose weight is packed"),
        ({"a": group(NVFP4, "re:.*(q")}, (), "config_groups: 're:.*(q' is not a valid regular expression: missing )"),
        ({"a": group(NVFP4, "re:" + "a" * 5000)}, (), "has 5003 characters, more than 4096"),
        ({"a": group(NVFP4, *(f"re:{i}" for i in range(1001)))}, (), "1001 regular expressions are more than 1000"),
    ],
)  # fmt: skip
def test_contradictions(groups: dict[str, Any], ignore: tuple[str, ...], expected: str) -> None:
    with pytest.raises(FormatError) as error:
        chosen(groups, Q, ignore=ignore)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_alike_groups_may_overlap() -> None:
    groups = {"a": group(NVFP4, "re:.*q_proj"), "b": group(NVFP4, "re:.*self_attn.*")}
    assert chosen(groups, Q)[0] == {Q: "a"}


def test_an_expression_whose_time_explodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "SECONDS", 0.05)
    with pytest.raises(FormatError, match=r"takes too long to match"):
        chosen({"a": group(NVFP4, "re:(m|mm)+$")}, "m" * 200 + ".")


def read_all(folder: Path, raw: dict[str, Any]) -> None:
    for tensor in decode_packed(read_weights(folder), raw, folder).values():
        tensor.rows(0, 1)


def told(tmp_path: Path, parts: dict[str, torch.Tensor], config: dict[str, Any]) -> str:
    save_file({name: part.contiguous() for name, part in parts.items()}, tmp_path / "model.safetensors")
    raw = {"quantization_config": {"quant_method": "compressed-tensors", **config}}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(FormatError) as error:
        read_all(tmp_path, raw)
    text = str(error.value).replace(f"{tmp_path}/", "")
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("case", "changes", "expected"),
    [
        (NVFP4, {"m.weight_global_scale": None}, "m.weight_global_scale: missing, though the layer is packed"),
        (NVFP4, {"m.weight_global_scale": torch.zeros(1)}, "m.weight_global_scale: a factor is 0.0, not a positive"),
        (NVFP4, {"m.weight_global_scale": torch.ones(3)}, "weight_global_scale: its shape is [3], not that of one"),
        (NVFP4, {"m.weight_scale": torch.ones(32, 3).to(torch.float8_e4m3fn)}, "weight_packed makes it [32, 4]"),
        (NVFP4, {"m.weight_scale": torch.ones(32, 4)}, "m.weight_scale: its dtype is F32, not F8_E4M3"),
        (
            NVFP4, {"m.weight_scale": torch.full((32, 4), float("nan")).to(torch.float8_e4m3fn)},
            "m.weight_scale: the scale of row 0, group 0 is NaN",
        ),
        (NVFP4, {"m.weight_packed": torch.ones(32, 28, dtype=torch.uint8)}, "m.weight_packed: its shape is [32, 28]"),
        (INT4, {"m.weight_zero_point": None}, "m.weight_zero_point: missing, though the layer is packed"),
        (INT4, {"m.weight_zero_point": torch.zeros(5, 2, dtype=torch.int32)}, "zero_point: its shape is [5, 2]"),
        (FP8, {"m.weight_scale": torch.ones(32, 1)}, "its shape is [32, 1], strategy block makes it [2, 2]"),
        (
            "15-int-quantized", {"m.weight": torch.full((32, 64), 9, dtype=torch.int8)},
            "m.weight: code 9 at [0, 0] is none of 4 bits",
        ),
        ("18-int-quantized", {"m.weight_scale": torch.ones(2, 1)}, "[2, 1], block_structure makes it [2, 2]"),
        (
            "24-mxfp8-quantized", {"m.weight_scale": torch.full((32, 2), 255, dtype=torch.uint8)},
            "m.weight_scale: a scale is nan",
        ),
        (
            "23-mxfp6-pack-quantized", {"m.weight_scale": torch.full((32, 2), 255, dtype=torch.uint8)},
            "m.weight_scale: an exponent is 255",
        ),
    ],
)  # fmt: skip
def test_damaged_parts(tmp_path: Path, case: str, changes: dict[str, torch.Tensor | None], expected: str) -> None:
    parts, config, _ = golden_layer("compressed", case)
    changed = {name: part for name, part in {**parts, **changes}.items() if part is not None}
    assert expected in told(tmp_path, changed, config)


ROTATION = {"type": "hadamard", "apply": [{"targets": ["Linear"], "location": "input"}]}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_bits": 5, "type": "float"}, "weights.num_bits: codes of 5 bits are not known of type float"),
        ({"type": "posit"}, "weights.type: 'posit' is not known (int and float are read)"),
        ({"strategy": "head"}, "weights.strategy: 'head' is not known (tensor, channel, group, block, tensor_group"),
    ],
)
def test_schemes_that_nobody_knows(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    parts, config, _ = golden_layer("compressed", INT4)
    config["config_groups"]["group_0"]["weights"] |= changes
    assert expected in told(tmp_path, parts, config)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"format": "marlin-24"}, "format: compressed-tensors format 'marlin-24' is not read"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "format 'sparse-24-bitmask' is not read"),
        (
            {"transform_config": {"config_groups": {"R4": ROTATION}}},
            "transform_config: 'hadamard' transform R4 works on activations ('input') (llama.cpp has none",
        ),
        ({"moe_sparsity_config": {"method": "novice"}}, "moe_sparsity_config: experts are left out by 'novice'"),
    ],
)
def test_what_would_be_another_model(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    parts, config, _ = golden_layer("compressed", NVFP4)
    assert expected in told(tmp_path, parts, {**config, **changes})


def test_rotations_in_the_weights_and_the_cache_are_left_aside(decode: Any) -> None:
    parts, config, _ = golden_layer("compressed", NVFP4)
    rotation = {"type": "hadamard", "apply": [{"targets": ["Linear"], "location": "weight_output"}]}
    config |= {"transform_config": {"config_groups": {"R1": rotation}}, "kv_cache_scheme": {"num_bits": 8}}
    said: list[str] = []
    assert list(decode(parts | {"m.k_scale": torch.ones(1)}, config, said)) == ["m.weight"]
    assert any(line.endswith("the cache is not rounded, as it is by kv_cache_scheme") for line in said)
