"""A checkpoint quantized block by block, while a text runs through it: what ``gptq`` and ``awq`` share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from ...formats.errors import PlanError
from ...formats.ir import Role, Tensor
from ...formats.progress import Progress, WorkEnded, emit, note, notes
from ...quantize.linears import Linear, LinearGroup, LinearReport
from .hub import local_path
from .options import StrPath
from .running import RunOptions, on_device, open_sample, open_weights, start_run

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from ...formats.storage.folder import GrowingFolder
    from ...imatrix.run_state import RunState
    from ...imatrix.runner import Runner
    from ...imatrix.skeleton import Skeleton
    from ...imatrix.weights import Weights

Report = TypeVar("Report", bound=LinearReport)
Report_co = TypeVar("Report_co", bound=LinearReport, covariant=True)

_STAGE_BYTES = 2 << 30  # of float32 [width, width] per group of a stage


@dataclass(frozen=True)
class CheckpointOptions:
    """How a quantized checkpoint is made and written.

    Args:
        max_shard_bytes: the most that one of its files may take.
        save_every: blocks between two savings of the activations, from where an interrupted run is resumed; 0 for
            never.
        threads: how many to use; None for torch's own choice.
        force: replace the output if it holds a checkpoint.

    Example:
        >>> from quantmill import CheckpointOptions
        >>> CheckpointOptions(max_shard_bytes=2e9).save_every
        4
    """

    max_shard_bytes: float = 5e9
    save_every: int = 4
    threads: int | None = None
    force: bool = False


DEFAULT_CHECKPOINT = CheckpointOptions()


@dataclass(frozen=True)
class QuantizedCheckpoint(Generic[Report]):
    """A checkpoint that was quantized, and how well.

    Args:
        output: its folder.
        text: the name of the text.
        n_chunks: chunks of the text.
        n_ctx: tokens in each.
        nbytes: of all its files.
        seconds: the time taken; of the last run, where an interrupted one was resumed.
        linears: a report of each linear layer, in the model's order.

    Example:
        >>> from pathlib import Path
        >>> from quantmill import QuantizedCheckpoint
        >>> done = QuantizedCheckpoint(Path("model-GPTQ"), "text.txt", 20, 512, nbytes=10**9, seconds=60.0, linears=())
        >>> done.output.name
        'model-GPTQ'
    """

    output: Path
    text: str
    n_chunks: int
    n_ctx: int
    nbytes: int
    seconds: float
    linears: tuple[Report, ...]


class BlockQuantizer(Protocol[Report_co]):
    """Quantizes one block: a ``layerwise.Visitor``, with what it made."""

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Tensors for the checkpoint, by their names there."""

    @property
    def reports(self) -> Sequence[Report_co]:
        """One for each linear layer."""

    @property
    def remarks(self) -> Sequence[str]:
        """What a person should know, in lines."""

    def see(self, group: LinearGroup, x: torch.Tensor) -> None: ...

    def replace(self, layer: int, module: torch.nn.Module, stage: Sequence[LinearGroup]) -> None: ...


@dataclass(frozen=True)
class BlockMethod(Generic[Report]):
    """A way to quantize a checkpoint block by block.

    Args:
        settings: everything that decides the result, for the state of an interrupted run.
        check: raises if a linear layer of a block, a module, cannot be written.
        quantizer: gives the quantizer of the runner's next block.
        report: the type of its reports.
        quantization_config: gives that of config.json, from the names of modules that stay as they are.
        config_file: the second file that holds it, if there is one.
        sequential: see ``walk_block``.
        stage_bytes: likewise.
        remark: gives what a person should know once every layer was checked, or None.
    """

    settings: Mapping[str, str | int | float | bool]
    check: Callable[[torch.nn.Module, Linear], None]
    quantizer: Callable[[Runner], BlockQuantizer[Report]]
    report: type[Report]
    quantization_config: Callable[[Sequence[str]], Mapping[str, Any]]
    config_file: str | None
    sequential: bool = True
    stage_bytes: int = _STAGE_BYTES
    remark: Callable[[], str | None] = lambda: None


def quantize_checkpoint(
    model: StrPath,
    output: StrPath,
    method: Callable[[Callable[[str], str]], BlockMethod[Report]],
    text: StrPath | None,
    run: RunOptions,
    options: CheckpointOptions,
    progress: Progress | None,
) -> QuantizedCheckpoint[Report]:
    """Read a checkpoint, quantize it block by block, and write it.

    Args:
        model: the checkpoint's folder.
        output: the folder to make.
        method: called once the checkpoint proved to be one that can be quantized, with a function that gives a
            tensor's type there, such as ``BF16``, by its name.
        text, run, progress: see ``gptq``.

    Raises:
        See ``gptq``.
    """
    from ...formats.hf.packed.save import check_unquantized
    from ...formats.storage.folder import resumable_folder
    from ...formats.storage.interrupts import when_cut_off
    from ...imatrix.run_state import finished_blocks, remove_state, state_folder

    start = time.monotonic()
    if (run.dtype, run.skip_bad_chunks) != ("f32", False):
        raise PlanError("GPTQ and AWQ compute every chunk in float32", hint="leave the other options out")
    source, target = local_path(model, progress=progress), Path(output)
    check_unquantized(source)
    state = state_folder(target)

    def cut_off() -> None:
        if finished_blocks(state):
            note(progress, f"what is done is kept in {state.name}; the same command goes on with it")

    with (
        on_device(run, progress) as on,
        resumable_folder(target, force=options.force, inputs=[source]) as folder,
        when_cut_off(cut_off),
    ):
        how, chosen = method(_stored_dtype(source)), None if text is None else Path(text)
        made = _quantize(source, folder, how, chosen, on, options, progress)
    remove_state(state)
    emit(progress, WorkEnded())
    return replace(made, seconds=time.monotonic() - start)


def _quantize(
    model: Path, folder: GrowingFolder, method: BlockMethod[Report], text: Path | None, run: RunOptions,
    options: CheckpointOptions, progress: Progress | None,
) -> QuantizedCheckpoint[Report]:  # fmt: skip
    import torch

    from ...formats.hf.packed.save import write_packed
    from ...imatrix.run_state import RunState, run_key, state_folder

    if options.threads:
        torch.set_num_threads(options.threads)
    weights = open_weights(model, progress)
    corpus = open_sample(weights, text, run, progress)
    work = state_folder(folder.target)
    runner = start_run(weights, corpus, work, run)
    replaced = _check_all(weights, runner.skeleton, method)
    state = RunState(work, run_key(runner, model, method.settings))
    _walk(runner, state, method, options.save_every, progress)
    files = [state.file(layer) for layer in range(runner.n_layers)]
    config = method.quantization_config(_left(runner, replaced))
    write_packed(
        model, folder, files, config, replaced=replaced, beside=method.config_file,
        max_shard_bytes=options.max_shard_bytes,
    )  # fmt: skip
    return QuantizedCheckpoint(
        output=folder.target,
        text=corpus.name,
        n_chunks=corpus.n_chunks,
        n_ctx=corpus.n_ctx,
        nbytes=sum(path.stat().st_size for path in folder.path.iterdir()),
        seconds=0.0,
        linears=tuple(method.report(**row) for entry in state.entries for row in entry["report"]),
    )


def _walk(
    runner: Runner, state: RunState, method: BlockMethod[Report], save_every: int, progress: Progress | None
) -> None:
    """Every block that an earlier run has not finished."""
    from ...imatrix.layerwise import walk_block

    resumed = state.resume(runner, notes(progress))
    if remark := method.remark():
        note(progress, remark)
    if resumed:
        note(progress, f"going on at layer {runner.layer + 1}, where an earlier run stopped")
    runner.embed(keep=not resumed)
    emit(progress, runner.started())
    every = 1 if runner.activations.spills and save_every else save_every
    while runner.layer < runner.n_layers:
        began = time.monotonic()
        quantizer = method.quantizer(runner)
        walk_block(runner, quantizer, progress, sequential=method.sequential, stage_bytes=method.stage_bytes)
        save = bool(every) and runner.layer % every == 0
        state.add(runner, quantizer.arrays, [asdict(report) for report in quantizer.reports], save)
        took = time.monotonic() - began
        note(progress, f"layer {runner.layer}/{runner.n_layers}: {_mean_errors(quantizer.reports)}; {took:.1f} s")
        for line in quantizer.remarks:
            note(progress, f"  {line}")


def check_blocks(model: Path, method: Callable[[Callable[[str], str]], BlockMethod[Report]]) -> None:
    """Check that a checkpoint can be quantized block by block: what ``quantize_checkpoint`` checks first.

    Args:
        model: the checkpoint's folder.
        method: see ``quantize_checkpoint``.

    Raises:
        PlanError: a layer cannot be written. FormatError: the checkpoint is quantized already.
    """
    from ...formats.hf.packed.save import check_unquantized
    from ...imatrix.runner import DTYPES
    from ...imatrix.skeleton import Skeleton

    check_unquantized(model)
    weights = open_weights(model)
    _check_all(weights, Skeleton(weights, DTYPES["f32"], "cpu"), method(_stored_dtype(model)))


def _check_all(weights: Weights, skeleton: Skeleton, method: BlockMethod[Report]) -> dict[str, list[str]]:
    """Check before any weight is read that every linear layer can be written.

    Returns:
        the modules that are written in place of each of the checkpoint's tensors, in the model's order.
    """
    from ...formats.hf.files.weights import read_weights
    from ...imatrix.block_linears import block_linears

    path = weights.model.path
    names = read_weights(path)
    found: dict[str, list[str]] = {}
    for layer, module in enumerate(skeleton.layers):
        for experts in block_linears(weights, layer, module).values():
            for linear in (one for expert in experts for one in expert):
                method.check(module, linear)
                if linear.stored not in names:
                    problem, hint = "the checkpoint has it under another name", "load it with transformers and save it"
                    raise PlanError(problem, path=path, where=linear.name, hint=hint)
                found.setdefault(linear.stored, []).append(linear.name)
    if not found:
        raise PlanError("no linear layers found", path=path)
    return found


def _left(runner: Runner, replaced: Mapping[str, Sequence[str]]) -> list[str]:
    """The names of modules with a matrix that stays as it is, other than the embedding."""
    from ...formats.hf.files.weights import read_weights

    weights = runner.weights
    slots = weights.arch.slots(weights.config)
    embedded = {name for slot in slots if slot.rule.role is Role.TOKEN_EMBD for name in slot.sources}
    names = [
        name.removesuffix(".weight")
        for name, stored in read_weights(weights.model.path).items()
        if name.endswith(".weight") and len(stored.shape) > 1 and name not in replaced and name not in embedded
    ]
    return names if "lm_head" in names else [*names, "lm_head"]  # which may be tied, and is a module all the same


def _stored_dtype(model: Path) -> Callable[[str], str]:
    """A function that gives a tensor's type in the checkpoint by its name, such as ``BF16``."""
    from ...formats.hf.files.weights import read_weights

    stored = read_weights(model)

    @cache
    def stored_dtype(name: str) -> str:
        found = stored[name]
        return (found if isinstance(found, Tensor) else found.tensor()).qtype.name

    return stored_dtype


def _mean_errors(reports: Sequence[LinearReport]) -> str:
    """Each role's relative error: the mean over its experts that saw enough tokens."""
    by_role: dict[str, list[float]] = {}
    for report in reports:
        if report.by_text:
            by_role.setdefault(report.role.removesuffix("_exps"), []).append(report.relative)
    return "error " + ", ".join(f"{role} {sum(all_) / len(all_):.2%}" for role, all_ in by_role.items())
