"""Hash a model, whatever file it is stored in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...formats.progress import Progress, work
from .models import as_model

if TYPE_CHECKING:
    from ...formats.digest import Digests
    from ...formats.ir import Model


def digest(model: str | Path | Model, *, threads: int | None = None, progress: Progress | None = None) -> Digests:
    """Compute the SHA-256 of each tensor, of all tensors, of the metadata and of the model.

    A file, its shards, a big-endian copy and a copy with other padding or another order of tensors have the same
    hashes; ``formats/digest.py`` defines them to the byte.

    Args:
        model: a GGUF file, a shard of one, a GGML file, a Hugging Face folder, or a model that was read.
        threads: None for one for each CPU.
        progress: receives the typed events of ``formats/progress.py``.

    Raises:
        FormatError: a file cannot be read.

    Example:
        >>> import numpy as np
        >>> from quantmill import digest, model_from_arrays
        >>> digest(model_from_arrays("llama", {"x": np.zeros(4, np.float32)})).of["x"][:16]
        '374708fff7719dd5'
    """
    from ...formats.digest import model_digests
    from ...quantize.threads import cpu_count

    source = as_model(model, progress=progress)
    with work(progress, source.path.name, sum(tensor.nbytes for tensor in source)) as done:
        return model_digests(source, threads=threads or cpu_count(), progress=done)
