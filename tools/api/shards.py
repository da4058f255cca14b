"""Split a GGUF file into shards, and merge shards into one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...formats.errors import FormatError, OutputError, PlanError
from ...formats.progress import Progress, notes, work

if TYPE_CHECKING:
    from ...formats.gguf.split import SplitPlan
    from ...formats.ir import Model

DEFAULT_MAX_TENSORS = 128  # llama-gguf-split's
_COMPARED = 16 << 20  # bytes at a time


def split(
    source: str | Path,
    prefix: str | Path,
    *,
    max_size: int | None = None,
    max_tensors: int | None = None,
    empty_first: bool = False,
    version: int | None = None,
    dry_run: bool = False,
    force: bool = False,
    restart: bool = False,
    progress: Progress | None = None,
) -> SplitPlan:
    """Split a GGUF file into shards as llama.cpp reads them. All of them are written, or none.

    Args:
        source: the file, or any shard of a set that is to be split anew.
        prefix: the shards are ``prefix-00001-of-0000N.gguf`` and so on.
        max_size: the most bytes of tensors in a shard; a tensor larger than that has a shard to itself.
        max_tensors: the most tensors in a shard, instead of ``max_size``; 128 when neither is given.
        empty_first: let the first shard hold metadata only.
        version: the GGUF version of the shards; None for the source's.
        dry_run: plan the shards, and write nothing.
        force: replace shards that exist.
        restart: begin anew where an unfinished run could be taken up.
        progress: receives the typed events of ``formats/progress.py``.

    Returns:
        The shards with their paths, tensors and sizes.

    Raises:
        FormatError: the source cannot be read. PlanError: both limits are given, or too many shards are needed.
        OutputError: a shard exists, or cannot be written.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import model_from_arrays, split, write_gguf
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "model.gguf")
        ...     _ = write_gguf(path, model_from_arrays("llama", {name: np.ones(8, np.float32) for name in "abc"}))
        ...     made = split(path, Path(folder, "part"), max_tensors=2)
        ...     [shard.path.name for shard in made.shards]
        ['part-00001-of-00002.gguf', 'part-00002-of-00002.gguf']
    """
    from ...formats.gguf.split import plan_split, write_split

    if max_size is not None and max_tensors is not None:
        raise PlanError("the size and the number of tensors of a shard exclude each other", hint="give one of them")
    if max_size is None and max_tensors is None:
        max_tensors = DEFAULT_MAX_TENSORS
    plan = plan_split(
        source, prefix, max_tensors=max_tensors, max_bytes=max_size, empty_first=empty_first, version=version
    )
    if not dry_run:
        with work(progress, Path(prefix).name, sum(tensor.nbytes for tensor in plan.source)) as done:
            write_split(plan, progress=done, force=force, restart=restart, say=notes(progress))
    return plan


def merge(
    shard: str | Path,
    target: str | Path,
    *,
    keep_split_keys: bool = False,
    delete_shards: bool = False,
    force: bool = False,
    restart: bool = False,
    progress: Progress | None = None,
) -> Model:
    """Merge shards into one file: the bytes of the file that ``split`` divided.

    Args:
        shard: any of the shards; the others are found beside it.
        target: the file to write.
        keep_split_keys: leave ``split.*`` in it with a count of 0, as llama-gguf-split does.
        delete_shards: delete the shards when the target is whole, on disk, and has been read back and compared with
            them, tensor by tensor.
        force: replace the target if it exists.
        restart: begin anew where an unfinished run could be taken up.
        progress: receives the typed events of ``formats/progress.py``.

    Returns:
        The model, as it was read from the shards.

    Raises:
        FormatError: shards are missing or do not belong together, or ``shard`` is a whole file.
        OutputError: the target exists, or cannot be written; a shard cannot be deleted.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import merge, model_from_arrays, split, write_gguf
        >>> with TemporaryDirectory() as folder:
        ...     path, again = Path(folder, "model.gguf"), Path(folder, "again.gguf")
        ...     _ = write_gguf(path, model_from_arrays("llama", {name: np.ones(8, np.float32) for name in "abc"}))
        ...     shards = split(path, Path(folder, "part"), max_tensors=2).shards
        ...     _ = merge(shards[0].path, again)
        ...     again.read_bytes() == path.read_bytes()
        True
    """
    from ...formats.gguf.reader import read_headers
    from ...formats.gguf.split import merge as merge_shards

    with work(progress, Path(target).name, sum(header.file_size for header in read_headers(shard))) as done:
        model = merge_shards(
            shard, target, keep_keys=keep_split_keys, progress=done, force=force, restart=restart, say=notes(progress)
        )
    if delete_shards:
        _check_same(model, Path(target), progress)
        for path in model.paths:
            try:
                path.unlink()
            except OSError as error:
                problem = f"cannot be deleted: {error.strerror}"
                raise OutputError(problem, path=path, hint=f"{target} is whole; delete it by hand") from error
    return model


def _check_same(model: Model, target: Path, progress: Progress | None) -> None:
    """Raise ``FormatError`` unless a file holds the tensors of a model, byte for byte, in its order."""
    from ...formats.gguf.reader import read_gguf

    made = read_gguf(target)
    same = [(t.name, t.shape, t.qtype) for t in made] == [(t.name, t.shape, t.qtype) for t in model]
    with work(progress, f"comparing {target.name}", sum(tensor.nbytes for tensor in model)) as done:
        for ours, theirs in zip(made, model, strict=False):
            for a, b in theirs.row_chunks(_COMPARED):
                same = same and np.array_equal(ours.rows(a, b), theirs.rows(a, b))
                if done is not None:
                    done((b - a) * theirs.row_bytes)
    if not same:
        raise FormatError("is not what the shards hold; they are kept", path=target, hint="merge again with --restart")
