"""Which modules are those of all experts of a layer, whose FP8 scales may lie in one tensor."""

from __future__ import annotations

import pytest

from quantmill.formats.hf.packed.fp8_experts import is_of_all


@pytest.mark.parametrize("name", ["model.layers.2.mlp.experts.gate_up_proj", "model.layers.2.mlp.experts.down_proj"])
def test_of_all_experts(name: str) -> None:
    assert is_of_all(name)


@pytest.mark.parametrize(
    "name",
    ["model.layers.2.mlp.shared_experts.down_proj", "model.layers.2.mlp.shared_experts.up_proj", "mlp.down_proj"],
)
def test_of_one_layer(name: str) -> None:
    """DeepSeek's shared experts are one layer beside the others, with a weight of its own."""
    assert not is_of_all(name)
