"""``gptq``: a checkpoint's linear layers quantized by GPTQ, in the folder that transformers loads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...formats.errors import PlanError
from ...formats.progress import Progress
from ...quantize.gptq.settings import GPTQSettings
from .blockwise import (
    DEFAULT_CHECKPOINT,
    BlockMethod,
    CheckpointOptions,
    QuantizedCheckpoint,
    check_blocks,
    quantize_checkpoint,
)
from .compressed import check_compressed_gptq, check_compressed_linear, compressed_config
from .options import StrPath
from .running import DEFAULT_RUN, RunOptions

if TYPE_CHECKING:
    import torch

    from ...quantize.gptq.block import GPTQReport
    from ...quantize.linears import Linear

CheckpointFormat = Literal["gptq", "gptq_v2", "compressed-tensors"]
_DEFAULT = GPTQSettings()


def gptq(
    model: StrPath,
    output: StrPath,
    *,
    settings: GPTQSettings = _DEFAULT,
    checkpoint_format: CheckpointFormat = "gptq",
    text: StrPath | None = None,
    run: RunOptions = DEFAULT_RUN,
    checkpoint: CheckpointOptions = DEFAULT_CHECKPOINT,
    progress: Progress | None = None,
) -> QuantizedCheckpoint[GPTQReport]:
    """Quantize the linear layers of a checkpoint by GPTQ, by what a text makes of their inputs.

    One decoder block is in memory at a time. A run that is interrupted leaves its state in a folder beside the output,
    and the same call resumes it. Source: arXiv:2210.17323.

    Args:
        model: a Hugging Face folder with float weights.
        output: the folder to make.
        settings: bits, groups and the order of quantization.
        checkpoint_format: ``gptq``, whose zero points are stored less one, ``gptq_v2``, where they are stored as they
            are, or ``compressed-tensors``, as llm-compressor writes it.
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
        >>> from quantmill import GPTQSettings, RunOptions, gptq, write_hf
        >>> from quantmill.formats.examples import tiny_llama
        >>> with TemporaryDirectory() as folder:
        ...     model, text = Path(folder, "model"), Path(folder, "text.txt")
        ...     model.mkdir()
        ...     write_hf(tiny_llama(), model)
        ...     _ = text.write_text("so it goes on and on, and so it went. " * 4)
        ...     settings, run = GPTQSettings(bits=8), RunOptions(n_ctx=16)
        ...     made = gptq(model, Path(folder, "out"), settings=settings, text=text, run=run)
        >>> made.linears[0].name, made.linears[0].tokens, made.linears[0].relative < 0.01
        ('model.layers.0.self_attn.q_proj', 144, True)
    """
    settings.check()
    if checkpoint_format == "compressed-tensors":
        check_compressed_gptq(settings)
    return quantize_checkpoint(
        model, output, lambda types: _method(types, settings, checkpoint_format), text, run, checkpoint, progress
    )


def check_gptq(model: Path, settings: GPTQSettings) -> None:
    """Check that ``gptq`` can be carried out in GPTQ's own layout, before any weight is read.

    Raises:
        PlanError, FormatError: see ``gptq``.
    """
    settings.check()
    check_blocks(model, lambda types: _method(types, settings, "gptq"))


def _method(
    stored_dtype: Callable[[str], str], settings: GPTQSettings, checkpoint_format: CheckpointFormat
) -> BlockMethod[GPTQReport]:
    import torch

    from ...quantize.gptq.block import GPTQBlock, GPTQReport
    from ...quantize.gptq.layouts import LAYOUTS
    from ...quantize.linears import module_of

    compressed, layout = checkpoint_format == "compressed-tensors", LAYOUTS[checkpoint_format]

    ragged: set[int] = set()  # widths that the group size does not divide

    def check(module: torch.nn.Module, linear: Linear) -> None:
        owner = module_of(module, linear) if linear.expert is None else module
        if type(owner).__name__ == "Conv1D":  # GPT-2's, with inputs in rows
            raise PlanError("is a Conv1D, which keeps inputs in rows", where=linear.name, hint="quantize to GGUF")
        settings.check_shape(linear.name, *linear.weight.shape)
        if compressed:
            check_compressed_linear(linear, settings.group_size, settings.sym)
        width = linear.weight.shape[1]
        if settings.group_size > 0 and width % settings.group_size:
            ragged.add(width)

    def remark() -> str | None:
        orders = [f"--{name.replace('_', '-')}" for name in ("desc_act", "static_groups") if getattr(settings, name)]
        if settings.group_size == -1 and orders:
            return f"{' and '.join(orders)} change nothing with --group-size -1: a row has one group"
        if not ragged:
            return None
        widths = ", ".join(map(str, sorted(ragged)))
        return f"the last group of {widths} inputs is smaller than {settings.group_size}; not all programs run that"

    return BlockMethod(
        settings={**asdict(settings), "checkpoint_format": checkpoint_format},
        check=check,
        quantizer=lambda runner: GPTQBlock(settings, layout, torch.get_num_threads(), stored_dtype),
        report=GPTQReport,
        quantization_config=lambda ignore: _config(settings, checkpoint_format, ignore),
        config_file=None if compressed else "quantize_config.json",
        remark=remark,
    )


def _config(settings: GPTQSettings, checkpoint_format: str, ignore: Sequence[str]) -> dict[str, Any]:
    if checkpoint_format == "compressed-tensors":
        reordered = settings.static_groups
        return compressed_config(settings.bits, settings.group_size, settings.sym, reordered, ignore)
    from ...formats.version import __version__

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
