"""The recipes against llama.cpp's own choices, and against the sizes published for files of their eras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from quantmill.formats.errors import PlanError
from quantmill.formats.gguf.keys import FILE_TYPES
from quantmill.formats.ir import Model
from quantmill.quantize.choose import choose_types
from quantmill.quantize.plan import PlanOptions, make_plan
from quantmill.quantize.recipe import Category, category_of
from quantmill.quantize.recipes import ALIASES, LEVELS, RECIPE_SETS, find_recipe

LLAMA_CPPS = [level for level in LEVELS if not find_recipe(level).own]
Shell = Callable[[dict[str, Any]], Model]

SHELLS = (
    "llama-32-gqa1", "llama-32-gqa4-tied", "llama-22-gqa8", "llama-9-gqa3", "llama-80-gqa8", "llama-80-gqa2",
    "llama-80-gqa1", "qwen2-80-gqa2", "mixtral-32", "moe4-16-gqa2", "moe64-16-shared", "falcon-32", "falcon-16-tied",
    "falcon-60-gqa16", "smollm2", "width-288-ff-320", "width-100", "odd-names",
)  # fmt: skip


def unpacked(packed: dict[str, dict[str, list[int]]]) -> dict[str, str]:
    """{type: {name: layers}} as {full name: type}; layer -1 is outside the blocks."""
    return {
        f"blk.{layer}.{name}" if layer >= 0 else name: type
        for type, names in packed.items()
        for name, layers in names.items()
        for layer in layers
    }


def types_of(model: Model, level: str, importance: bool, **options: Any) -> dict[str, str]:
    vectors = {"any": np.ones(1, np.float32)} if importance else None
    choices = choose_types(model, find_recipe(level), PlanOptions(importance=vectors, **options))
    kept = {tensor.name: tensor.qtype for tensor in model}
    return {name: (choices[name].type if name in choices else kept[name]).name for name in kept}


def check(model: Model, level: str, importance: bool, golden: Any, **options: Any) -> None:
    if golden is None:  # llama.cpp defines no fallback here, and refuses
        with pytest.raises(PlanError, match="no fallback"):
            types_of(model, level, importance, **options)
    else:
        assert types_of(model, level, importance, **options) == unpacked(golden), level


@pytest.mark.parametrize("name", SHELLS)
def test_types_are_llama_cpps(name: str, goldens: dict[str, Any], shell: Shell) -> None:
    model, golden = shell(goldens["models"][name]), goldens["types"][name]
    assert len(golden) == 2 * len(LLAMA_CPPS)
    for level in LLAMA_CPPS:
        check(model, level, False, golden[level])
        check(model, level, True, golden[f"{level}+imatrix"])


def test_every_shell_is_tested(goldens: dict[str, Any]) -> None:
    assert set(goldens["models"]) == set(SHELLS)
    assert "llama-cpp-python" in goldens["oracle"]


def test_types_with_options_are_llama_cpps(goldens: dict[str, Any], shell: Shell) -> None:
    assert len(goldens["options"]) == 10
    for row in goldens["options"].values():
        model = shell(goldens["models"][row["model"]])
        for level, golden in row["types"].items():
            check(model, level, False, golden, **row["options"])


def test_q4_k_m_by_hand(goldens: dict[str, Any], shell: Shell) -> None:
    """Of 9 layers: the first 9//8 = 1, those from 7*9//8 = 7 on, and (i - 1) % 3 == 2."""
    types = types_of(shell(goldens["models"]["llama-9-gqa3"]), "Q4_K_M", False)
    for part in ("attn_v", "ffn_down"):
        assert [i for i in range(9) if types[f"blk.{i}.{part}.weight"] == "Q6_K"] == [0, 3, 6, 7, 8]
    assert types["output.weight"] == "Q6_K"
    assert types["token_embd.weight"] == types["blk.4.attn_q.weight"] == "Q4_K"


# GB = 1e9 bytes to two decimals, as the model cards of the time print them.
PUBLISHED = {
    ("2023-12", 4096, 11008, 40, 32, 32): {
        "Q2_K": 3.49, "Q3_K_S": 3.64, "Q3_K_M": 4.08, "Q3_K_L": 4.46, "Q4_0": 4.74, "Q4_K_S": 4.77, "Q4_K_M": 5.06,
        "Q5_0": 5.77, "Q5_K_S": 5.77, "Q5_K_M": 5.93, "Q6_K": 6.86, "Q8_0": 8.88,
    },
    ("2023-12", 2048, 5632, 22, 32, 4): {
        "Q2_K": 0.48, "Q3_K_S": 0.50, "Q3_K_M": 0.55, "Q3_K_L": 0.59, "Q4_0": 0.64, "Q4_K_S": 0.64, "Q4_K_M": 0.67,
        "Q5_0": 0.77, "Q5_K_S": 0.77, "Q5_K_M": 0.78, "Q6_K": 0.90, "Q8_0": 1.17,
    },
    ("ggml-v3", 8192, 28672, 80, 64, 8): {
        "Q2_K": 28.59, "Q3_K_S": 29.75, "Q3_K_M": 33.04, "Q3_K_L": 36.15, "Q4_0": 38.87, "Q4_K_S": 38.87,
        "Q4_K_M": 41.38, "Q4_1": 43.17, "Q5_0": 47.46, "Q5_K_S": 47.46, "Q5_K_M": 48.75,
    },
}  # fmt: skip
VOCABULARY_BYTES = 720_000  # of Llama's 32,000 tokens in a GGUF header; GGML's is near enough


@pytest.mark.parametrize("shape", PUBLISHED)
def test_old_recipe_sets_give_published_sizes(shape: tuple[Any, ...], shell: Shell) -> None:
    recipe_set, width, ff, layers, heads, kv = shape
    shapes: dict[str, list[int]] = {"token_embd.weight": [32000, width], "output_norm.weight": [width]}
    shapes["output.weight"] = [32000, width]
    for i in range(layers):
        block = {"attn_norm": [width], "ffn_norm": [width], "attn_q": [width, width], "attn_output": [width, width]}
        block |= {"attn_k": [width * kv // heads, width], "attn_v": [width * kv // heads, width]}
        block |= {"ffn_gate": [ff, width], "ffn_up": [ff, width], "ffn_down": [width, ff]}
        shapes |= {f"blk.{i}.{name}.weight": dims for name, dims in block.items()}
    spec = {"arch": "llama", "layers": layers, "heads": heads, "kv": kv, "experts": 0, "shapes": shapes}
    model = shell(spec)
    for level, published in PUBLISHED[shape].items():
        size = make_plan(model, level, PlanOptions(recipe_set=recipe_set)).size + VOCABULARY_BYTES
        assert abs(size / 1e9 - published) <= 0.006, (level, size)


def test_levels_are_the_file_types() -> None:
    assert set(LEVELS) == set(FILE_TYPES)
    assert set(LEVELS) - set(LLAMA_CPPS) == {"MXFP4", "NVFP4"}
    assert find_recipe("38").level == "MXFP4_MOE"  # llama.cpp's own level of the two with this number
    assert set(RECIPE_SETS) == {"current", "2023-12", "ggml-v3", "ggml-org", "comfyui-gguf"}


@pytest.mark.parametrize("text", ["Q4_K_M", "q4_k_m", "Q4_K", "15"])
def test_names_of_a_level(text: str) -> None:
    assert find_recipe(text).level == "Q4_K_M"


def test_unknown_level_names_the_nearest() -> None:
    with pytest.raises(PlanError, match="did you mean Q4_K_M"):
        find_recipe("Q4_KM")
    with pytest.raises(PlanError, match="in recipe set 2023-12"):
        find_recipe("IQ4_XS", "2023-12")
    with pytest.raises(PlanError, match="current, 2023-12, ggml-v3"):
        find_recipe("Q4_0", "1999")


def test_reasons_are_words() -> None:
    for recipe in RECIPE_SETS["current"].values():
        for override in (*recipe.overrides, *recipe.lifts):
            assert override.reason
    assert set(ALIASES.values()) <= set(LEVELS)


def test_parts_by_name() -> None:
    assert category_of("blk.3.ffn_down_shexp.weight") is Category.FFN_DOWN
    assert category_of("blk.3.attn_v.bias") is Category.OTHER
    assert category_of("blk.3.cross_attn_v.weight") is Category.ATTN_V
    assert category_of("token_embd_norm.weight") is Category.OTHER
