"""The texts of a release: what importance is collected from, and what the files are measured on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..running import RunOptions
from .options import ReleaseOptions

if TYPE_CHECKING:
    from ..options import StrPath
    from .state import ReleaseState

_EVALUATION_SHARE = 4  # of the text that ships with the package, a quarter is kept for the evaluation


def calibration_part(model: Path, options: ReleaseOptions, state: ReleaseState) -> RunOptions:
    """The chunks that importance is collected from.

    Args:
        model: the model's file or folder, whose tokenizer divides the text that ships with the package.
    """
    if options.text is not None:
        return RunOptions(n_ctx=options.n_ctx, chunks=options.chunks)
    first, most = _first_kept(model, options, state), options.chunks
    return RunOptions(n_ctx=options.n_ctx, chunks=first if most is None else min(first, most))


def evaluation_part(model: Path, options: ReleaseOptions, state: ReleaseState) -> RunOptions:
    """The chunks that files are measured on, of the same text those that importance is not collected from."""
    if options.evaluation_text is not None:
        return RunOptions(n_ctx=options.n_ctx, chunks=options.chunks)
    first, most = _first_kept(model, options, state), options.chunks
    kept = (state.text_chunks or 0) - first
    return RunOptions(n_ctx=options.n_ctx, first_chunk=first, chunks=kept if most is None else min(kept, most))


def _first_kept(model: Path, options: ReleaseOptions, state: ReleaseState) -> int:
    """The first chunk that is kept for the evaluation."""
    from ..running import open_text, open_weights

    if state.text_chunks is None:
        state.text_chunks = open_text(open_weights(model), None, RunOptions(n_ctx=options.n_ctx)).n_chunks
        state.save()
    return state.text_chunks - (state.text_chunks // _EVALUATION_SHARE if options.evaluate else 0)


def text_path(path: StrPath | None) -> Path:
    """The file of a text; None for the one that ships with the package."""
    from ....imatrix.corpus import default_text

    return default_text() if path is None else Path(path)
