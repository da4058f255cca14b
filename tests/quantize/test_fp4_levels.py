"""The levels NVFP4 and MXFP4: llama.cpp's bytes without importance, our own search with it, files that run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracles.ggml import ggml_quantize
from oracles.llama import Llama
from quantmill.formats.examples import tiny_llama
from quantmill.formats.floats import to_f32
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.ir import Model
from quantmill.quantize.decode import as_float
from quantmill.quantize.execute import execute
from quantmill.quantize.plan import PlanOptions, make_plan
from quantmill.quantize.refine.refiner import Refiner

from .conftest import model_of, tensor_of
from .refine.test_refiner import NAMES, ROWS, Store, moments_of

LEVELS = ("MXFP4", "NVFP4")
TOKENS = [5, 17, 40, 3, 99, 60, 61, 8]


def importance_of(model: Model) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {t.name: rng.random(t.width, np.float32) for t in model if len(t.shape) == 2}


def written(model: Model, level: str, path: Path, **options: Any) -> Model:
    execute(make_plan(model, level, PlanOptions(**options)), path, force=True)
    return read_gguf(path)


@pytest.mark.parametrize("level", LEVELS)
def test_without_importance_every_block_is_llama_cpps(level: str, tmp_path: Path) -> None:
    source = tiny_llama(layers=2)
    floats = {t.name: to_f32(t.rows(0, t.n_rows), t.qtype) for t in source}
    done = written(source, level, tmp_path / "o.gguf")
    matrices = [t for t in done if t.qtype.is_quantized]
    assert {t.qtype.name for t in matrices} == {level, "Q6_K"}
    for t in matrices:
        assert np.array_equal(t.rows(0, t.n_rows), ggml_quantize(t.qtype.name, floats[t.name], None)), t.name
    kept = {t.name for t in matrices if t.qtype.name == "Q6_K"}
    assert kept >= {"token_embd.weight", "output.weight", "blk.0.attn_v.weight", "blk.1.attn_v.weight"}


@pytest.mark.parametrize("level", LEVELS)
def test_the_files_run(level: str, tmp_path: Path) -> None:
    """llama.cpp's logits of a file are near its logits of the same weights as floats: it reads our blocks as we do."""
    source = tiny_llama(layers=2)
    quantized = written(source, level, tmp_path / "q.gguf", importance=importance_of(source))
    written(as_float(quantized), "F32", tmp_path / "f.gguf")
    written(source, "F32", tmp_path / "source.gguf")
    logits = {}
    with Llama(tmp_path / "q.gguf", n_ctx=32) as llama:
        for name in ("q", "f", "source"):
            llama.open(tmp_path / f"{name}.gguf", n_ctx=32)
            logits[name] = llama.logits(TOKENS)
    assert np.isfinite(logits["q"]).all()
    # llama.cpp rounds what enters a layer to 8 bits, where the weights have 4
    assert (logits["q"] - logits["f"]).std() < 0.2 * (logits["f"] - logits["source"]).std()


@pytest.mark.parametrize("level", LEVELS)
def test_importance_lessens_the_weighted_error_and_is_told(level: str, tmp_path: Path) -> None:
    source = tiny_llama()
    vectors = importance_of(source)
    plan = make_plan(source, level, PlanOptions(importance=vectors, pure=True))
    assert all(step.uses_importance for step in plan.steps if step.type.name == level)
    assert plan.remarks == (
        f"{level} scales are chosen with importance; llama.cpp's own encoder ignores it, as {level} without it does",
    )
    lost = {}
    for given in (None, vectors):
        done = as_float(written(source, level, tmp_path / "o.gguf", importance=given, pure=True))
        errors = [
            np.square(to_f32(t.rows(0, t.n_rows), t.qtype) - to_f32(o.rows(0, o.n_rows), o.qtype)) @ vectors[t.name]
            for t, o in zip(sorted(done, key=lambda t: t.name), sorted(source, key=lambda t: t.name), strict=True)
            if t.name in vectors
        ]
        lost[given is None] = float(sum(e.sum() for e in errors))
    assert lost[False] < {"MXFP4": 0.97, "NVFP4": 0.8}[level] * lost[True]


def test_in_llama_cpps_levels_the_bytes_are_llama_cpps() -> None:
    """MXFP4_MOE, and a tensor asked for by name: llama-quantize ignores importance there, and so do we."""
    source = tiny_llama()
    options = PlanOptions(importance=importance_of(source), tensor_types=[("ffn_up", "NVFP4"), ("ffn_gate", "MXFP4")])
    for level in ("MXFP4_MOE", "Q4_K_M"):
        steps = {step.tensor.name: step for step in make_plan(source, level, options).steps}
        assert not steps["blk.0.ffn_up.weight"].uses_importance
        assert not steps["blk.0.ffn_gate.weight"].uses_importance


@pytest.mark.parametrize(("level", "number"), [("MXFP4", 38), ("NVFP4", 39)])
def test_numbers(level: str, number: int) -> None:
    assert make_plan(tiny_llama(), level).metadata["general.file_type"].data == number


def test_widths_that_do_not_fit(shell: Callable[[dict[str, Any]], Model], goldens: dict[str, Any]) -> None:
    odd = shell(goldens["models"]["width-288-ff-320"])
    types = {s.tensor.name: s.type.name for s in make_plan(odd, "NVFP4").steps}
    assert types["blk.0.attn_q.weight"] == "IQ4_NL"  # 288 is 4.5 blocks of 64
    assert types["blk.0.ffn_up.weight"] == "IQ4_NL"
    assert {s.type.name for s in make_plan(odd, "MXFP4", PlanOptions(pure=True)).steps} == {"MXFP4", "F32"}
    odder = shell(goldens["models"]["width-100"])
    for level in LEVELS:
        steps = [s for s in make_plan(odder, level).steps if s.wanted is not None]
        assert {s.type.name for s in steps if s.tensor.width == 100} == {"F16"}


@pytest.mark.parametrize("level", LEVELS)
def test_refined_bytes_and_threads(level: str, tmp_path: Path) -> None:
    model = model_of([tensor_of(name, ROWS.astype(np.float16)) for name in NAMES])
    importance = {name: np.ones(512, np.float32) for name in NAMES}
    refiner = Refiner(moments_of(Store()))
    plan = make_plan(model, level, PlanOptions(importance=importance, moments=refiner.moments))
    assert [step.refined for step in plan.steps] == [True, True]
    assert plan.remarks == ()
    files = set()
    for threads, chunk in ((1, None), (2, 512), (7, 5 * 512)):
        execute(plan, tmp_path / f"{threads}.gguf", threads=threads, chunk_weights=chunk, refiner=refiner)
        files.add((tmp_path / f"{threads}.gguf").read_bytes())
    assert len(files) == 1
    written(model, level, tmp_path / "plain.gguf", importance=importance)
    assert (tmp_path / "plain.gguf").read_bytes() not in files
    assert (tmp_path / "plain.gguf").stat().st_size == (tmp_path / "1.gguf").stat().st_size
