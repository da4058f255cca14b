"""AutoRound's layers: bits of their own by layer, and configs that disagree with the shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from oracles.packed import golden_layer
from quantmill.formats.errors import FormatError

FOUR, EIGHT, PLAIN = "auto_round:auto_gptq-4", "auto_round:auto_gptq-8", "auto_round-4"
Parts = dict[str, torch.Tensor]


def two() -> tuple[Parts, dict[str, Any], dict[str, torch.Tensor]]:
    """The layer ``m`` of 4 bits and ``n`` of 8."""
    parts, config, four = golden_layer("auto_round", FOUR)
    others, _, eight = golden_layer("auto_round", EIGHT)
    return parts | {f"n{name[1:]}": part for name, part in others.items()}, config, {"m": four, "n": eight}


@pytest.mark.parametrize("name", ["n", r"(?!m)\w+"])
@pytest.mark.parametrize("method", ["auto-round", "intel/auto-round"])
def test_bits_by_layer(name: str, method: str, decode: Callable[..., Any], floats: Any) -> None:
    """Under the layer's name, or under a regular expression."""
    parts, config, wanted = two()
    extra = {name: {"bits": 8, "sym": True}, "lm_head": {"bits": 16}, "o": {}}
    found = decode(parts | {"o.weight": torch.ones(4, 8)}, {**config, "quant_method": method, "extra_config": extra})
    assert list(found) == ["m.weight", "n.weight", "o.weight"]
    for module, weight in wanted.items():
        assert torch.equal(floats(found[f"{module}.weight"]), weight)


def test_with_group_indices(decode: Callable[..., Any], floats: Any) -> None:
    """``auto_round:gptqmodel``, whose zeros are those of ``auto_round``."""
    parts, config, wanted = golden_layer("auto_round", PLAIN)
    parts["m.g_idx"] = torch.arange(64, dtype=torch.int32) // 32
    found = decode(parts, {**config, "packing_format": "auto_round:gptqmodel"})
    assert torch.equal(floats(found["m.weight"]), wanted)


BAD: list[tuple[str, dict[str, Any], Parts, str]] = [
    (
        FOUR,
        {"packing_format": "auto_round:llm_compressor"},
        {},
        "packing_format: 'auto_round:llm_compressor' is not",
    ),
    (FOUR, {"packing_format": 4}, {}, "packing_format: 4 is not a text"),
    (FOUR, {"bits": 9}, {}, "config.bits: 9 bits are none of 2, 3, 4, 5, 6, 7, 8"),
    (FOUR, {"bits": None}, {}, "config.bits: None bits are none of 2, 3, 4, 5, 6, 7, 8"),
    (FOUR, {"group_size": 0}, {}, "config.group_size: 0 is not a valid group size"),
    (FOUR, {"act_bits": 8}, {}, "config.act_bits: activations of 8 bits are not read in this layout"),
    (FOUR, {"data_type": "mx_fp"}, {}, "config.data_type: 'mx_fp' is not read, 'int' is"),
    (FOUR, {"rotation_config": {"a": 1}}, {}, "config.rotation_config: rotated weights are not read"),
    (FOUR, {"extra_config": {"m": {"bits": "8"}}}, {}, "extra_config.m.bits: '8' is not a whole number"),
    (FOUR, {"extra_config": {"m": 8}}, {}, "extra_config.m: 8 is not an object"),
    (FOUR, {"extra_config": {"m": {"bits": 8}}}, {}, "m.qweight: its shapes are those of 4 bits, the config says 8"),
    (FOUR, {"bits": 8}, {}, "m.qweight: its shapes are those of 4 bits, the config says 8 (is the config of the same"),
    (FOUR, {"group_size": 16}, {}, "m.scales: 2 groups of 64 columns, the config has groups of 16"),
    (FOUR, {}, {"m.scales": torch.ones(2, 31)}, "m.scales: its shape is [2, 31], qweight makes it [2, 32]"),
    (FOUR, {}, {"m.qzeros": torch.ones(2, 3).int()}, "m.qzeros: [2, 3] words do not hold zeros of 2 groups of 32 rows"),
    (PLAIN, {}, {"m.g_idx": torch.full((64,), 2).int()}, "m.g_idx: names group 2 of 2"),
    ("awq", {"group_size": 64}, {}, "m.qzeros: its shape is [2, 4], qweight makes it [1, 4]"),
]


@pytest.mark.parametrize(("case", "changes", "others", "expected"), BAD, ids=[bad[3][:50] for bad in BAD])
def test_bad_layers(
    case: str, changes: dict[str, Any], others: Parts, expected: str, decode: Callable[..., Any]
) -> None:
    parts, config, _ = golden_layer("auto_round", case)
    with pytest.raises(FormatError) as error:
        decode({**parts, **others}, {**config, **changes})
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_layout_of_old_versions(decode: Callable[..., Any]) -> None:
    parts, config, _ = golden_layer("auto_round", FOUR)
    del config["packing_format"]
    with pytest.raises(FormatError, match=r"config.backend: 'auto_round:exllamav2' is named without a packing_format"):
        decode(parts, {**config, "backend": "auto_round:exllamav2"})
