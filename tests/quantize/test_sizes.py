"""Planned sizes: against those that model cards published, and against files that are then written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantmill.formats.errors import PlanError
from quantmill.formats.ggml.writer import layout as ggml_layout
from quantmill.formats.gguf.writer import layout as gguf_layout
from quantmill.formats.hf.shapes import lacks_vocabulary, read_shapes, with_vocabulary
from quantmill.formats.ir import Model, Tensor, Value, ValueType
from quantmill.quantize.estimate.levels import LevelSize, published_gb, size_levels, uniform_importance, without_bulk
from quantmill.quantize.estimate.memory import buffers, kv_cache, run_memory
from quantmill.quantize.estimate.packed import VARIANTS, parse_variant, size_variants
from quantmill.quantize.execute import execute
from quantmill.quantize.plan import PlanOptions, make_plan
from quantmill.quantize.recipes import LEVELS

# The tables of four model cards of 2023 and 2024 (GB = 1e9 bytes) and the shapes in those models' config.json:
# TencentARC/LLaMA-Pro-8B, upstage/Llama-2-70b-instruct-v2, TinyLlama/TinyLlama-1.1B-Chat-v1.0 and
# meta-llama/Llama-2-13b-hf.
PUBLISHED = json.loads((Path(__file__).parent.parent / "data" / "published-sizes.json").read_text())


def sizes_of(card: dict[str, Any], folder: Path) -> list[LevelSize]:
    config = folder / "config.json"
    config.write_text(json.dumps({"architectures": ["LlamaForCausalLM"], **card["shape"]}))
    model = read_shapes(config)
    assert lacks_vocabulary(model)
    model = with_vocabulary(model)
    if card["format"] == "gptq":
        names = ["4bit-128g" if row["branch"] == "main" else row["branch"] for row in card["files"]]
        return size_variants(model, [parse_variant(name) for name in names])
    layout = ggml_layout if card["format"] == "ggml" else gguf_layout
    levels = [row["level"] for row in card["files"]]
    return size_levels(model, levels, PlanOptions(recipe_set=card["book"], layout=layout))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_to_the_printed_digit(name: str, tmp_path: Path) -> None:
    card = PUBLISHED[name]
    found = sizes_of(card, tmp_path)
    for size, row in zip(found, card["files"], strict=True):
        assert published_gb(size.nbytes) == row["size_gb"], size
        if "max_ram_gb" in row:
            assert published_gb(size.max_ram) == row["max_ram_gb"], size


def test_all_published_files_are_tested() -> None:
    assert sum(len(card["files"]) for card in PUBLISHED.values()) == 43
    assert {parse_variant(r["branch"]) for r in PUBLISHED["llama-2-13b-gptq"]["files"][1:]} < set(VARIANTS)


def mixture(model: Callable[..., Model], tensor: Callable[[str, Any], Tensor], rng: np.random.Generator) -> Model:
    """Two layers of eight experts, a vocabulary of its own weight, and one width that no k-quant fits."""
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (40, 256), "output_norm": (256,), "output": (40, 256)}
    for i in range(2):
        shapes |= {f"blk.{i}.attn_{x}": (256, 256) for x in ("q", "output")}
        shapes |= {f"blk.{i}.attn_{x}": (64, 256) for x in ("k", "v")}
        shapes |= {f"blk.{i}.ffn_{x}_exps": (8, 32, 256) for x in ("gate", "up")}
        shapes |= {f"blk.{i}.ffn_down_exps": (8, 256, 32), f"blk.{i}.ffn_gate_inp": (8, 256)}
        shapes |= {f"blk.{i}.attn_norm": (256,), f"blk.{i}.ffn_norm": (256,)}
    tensors = [
        tensor(f"{name}.weight", rng.standard_normal(shape).astype("f4" if len(shape) == 1 else "f2"))
        for name, shape in shapes.items()
    ]
    found = model(tensors, layers=2, heads=4, kv=1, experts=8)
    words = tuple(f"token {i}" * (1 + i % 7) for i in range(997))
    tokens = Value(ValueType.ARRAY, words, ValueType.STRING)
    return Model(found.arch, {**found.metadata, "tokenizer.ggml.tokens": tokens}, found.tensors, found.path)


@pytest.fixture(params=["llama", "mixture of experts"])
def small(request: pytest.FixtureRequest, tiny: Model, model: Any, tensor: Any, rng: np.random.Generator) -> Model:
    return tiny if request.param == "llama" else mixture(model, tensor, rng)


def test_planned_is_written(small: Model, tmp_path: Path) -> None:
    """Every level of the recipe set; those that no width fits say so, in the plan as in the sizes."""
    importance = uniform_importance(small)
    sizes = size_levels(small, options=PlanOptions(importance=importance))
    assert [size.level for size in sizes] == list(LEVELS)
    for size in sizes:
        if size.problem:
            with pytest.raises(PlanError, match="no fallback"):
                make_plan(small, size.level, PlanOptions(importance=importance))
            continue
        plan = make_plan(small, size.level, PlanOptions(importance=importance))
        execute(plan, tmp_path / "out.gguf", threads=1, force=True)
        assert (tmp_path / "out.gguf").stat().st_size == size.nbytes, size


def test_vocabularies_are_counted_not_copied(model: Any, tensor: Any, rng: np.random.Generator) -> None:
    full = mixture(model, tensor, rng)
    slim, saved = without_bulk(full)
    assert saved > 10_000
    assert saved % 32 == 0
    assert make_plan(full, "Q8_0").size == make_plan(slim, "Q8_0").size + saved


def test_levels_that_need_importance_say_so(tiny: Model) -> None:
    by_level = {size.level: size for size in size_levels(tiny)}
    assert by_level["IQ2_XS"].needs_importance
    assert not by_level["Q4_K_M"].needs_importance
    given = size_levels(tiny, ["IQ2_XS"], PlanOptions(importance=uniform_importance(tiny)))
    assert given[0].nbytes == by_level["IQ2_XS"].nbytes
    assert not given[0].needs_importance


def test_fallbacks_and_their_cost(model: Any, tensor: Any) -> None:
    """288 columns are no k-quant's: Q4_K falls back to Q5_0, 5.5 bits for 4.5 on 256 x 288 weights."""
    whole = tensor("blk.0.ffn_up.weight", np.zeros((256, 256), "f2"))
    odd = tensor("blk.0.attn_q.weight", np.zeros((256, 288), "f2"))
    (size,) = size_levels(model([whole, odd]), ["Q4_K_S"])
    assert size.fallbacks == {"Q4_K -> Q5_0": 1}
    assert size.fallback_bytes == 256 * 288 // 8
    assert size.types == {"Q4_K": 1, "Q5_0": 1}


def test_impossible_levels_say_why(model: Any, tensor: Any) -> None:
    odd = tensor("blk.0.attn_q.weight", np.zeros((256, 288), "f2"))
    (size,) = size_levels(model([odd]), ["Q1_0"])
    assert (size.nbytes, size.level) == (0, "Q1_0")
    assert "288" in size.problem


def test_unknown_recipe_sets_and_levels(tiny: Model) -> None:
    with pytest.raises(PlanError, match="unknown recipe set"):
        size_levels(tiny, options=PlanOptions(recipe_set="1999"))
    with pytest.raises(PlanError, match="unknown level"):
        size_levels(tiny, ["Q9_K"])


@pytest.mark.parametrize("text", ["5bit-128g", "4bit-17g", "fast", "4bit-128g-actorder_Maybe"])
def test_unknown_variants(text: str) -> None:
    with pytest.raises(PlanError, match="4bit-128g or 8bit--1g-actorder_True"):
        parse_variant(text)


def test_gptq_by_hand(model: Any, tensor: Any) -> None:
    """One 64 x 128 layer in 4 bits, groups of 32: 4096 + 128 + 512 + 512 + 128 bytes, and 2 * 640 of embeddings."""
    layer = tensor("blk.0.attn_q.weight", np.zeros((64, 128), "f2"))
    embedding = tensor("token_embd.weight", np.zeros((5, 128), "f2"))
    (size,) = size_variants(model([embedding, layer]), [parse_variant("4bit-32g")])
    assert size.bpw * (64 * 128 + 640) / 8 == 4096 + 128 + 512 + 512 + 128 + 1280
    assert size.types == {"F16": 1, "GPTQ 4 bit": 1}
    (misfit,) = size_variants(model([tensor("blk.0.attn_q.weight", np.zeros((64, 96), "f2"))]), [VARIANTS[0]])
    assert "does not divide" in misfit.problem


def test_memory_by_hand(tiny: Model) -> None:
    """Two layers, 4 heads of 64, keys and values in F16; 300 tokens take 512 cells."""
    ours = dict(tiny.metadata) | {
        "llama.embedding_length": Value(ValueType.UINT32, 256),
        "llama.feed_forward_length": Value(ValueType.UINT32, 512),
    }
    known = Model(tiny.arch, ours, tiny.tensors, tiny.path)
    assert kv_cache(known, 300) == 2 * (256 + 256) * 512 * 2
    assert buffers(known, 300) == 512 * 4 * (3 * 512 + 4 * 256) + 512 * 512 * 2
    assert run_memory(known, 1000, 300) == 1000 + kv_cache(known, 300) + buffers(known, 300)


def test_latent_attention_caches_one_vector(tiny: Model) -> None:
    """DeepSeek's: rank and rotary part of a token, once for keys and values."""
    ours = {"llama.attention.kv_lora_rank": Value(ValueType.UINT32, 48)}
    ours |= {"llama.rope.dimension_count": Value(ValueType.UINT32, 16)}
    assert kv_cache(Model(tiny.arch, {**tiny.metadata, **ours}, tiny.tensors, tiny.path), 256) == 2 * 64 * 256 * 2
