"""``imatrix``: which weights matter, learnt from a text, as a file that ``quantize --imatrix`` takes."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import log2
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..formats.errors import OutputError, PlanError, QuantmillError
from ..formats.progress import StepDone
from ..formats.storage.interrupts import when_cut_off
from ..formats.storage.output import check_writable
from .terminal.options import cluster_options
from .terminal.units import Size, in_gb

if TYPE_CHECKING:
    from ..formats.imatrix_file import Imatrix
    from ..formats.moments_file import Moments
    from ..imatrix.collect import Collector
    from ..imatrix.evaluate import Record
    from ..imatrix.runner import Runner
    from ..imatrix.second_moments import MomentSums
    from ..imatrix.sums import Sums

_PRIOR_TOKENS = 256  # experts that saw fewer inputs borrow the rest from their layer
_NAMED = 12  # tensors or experts listed by name


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-m", "--model", type=click.Path(path_type=Path), help="GGUF file of any type, or Hugging Face folder.")
@click.option(
    "-f", "--file", "text", type=click.Path(path_type=Path), help="The text. Default: one that ships with us."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), default="imatrix.gguf", show_default=True)
@click.option("-c", "--ctx-size", "n_ctx", type=click.IntRange(min=2), help="Tokens in a chunk.  [default: 512]")
@click.option("--chunks", type=click.IntRange(min=-1), default=-1, help="At most so many; -1, the default, for all.")
@click.option("--from-chunk", "--chunk", type=click.IntRange(min=0), default=0, help="The first chunk to use.")
@click.option("-b", "--batch", type=click.IntRange(min=0), default=0, help="Chunks at a time; 0 chooses.")
@click.option(
    "--in-file", "in_files", type=click.Path(path_type=Path), multiple=True, help="Merge this in. Repeatable."
)
@click.option("--output-format", type=click.Choice(["gguf", "dat"]), help="Default: by the output's suffix.")
@click.option("--process-output", is_flag=True, help="Also the output matrix (the embedding, where they are tied).")
@click.option("--parse-special", is_flag=True, help="Control tokens in the text are meant, not their letters.")
@click.option("--no-ppl", is_flag=True, help="Do not compute the text's perplexity.")
@click.option("--show-statistics", is_flag=True, help="Show what is in the one --in-file, and do nothing else.")
@click.option("--json", "as_json", is_flag=True, help="With --show-statistics: print them as JSON.")
@click.option(
    "--dtype", type=click.Choice(["f32", "bf16"]), default="f32", show_default=True, help="Of the arithmetic."
)
@click.option("--device", default="cpu", show_default=True, help="A torch device: cpu, cuda, cuda:1.")
@click.option("--for", "level", metavar="LEVEL", help="First list the tensors that need importance at this level.")
@click.option("--restart", is_flag=True, help="Begin anew where an unfinished run could be taken up.")
@click.option("--save-every", type=click.IntRange(min=0), default=4, show_default=True, help="Layers; 0 for never.")
@click.option("--no-expert-prior", is_flag=True, help="Leave experts that saw few tokens as they are (to merge later).")
@click.option(
    "--skip-bad-chunks", is_flag=True, help="Go on without a chunk that gives NaN or Inf, instead of stopping."
)
@click.option("--second-moments", is_flag=True, help="Also how inputs vary together, for quantize --refine.")
@click.option(
    "--moments-size",
    type=Size(),
    default="4GiB",
    show_default=True,
    metavar="SIZE",
    help="Second moments take no more than this; narrower blocks of columns then.",
)
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@click.option("--quiet", is_flag=True, help="No progress and no reports.")
@cluster_options
def command(output: Path, **options: Any) -> None:
    """Make an importance matrix: run a text through a model and record what enters each weight.

    Only one layer's weights are in memory at a time. Without -m, the --in-file matrices are merged.

    \b
    Example: imatrix -m model-f16.gguf -f calibration.txt -o model.imatrix.gguf
             imatrix -c 512 --chunks 100 -m Meta-Llama-3-8B-Instruct -o imat.dat --for IQ2_XS
             imatrix --in-file a.gguf --in-file b.gguf -o merged.gguf
    """
    in_files = list(options["in_files"])
    if options["as_json"] and not options["show_statistics"]:
        raise click.UsageError("--json goes with --show-statistics")
    if options["show_statistics"]:
        _show_statistics(in_files, options["n_ctx"], options["as_json"])
        return
    if options["model"] is None and not in_files:
        raise click.UsageError("nothing to do: give a model with -m, or matrices to merge with --in-file")
    if output.exists() and not options["force"]:
        raise OutputError("exists already", path=output, hint="--force replaces it")
    check_writable(output)
    _run(output, in_files, options)


def _run(output: Path, in_files: list[Path], options: Mapping[str, Any]) -> None:
    from ..formats.imatrix_file import read_imatrix, write_imatrix
    from ..imatrix.matrix import add_files, to_imatrix
    from ..imatrix.sums import merged, thin_experts

    quiet = options["quiet"]
    start = time.monotonic()
    legacy = (options["output_format"] or output.suffix.removeprefix(".")) == "dat"
    files = [read_imatrix(path) for path in in_files]
    _check_moments(files, legacy, options)
    given = options["n_ctx"] or (None if options["model"] is None else 512)
    sums, datasets, n_ctx = add_files(files, given) if files else ({}, [], given or 512)
    moments = [] if legacy else [file.moments for file in files if file.moments is not None]
    state = None
    if options["model"] is not None:
        collector, name, state = _collect(output, sums, files, n_ctx, options)
        sums, datasets = merged([sums, collector.sums]), [*datasets, name]
        if collector.moments is not None:
            moments.append(collector.moments.moments(collector.sums))
    thin = thin_experts(sums, _PRIOR_TOKENS)
    prior = 0 if options["no_expert_prior"] else _PRIOR_TOKENS
    if thin and not quiet:
        _report_thin(thin, bool(prior))
    imatrix = to_imatrix(sums, datasets, n_ctx, legacy=legacy, expert_prior=prior)
    if moments:
        imatrix = _with_moments(imatrix, moments, sums, prior)
    write_imatrix(output, imatrix, force=options["force"])
    if state is not None:
        from ..imatrix.state import remove_state

        remove_state(state)
    if not quiet:
        seconds = time.monotonic() - start
        click.echo(f"{output}: {len(imatrix.entries)} tensors, {imatrix.chunk_count} chunks, {seconds:.1f} s", err=True)


def _check_moments(files: list[Imatrix], legacy: bool, options: Mapping[str, Any]) -> None:
    """Raise ``PlanError`` where second moments are asked for, or there, that cannot be in the output."""
    from ..imatrix.merge_moments import check_all_have, check_block_width

    wanted, where = options["second_moments"], "--second-moments"
    if wanted and legacy:
        raise PlanError("a .dat file has no room for them", where=where, hint="name a .gguf file with -o")
    if wanted and options["cluster"] is not None:
        raise PlanError("are gathered on one machine", where=where, hint="leave it, or --cluster, out")
    if legacy:
        if any(file.moments is not None for file in files):
            _say(options["quiet"], "a .dat file has no room for second moments: they are left out")
        return
    if options["model"] is None and files:
        wanted = wanted or files[0].moments is not None
    check_all_have(files, wanted)
    for first in files[:1]:
        if first.moments is not None:
            check_block_width(files, first.moments.block_width)


def _with_moments(imatrix: Imatrix, parts: list[Moments], sums: Mapping[str, Sums], prior: int) -> Imatrix:
    from ..imatrix.merge_moments import merged_moments, moments_with_prior

    moments = parts[0] if len(parts) == 1 else merged_moments(parts, sums)
    return replace(imatrix, moments=moments_with_prior(moments, prior) if prior else moments)


def _plan_moments(runner: Runner, folder: Path, files: list[Imatrix], options: Mapping[str, Any]) -> MomentSums | None:
    """Choose the blocks' width, say so, and see that the disk has room."""
    from ..imatrix.merge_moments import check_block_width
    from ..imatrix.second_moments import MomentSums, choose_block_width, distinct_inputs

    if not options["second_moments"]:
        return None
    inputs = distinct_inputs(runner.skeleton, options["process_output"])
    block_width = choose_block_width(inputs, options["moments_size"])
    check_block_width(files, block_width)
    nbytes = sum(each.nbytes(block_width) for each in inputs)
    whole = all(each.width <= block_width for each in inputs)
    how = "whole" if whole else f"in diagonal blocks of {block_width} columns"
    _say(options["quiet"], f"second moments: {in_gb(nbytes)}, {len(inputs)} distinct inputs, {how}")
    free = shutil.disk_usage(folder.parent).free
    if free < 2 * nbytes:  # by layer while the model runs, then in the output
        problem = f"not enough room: second moments need {in_gb(2 * nbytes)} meanwhile, the disk has {in_gb(free)}"
        raise OutputError(problem, path=folder.parent, hint="free some space, or give a smaller --moments-size")
    return MomentSums(block_width, folder)


def _collect(
    output: Path, others: Mapping[str, Sums], files: list[Imatrix], n_ctx: int, options: Mapping[str, Any]
) -> tuple[Collector, str, Path]:
    """Run the model. Gives the sums, the text's name and the folder of the run's state."""
    from ..imatrix.collect import Collector
    from ..imatrix.matrix import check_belongs
    from ..imatrix.state import run_key, state_folder
    from .library.running import Ticker, open_run

    folder = state_folder(output)
    runner = open_run(options["model"], options["text"], n_ctx, folder, options)
    if others:
        assert files[0].path is not None
        check_belongs(others, runner.weights.model, files[0].path)
    if options["level"]:
        _preflight(runner, options["level"])
    collector = Collector(moments=_plan_moments(runner, folder, files, options))
    extra = {} if collector.moments is None else {"second moments": collector.moments.block_width}
    key = run_key(runner, options["model"], {"skip_bad_chunks": options["skip_bad_chunks"], **extra})
    ticker = Ticker(options["quiet"])
    say = partial(_say, options["quiet"])
    with when_cut_off(lambda: _kept(folder, ticker, say)):
        if options["cluster"] is not None:
            collector.sums.update(_on_cluster(runner, folder, key, options, ticker))
        else:
            _on_this_machine(runner, collector, folder, key, options, ticker)
    return collector, runner.corpus.name, folder


def _kept(folder: Path, ticker: Any, say: Callable[[str], object]) -> None:
    ticker.end()
    if folder.exists():
        say(f"what is done is kept in {folder.name}; the same command goes on with it")


def _on_this_machine(
    runner: Runner, collector: Collector, folder: Path, key: Mapping[str, Any], options: Mapping[str, Any], ticker: Any
) -> None:
    """One block after the other, the state saved between them."""
    from ..imatrix.state import load_state, save_state

    output_too = options["process_output"]
    say = partial(_say, options["quiet"])
    resumed = not options["restart"] and load_state(folder, runner, collector, key, say)
    if resumed:
        say(f"taken up at layer {runner.layer + 1}, where an earlier run stopped; --restart begins anew")
    runner.embed(keep=not resumed)
    ticker.start(runner)
    every = 1 if runner.activations.spills and options["save_every"] else options["save_every"]
    while runner.layer < runner.n_layers:
        runner.advance(collector, ticker)
        if collector.moments is not None:
            collector.moments.finish(f"{runner.layer:05d}")
        if every and runner.layer % every == 0:
            save_state(folder, runner, collector, key)
    if not options["no_ppl"] or output_too:
        _predict(runner, collector if output_too else None, options, ticker)
    if collector.moments is not None:
        collector.moments.finish("output")
    ticker.end()
    _report_dropped(runner.dropped, runner, options)


def _on_cluster(
    runner: Runner, folder: Path, key: Mapping[str, Any], options: Mapping[str, Any], ticker: Any
) -> dict[str, Sums]:
    """The same by many machines. Gives the sums."""
    import torch

    from ..imatrix.share_chunks import ShareOptions, run_on_pool
    from .library.ray_pool import pool_of

    if options["device"] != "cpu":
        raise PlanError("is for one machine", where="--device", hint="leave it, or --cluster, out")
    if options["restart"]:
        shutil.rmtree(folder, ignore_errors=True)
    wanted = ShareOptions(
        options["process_output"], not options["no_ppl"], options["save_every"], torch.get_num_threads()
    )
    ticker.start(runner)
    with pool_of(options, one_per_machine=True) as pool:
        assert pool is not None
        found = run_on_pool(runner, folder, key, wanted, pool, ticker)
    ticker.end()
    _report_perplexity(found.record, options)
    _report_dropped(found.dropped, runner, options)
    return found.sums


def _report_dropped(dropped: Mapping[int, str], runner: Runner, options: Mapping[str, Any]) -> None:
    for where in dropped.values():
        click.echo(f"left out: {where}", err=True)
    if len(dropped) == runner.corpus.n_chunks:
        raise QuantmillError("every chunk gave NaN or Inf", path=options["model"], hint="the model is damaged")


def _report_perplexity(record: Record, options: Mapping[str, Any]) -> None:
    if not options["quiet"] and record.nll:
        figures = record.report()
        click.echo(f"perplexity {figures['perplexity']:.4f} ± {figures['perplexity_error']:.4f}", err=True)


def _say(quiet: bool, text: str) -> None:
    if not quiet:
        click.echo(text, err=True)


def _predict(runner: Runner, collector: Collector | None, options: Mapping[str, Any], ticker: Any) -> None:
    from ..imatrix.evaluate import Record

    record = Record()
    chunks = runner.corpus.n_chunks - len(runner.dropped)
    for done, (_, logits, wanted) in enumerate(runner.logits(collector), 1):
        if options["no_ppl"]:
            ticker(StepDone("output", done, chunks))
        else:
            record.add(logits, wanted)
            ticker(StepDone(f"perplexity {record.perplexity():.4f}", done, chunks))
    ticker.end()
    _report_perplexity(record, options)


def _preflight(runner: Runner, level: str) -> None:
    """Which tensors the level needs importance for, and whether this run gives it."""
    from ..quantize.estimate.levels import uniform_importance
    from ..quantize.plan import PlanOptions, make_plan
    from ..quantize.recipes import REFUSES_WITHOUT, find_recipe

    model = runner.weights.model
    recipe = find_recipe(level)
    plan = make_plan(model, recipe.level, PlanOptions(importance=uniform_importance(model)))
    needed = recipe.needs_importance | REFUSES_WITHOUT
    need = [step for step in plan.steps if step.type.name in needed]
    use = [step for step in plan.steps if step.uses_importance]
    collected = {
        name
        for layer, module in enumerate(runner.skeleton.layers)
        for weight in runner.weights.recorded_weights(layer, module).values()
        for name in weight.names
    }
    click.echo(
        f"{recipe.level}: {len(need)} tensors need importance, {len(use) - len(need)} more profit from it", err=True
    )
    lacking = [step for step in need if step.tensor.name not in collected]
    if lacking:
        names = ", ".join(f"{step.tensor.name} ({step.type})" for step in lacking[:_NAMED])
        more = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
        click.echo(f"  not collected unless --process-output asks for it: {names}{more}", err=True)


def _report_thin(thin: Mapping[str, list[tuple[int, int]]], prior: bool) -> None:
    """Experts that saw few tokens, and what becomes of them."""
    what = f"the layer's mean stands in for what is missing of {_PRIOR_TOKENS}" if prior else "used as they are"
    click.echo(f"experts with fewer than {_PRIOR_TOKENS} tokens ({what}):", err=True)
    for name, experts in thin.items():
        listed = ", ".join(f"{expert}: {count}" for expert, count in experts[:_NAMED])
        more = f" and {len(experts) - _NAMED} more" if len(experts) > _NAMED else ""
        click.echo(f"  {name}: {listed}{more}", err=True)


def _show_statistics(in_files: list[Path], n_ctx: int | None, as_json: bool) -> None:
    from ..imatrix.matrix import read_parts
    from ..imatrix.stats import by_layer, statistics

    if len(in_files) != 1:
        raise click.UsageError("--show-statistics wants one --in-file")
    sums, _, _ = read_parts(in_files, n_ctx)
    rows = statistics(sums)
    if as_json:
        layers = [
            {"layer": layer, "total": total, "high": high, "similarity": similarity}
            for layer, (total, high, similarity) in by_layer(rows).items()
        ]
        click.echo(json.dumps({"file": str(in_files[0]), "tensors": [vars(row) for row in rows], "layers": layers}))
        return
    heads = ("sum(act²)", "min", "max", "mean", "dev", "active", "n", "entropy", "E(norm)", "ZD", "cossim")
    click.echo(f"{'layer':>5} {'tensor':<16}" + "".join(f"{head:>13}" for head in heads))
    for row in rows:
        norm = row.entropy / log2(row.n) if row.n > 1 else 0.0
        numbers = (row.total, row.smallest, row.largest, row.mean, row.deviation)
        cells = [f"{number:.4f}" for number in numbers] + [f"{row.active:.2%}", str(row.n), f"{row.entropy:.4f}"]
        cells += [f"{norm:.2%}", f"{row.high:.2%}", f"{row.similarity:.4f}"]
        layer = "-" if row.layer is None else row.layer
        click.echo(f"{layer:>5} {row.tensor:<16}" + "".join(f"{cell:>13}" for cell in cells))
    click.echo(f"\n{'layer':>5}{'sum(act²)':>14}{'ZD':>10}{'cossim':>9}")
    for layer, (total, high, similarity) in by_layer(rows).items():
        click.echo(f"{layer:>5}{total:>14.2f}{high:>10.4%}{similarity:>9.4f}")
