"""Merge a LoRA adapter into the model that it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...formats.errors import PlanError
from ...formats.progress import Progress, notes
from .models import read_model, source_kind
from .options import ReadOptions, StrPath

if TYPE_CHECKING:
    from ...formats.ir import Model

_DEFAULT_READ = ReadOptions()


def merge_lora(
    base: StrPath | Model,
    adapter: StrPath,
    *,
    scale: float = 1.0,
    read: ReadOptions = _DEFAULT_READ,
    progress: Progress | None = None,
) -> Model:
    """Merge a LoRA adapter into a model: ``W + scale * alpha / rank * B A``, in float32, rounded to the weight's type.

    Nothing is computed until rows are read: ``convert`` of the result writes it in one pass, quantized if asked for.

    Args:
        base: the model that the adapter was trained on: a Hugging Face folder, a GGUF file of floats, or a model.
        adapter: the adapter's folder, as PEFT writes it (the base must be a folder then), or its GGUF file.
        scale: a factor of the whole change.
        read: how the base is read.
        progress: called with typed events.

    Raises:
        FormatError: a file is damaged, or the adapter has parts that are no pairs. PlanError: the adapter is of another
            model, or a weight that it changes is quantized.

    Example:
        >>> from quantmill import merge_lora, tiny_llama
        >>> merge_lora(tiny_llama(), "no-such-adapter.gguf")
        Traceback (most recent call last):
        ...
        quantmill.formats.errors.FormatError: no-such-adapter.gguf: no such file or folder
    """
    from ...formats.gguf.reader import read_gguf
    from ...formats.hf.adapters.read import read_lora
    from ...formats.ir import Model
    from ...quantize.merging import merge_pairs

    path = Path(adapter)
    kind = source_kind(path)
    if kind not in ("lora", "gguf"):
        raise PlanError("is no LoRA adapter", path=path, hint="an adapter's folder, or its GGUF file")
    if kind == "gguf":
        pairs = read_gguf(path)
    else:
        if isinstance(base, Model) or source_kind(Path(base)) != "hf":
            problem = "is an adapter's folder, whose base must be a Hugging Face folder"
            raise PlanError(problem, path=path, hint="convert the adapter to GGUF first, or give the base's folder")
        pairs = read_lora(path, Path(base), follow_links=read.follow_links, say=notes(progress, important=True))
    model = base if isinstance(base, Model) else read_model(base, read, progress=progress)
    return merge_pairs(model, pairs, scale)
