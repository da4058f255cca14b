"""Write the report of a GGUF file, ``quantmill inspect --html``."""

from __future__ import annotations

from pathlib import Path

from ...formats.errors import PlanError, name_list
from ...formats.progress import Progress, note, work
from ..api.models import read_model
from .figures import gather
from .page import page as render


def write_report(
    file: str | Path,
    page: str | Path,
    *,
    against: str | Path | None = None,
    imatrix: str | Path | None = None,
    threads: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write one self-contained HTML page about a GGUF file.

    Args:
        file: the GGUF file, or any shard of a model.
        page: the page to write.
        against: the model to measure each tensor's error against.
        imatrix: the importance matrix to show.
        threads: None for one for each CPU.
        force: replace the page if it exists.
        progress: receives the typed events of ``formats/progress.py``.

    Returns:
        The page's size in bytes.

    Raises:
        FormatError: a file cannot be read. PlanError: the importance matrix is of another model. OutputError: the page
            exists or cannot be written.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import model_from_arrays, write_gguf
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "model.gguf")
        ...     _ = write_gguf(path, model_from_arrays("llama", {"x": np.ones((4, 8), np.float16)}))
        ...     write_report(path, Path(folder, "page.html")) == Path(folder, "page.html").stat().st_size
        True
    """
    from ...formats.gguf.reader import read_gguf, read_headers
    from ...formats.imatrix_file import read_imatrix
    from ...formats.storage.output import atomic_output

    page = Path(page)
    model = read_gguf(file)
    base = None if against is None else read_model(against, progress=progress)
    importance = None if imatrix is None else read_imatrix(Path(imatrix))
    if importance is not None:
        names = {tensor.name for tensor in model}
        missed = [name for name in importance.entries if name not in names]
        if len(missed) == len(importance.entries):
            problem = f"holds no tensor of this model: it has {name_list(missed, 3)}"
            raise PlanError(problem, path=imatrix, hint="it was made from another model")
        if missed:
            counts = f"{len(missed)} of {len(importance.entries)} entries belong to no tensor of this model"
            note(progress, f"warning: {imatrix}: {counts}: {name_list(missed, 3)}", important=True)
    inputs = [*model.paths, *(base.paths if base else ()), *([] if imatrix is None else [Path(imatrix)])]
    with atomic_output(page, None, force, inputs) as output:  # before the work: it may not be writable
        nbytes = sum(tensor.nbytes for tensor in model)
        with work(None if base is None else progress, page.name, nbytes) as done:
            report = gather(model, read_headers(file), against=base, imatrix=importance, threads=threads, done=done)
        raw = render(report).encode("utf-8")
        output.write(raw)
    return len(raw)
