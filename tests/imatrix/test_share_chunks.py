"""Splits of a text: their sums, to the last bit of float64, are those of one run; what is finished is not done again.

``tests/test_cluster.py`` has the real workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracles.tiny import TEXT, save_tiny_llama
from quantmill.formats.hf.load import read_hf
from quantmill.formats.progress import StepDone
from quantmill.imatrix import collect
from quantmill.imatrix.activations import Activations
from quantmill.imatrix.collect import Collector
from quantmill.imatrix.corpus import Corpus, cut
from quantmill.imatrix.evaluate import Record
from quantmill.imatrix.runner import ComputeOptions, Runner
from quantmill.imatrix.share_chunks import ChunkRange, ShareOptions, ShareResult, _ranges, run_on_pool
from quantmill.imatrix.weights import Weights

N_CTX, BATCH = 32, 3


class Here:
    """A pool of this process, whose worker stops after so many pieces, as if its machine were switched off."""

    threads = 1

    def __init__(self, n_workers: int, pieces: int | None = None) -> None:
        self.n_workers, self.left = n_workers, pieces
        self.did: list[Any] = []

    def run(
        self,
        start: Callable[[], Callable[[Any], Any]],
        pieces: Iterable[Any],
        done: Callable[[Any, Any], object],
        tick: Callable[[], object] = lambda: None,
    ) -> None:
        work = start()
        for piece in reversed(list(pieces)):  # the order in which they end is anybody's
            if self.left is not None and len(self.did) == self.left:
                raise KeyboardInterrupt
            done(piece, work(piece))
            self.did.append(piece)
            tick()


@pytest.fixture(scope="module", autouse=True)
def _rounded() -> Iterator[None]:
    """Sums with all of float64's digits: real ones, of so few chunks, add up exactly, in any order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect, "sums_of_squares", lambda x, real=collect.sums_of_squares: real(x) ** 1.37)
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return Weights(read_hf(save_tiny_llama(tmp_path_factory.mktemp("tiny"), layers=2)))


@pytest.fixture(scope="module")
def corpus(weights: Weights) -> Corpus:
    tokenizer = weights.tokenizer()
    return cut(tokenizer.encode(TEXT * 13), N_CTX, tokenizer.bos, chunks=35, name="text")


def runner_of(weights: Weights, corpus: Corpus, folder: Path) -> Runner:
    import torch

    shape = (corpus.n_chunks, corpus.n_ctx, weights.hidden_width)
    return Runner(weights, corpus, ComputeOptions(batch=BATCH), Activations(shape, torch.float32, folder))


def run(weights: Weights, corpus: Corpus, folder: Path, pool: Here, told: list[Any] | None = None) -> ShareResult:
    import torch

    wanted = ShareOptions(output=True, perplexity=True, save_every=1, threads=torch.get_num_threads())
    runner = runner_of(weights, corpus, folder)
    return run_on_pool(runner, folder, {"model": "tiny"}, wanted, pool, None if told is None else told.append)


@pytest.fixture(scope="module")
def alone(weights: Weights, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Collector, Record]:
    """One run."""
    runner, collector, record = runner_of(weights, corpus, tmp_path_factory.mktemp("alone")), Collector(), Record()
    runner.embed()
    runner.finish(collector)
    for _, logits, wanted in runner.logits(collector):
        record.add(logits, wanted)
    return collector, record


def check(found: ShareResult, collector: Collector, record: Record) -> None:
    assert list(found.sums) == list(collector.sums)
    assert "output.weight" in found.sums
    for name, entry in collector.sums.items():
        assert np.array_equal(found.sums[name].values, entry.values), name
        assert np.array_equal(found.sums[name].counts, entry.counts)
    assert found.record.report() == record.report()


@pytest.mark.parametrize("n", [5, 100])
def test_the_sums_of_one_run(weights: Weights, corpus: Corpus, tmp_path: Path, n: int, alone: Any) -> None:
    told: list[Any] = []
    found = run(weights, corpus, tmp_path, Here(n), told)
    check(found, *alone)
    assert len(list(tmp_path.glob("chunks-*"))) == min(n, -(-corpus.n_chunks // BATCH))
    assert told[-1] == StepDone("layer 2/2", min(n, 12), min(n, 12), 1)


def test_what_is_finished_is_kept(
    weights: Weights, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: Any
) -> None:
    """With another number of workers, too; and only the blocks that are missing run."""
    with pytest.raises(KeyboardInterrupt):
        run(weights, corpus, tmp_path, Here(3, pieces=2))
    ran = []
    advance = Runner.advance
    monkeypatch.setattr(Runner, "advance", lambda self, *a: (ran.append(self.layer), advance(self, *a))[1])
    pool = Here(5)
    found = run(weights, corpus, tmp_path, pool)
    assert pool.did == [ChunkRange(24, 35), ChunkRange(12, 24), ChunkRange(0, 12)]
    assert ran == [0, 1]  # of the split that had not begun
    check(found, *alone)


def test_ranges_that_do_not_fit_are_made_anew(weights: Weights, corpus: Corpus, tmp_path: Path) -> None:
    runner = runner_of(weights, corpus, tmp_path)
    for name in ("chunks-0000000-0000010", "chunks-0000010-0000035"):  # batches of 3 do not end at 10
        (tmp_path / name).mkdir()
    assert _ranges(tmp_path, runner, 2) == [ChunkRange(0, 18), ChunkRange(18, 35)]
    assert {path.name for path in tmp_path.iterdir()} == {"chunks-0000000-0000018", "chunks-0000018-0000035"}
