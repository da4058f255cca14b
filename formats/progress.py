"""What long work reports as it goes: typed events, for a progress bar, a log or a notebook.

Every function of the library that takes a while has a parameter ``progress``, which is called with one of these events,
from any thread. Lower layers that only have a sentence to say take a ``say`` of one string; ``notes`` joins the two.

Example:
    >>> from quantmill.formats.progress import Note, RowsDone, notes
    >>> seen = []
    >>> notes(seen.append)("model.gguf: going on where an earlier run stopped")
    >>> seen
    [Note(text='model.gguf: going on where an earlier run stopped', important=False)]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Note:
    """One line that a person should see: what was assumed, dropped, taken up or kept.

    Args:
        text: one line, without its end.
        important: the person must see it even after asking for no progress and no reports, such as data left out.

    Example:
        >>> from quantmill import Note
        >>> Note("model.gguf: going on where an earlier run stopped").important
        False
    """

    text: str
    important: bool = False


@dataclass(frozen=True)
class WorkStarted:
    """Work over bytes begins.

    Args:
        name: of what is written or read, such as the output's file name.
        total: bytes of the source that will be worked through.

    Example:
        >>> from quantmill import WorkStarted
        >>> WorkStarted("model.gguf", 1_000_000).total
        1000000
    """

    name: str
    total: int


@dataclass(frozen=True)
class RowsDone:
    """Some rows of the source are done.

    Args:
        nbytes: how many bytes they take in the source; the sum over all events is ``WorkStarted.total`` at the end.

    Example:
        >>> from quantmill import Event, RowsDone, encode, execute, make_plan, tiny_llama
        >>> from tempfile import TemporaryDirectory
        >>> model, seen = tiny_llama(), []
        >>> with TemporaryDirectory() as folder:
        ...     execute(make_plan(model, "Q8_0"), f"{folder}/tiny.gguf", progress=seen.append)
        >>> sum(event.nbytes for event in seen if isinstance(event, RowsDone)) == sum(tensor.nbytes for tensor in model)
        True
    """

    nbytes: int


@dataclass(frozen=True)
class RunStarted:
    """A text begins its way through a model.

    Args:
        text: the text's name.
        n_chunks: chunks of the text.
        n_ctx: tokens in each.
        n_layers: layers of the model.
        first_layer: the layer the run begins with; not 0 when an earlier run is taken up.

    Example:
        >>> from quantmill import RunStarted
        >>> RunStarted("calibration.txt", n_chunks=20, n_ctx=512, n_layers=30).first_layer
        0
    """

    text: str
    n_chunks: int
    n_ctx: int
    n_layers: int
    first_layer: int = 0


@dataclass(frozen=True)
class StepDone:
    """Part of a stage is done.

    Args:
        stage: what is being done, in words, such as ``layer 3/32`` or ``types tried on tensors``.
        done, total: of the stage's parts.
        layer: the layer's index where the stage is a layer, else None.

    Example:
        >>> from quantmill import StepDone
        >>> StepDone("layer 3/32", done=5, total=20, layer=2).layer
        2
    """

    stage: str
    done: int
    total: int
    layer: int | None = None


@dataclass(frozen=True)
class WorkEnded:
    """What ``WorkStarted`` or ``RunStarted`` announced is over; a bar can go.

    Example:
        >>> from quantmill import WorkEnded
        >>> WorkEnded()
        WorkEnded()
    """


Event = Note | WorkStarted | RowsDone | RunStarted | StepDone | WorkEnded
Progress = Callable[[Event], object]


def notes(progress: Progress | None, *, important: bool = False) -> Callable[[str], object] | None:
    """A ``say`` that turns each line into a ``Note``; None where nobody listens."""
    return None if progress is None else lambda text: progress(Note(text, important))


def emit(progress: Progress | None, event: Event) -> None:
    """Hand an event to the listener, if there is one."""
    if progress is not None:
        progress(event)


def note(progress: Progress | None, text: str, *, important: bool = False) -> None:
    """Hand a ``Note`` to the listener, if there is one."""
    emit(progress, Note(text, important))


@contextmanager
def work(progress: Progress | None, name: str, total: int) -> Iterator[Callable[[int], object] | None]:
    """Announce work over bytes, and its end however it ends.

    Args:
        progress: who listens; None for nobody.
        name: of what is written or read.
        total: bytes of the source that will be worked through.

    Yields:
        A function to call with the number of bytes just done, from any thread; None where nobody listens.

    Example:
        >>> from quantmill.formats.progress import work
        >>> seen = []
        >>> with work(seen.append, "model.gguf", 200) as done:
        ...     done(200)
        >>> seen
        [WorkStarted(name='model.gguf', total=200), RowsDone(nbytes=200), WorkEnded()]
    """
    if progress is None:
        yield None
        return
    progress(WorkStarted(name, total))
    try:
        yield lambda nbytes: progress(RowsDone(nbytes))
    finally:
        progress(WorkEnded())
