"""Second moments on their way to the encoder: shared, split, damped, refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from quantmill.formats.errors import PlanError
from quantmill.formats.moments_file import Moments, block_bounds, pack, packed_size
from quantmill.formats.qtypes import qtype
from quantmill.quantize.budget.losses import Sensitivity, losses
from quantmill.quantize.chunks import Job, chunks_of, tasks_of
from quantmill.quantize.execute import execute
from quantmill.quantize.fingerprint import fingerprint
from quantmill.quantize.plan import PlanOptions, make_plan
from quantmill.quantize.refine.factor import DAMPING
from quantmill.quantize.refine.refiner import Refiner

from ..conftest import model_of, tensor_of

NAMES = ("blk.0.attn_q.weight", "blk.0.attn_k.weight")
ROWS = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)


class Store:
    """Packed sums of two matrices of 512 columns, and how often they were asked for."""

    def __init__(self, block_width: int = 512) -> None:
        self.loads, self.block_width = 0, block_width
        rng = np.random.default_rng(1)
        x = rng.standard_normal((2, 900, 64)) @ rng.standard_normal((64, 512)) + rng.standard_normal((2, 900, 512))
        self.sums = [a.T @ a for a in x]

    def __call__(self, holder: str, matrix: int) -> np.ndarray:
        self.loads += 1
        packed = np.empty(packed_size(512, self.block_width), np.float32)
        at = 0
        for start, end in block_bounds(512, self.block_width):
            n = packed_size(end - start, end - start)
            pack(self.sums[matrix][start:end, start:end], packed[at : at + n])
            at += n
        return packed


def moments_of(store: Store, counts: tuple[int, ...] = (900,)) -> Moments:
    every = np.array(counts, np.int64)
    return Moments(
        store.block_width, dict.fromkeys(NAMES, NAMES[0]), {NAMES[0]: 512}, dict.fromkeys(NAMES, every), store
    )


def encoded(refiner: Refiner, name: str = NAMES[0], matrix: int = 0) -> bytes:
    out = np.zeros((64, qtype("Q3_K").row_bytes(512)), np.uint8)
    refiner.encode(name, matrix, ROWS, qtype("Q3_K"), out)
    return out.tobytes()


def test_who_shares_inputs_shares_the_work() -> None:
    store = Store()
    refiner = Refiner(moments_of(store), width=512)
    assert encoded(refiner, NAMES[0]) == encoded(refiner, NAMES[1])
    assert store.loads == 1


def test_wide_blocks_are_split() -> None:
    wide, narrow = Refiner(moments_of(Store())), Refiner(moments_of(Store(256)), width=1024)
    assert [block.width for block in wide.blocks(NAMES[0], 0)] == [256, 256]
    assert encoded(wide) == encoded(narrow)
    assert encoded(wide) != encoded(Refiner(moments_of(Store()), width=512))


def test_few_inputs_are_damped_more() -> None:
    """128 inputs say little about 512 columns: four times the damping; each expert by its own count."""
    refiner = Refiner(moments_of(Store(), (900, 128)), width=512)
    assert [refiner.blocks(NAMES[0], matrix)[0].damping for matrix in (0, 1)] == [DAMPING, 4 * DAMPING]
    assert encoded(refiner, matrix=0) != encoded(refiner, matrix=1)


def test_no_moments_at_all() -> None:
    store = Store()
    store.sums[0] = np.full((512, 512), -1e6)
    np.fill_diagonal(store.sums[0], 1)
    with pytest.raises(
        PlanError, match=r"positive definite, from 900 tokens for 256 columns \(collect them on more text"
    ):
        encoded(Refiner(moments_of(store)))


def test_it_travels() -> None:
    refiner = Refiner(moments_of(Store()), width=512, passes=2)
    assert encoded(pickle.loads(pickle.dumps(refiner))) == encoded(refiner)


def test_bytes_and_threads(tmp_path: Path) -> None:
    """The same file with 1, 2 and 7 threads and chunks of a row, some rows, everything; another than without."""
    model = model_of([tensor_of(name, ROWS.astype(np.float16)) for name in NAMES])
    importance = {name: np.ones(512, np.float32) for name in NAMES}
    refiner = Refiner(moments_of(Store()))
    plan = make_plan(model, "Q4_K_S", PlanOptions(importance=importance, moments=refiner.moments))
    assert [step.refined for step in plan.steps] == [True, True]
    files = set()
    for threads, chunk in ((1, None), (2, 512), (7, 5 * 512)):
        path = tmp_path / f"{threads}.gguf"
        execute(plan, path, threads=threads, chunk_weights=chunk, refiner=refiner)
        files.add(path.read_bytes())
    assert len(files) == 1
    plain = make_plan(model, "Q4_K_S", PlanOptions(importance=importance))
    execute(plain, tmp_path / "plain.gguf")
    assert (tmp_path / "plain.gguf").read_bytes() not in files
    assert (tmp_path / "plain.gguf").stat().st_size == (tmp_path / "1.gguf").stat().st_size


def test_wide_rows_are_taken_many_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a chunk of the usual size would have a row, refining has as many as pay for its calls."""
    monkeypatch.setattr("quantmill.quantize.chunks.CHUNK_WEIGHTS", 512)
    monkeypatch.setattr("quantmill.quantize.chunks.REFINED_ROWS", 3)
    model = model_of([tensor_of(name, ROWS.astype(np.float16)) for name in NAMES])
    importance = {name: np.ones(512, np.float32) for name in NAMES}
    for moments, rows in ((moments_of(Store()), 3), (None, 1)):
        plan = make_plan(model, "Q4_K_S", PlanOptions(importance=importance, moments=moments))
        chunks = list(chunks_of(tasks_of([Job(plan, tmp_path / "o.gguf")])))
        assert {chunk.b - chunk.a for chunk in chunks[:2]} == {rows}
        assert sum(chunk.b - chunk.a for chunk in chunks) == len(NAMES) * len(ROWS)


def test_unfinished_work_of_another_kind_is_not_taken_up() -> None:
    model = model_of([tensor_of(name, ROWS.astype(np.float16)) for name in NAMES])
    importance = {name: np.ones(512, np.float32) for name in NAMES}
    refiner = Refiner(moments_of(Store()))
    plan = make_plan(model, "Q4_K_S", PlanOptions(importance=importance, moments=refiner.moments))
    ways = [None, refiner, Refiner(refiner.moments, width=512), Refiner(refiner.moments, passes=2)]
    digests = {fingerprint(plan, way) for way in ways}
    assert len(digests) == len(ways)


def test_another_models_moments() -> None:
    rows = np.zeros((4, 256), np.float16)
    model = model_of([tensor_of(NAMES[0], rows)])
    importance = {NAMES[0]: np.ones(256, np.float32)}
    with pytest.raises(PlanError, match=r"1 x 512 columns, it has 1 x 256.*another model"):
        make_plan(model, "Q4_K_S", PlanOptions(importance=importance, moments=moments_of(Store())))


def test_nothing_to_refine() -> None:
    model = model_of([tensor_of(NAMES[0], ROWS.astype(np.float16))])
    importance = {NAMES[0]: np.ones(512, np.float32)}
    plan = make_plan(model, "Q8_0", PlanOptions(importance=importance, moments=moments_of(Store())))
    assert not any(step.refined for step in plan.steps)


def test_a_budget_counts_what_refining_reaches() -> None:
    """The loss of each type is the one after feedback, in the same units: the plain one where columns go alone."""
    model = model_of([tensor_of(NAMES[0], ROWS.astype(np.float16))])
    types = {NAMES[0]: [qtype(name) for name in ("Q2_K", "Q4_K", "IQ3_S", "Q8_0")]}
    store = Store()
    importance = {NAMES[0]: (np.diag(store.sums[0]) / 900).astype(np.float32)}
    known = {NAMES[0]: Sensitivity(np.ones(1))}
    plain = losses(model, types, importance, known)[NAMES[0]]
    fed = losses(model, types, importance, known, refiner=Refiner(moments_of(store)))[NAMES[0]]
    assert all(a < 0.6 * b for a, b in zip(fed[:3], plain[:3], strict=True))
    assert fed[3] == plain[3]
    store.sums[0] = np.diag(np.diag(store.sums[0]))
    alone = losses(model, types, importance, known, refiner=Refiner(moments_of(store), damping=1e-6))[NAMES[0]]
    assert alone == pytest.approx(plain, rel=0.15)
