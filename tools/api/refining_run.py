"""The run behind ``refining``: a plan's tensors encoded one after the other, and the plan with what became of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...formats.errors import FormatError, PlanError, name_list
from ...formats.progress import Progress, WorkEnded, emit, note, notes
from .running import RunOptions

if TYPE_CHECKING:
    from ...formats.ir import Bytes, Tensor
    from ...imatrix.corpus import Corpus
    from ...imatrix.paired_run import PairedRun
    from ...imatrix.run_state import RunState
    from ...imatrix.weights import Weights
    from ...quantize.plan import Plan, Step
    from ...quantize.sequential.block import SequentialEncoder

_ASIDE = 8  # one of so many chunks is kept aside, to judge by
_NAMED = 3  # tensors in a line
_HEAD = "head.safetensors"

Row = Mapping[str, Any]  # a MatrixReport, ready for JSON


@dataclass(frozen=True)
class Refined:
    """What a run made.

    Args:
        files: safetensors files with the encoded tensors, uint8 [rows, row bytes] each.
        resumed: whether an earlier run had finished all blocks.
    """

    files: list[Path]
    resumed: bool


def refine_in_order(
    plan: Plan,
    weights: Weights,
    corpus: Corpus,
    run: RunOptions,
    work: Path,
    *,
    width: int | None,
    threads: int | None,
    restart: bool,
    progress: Progress | None,
) -> Refined:
    """Encode every tensor that a plan refines, and its output matrix; see ``TextRefinement.refined``.

    Args:
        weights, corpus, run, width: see ``TextRefinement``.
        work: the folder for the state.
    """
    from ...imatrix.run_state import RunState, run_key
    from ...quantize.fingerprint import fingerprint
    from ...quantize.sequential.block import SequentialEncoder
    from ...quantize.sequential.threads import computing
    from ...quantize.threads import cpu_count

    steps = _steps(plan, weights)
    n = threads or cpu_count()
    with computing(n) as workers:
        walk = _paired_run(plan, weights, corpus, run, steps, work, n)
        key = run_key(walk.original, plan.source.path, {"plan": fingerprint(plan), "width": width})
        state = RunState(work, key)
        if restart:
            state.discard(walk)
        resumed = state.resume(walk, notes(progress))
        if resumed:
            note(progress, f"going on at layer {walk.layer + 1}, where an earlier run stopped")
        tensors = {name: weights.tensors[name] for name in steps}
        complete = walk.layer == walk.n_layers
        encoder = SequentialEncoder(tensors, {name: step.type for name, step in steps.items()}, width, workers)
        walk.embed(keep=not resumed)
        emit(progress, walk.original.started())
        _blocks(walk, encoder, state, set(steps), progress)
        files = [state.file(layer) for layer in range(walk.n_layers)]
        encoder.forget()
        if weights.head.name in steps and not weights.encodes:
            files.append(_head(walk, encoder, work, tied=weights.tied))
    emit(progress, WorkEnded())
    rows = [row for entry in state.entries for row in entry["report"]] + [asdict(one) for one in encoder.reports]
    for line in _summary(rows, corpus.n_chunks, [name for name in steps if name not in {row["name"] for row in rows}]):
        note(progress, line, important=True)
    return Refined(files, complete)


def _steps(plan: Plan, weights: Weights) -> dict[str, Step]:
    """The steps whose tensors the run encodes, by name: those to be refined, and an output matrix of its own."""
    steps = {step.tensor.name: step for step in plan.steps if step.refined}
    if not steps:
        raise PlanError(f"no tensor of {plan.level} can be refined", path=plan.source.path)
    head = None if weights.encodes or weights.tied else weights.head.name
    return steps | {step.tensor.name: step for step in plan.steps if step.tensor.name == head}


def _paired_run(
    plan: Plan, weights: Weights, corpus: Corpus, run: RunOptions, steps: Collection[str], work: Path, threads: int
) -> PairedRun:
    """The model, and beside it the model with all tensors rounded that the run does not encode."""
    import torch

    from ...imatrix.activations import Activations, ActivationsPart
    from ...imatrix.paired_run import PairedRun
    from ...imatrix.runner import ComputeOptions, Runner
    from ...imatrix.weights import Weights
    from ...quantize.sequential.rounded import rounded

    changed = Weights(weights.model)
    embedding = weights.embedding.name
    for step in plan.steps:
        name = step.tensor.name
        if step.type.is_quantized and step.type is not step.tensor.qtype and (name not in steps or name == embedding):
            changed.tensors[name] = rounded(weights.tensors[name], step.type)
    both = Activations((2 * corpus.n_chunks, corpus.n_ctx, weights.hidden_width), torch.float32, work)
    how = ComputeOptions(batch=run.batch)
    before = Runner(weights, corpus, how, ActivationsPart(both, 0))
    after = Runner(changed, corpus, how, ActivationsPart(both, corpus.n_chunks))
    return PairedRun(before, after, both, kept_aside(corpus.n_chunks), threads)


def kept_aside(n_chunks: int) -> list[int]:
    """The chunks that are kept aside to judge by, spread over the text.

    Example:
        >>> kept_aside(24), kept_aside(3), kept_aside(1)
        ([4, 12, 20], [1], [])
    """
    n = max(1, n_chunks // _ASIDE) if n_chunks > 1 else 0
    return [(2 * i + 1) * n_chunks // (2 * n) for i in range(n)]


def _blocks(
    walk: PairedRun, encoder: SequentialEncoder, state: RunState, wanted: Collection[str], progress: Progress | None
) -> None:
    """Every block that an earlier run has not finished."""
    while walk.layer < walk.n_layers:
        began = time.monotonic()
        encoder.forget()
        walk.walk_block(encoder, wanted, progress)
        rows = [asdict(report) for report in encoder.reports]
        state.add(walk, encoder.arrays, rows)
        note(progress, f"layer {walk.layer}/{walk.n_layers}: {_errors(rows)}; {time.monotonic() - began:.1f} s")


def _head(walk: PairedRun, encoder: SequentialEncoder, work: Path, *, tied: bool) -> Path:
    """The output matrix. An embedding that is one too keeps its place: what it gives the first block is not moved."""
    from safetensors.numpy import save

    from ...formats.storage.durable import write_durably
    from ...imatrix.paired_stages import Input

    head = walk.original.weights.head
    one = Input((head.name,), 0, 1, head.width, routed=False)
    encoder.begin(walk.n_layers, [one])
    for pair in walk.head_pairs():
        encoder.see(one, replace(pair, original=None) if tied else pair)
    encoder.replace([one])
    path = work / _HEAD
    write_durably(path, save(encoder.arrays))
    return path


def _errors(rows: Sequence[Row]) -> str:
    """How many matrices of a layer were encoded in which way, and how much less they err than plainly encoded."""
    ways = ", ".join(f"{n} {way}" for way, n in Counter(map(_way, rows)).most_common())
    return ways or "nothing to refine"


def _way(row: Row) -> str:
    refined = "refined" if row["width"] else ""
    return " and ".join(filter(None, ["retargeted" if row["ridge"] else "", refined])) or "plain"


def _summary(rows: Sequence[Row], n_chunks: int, unreached: Sequence[str]) -> Iterator[str]:
    """What became of all tensors, in lines."""
    from ...quantize.sequential.block import PRIOR_TOKENS

    ways = ", ".join(f"{n} {way}" for way, n in Counter(map(_way, rows)).most_common())
    aside = len(kept_aside(n_chunks))
    judged = f"judged on {aside} of {n_chunks} chunks, kept aside" if aside else "one chunk, by which it is judged too"
    yield f"{len(rows)} matrices: {ways} ({judged})"
    widths = Counter(row["width"] for row in rows if row["width"])
    if widths:
        yield "columns that repair each other: " + ", ".join(f"{n} of {w}" for w, n in sorted(widths.items()))
    per_name = Counter(row["name"] for row in rows)
    starved = [row["name"] for row in rows if per_name[row["name"]] > 1 and row["tokens"] < PRIOR_TOKENS]
    if starved:
        few = f"{len(starved)} experts saw fewer than {PRIOR_TOKENS} tokens, and borrow from those of their layer"
        yield f"{few}: {name_list(sorted({*starved}), _NAMED)}"
    if unreached:
        yield f"{len(unreached)} tensors that the text does not reach keep plain bytes: {name_list(unreached, _NAMED)}"


def with_encoded(plan: Plan, files: Sequence[Path]) -> Plan:
    """The plan with tensors that are encoded already, from safetensors files; its steps copy them."""
    from safetensors import safe_open

    found = {}
    for path in files:
        with safe_open(path, "np") as file:
            found.update(dict.fromkeys(file.keys(), path))
    steps = tuple(
        replace(step, tensor=_encoded(step, found[step.tensor.name]), uses_importance=False, refined=False)
        if step.tensor.name in found
        else step
        for step in plan.steps
    )
    return replace(plan, steps=steps)


def _encoded(step: Step, path: Path) -> Tensor:
    """A step's tensor in the type that it becomes, from a file."""
    name = step.tensor.name

    def read(a: int, b: int) -> Bytes:
        from safetensors import safe_open

        try:
            with safe_open(path, "np") as file:
                rows: Bytes = file.get_slice(name)[a:b]
        except OSError as error:
            raise FormatError(f"cannot be read any more: {error}", path=path, where=name) from error
        return np.ascontiguousarray(rows)

    return replace(step.tensor, qtype=step.type, read=read)
