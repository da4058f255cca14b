"""``compress``: a checkpoint in a scheme of compressed-tensors, which vLLM and transformers load."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...formats.errors import PlanError
from ...formats.progress import Progress, RowsDone, WorkEnded, WorkStarted, emit, note, notes
from .blockwise import DEFAULT_CHECKPOINT, CheckpointOptions
from .options import StrPath
from .running import DEFAULT_RUN, RunOptions

if TYPE_CHECKING:
    from ...formats.hf.files.weights import Stored
    from ...formats.hf.packed.schemes import Scheme
    from ...formats.ir import Tensor
    from ...quantize.compress.layer import Observer, Source
    from ...quantize.compress.select import Selection

_TRANSPOSED = ("gpt2", "openai-gpt")  # their layers are Conv1D, with inputs in rows: no loader has them compressed


@dataclass(frozen=True)
class CompressedCheckpoint:
    """A checkpoint that was compressed.

    Args:
        output: its folder.
        scheme: what its layers are stored in.
        layers: names of the modules that were quantized.
        left: names of those that could have been and were not.
        nbytes: of all its files.
        seconds: the time taken.

    Example:
        >>> from pathlib import Path
        >>> from quantmill import CompressedCheckpoint
        >>> done = CompressedCheckpoint(Path("out"), "fp8", ("model.layers.0.mlp.up_proj",), ("lm_head",), 10**6, 1.0)
        >>> done.left
        ('lm_head',)
    """

    output: Path
    scheme: str
    layers: tuple[str, ...]
    left: tuple[str, ...]
    nbytes: int
    seconds: float


def compress(
    model: StrPath,
    output: StrPath,
    *,
    scheme: str = "fp8",
    group_size: int | None = None,
    observer: Observer = "minmax",
    ignore: Sequence[str] = (),
    text: StrPath | None = None,
    run: RunOptions = DEFAULT_RUN,
    checkpoint: CheckpointOptions = DEFAULT_CHECKPOINT,
    progress: Progress | None = None,
) -> CompressedCheckpoint:
    """Round the linear layers of a checkpoint to a scheme of compressed-tensors, and write the folder.

    Weights are rounded to nearest, with scales from their least and greatest, as llm-compressor does by default, and to
    the same bytes; with ``observer="mse"`` to nearly those of its own search. They are read, rounded and written a few
    megabytes at a time. A run that is interrupted is resumed by the same call. Only ``nvfp4`` runs a text, for the
    scales of activations.

    Args:
        model: a Hugging Face folder with float weights.
        output: the folder to make.
        scheme: one of ``formats.hf.packed.schemes.SCHEMES``: fp8, fp8-tensor, fp8-block, w8a8, w4a16, w4a16-asym,
            w8a16, nvfp4, nvfp4a16, mxfp4, mxfp4a16.
        group_size: of w4a16, w4a16-asym and w8a16: 32, 64, 128 (where None), or -1 for a row.
        observer: what finds the range of weights that share a scale: their least and greatest, or with ``mse`` a range
            up to a fifth smaller with less error, which takes some times as long.
        ignore: names of modules to leave as they are, or ``re:`` and a regular expression, beside the head, routers,
            towers and layers for further tokens.
        text, run: see ``gptq``; for ``nvfp4`` only.
        checkpoint: the output's shards, how often the state of a run of a text is saved, threads.
        progress: told of what is written, of each batch of a text, and of what a person should know.

    Returns:
        what was quantized and what was left, and the output's size.

    Raises:
        PlanError: the request cannot be carried out. FormatError: the checkpoint is quantized already, or a weight is
            NaN or infinite. OutputError: the output exists or cannot be written. QuantmillError: there is no such
            scheme, or the text is too short.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import compress, write_hf
        >>> from quantmill.formats.examples import tiny_llama
        >>> with TemporaryDirectory() as folder:
        ...     model = Path(folder, "model")
        ...     model.mkdir()
        ...     write_hf(tiny_llama(), model)
        ...     made = compress(model, Path(folder, "out"), scheme="w8a8")
        >>> made.layers[0], made.left
        ('model.layers.0.mlp.down_proj', ('lm_head',))
    """
    from ...formats.hf.packed.schemes import scheme as named
    from ...imatrix.run_state import remove_state, state_folder

    start = time.monotonic()
    found = named(scheme, group_size)
    source, target = Path(model), Path(output)
    config = _check_source(source)
    from ...formats.hf.files.weights import read_weights

    weights = read_weights(source, notes(progress))
    selection = _selected(source, weights, found, ignore, progress)
    calibrated = found.inputs is not None and found.inputs.dynamic == "local"
    if observer == "mse" and found.weights.strategy == "tensor":
        raise PlanError(f"--observer mse searches ranges of rows, groups and blocks; {scheme} has one of the tensor")
    if text is not None and not calibrated:
        raise PlanError(f"{scheme} needs no text", hint="leave it out")
    inputs = None
    if calibrated:
        from .input_ranges import input_ranges, with_neighbours

        seen = input_ranges(source, target, None if text is None else Path(text), run, checkpoint.save_every, progress)
        inputs = with_neighbours(seen, [cut.module for cut in selection.cuts], source, progress)
    with ThreadPoolExecutor(checkpoint.threads or _cpus()) as executor:
        tensors = _tensors(weights, selection, found, inputs, executor, observer)
        nbytes = _write(source, target, config, tensors, found, selection, checkpoint, progress, observer)
    remove_state(state_folder(target))
    emit(progress, WorkEnded())
    layers = tuple(cut.module for cut in selection.cuts)
    return CompressedCheckpoint(target, scheme, layers, _listed(selection), nbytes, time.monotonic() - start)


def check_compress(model: Path, scheme: str, group_size: int | None = None) -> set[int]:
    """Check that ``compress`` can be carried out, before any weight is read.

    Returns:
        the widths of the layers that would be quantized.

    Raises:
        PlanError, FormatError, QuantmillError: see ``compress``.
    """
    from ...formats.hf.files.weights import read_weights
    from ...formats.hf.packed.schemes import scheme as named

    found = named(scheme, group_size)
    _check_source(model)
    return {cut.shape[1] for cut in _selected(model, read_weights(model), found, (), None).cuts}


def _check_source(source: Path) -> dict[str, Any]:
    """The checkpoint's config.json. Raises if its layers cannot be compressed."""
    from ...formats.hf.packed.save import check_unquantized

    config = check_unquantized(source)
    if config.get("model_type") in _TRANSPOSED:
        problem = f"the layers of {config['model_type']} are Conv1D, which keep inputs in rows"
        raise PlanError(problem, path=source, hint="quantize to GGUF")
    return config


def _cpus() -> int:
    from ...quantize.threads import cpu_count

    return cpu_count()


def _selected(
    source: Path, weights: Mapping[str, Stored], scheme: Scheme, ignore: Sequence[str], progress: Progress | None
) -> Selection:
    """Choose the layers, and say what is left and why."""
    from ...formats.ir import Tensor
    from ...quantize.compress.select import DEFAULT_IGNORE, Stored, select, stacked_experts

    seen = {
        name: Stored(one.qtype.name if isinstance(one, Tensor) else one.dtype, one.shape)
        for name, one in weights.items()
    }
    selection = select(seen, scheme, ignore, str(source))
    counts: dict[str, int] = {}
    for pattern, n in selection.ignored.items():
        what = DEFAULT_IGNORE.get(pattern, f"--ignore {pattern}")
        counts[what] = counts.get(what, 0) + n
    kept = ", ".join(f"{what} ({n})" for what, n in counts.items() if n)
    note(progress, f"{source}: {len(selection.cuts)} layers to {scheme.format}" + (f"; left: {kept}" if kept else ""))
    if selection.fused:
        note(progress, "experts are written one by one, as vLLM reads them; transformers may know them only together")
    for experts in stacked_experts(seen):
        note(progress, f"{experts}: left, its matrices have inputs in rows")
    block = scheme.weights.block
    wide = sorted({cut.shape[1] for cut in selection.cuts if block and cut.shape[1] % block[1]})
    if wide and block:
        widths = ", ".join(map(str, wide))
        note(progress, f"widths of {widths} are no multiple of {block[1]}: vLLM's kernels of blocks ask for that")
    return selection


def _listed(selection: Selection) -> tuple[str, ...]:
    """The modules for ``ignore``: what could be a linear layer and is not quantized, and the head in any case."""
    from ...quantize.compress.select import could_be_linear

    found = [module for module in selection.left if could_be_linear(module)]
    return tuple(dict.fromkeys([*found, "lm_head"]))


def _tensors(
    weights: Mapping[str, Stored], selection: Selection, scheme: Scheme, inputs: Mapping[str, float] | None,
    executor: Executor, observer: Observer,
) -> list[Tensor]:  # fmt: skip
    """The new checkpoint's tensors, in the order of the old one's."""
    from ...formats.hf.packed.save import any_type
    from ...formats.ir import Tensor
    from ...quantize.compress.layer import Layer, Shared, Source, shared_scale

    sources: dict[str, Source] = {}
    for cut in selection.cuts:
        stored = weights[cut.tensor]
        whole = stored if isinstance(stored, Tensor) else stored.tensor()

        def rows(a: int, b: int, whole: Tensor = whole, first: int = cut.first) -> Any:
            return whole.rows(first + a, first + b)

        sources[cut.module] = Source(cut.module, whole.qtype, cut.shape, rows, whole.source)
    shared: dict[str, Shared] = {}
    if scheme.weights.strategy == "tensor_group":
        for group in selection.together():
            shared |= dict.fromkeys(group, Shared([sources[name] for name in group], scheme, executor, observer))
    by_tensor: dict[str, list[str]] = {}
    for cut in selection.cuts:
        by_tensor.setdefault(cut.tensor, []).append(cut.module)
    made: list[Tensor] = []
    for name, one in weights.items():
        for module in by_tensor.get(name, []):
            source = sources[module]
            scale = None if inputs is None else float(shared_scale(inputs[module], source.qtype))
            made += Layer(source, scheme, executor, shared.get(module), scale, observer).tensors()
        if name not in by_tensor:
            made.append(one if isinstance(one, Tensor) else any_type(one))
    return made


def _write(
    source: Path, target: Path, config: Mapping[str, Any], tensors: Sequence[Tensor], scheme: Scheme,
    selection: Selection, options: CheckpointOptions, progress: Progress | None, observer: Observer,
) -> int:  # fmt: skip
    from ...formats.hf.files.safetensors import write_safetensors
    from ...formats.hf.packed.save import copy_beside
    from ...formats.hf.packed.schemes import quantization_config
    from ...formats.json_text import write_json
    from ...formats.storage.folder import resumable_folder

    written = quantization_config(scheme, _listed(selection), None if observer == "minmax" else observer)
    digest = _digest(source, tensors, written, options)
    with resumable_folder(target, digest, force=options.force, inputs=[source], say=notes(progress)) as folder:
        emit(progress, WorkStarted(target.name, sum(tensor.nbytes for tensor in tensors)))
        write_json(folder.path / "config.json", {**config, "quantization_config": written})
        copy_beside(source, folder.path)
        write_safetensors(
            folder, tensors, max_shard_bytes=options.max_shard_bytes, done=lambda n: emit(progress, RowsDone(n))
        )
        return sum(path.stat().st_size for path in folder.path.iterdir())


def _digest(source: Path, tensors: Sequence[Tensor], config: Mapping[str, Any], options: CheckpointOptions) -> str:
    """Of everything that the output's bytes depend on."""
    from ...formats.storage.source import file_stamps
    from ...formats.version import __version__
    from ...quantize.kernels.cachedir import sources_digest

    digest = hashlib.sha256(f"{__version__} {sources_digest()} {config} {options.max_shard_bytes}\n".encode())
    for tensor in tensors:
        digest.update(f"{tensor.name} {tensor.qtype} {tensor.shape}\n".encode("utf-8", "surrogateescape"))
        if tensor.name.endswith(".input_global_scale"):
            digest.update(tensor.rows(0, 1).tobytes())
    digest.update(file_stamps([source]).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
