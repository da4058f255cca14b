"""Rope's arithmetic against torch, and its forms of every age."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Phi3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from quantmill.formats.errors import FormatError
from quantmill.formats.hf.archs import BY_CLASS
from quantmill.formats.hf.config import complete_config
from quantmill.formats.hf.tables import rope


def torch_factors(theta: float, dim: int, factor: float, low: float, high: float, context: int) -> np.ndarray:
    """The published formula as torch computes it, tensor by number, a frequency at a time."""
    freqs = 1.0 / (theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
    out: list[Any] = []
    for freq in freqs:
        wavelen = 2 * math.pi / freq
        if wavelen < context / high:
            out.append(1)
        elif wavelen > context / low:
            out.append(factor)
        else:
            smooth = (context / wavelen - low) / (high - low)
            out.append(1 / ((1 - smooth) / factor + smooth))
    return torch.tensor(out, dtype=torch.float32).numpy()


GRID = list(itertools.product([500000.0, 10000.0, 1e6], [64, 80, 128], [8.0, 32.0, 4.0], [8192, 64, 2048]))


@pytest.mark.parametrize(("theta", "dim", "factor", "context"), GRID)
def test_llama3_factors_bit_for_bit(theta: float, dim: int, factor: float, context: int) -> None:
    parameters = {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": context,
    }
    ours = rope.llama3_factors(parameters, dim)
    assert np.array_equal(ours.view(np.uint32), torch_factors(theta, dim, factor, 1.0, 4.0, context).view(np.uint32))
    found = rope.llama3_from_factors(ours, theta)
    assert found is not None
    assert np.array_equal(rope.llama3_factors(found, dim), ours)


def test_factors_of_another_kind_are_not_taken_for_llama3() -> None:
    assert rope.llama3_from_factors(np.linspace(1, 9, 32, dtype=np.float32), 500000.0) is None


OLD = {"max_position_embeddings": 4096, "rope_theta": 5e5}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (OLD, {"rope_type": "default", "rope_theta": 5e5}),
        ({"max_position_embeddings": 1}, {"rope_type": "default", "rope_theta": 10000.0}),
        (
            {**OLD, "rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0},
        ),
        (
            {**OLD, "rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2}},
            {"rope_type": "yarn", "rope_theta": 5e5, "factor": 2, "original_max_position_embeddings": 4096},
        ),
        (
            {**OLD, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0}},
            {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0},
        ),
    ],
)
def test_rope_of_every_age_is_one(config: dict[str, Any], expected: dict[str, Any]) -> None:
    assert rope.canonical(config, Path("config.json")) == expected


def test_yarn_keys_hold_all_its_factors() -> None:
    parameters = {
        "rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32768,
        "extrapolation_factor": 1.5, "attention_factor": 1.25, "beta_fast": 24.0, "beta_slow": 2.0,
    }  # fmt: skip
    keys = dict(rope.to_gguf(parameters))
    assert keys == {
        "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 32768,
        "rope.scaling.yarn_ext_factor": 1.5, "rope.scaling.yarn_attn_factor": 1.25,
        "rope.scaling.yarn_beta_fast": 24.0, "rope.scaling.yarn_beta_slow": 2.0, "rope.freq_base": 1e6,
    }  # fmt: skip
    assert rope.to_hf(keys.get) == parameters


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        (
            {"type": "other", "factor": 2.0},
            "c.json: rope_parameters: unknown rope type 'other' "
            "(known: default, linear, dynamic, yarn, llama3, longrope, proportional)",
        ),
        (
            {"type": "su", "long_factor": [1.0, 2.0], "short_factor": [1.0]},
            "c.json: rope_parameters.short_factor: longrope scaling needs 2 numbers",
        ),
        (
            {"type": "su", "long_factor": [1.0, True], "short_factor": [1.0, 2]},
            "c.json: rope_parameters.long_factor: longrope scaling needs 2 numbers",
        ),
        ({"type": "linear"}, "c.json: rope_parameters.factor: linear scaling needs a number"),
        ({"type": "linear", "factor": "2"}, "c.json: rope_parameters.factor: linear scaling needs a number"),
    ],
)
def test_bad_rope(scaling: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError) as error:
        rope.canonical({**OLD, "head_dim": 4, "rope_scaling": scaling}, Path("c.json"))
    assert str(error.value) == message


@pytest.mark.parametrize("own", [{}, {"factor": 2.0}, {"attention_factor": 1.5}])
@pytest.mark.parametrize("old_context", [64, 4096])
def test_longrope_there_and_back(own: dict[str, float], old_context: int) -> None:
    """The attention factor is transformers'; the tensors give the factors back."""
    given = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0, 1.05], "long_factor": [1.1, 30.7], **own}
    theirs = Phi3Config(
        hidden_size=16,
        num_attention_heads=4,
        max_position_embeddings=1024,
        original_max_position_embeddings=old_context,
        rope_parameters=given,
    )
    expected = ROPE_INIT_FUNCTIONS["longrope"](theirs)[1]
    found = rope.canonical({"head_dim": 4, **theirs.to_dict()}, Path("c.json"))
    assert rope.longrope_attention_factor(found, 1024) == expected
    assert found["original_max_position_embeddings"] == old_context
    tensors = tuple(rope.factor_tensors({"rope_parameters": found, "head_dim": 4}))
    assert [tensor.name for tensor in tensors] == ["rope_factors_long.weight", "rope_factors_short.weight"]
    back = rope.longrope_from_factors(tensors, old_context)
    assert back == {key: found[key] for key in ("rope_type", "short_factor", "long_factor")} | {
        "original_max_position_embeddings": old_context
    }
    assert rope.longrope_from_factors((), old_context) == {}


def test_phimoe_s_factors_are_those_of_all_published_models(tmp_path: Path) -> None:
    arch = BY_CLASS["PhiMoEForCausalLM"]
    factors: dict[str, Any] = {f"{kind}_factor": [1.0, 2.0] for kind in ("short", "long")}
    scaling = {"rope_type": "longrope", **factors, "long_mscale": 1.243163121016122, "short_mscale": 1.5}
    config = {"hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2, "rope_scaling": scaling}
    config |= {"attention_bias": True, "lm_head_bias": True}
    with pytest.raises(FormatError, match=r"short_mscale: is 1\.5; all models of this kind have 1\.243163121016122"):
        complete_config(config, arch, arch.classes["PhiMoEForCausalLM"], tmp_path / "config.json")
    scaling["short_mscale"] = scaling["long_mscale"]
    complete_config(config, arch, arch.classes["PhiMoEForCausalLM"], tmp_path / "config.json")
