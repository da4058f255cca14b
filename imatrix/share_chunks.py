"""A text's chunks on many machines: each split of them goes through the model on its own, and the sums meet at the end.

The result is one machine's, bit for bit. A split is whole batches, so each product is one that a single machine would
compute; and as float64 sums are rounded, what a batch adds is kept apart, to be added in the text's order.

A split's state, what its batches add in each block and the activations between blocks, lies in a folder of its own on
storage that all share: another worker takes up the split of one that is lost, and the next run those of this one.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formats.ir import Model
from ..formats.progress import Progress
from ..formats.workers import Pool
from .activations import Activations
from .collect import Collector
from .corpus import Corpus
from .evaluate import Record, token_nll
from .layerstate import LayerState
from .runner import DTYPES, ComputeOptions, Runner, layer_step
from .sums import Sums
from .weights import Weights

Commit = dict[str, Sums]  # what one batch adds
_SPLIT = re.compile(r"chunks-(\d{7})-(\d{7})\Z", re.ASCII)


@dataclass(frozen=True)
class ChunkRange:
    """Chunks ``first`` to ``end``, ``end`` excluded."""

    first: int
    end: int

    @property
    def name(self) -> str:
        return f"chunks-{self.first:07d}-{self.end:07d}"


@dataclass(frozen=True)
class ShareOptions:
    """What a run is to find.

    Args:
        output: also the inputs of the output matrix.
        perplexity: of the text.
        save_every: blocks between two savings of the activations; 0 for never.
        threads: of torch. With another number a product may be rounded otherwise.
    """

    output: bool
    perplexity: bool
    save_every: int
    threads: int


@dataclass
class ShareResult:
    """A run's, or a split's.

    Args:
        sums: by tensor name.
        record: each chunk's predictions.
        dropped: chunk -> where it went wrong.
        commits: what the output matrix's batches add, of a split.
    """

    sums: dict[str, Sums] = field(default_factory=dict)
    record: Record = field(default_factory=Record)
    dropped: dict[int, str] = field(default_factory=dict)
    commits: list[Commit] = field(default_factory=list)


class _Recorder(Collector):
    """Keeps what each batch adds."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[Commit] = []

    def commit(self) -> None:
        super().commit()
        self.commits.append(self.sums)
        self.sums = {}

    def taken(self) -> list[Commit]:
        commits, self.commits = self.commits, []
        return commits


def run_on_pool(
    runner: Runner,
    folder: Path,
    key: Mapping[str, Any],
    wanted: ShareOptions,
    pool: Pool,
    progress: Progress | None = None,
) -> ShareResult:
    """All of a text through all of a model, by the pool's workers.

    Args:
        runner: of the whole text; it is asked what is to be run, and does not run.
        folder: for the splits' states, on storage that all workers share.
        key: see ``LayerState``.
        progress: called now and then with a ``StepDone`` of the layer that the slowest is in.

    Raises:
        QuantmillError: an activation is not finite, and chunks are not to be skipped.
    """
    splits = _splits(folder, runner, pool.n_workers)
    start = partial(_Worker, runner.weights.model, runner.corpus, runner.options, folder.absolute(), dict(key), wanted)
    found: dict[ChunkRange, ShareResult] = {}
    states = [LayerState(folder / split.name, _key(key, split)) for split in splits]

    def tick() -> None:
        done = [min(_count(state.path), runner.n_layers) for state in states]
        layer = min(min(done), runner.n_layers - 1)
        if progress is not None:
            progress(layer_step(layer, runner.n_layers, sum(done) - layer * len(done), len(done)))

    pool.run(start, splits, found.__setitem__, tick)
    return _merged(splits, [found[split] for split in splits], states, runner.n_layers)


def _splits(folder: Path, runner: Runner, n: int) -> list[ChunkRange]:
    """Those that an earlier run made, whatever its workers, or about equal ones: a batch is never divided."""
    names = (_SPLIT.match(path.name) for path in folder.glob("chunks-*"))
    old = sorted((ChunkRange(int(match[1]), int(match[2])) for match in names if match), key=lambda split: split.first)
    edges = [batch[0] for batch in runner.batches] + [runner.corpus.n_chunks]
    bounds = [0, *(split.end for split in old)]
    if [split.first for split in old] == bounds[:-1] and bounds[-1] == edges[-1] and set(bounds) <= set(edges):
        return old
    for split in old:
        shutil.rmtree(folder / split.name, ignore_errors=True)
    n = min(n, len(runner.batches))
    cuts = [edges[i * len(runner.batches) // n] for i in range(n + 1)]
    made = [ChunkRange(a, b) for a, b in pairwise(cuts)]
    for split in made:
        (folder / split.name).mkdir(parents=True)
    return made


def _key(key: Mapping[str, Any], split: ChunkRange) -> dict[str, Any]:
    return {**key, "chunks": [split.first, split.end]}


def _count(journal: Path) -> int:
    """Finished blocks, of a journal that grows elsewhere."""
    try:
        return max(0, journal.read_bytes().count(b"\n") - 1)
    except OSError:
        return 0


class _Worker:
    """Runs splits, in a worker. Arguments as ``run_on_pool``."""

    def __init__(
        self,
        model: Model,
        corpus: Corpus,
        options: ComputeOptions,
        folder: Path,
        key: Mapping[str, Any],
        wanted: ShareOptions,
    ) -> None:
        import torch

        torch.set_num_threads(wanted.threads)
        self._weights, self._corpus, self._options = Weights(model), corpus, options
        self._folder, self._key, self._wanted = folder, key, wanted

    def __call__(self, split: ChunkRange) -> ShareResult:
        folder = self._folder / split.name
        state = LayerState(folder, _key(self._key, split))
        runner = self._runner(split, folder)
        resumed = state.resume(runner)
        if resumed:
            runner.dropped = {int(chunk): where for chunk, where in state.entries[-1]["report"]["dropped"].items()}
        runner.embed(keep=not resumed)
        recorder = _Recorder()
        # An odd number: the file that is being written is then never the last one that is whole.
        every = 1 if runner.activations.spills and self._wanted.save_every else self._wanted.save_every
        every = every | 1 if every else 0
        while runner.layer < runner.n_layers:
            runner.advance(recorder)
            arrays, names = _to_arrays(recorder.taken())
            save = bool(every) and (runner.layer == runner.n_layers or runner.layer % every == 0)
            state.add(runner, arrays, {"names": names, "dropped": runner.dropped}, save)
        return self._predict(runner, recorder, split)

    def _runner(self, split: ChunkRange, folder: Path) -> Runner:
        part = slice(split.first, split.end)
        whole = self._corpus
        corpus = Corpus(whole.tokens[part], whole.inputs[part], whole.first_chunk + split.first, whole.name)
        shape = (corpus.n_chunks, corpus.n_ctx, self._weights.embedding.width)
        return Runner(self._weights, corpus, self._options, Activations(shape, DTYPES[self._options.dtype], folder))

    def _predict(self, runner: Runner, recorder: _Recorder, split: ChunkRange) -> ShareResult:
        found = ShareResult(dropped={split.first + chunk: where for chunk, where in runner.dropped.items()})
        if self._wanted.output or self._wanted.perplexity:
            for _, logits, tokens in runner.logits(recorder if self._wanted.output else None):
                if self._wanted.perplexity:
                    found.record.nll.append(token_nll(logits, tokens))
        found.commits = recorder.taken()
        return found


def _to_arrays(commits: Sequence[Commit]) -> tuple[dict[str, NDArray[Any]], list[list[str]]]:
    """Commits as named arrays, and their tensors' names in order."""
    arrays = {
        f"{i}/{name}/{part.name}": np.asarray(getattr(sums, part.name))
        for i, commit in enumerate(commits)
        for name, sums in commit.items()
        for part in fields(sums)
        if getattr(sums, part.name) is not None
    }
    return arrays, [list(commit) for commit in commits]


def _from_arrays(path: Path, names: Sequence[Sequence[str]]) -> Iterator[Commit]:
    """What ``_to_arrays`` made, a tensor of a batch in memory at a time."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        there = set(file.keys())
        for i, commit in enumerate(names):
            for name in commit:
                keys = {part.name: f"{i}/{name}/{part.name}" for part in fields(Sums)}
                yield {name: Sums(**{part: file.get_tensor(key) for part, key in keys.items() if key in there})}


def _merged(
    splits: Sequence[ChunkRange], found: Sequence[ShareResult], states: Sequence[LayerState], n_layers: int
) -> ShareResult:
    """Block by block, in the text's order, as one machine adds."""
    total = ShareResult()
    for state in states:
        state.read()
    for layer in range(n_layers):
        for state in states:
            for commit in _from_arrays(state.file(layer), state.entries[layer]["report"]["names"]):
                _add(total.sums, commit)
    for part in found:
        for commit in part.commits:
            _add(total.sums, commit)
        total.record.nll += part.record.nll
        total.dropped |= part.dropped
    return total


def _add(sums: dict[str, Sums], commit: Commit) -> None:
    for name, entry in commit.items():
        if name in sums:
            sums[name].add(entry)
        else:
            sums[name] = deepcopy(entry)  # it may lie in memory that is shared, and not to be written to
