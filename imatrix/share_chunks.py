"""Share a text's chunks among many machines: each range of chunks runs through the model on its own.

The result is the same as on one machine, bit for bit. A range consists of whole batches, so each product is one that a
single machine would compute; and since float64 sums are rounded, what each batch adds is kept apart, and added in the
text's order at the end.

The state of a range (what its batches add in each block, and the activations between blocks) is kept in a folder of its
own on storage that all machines share. When a worker is lost, another goes on with its range, and when a run is
interrupted, the next run goes on with all of them.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..formats.ir import Model
from ..formats.progress import Progress
from ..formats.workers import Pool
from .activations import Activations
from .collect import Collector
from .collect_state import BatchSums, add_sums, read_sums
from .corpus import Corpus
from .evaluate import Record, token_nll
from .further_tokens import collect_further
from .run_state import RunState, finished_blocks
from .runner import DTYPES, ComputeOptions, Runner, layer_step
from .sums import Sums
from .weights import Weights

_RANGE = re.compile(r"chunks-(\d{7})-(\d{7})\Z", re.ASCII)


@dataclass(frozen=True)
class ChunkRange:
    """The chunks from ``first`` to ``end``, ``end`` excluded."""

    first: int
    end: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"chunks-{self.first:07d}-{self.end:07d}"


@dataclass(frozen=True)
class ShareOptions:
    """What a shared run computes.

    Args:
        output: collect the inputs of the output matrix too.
        perplexity: judge the model's predictions of the text.
        save_every: how many blocks lie between two savings of the activations; 0 to save none.
        threads: how many torch uses on each machine. Products may be rounded differently with another number.
    """

    output: bool
    perplexity: bool
    save_every: int
    threads: int


@dataclass
class ShareResult:
    """What a shared run, or the run of one range, computed.

    Args:
        sums: by tensor name.
        record: how well each chunk was predicted.
        dropped: the chunks that were left out, and where each went wrong.
        commits: what each batch adds to the sums of the output matrix; only of a range.
    """

    sums: dict[str, Sums] = field(default_factory=dict)
    record: Record = field(default_factory=Record)
    dropped: dict[int, str] = field(default_factory=dict)
    commits: list[BatchSums] = field(default_factory=list)


class _BatchCollector(Collector):
    """Keeps what each batch adds apart."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[BatchSums] = []

    def commit(self) -> None:
        """Add the batch, apart from those before."""
        super().commit()
        self.commits.append(self.sums)
        self.sums = {}

    def take(self) -> list[BatchSums]:
        """What each batch added since the last call."""
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
    """Run a text through a model by the workers of a pool.

    Args:
        runner: describes the run of the whole text; it does not run itself.
        folder: for the state of each range, on storage that all workers share.
        key: everything that the result depends on, see ``RunState``.
        wanted: what is computed.
        pool: the workers.
        progress: called now and then with a ``StepDone`` of the layer that the slowest is in.

    Raises:
        QuantmillError: an activation is not finite, and such chunks may not be left out.
    """
    ranges = _ranges(folder, runner, pool.n_workers)
    start = partial(_Worker, runner.weights.model, runner.corpus, runner.options, folder.absolute(), dict(key), wanted)
    found: dict[ChunkRange, ShareResult] = {}
    states = [RunState(folder / chunks.name, _key(key, chunks)) for chunks in ranges]

    def tick() -> None:
        done = [min(finished_blocks(state.folder), runner.n_layers) for state in states]
        layer = min(min(done), runner.n_layers - 1)
        if progress is not None:
            progress(layer_step(layer, runner.n_layers, sum(done) - layer * len(done), len(done)))

    pool.run(start, ranges, found.__setitem__, tick)
    return _merged(ranges, [found[chunks] for chunks in ranges], states, runner.n_layers)


def _ranges(folder: Path, runner: Runner, n: int) -> list[ChunkRange]:
    """The ranges that an earlier run made, with however many workers, or else new ones of about the same size.

    A batch is never divided.
    """
    names = (_RANGE.match(path.name) for path in folder.glob("chunks-*"))
    old = sorted(
        (ChunkRange(int(match[1]), int(match[2])) for match in names if match), key=lambda chunks: chunks.first
    )
    edges = [batch[0] for batch in runner.batches] + [runner.corpus.n_chunks]
    bounds = [0, *(chunks.end for chunks in old)]
    if [chunks.first for chunks in old] == bounds[:-1] and bounds[-1] == edges[-1] and set(bounds) <= set(edges):
        return old
    for chunks in old:
        shutil.rmtree(folder / chunks.name, ignore_errors=True)
    n = min(n, len(runner.batches))
    cuts = [edges[i * len(runner.batches) // n] for i in range(n + 1)]
    made = [ChunkRange(a, b) for a, b in pairwise(cuts)]
    for chunks in made:
        (folder / chunks.name).mkdir(parents=True)
    return made


def _key(key: Mapping[str, Any], chunks: ChunkRange) -> dict[str, Any]:
    return {**key, "chunks": [chunks.first, chunks.end]}


class _Worker:
    """Runs ranges of chunks, in a worker. Its arguments are those of ``run_on_pool``."""

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

    def __call__(self, chunks: ChunkRange) -> ShareResult:
        folder = self._folder / chunks.name
        state = RunState(folder, _key(self._key, chunks))
        runner = self._runner(chunks, folder)
        resumed = state.resume(runner)
        runner.embed(keep=not resumed)
        collector = _BatchCollector()
        # An odd number: the file that is being written is then never the one that was saved last.
        every = 1 if runner.activations.spills and self._wanted.save_every else self._wanted.save_every
        every = every | 1 if every else 0
        while runner.layer < runner.n_layers:
            runner.advance(collector)
            save = bool(every) and (runner.layer == runner.n_layers or runner.layer % every == 0)
            add_sums(state, runner, collector.take(), save)
        return self._predict(runner, collector, chunks)

    def _runner(self, chunks: ChunkRange, folder: Path) -> Runner:
        part = slice(chunks.first, chunks.end)
        whole = self._corpus
        corpus = Corpus(whole.tokens[part], whole.inputs[part], whole.first_chunk + chunks.first, whole.name)
        shape = (corpus.n_chunks, corpus.n_ctx, self._weights.hidden_width)
        return Runner(self._weights, corpus, self._options, Activations(shape, DTYPES[self._options.dtype], folder))

    def _predict(self, runner: Runner, collector: _BatchCollector, chunks: ChunkRange) -> ShareResult:
        collect_further(runner, collector)
        found = ShareResult(dropped={chunks.first + chunk: where for chunk, where in runner.dropped.items()})
        if runner.weights.encodes:
            for _ in runner.last_hidden(collector) if self._wanted.output else ():
                pass
        elif self._wanted.output or self._wanted.perplexity:
            for _, logits, tokens in runner.logits(collector if self._wanted.output else None):
                if self._wanted.perplexity:
                    found.record.nll.append(token_nll(logits, tokens))
        found.commits = collector.take()
        return found


def _merged(
    ranges: Sequence[ChunkRange], found: Sequence[ShareResult], states: Sequence[RunState], n_layers: int
) -> ShareResult:
    """Add what all batches added, block by block in the text's order, as one machine does."""
    total = ShareResult()
    for state in states:
        state.read()
    for layer in range(n_layers):
        for state in states:
            for commit in read_sums(state, layer):
                _add(total.sums, commit)
    for part in found:
        for commit in part.commits:
            _add(total.sums, commit)
        total.record.nll += part.record.nll
        total.dropped |= part.dropped
    return total


def _add(sums: dict[str, Sums], commit: BatchSums) -> None:
    for name, entry in commit.items():
        if name in sums:
            sums[name].add(entry)
        else:
            sums[name] = deepcopy(entry)  # it may be in shared memory, which must not be written to
