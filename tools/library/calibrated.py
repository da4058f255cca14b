"""What ``gptq`` and ``awq`` share: their options, and the walk of a text through a checkpoint's blocks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from ...formats.errors import PlanError

if TYPE_CHECKING:
    import torch

    from ...formats.storage.folder import GrowingFolder
    from ...imatrix.layerwise import Linear
    from ...imatrix.runner import Runner

F = TypeVar("F", bound=Callable[..., Any])

_CONTEXT = 2048  # tokens in a chunk, as the field has it

_OPTIONS = (
    click.option(
        "-f", "--file", "text", type=click.Path(path_type=Path), help="The text. Default: one that ships with us."
    ),
    click.option(
        "-c", "--ctx-size", "n_ctx", type=click.IntRange(min=2),
        help="Tokens in a chunk.  [default: 2048, or the model's]",
    ),
    click.option("--chunks", type=click.IntRange(min=-1), default=-1, help="At most so many; -1 (default): all."),
    click.option("--from-chunk", type=click.IntRange(min=0), default=0, help="The first chunk to use."),
    click.option("-b", "--batch", type=click.IntRange(min=0), default=0, help="Chunks at a time; 0 chooses."),
    click.option("--parse-special", is_flag=True, help="Control tokens in the text are meant, not their letters."),
    click.option(
        "--max-shard-size", type=float, default=5.0, show_default=True, metavar="GB", help="Of the output."
    ),
    click.option("--save-every", type=click.IntRange(min=0), default=4, show_default=True, help="Layers; 0 for never."),
    click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: one for each CPU."),
    click.option("--force", is_flag=True, help="Replace OUT_DIR if it holds a checkpoint."),
    click.option("--quiet", is_flag=True, help="No progress and no reports."),
    click.option("--json", "as_json", is_flag=True, help="Print the summary, with every layer's loss, as JSON."),
)  # fmt: skip


def calibration_options(command: F) -> F:
    """The text, how it is cut, and where the result goes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


class BlockVisitor(Protocol):
    """A ``layerwise.Visitor`` with what it made of a block."""

    arrays: dict[str, Any]
    report: list[dict[str, Any]]
    remarks: list[str]


@dataclass(frozen=True)
class Method:
    """A way to quantize block by block.

    Args:
        settings: everything that decides the result; keys of the summary too.
        check: raises if a linear of the block, a module, cannot be written.
        visitor: for the runner's next block.
        quantization_config: for config.json.
        beside: the second file that holds it.
        losses: a block's report in a line.
        walk: further arguments of ``walk_block``.
        remark: what is to be said once every linear was checked, if anything.
    """

    settings: Mapping[str, Any]
    check: Callable[[torch.nn.Module, Linear], None]
    visitor: Callable[[Runner], Any]
    quantization_config: Mapping[str, Any]
    beside: str
    losses: Callable[[list[dict[str, Any]]], str]
    walk: Mapping[str, Any] = field(default_factory=dict)
    remark: Callable[[], str | None] = lambda: None


def quantize_checkpoint(model: Path, output: Path, method: Callable[[], Method], options: Mapping[str, Any]) -> None:
    """Read, walk, write, report: all of a command after its own arguments were checked.

    Args:
        model: the checkpoint's folder.
        output: the folder to make.
        method: called once the checkpoint proved to be one that can be quantized.
        options: what ``calibration_options`` collected.
    """
    from ...formats.hf.packed.save import check_unquantized
    from ...formats.storage.folder import resumable_folder
    from ...formats.storage.interrupts import when_cut_off
    from ...formats.storage.output import human_bytes
    from ...imatrix.layerstate import has_blocks
    from ...imatrix.state import remove_state, state_folder

    check_unquantized(model)
    state = state_folder(output)

    def cut_off() -> None:
        if has_blocks(state) and not options["quiet"]:
            click.echo(f"what is done is kept in {state.name}; the same command goes on with it", err=True)

    with resumable_folder(output, force=options["force"], inputs=[model]) as folder, when_cut_off(cut_off):
        summary = _run(model, output, folder, method(), options)
    remove_state(state)
    if options["as_json"]:
        click.echo(json.dumps(summary))
    elif not options["quiet"]:
        size, seconds = human_bytes(summary["bytes"]), summary["seconds"]
        click.echo(f"{output}: {len(summary['linears'])} linears, {size}, {seconds:.1f} s", err=True)


def _run(
    model: Path, output: Path, folder: GrowingFolder, method: Method, options: Mapping[str, Any]
) -> dict[str, Any]:
    import torch

    from ...formats.hf.packed.save import write_packed
    from ...imatrix.layerstate import LayerState
    from ...imatrix.state import run_key, state_folder
    from .running import RunOptions, open_text, open_weights, start_run

    start = time.monotonic()
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    weights = open_weights(model)
    n_ctx = options["n_ctx"] or min(_CONTEXT, int(weights.config.get("max_position_embeddings") or _CONTEXT))
    run = RunOptions(
        n_ctx=n_ctx, chunks=options["chunks"], first_chunk=options["from_chunk"], batch=options["batch"],
        parse_special=options["parse_special"],
    )  # fmt: skip
    corpus = open_text(weights, options["text"], run)
    work = state_folder(output)
    runner = start_run(weights, corpus, work, run)
    _check_all(runner, method)
    state = LayerState(work, run_key(runner, model, dict(method.settings)))
    _walk(runner, state, method, options)
    files = [state.file(layer) for layer in range(runner.n_layers)]
    write_packed(
        model, folder, files, method.quantization_config, beside=method.beside,
        max_shard_bytes=options["max_shard_size"] * 1e9,
    )  # fmt: skip
    return {
        "model": str(model),
        "output": str(output),
        **method.settings,
        "text": corpus.name,
        "chunks": corpus.n_chunks,
        "ctx_size": corpus.n_ctx,
        "seconds": time.monotonic() - start,
        "bytes": sum(path.stat().st_size for path in folder.path.iterdir()),
        "linears": [row for entry in state.entries for row in entry["report"]],
    }


def _walk(runner: Runner, state: Any, method: Method, options: Mapping[str, Any]) -> None:
    from ...imatrix.layerwise import walk_block
    from ..terminal.progress import ProgressDisplay

    resumed = state.resume(runner)

    def say(line: str) -> None:
        if not options["quiet"]:
            click.echo(line, err=True)

    if remark := method.remark():
        say(remark)
    if resumed:
        say(f"taken up at layer {runner.layer + 1}")
    runner.embed(keep=not resumed)
    display = ProgressDisplay(quiet=options["quiet"])
    display(runner.started())
    every = 1 if runner.activations.spills and options["save_every"] else options["save_every"]
    while runner.layer < runner.n_layers:
        began = time.monotonic()
        visitor = method.visitor(runner)
        walk_block(runner, visitor, display, **method.walk)
        save = bool(every) and runner.layer % every == 0
        state.add(runner, visitor.arrays, visitor.report, save)
        display.close()
        took = time.monotonic() - began
        say(f"layer {runner.layer}/{runner.n_layers}: {method.losses(visitor.report)}; {took:.1f} s")
        for line in visitor.remarks:
            say(f"  {line}")


def _check_all(runner: Runner, method: Method) -> None:
    """Before any weight is read: can every linear be written so?"""
    from ...formats.hf.weights import read_weights
    from ...imatrix.layerwise import block_linears

    path = runner.weights.model.path
    names = read_weights(path)
    found = 0
    for layer, module in enumerate(runner.skeleton.layers):
        for experts in block_linears(runner.weights, layer, module).values():
            for linear in (one for expert in experts for one in expert):
                method.check(module, linear)
                if f"{linear.name}.weight" not in names:
                    raise PlanError("the checkpoint has it under another name", path=path, where=linear.name)
                found += 1
    if not found:
        raise PlanError("no linear layers found", path=path)


def mean_errors(report: list[dict[str, Any]]) -> str:
    """Each role's relative error, the mean over its experts that saw tokens."""
    by_role: dict[str, list[float]] = {}
    for row in report:
        if row["tokens"]:
            by_role.setdefault(row["role"].removesuffix("_exps"), []).append(row["relative"])
    return "error " + ", ".join(f"{role} {sum(all_) / len(all_):.2%}" for role, all_ in by_role.items())
