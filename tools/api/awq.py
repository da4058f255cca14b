"""``awq``: a checkpoint's linear layers quantized by AWQ to 4 bits, in the folder that transformers loads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...formats.progress import Progress
from ...quantize.awq.settings import AWQSettings
from .blockwise import (
    DEFAULT_CHECKPOINT,
    BlockMethod,
    CheckpointOptions,
    QuantizedCheckpoint,
    check_blocks,
    quantize_checkpoint,
)
from .compressed import check_compressed_linear, compressed_config
from .options import StrPath
from .running import DEFAULT_RUN, RunOptions

if TYPE_CHECKING:
    import torch

    from ...imatrix.runner import Runner
    from ...quantize.awq.block import AWQReport, BlockContext
    from ...quantize.awq.block_folds import FloatTensors
    from ...quantize.linears import Linear

CheckpointFormat = Literal["awq", "compressed-tensors"]
_DEFAULT = AWQSettings()
_ONE_STAGE = 1 << 62  # scales are settled for the whole block before any of it is rounded


def awq(
    model: StrPath,
    output: StrPath,
    *,
    settings: AWQSettings = _DEFAULT,
    checkpoint_format: CheckpointFormat = "awq",
    text: StrPath | None = None,
    run: RunOptions = DEFAULT_RUN,
    checkpoint: CheckpointOptions = DEFAULT_CHECKPOINT,
    progress: Progress | None = None,
) -> QuantizedCheckpoint[AWQReport]:
    """Quantize the linear layers of a checkpoint by AWQ, by what a text makes of their inputs.

    One decoder block is in memory at a time. A run that is interrupted leaves its state in a folder beside the output,
    and the same call resumes it. Source: arXiv:2306.00978.

    Args:
        model: a Hugging Face folder with float weights.
        output: the folder to make.
        settings: groups, zero points, and which searches are made.
        checkpoint_format: ``awq``, as AutoAWQ wrote it (gemm), or ``compressed-tensors``, as llm-compressor does.
        text: a UTF-8 file; None for the text that ships with the package.
        run: which chunks of the text, and on which device; ``dtype`` and ``skip_bad_chunks`` keep their defaults.
        checkpoint: the output's shards, how often the state is saved, threads.
        progress: told of each batch, each block's errors, and of what a person should know.

    Returns:
        the output's size, and the error of each linear layer.

    Raises:
        PlanError: the settings are invalid, or a layer cannot be written with them. FormatError: the checkpoint is
            quantized already. OutputError: the output exists or cannot be written. QuantmillError: the text is too
            short, or weights or activations are NaN or infinite.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import AWQSettings, RunOptions, awq, write_hf
        >>> from quantmill.formats.examples import tiny_llama
        >>> with TemporaryDirectory() as folder:
        ...     model, text = Path(folder, "model"), Path(folder, "text.txt")
        ...     model.mkdir()
        ...     write_hf(tiny_llama(), model)
        ...     _ = text.write_text("so it goes on and on, and so it went. " * 4)
        ...     settings, run = AWQSettings(group_size=64), RunOptions(n_ctx=16)
        ...     made = awq(model, Path(folder, "out"), settings=settings, text=text, run=run)
        >>> made.linears[0].name, made.linears[0].tokens, made.linears[0].relative < 0.01
        ('model.layers.0.self_attn.q_proj', 144, True)
    """
    settings.check()
    return quantize_checkpoint(
        model, output, lambda types: _method(types, settings, checkpoint_format), text, run, checkpoint, progress
    )


def check_awq(model: Path, settings: AWQSettings) -> None:
    """Check that ``awq`` can be carried out in AutoAWQ's layout, before any weight is read.

    Raises:
        PlanError, FormatError: see ``awq``.
    """
    settings.check()
    check_blocks(model, lambda types: _method(types, settings))


def _method(
    stored_dtype: Callable[[str], str], settings: AWQSettings, checkpoint_format: CheckpointFormat = "awq"
) -> BlockMethod[AWQReport]:
    from ...quantize.awq.block import AWQBlock, AWQReport, check_linear
    from ...quantize.awq.layouts import LAYOUTS

    compressed, layout = checkpoint_format == "compressed-tensors", LAYOUTS[checkpoint_format]

    def check(module: torch.nn.Module, linear: Linear) -> None:
        check_linear(module, linear, settings)
        if compressed:
            check_compressed_linear(linear, settings.group_size, settings.sym)

    def config(ignore: Sequence[str]) -> dict[str, Any]:
        if compressed:
            return compressed_config(4, settings.group_size, settings.sym, False, ignore)
        return {
            "quant_method": "awq", "bits": 4, "group_size": settings.group_size, "zero_point": True,
            "version": "gemm", "modules_to_not_convert": None,
        }  # fmt: skip

    return BlockMethod(
        settings={"bits": 4, **asdict(settings), "checkpoint_format": checkpoint_format},
        check=check,
        quantizer=lambda runner: AWQBlock(_context(runner, stored_dtype), settings, layout),
        report=AWQReport,
        quantization_config=config,
        config_file=None if compressed else "quant_config.json",
        sequential=False,
        stage_bytes=_ONE_STAGE,
    )


def _context(runner: Runner, stored_dtype: Callable[[str], str]) -> BlockContext:
    """The runner's next block, as AWQ sees it."""
    from math import prod

    from ...quantize.awq.block import BlockContext

    weights, layer = runner.weights, runner.layer
    matrices = [tensor for tensor in weights.model.tensors if tensor.layer == layer and len(tensor.shape) > 1]

    def output(module: torch.nn.Module) -> torch.Tensor:
        batch = runner.batches[0][:1]
        return runner.skeleton.run_block(module, runner.activations.get(batch), runner.inputs_for(batch))

    return BlockContext(
        input_width=sum(tensor.width * prod(tensor.shape[:-2]) for tensor in matrices),
        head_dim=int(weights.config.get("head_dim") or 0),
        output=output,
        floats=lambda module: _float_tensors(runner, layer, module),
        stored_dtype=stored_dtype,
    )


def _float_tensors(runner: Runner, layer: int, module: torch.nn.Module) -> FloatTensors:
    """A block's tensors that are stored alone and in one piece, by role and part."""
    from ...formats.hf.tables.values import Add
    from ...quantize.awq.block_folds import FloatTensor

    weights = runner.weights
    prefix = f"{weights.layers_path}.{layer}."
    parameters = dict(module.named_parameters())
    by_tensors = {recorded.names: name for name, recorded in weights.recorded_weights(layer, module).items()}
    found = {}
    for slot in weights.arch.slots(weights.config):
        if slot.layer == layer and len(slot.sources) == 1 and len(slot.rule.roles) == 1:
            name = slot.sources[0]
            own = by_tensors.get(slot.targets, name.removeprefix(prefix))
            offset = sum(op.number for op in slot.rule.ops if isinstance(op, Add))
            found[slot.rule.roles[0], slot.part] = FloatTensor(name, parameters.get(own), offset)
    return found
