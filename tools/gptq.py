"""``quantmill gptq``: a checkpoint's linear layers by GPTQ, in the folder that transformers loads."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..formats.errors import PlanError

if TYPE_CHECKING:
    from ..imatrix.runner import Runner
    from ..quantize.gptq import Settings

_CONTEXT = 2048  # tokens in a chunk, as the field has it


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", metavar="MODEL_DIR", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUT_DIR", type=click.Path(path_type=Path))
@click.option("--bits", type=int, default=4, show_default=True, help="Of a weight: 2, 3, 4 or 8.")
@click.option("--group-size", type=int, default=128, show_default=True, help="Weights that share a scale; -1: a row.")
@click.option(
    "--desc-act/--no-desc-act", help="Groups of inputs of like activation: better, slower to run.  [default: no]"
)
@click.option("--static-groups", is_flag=True, help="Scales from the original weights, whatever the order.")
@click.option("--sym/--asym", default=True, show_default=True, help="Zero in the middle of the codes, or anywhere.")
@click.option("--damp", type=float, default=0.01, show_default=True, help="Of the Hessian, in its diagonal's mean.")
@click.option(
    "-f", "--file", "text", type=click.Path(path_type=Path), help="The text. Default: one that ships with us."
)
@click.option(
    "-c", "--ctx-size", "n_ctx", type=click.IntRange(min=2), help="Tokens in a chunk.  [default: 2048, or the model's]"
)
@click.option("--chunks", type=click.IntRange(min=-1), default=-1, help="At most so many; -1, the default, for all.")
@click.option("--from-chunk", type=click.IntRange(min=0), default=0, help="The first chunk to use.")
@click.option("-b", "--batch", type=click.IntRange(min=0), default=0, help="Chunks at a time; 0 chooses.")
@click.option("--parse-special", is_flag=True, help="Control tokens in the text are meant, not their letters.")
@click.option(
    "--checkpoint-format", type=click.Choice(["gptq", "gptq_v2"]), default="gptq", show_default=True,
    help="How zero points are stored: less one, or as they are.",
)  # fmt: skip
@click.option("--max-shard-size", type=float, default=5.0, show_default=True, metavar="GB", help="Of the output.")
@click.option("--save-every", type=click.IntRange(min=0), default=4, show_default=True, help="Layers; 0 for never.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: one for each CPU.")
@click.option("--force", is_flag=True, help="Replace OUT_DIR if it holds a checkpoint.")
@click.option("--quiet", is_flag=True, help="No progress and no reports.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary, with every layer's loss, as JSON.")
def command(model: Path, output: Path, **options: Any) -> None:
    """Quantize the linear layers of MODEL_DIR by GPTQ, with what a text makes of their inputs.

    One decoder layer is in memory at a time. A run that was interrupted goes on where it was when it is started again.

    \b
    Example: quantmill gptq Llama-2-13b Llama-2-13b-GPTQ --bits 4 --group-size 128 -f calibration.txt
             quantmill gptq Llama-2-13b Llama-2-13b-GPTQ-8bit --bits 8 --group-size 32 --desc-act
    """
    from ..formats.hf.packed.save import check_unquantized
    from ..formats.output import atomic_folder
    from ..quantize.gptq import Settings

    settings = Settings(
        **{name: options[name] for name in ("bits", "group_size", "desc_act", "static_groups", "sym", "damp")}
    )
    settings.check()
    check_unquantized(model)
    with atomic_folder(output, force=options["force"], inputs=[model]) as folder:
        summary = _run(model, output, folder, settings, options)
    _forget(output)
    seconds = summary["seconds"]
    if options["as_json"]:
        click.echo(json.dumps(summary))
    elif not options["quiet"]:
        from ..formats.output import human_bytes

        click.echo(
            f"{output}: {len(summary['linears'])} linears, {human_bytes(summary['bytes'])}, {seconds:.1f} s", err=True
        )


def _run(model: Path, output: Path, folder: Path, settings: Settings, options: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    from ..formats.hf.packed.save import write_packed
    from ..imatrix.layerstate import LayerState
    from ..imatrix.layerwise import walk_block
    from ..imatrix.state import identity, state_folder
    from .running import Ticker, open_text, open_weights, start_run

    start = time.monotonic()
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    weights = open_weights(model)
    n_ctx = options["n_ctx"] or min(_CONTEXT, int(weights.config.get("max_position_embeddings") or _CONTEXT))
    corpus = open_text(weights, options["text"], n_ctx, options)
    work = state_folder(output)
    runner = start_run(weights, corpus, work, options)
    short = _check_all(runner, settings)
    state = LayerState(work, identity(runner, model, {**vars(settings), "format": options["checkpoint_format"]}))
    resumed = state.resume(runner)
    say = _say(options["quiet"])
    if short:
        widths = ", ".join(short)
        say(f"the last group of {widths} inputs is smaller than {settings.group_size}; not all programs run that")
    if resumed:
        say(f"taken up at layer {runner.layer + 1}")
    runner.embed(keep=not resumed)
    ticker = Ticker(options["quiet"])
    ticker.start(runner)
    every = 1 if runner.hidden.spills and options["save_every"] else options["save_every"]
    while runner.layer < runner.n_layers:
        began = time.monotonic()
        visitor = _Quantizer(settings, options["checkpoint_format"] == "gptq", torch.get_num_threads())
        walk_block(runner, visitor, ticker)
        save = bool(every) and runner.layer % every == 0
        state.add(runner, visitor.arrays, visitor.report, save)
        ticker.end()
        say(f"layer {runner.layer}/{runner.n_layers}: {_losses(visitor.report)}; {time.monotonic() - began:.1f} s")
        for line in visitor.remarks:
            say(f"  {line}")
    files = [state.file(layer) for layer in range(runner.n_layers)]
    config = _config(settings, options["checkpoint_format"])
    write_packed(model, folder, files, config, max_shard_bytes=options["max_shard_size"] * 1e9)
    return {
        "model": str(model),
        "output": str(output),
        **vars(settings),
        "checkpoint_format": options["checkpoint_format"],
        "text": corpus.name,
        "chunks": corpus.n_chunks,
        "ctx_size": corpus.n_ctx,
        "seconds": time.monotonic() - start,
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "linears": [row for entry in state.entries for row in entry["report"]],
    }


def _check_all(runner: Runner, settings: Settings) -> list[str]:
    """Before any weight is read: can every linear be written so? Gives the widths no multiple of the group size."""
    from ..formats.hf.weights import read_weights
    from ..imatrix.layerwise import block_linears

    path = runner.weights.model.path
    names = read_weights(path)
    found: set[int] = set()
    for layer, module in enumerate(runner.skeleton.layers):
        for experts in block_linears(runner.weights, layer, module).values():
            for linear in (one for expert in experts for one in expert):
                settings.check_shape(linear.name, *linear.weight.shape)
                if f"{linear.name}.weight" not in names:
                    raise PlanError("the checkpoint has it under another name", path=path, where=linear.name)
                found.add(linear.weight.shape[1])
    if not found:
        raise PlanError("no linear layers found", path=path)
    return [str(width) for width in sorted(found) if settings.group_size > 0 and width % settings.group_size]


class _Quantizer:
    """A ``layerwise.Visitor``: one block's linears, each replaced by what a reader will make of it."""

    def __init__(self, settings: Settings, less_one: bool, threads: int) -> None:
        self.settings, self.less_one, self.threads = settings, less_one, threads
        self.hessians: dict[Any, Any] = {}
        self.arrays: dict[str, Any] = {}
        self.report: list[dict[str, Any]] = []
        self.remarks: list[str] = []

    def see(self, group: Any, x: Any) -> None:
        from ..quantize.gptq import Hessian

        if group not in self.hessians:
            self.hessians[group] = Hessian(group.width)
        self.hessians[group].add(x)

    def replace(self, layer: int, module: Any, stage: Any) -> None:
        import torch

        from ..formats.hf.packed.gptq import pack_columns, pack_rows
        from ..quantize.gptq import factorize, quantize, round_to_nearest

        bits = self.settings.bits
        for group in stage:
            hessian = self.hessians.pop(group, None)
            factor = None if hessian is None else factorize(hessian, self.settings, group.name)
            self._remark(group, factor)
            for linear in group.linears:
                if factor is None:
                    result = round_to_nearest(linear.weight, self.settings, linear.name)
                else:
                    result = quantize(linear.weight, factor, self.settings, self.threads, linear.name)
                linear.weight.copy_(torch.from_numpy(result.weight()))
                self.arrays |= {
                    f"{linear.name}.qweight": pack_rows(result.codes, bits),
                    f"{linear.name}.qzeros": pack_columns(result.zeros - self.less_one, bits),
                    f"{linear.name}.scales": result.scales,
                    f"{linear.name}.g_idx": result.g_idx,
                }
                self.report.append({
                    "name": linear.name, "role": linear.role.value, "tokens": hessian.tokens if hessian else 0,
                    "loss": result.loss, "relative": result.relative, "damp": result.damp,
                })  # fmt: skip

    def _remark(self, group: Any, factor: Any) -> None:
        if factor is None:
            self.remarks.append(f"{group.name}: saw no tokens, rounded to nearest")
            return
        if factor.damp > self.settings.damp:
            self.remarks.append(f"{group.name}: its inputs depend on each other, damping raised to {factor.damp:g}")
        if factor.dead:
            self.remarks.append(f"{group.name}: {factor.dead} inputs are always zero, rounded to nearest")


def _losses(report: list[dict[str, Any]]) -> str:
    """Each role's relative error, the mean over its experts that saw tokens."""
    by_role: dict[str, list[float]] = {}
    for row in report:
        if row["tokens"]:
            by_role.setdefault(row["role"].removesuffix("_exps"), []).append(row["relative"])
    return "error " + ", ".join(f"{role} {sum(all_) / len(all_):.2%}" for role, all_ in by_role.items())


def _config(settings: Settings, checkpoint_format: str) -> dict[str, Any]:
    from .. import __version__

    return {
        "quant_method": "gptq",
        "bits": settings.bits,
        "group_size": settings.group_size,
        "desc_act": settings.desc_act,
        "static_groups": settings.static_groups,
        "sym": settings.sym,
        "damp_percent": settings.damp,
        "true_sequential": True,
        "lm_head": False,
        "checkpoint_format": checkpoint_format,
        "pack_dtype": "int32",
        "meta": {"quantizer": [f"quantmill:{__version__}"]},
    }


def _say(quiet: bool) -> Any:
    return (lambda line: None) if quiet else (lambda line: click.echo(line, err=True))


def _forget(output: Path) -> None:
    """The output is there; the state is not needed."""
    from ..imatrix.state import remove_state, state_folder

    remove_state(state_folder(output))
