"""The run behind ``collect_imatrix``: a text through a model, on this machine or on a cluster, and its sums."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...formats.errors import OutputError, QuantmillError
from ...formats.progress import Progress, StepDone, WorkEnded, emit, note, notes
from ...formats.storage.interrupts import when_cut_off
from ...formats.storage.output import human_bytes
from .ray_pool import ClusterOptions
from .running import RunOptions, open_run

if TYPE_CHECKING:
    from ...formats.imatrix_file import Imatrix
    from ...imatrix.collect import Collector
    from ...imatrix.evaluate import Evaluation, Record
    from ...imatrix.runner import Runner
    from ...imatrix.second_moments import MomentSums

_NAMED = 12  # tensors listed by name


@dataclass(frozen=True)
class CollectOptions:
    """What ``collect_imatrix`` asks of a run; its docstring explains each.

    Args:
        moments_width: columns of their blocks, at most.
        moments_size: bytes that second moments may take; None for none.
    """

    run: RunOptions
    process_output: bool
    perplexity: bool
    moments_width: int
    moments_size: int | None
    level: str | None
    cluster: ClusterOptions | None
    save_every: int
    restart: bool


@dataclass(frozen=True)
class Collected:
    """What a run found.

    Args:
        collector: the sums, and the second moments if they were asked for.
        text: the text's name.
        perplexity: None where it was not asked for.
        dropped: chunks left out, and where each went wrong.
    """

    collector: Collector
    text: str
    perplexity: Evaluation | None
    dropped: Mapping[int, str]


def collect(
    model: Path,
    text: Path | None,
    state: Path,
    files: Sequence[Imatrix],
    options: CollectOptions,
    progress: Progress | None,
) -> Collected:
    """Run the model.

    Args:
        state: the folder for what an interrupted run leaves, and for what does not fit in memory.
        files: importance matrices that the result will be merged with.
    """
    from ...imatrix.collect import Collector
    from ...imatrix.matrix import check_belongs
    from ...imatrix.run_state import run_key

    runner = open_run(model, text, state, options.run, progress)
    for line in (line for file in files for line in check_belongs(file, runner.weights.model)):
        note(progress, line, important=True)
    if options.level is not None:
        _report_needs(runner, options.level, progress)
    collector = Collector(moments=_plan_moments(runner, state, files, options, progress))
    extra: dict[str, Any] = {"skip_bad_chunks": options.run.skip_bad_chunks}
    if collector.moments is not None:
        extra["second moments"] = collector.moments.block_width
    key = run_key(runner, model, extra)

    def cut_off() -> None:
        if options.save_every and state.exists():
            note(progress, f"what is done is kept in {state.name}; the same command goes on with it")

    with when_cut_off(cut_off):
        if options.cluster is not None:
            record, dropped = _on_cluster(runner, collector, state, key, options, options.cluster, progress)
        else:
            record, dropped = _on_this_machine(runner, collector, state, key, options, progress)
    emit(progress, WorkEnded())
    for where in dropped.values():
        note(progress, f"left out: {where}", important=True)
    if len(dropped) == runner.corpus.n_chunks:
        raise QuantmillError("every chunk gave NaN or Inf", path=model, hint="the model is damaged")
    return Collected(collector, runner.corpus.name, record.report() if record.nll else None, dropped)


def _on_this_machine(
    runner: Runner, collector: Collector, state: Path, key: Mapping[str, Any], options: CollectOptions,
    progress: Progress | None,
) -> tuple[Record, Mapping[int, str]]:  # fmt: skip
    """One block after the other, the state saved between them."""
    from ...imatrix.collect_state import resume_collection, save_collection
    from ...imatrix.further_tokens import collect_further
    from ...imatrix.run_state import RunState

    say = notes(progress) or (lambda text: None)
    saved = RunState(state, key)
    if options.restart:
        saved.discard(runner)
    resumed = resume_collection(saved, runner, collector, say)
    if resumed:
        say(f"going on at layer {runner.layer + 1}, where an earlier run stopped; --restart begins anew")
    runner.embed(keep=not resumed)
    emit(progress, runner.started())
    every = 1 if runner.activations.spills and options.save_every else options.save_every
    while runner.layer < runner.n_layers:
        runner.advance(collector, progress)
        if every:
            save_collection(saved, runner, collector, runner.layer % every == 0)
        elif collector.moments is not None:
            collector.moments.finish(f"{runner.layer:05d}")
    collect_further(runner, collector, progress)
    record = _predict(runner, collector, options, progress)
    if collector.moments is not None:
        collector.moments.finish("output")
    return record, runner.dropped


def _predict(runner: Runner, collector: Collector, options: CollectOptions, progress: Progress | None) -> Record:
    """The output matrix: its inputs are recorded, its predictions judged, each if it was asked for."""
    from ...imatrix.evaluate import Record

    record = Record()
    if runner.weights.encodes:
        if options.perplexity:
            note(progress, f"{runner.weights.arch.name} predicts no tokens: there is no perplexity")
        if options.process_output:
            for _ in runner.last_hidden(collector):
                pass
        return record
    if not (options.perplexity or options.process_output):
        return record
    chunks = runner.corpus.n_chunks - len(runner.dropped)
    for done, (_, logits, wanted) in enumerate(runner.logits(collector if options.process_output else None), 1):
        stage = "output"
        if options.perplexity:
            record.add(logits, wanted)
            stage = f"perplexity {record.perplexity():.4f}"
        emit(progress, StepDone(stage, done, chunks))
    return record


def _on_cluster(
    runner: Runner, collector: Collector, state: Path, key: Mapping[str, Any], options: CollectOptions,
    cluster: ClusterOptions, progress: Progress | None,
) -> tuple[Record, Mapping[int, str]]:  # fmt: skip
    """The same by many machines."""
    import torch

    from ...imatrix.share_chunks import ShareOptions, run_on_pool
    from .ray_pool import connected

    if options.restart:
        shutil.rmtree(state, ignore_errors=True)
    wanted = ShareOptions(options.process_output, options.perplexity, options.save_every, torch.get_num_threads())
    emit(progress, runner.started())
    say = notes(progress) or (lambda text: None)
    with connected(cluster.address, cluster.workers, one_per_machine=True, say=say) as pool:
        found = run_on_pool(runner, state, key, wanted, pool, progress)
    collector.sums.update(found.sums)
    return found.record, found.dropped


def _plan_moments(
    runner: Runner, state: Path, files: Sequence[Imatrix], options: CollectOptions, progress: Progress | None
) -> MomentSums | None:
    """Choose the blocks' width, report it, and check that the disk has room."""
    from ...imatrix.merge_moments import check_block_width
    from ...imatrix.second_moments import MomentSums, choose_block_width, distinct_inputs, expected_seconds

    if options.moments_size is None:
        return None
    inputs = distinct_inputs(runner.skeleton, options.process_output)
    block_width = choose_block_width(inputs, options.moments_size, options.moments_width)
    check_block_width(files, block_width)
    nbytes = sum(each.nbytes(block_width) for each in inputs)
    whole = all(each.width <= block_width for each in inputs)
    how = "whole" if whole else f"in diagonal blocks of {block_width} columns"
    tokens = runner.corpus.n_chunks * runner.corpus.n_ctx
    seconds = expected_seconds(inputs, block_width, tokens, runner.options.device)
    took = f"about {seconds:.0f} s beside the run" if seconds >= 1 else "less than a second beside the run"
    note(progress, f"second moments: {human_bytes(nbytes)}, {len(inputs)} distinct inputs, {how}; {took}")
    free = shutil.disk_usage(state.parent).free
    if free < 2 * nbytes:  # by layer while the model runs, then in the output
        problem = f"not enough room: second moments need {human_bytes(2 * nbytes)}, the disk has {human_bytes(free)}"
        raise OutputError(problem, path=state.parent, hint="free some space, or give a smaller --moments-size")
    return MomentSums(block_width, state)


def _report_needs(runner: Runner, level: str, progress: Progress | None) -> None:
    """Which tensors need importance at the level, and which of them this run does not record."""
    from ...quantize.estimate.levels import uniform_importance
    from ...quantize.plan import PlanOptions, make_plan
    from ...quantize.recipes import REFUSES_WITHOUT, find_recipe

    model = runner.weights.model
    recipe = find_recipe(level)
    plan = make_plan(model, recipe.level, PlanOptions(importance=uniform_importance(model)))
    needed = recipe.needs_importance | REFUSES_WITHOUT
    need = [step for step in plan.steps if step.type.name in needed]
    use = [step for step in plan.steps if step.uses_importance]
    recorded = {
        name
        for layer, module in enumerate(runner.skeleton.layers)
        for weight in runner.weights.recorded_weights(layer, module).values()
        for name in weight.names
    }
    counts = f"{recipe.level}: {len(need)} tensors need importance, {len(use) - len(need)} more use it"
    note(progress, counts, important=True)
    lacking = [step for step in need if step.tensor.name not in recorded]
    if lacking:
        names = ", ".join(f"{step.tensor.name} ({step.type})" for step in lacking[:_NAMED])
        more = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
        note(progress, f"  not recorded without --process-output: {names}{more}", important=True)
