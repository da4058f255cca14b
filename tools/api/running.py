"""A text through a model: the options of such a run, and what opens the model and the text for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ...formats.progress import Progress, emit, note
from .models import read_model

if TYPE_CHECKING:
    from ...imatrix.corpus import Corpus
    from ...imatrix.runner import Runner
    from ...imatrix.weights import Weights

DEFAULT_N_CTX = 512  # llama.cpp's, for importance and for perplexity
_SAMPLE_N_CTX = 2048  # tokens in a chunk of a sample, as other programs for GPTQ and AWQ use
_SAMPLE = 128 * _SAMPLE_N_CTX  # tokens, as GPTQModel's documentation asks for
SHIPPED_TOKENS = 65_536  # of the text that ships, where nothing says how much: 128 chunks of 512


@dataclass(frozen=True)
class RunOptions:
    """Which part of a text is run through a model, and how.

    Args:
        n_ctx: tokens in a chunk. None for the default: 512 for importance and evaluation; 2048 for GPTQ and AWQ, or the
            model's own context where that is shorter.
        chunks: at most so many chunks; -1 for all. None for the default: of the text that ships its first 65,536
            tokens, which are mixed as the whole is; of another all for importance and evaluation, and as many as make
            128 x 2048 tokens for GPTQ, AWQ and the scales of activations.
        first_chunk: the chunk to start with, counted from 0.
        batch: chunks that are computed together; 0 to choose by ``n_ctx``.
        parse_special: whether ``<|im_start|>`` in the text is the control token, not its letters.
        dtype: of the arithmetic; ``auto`` for ``bf16`` where the device has units for it, else ``f32``.
        device: where torch computes: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ``xpu``; ``auto`` for the accelerator,
            or the processor where there is none. One layer's weights are there at a time; activations between layers
            stay in memory, or in files.
        skip_bad_chunks: leave out a chunk whose activations are NaN or infinite, instead of raising.

    Example:
        >>> from quantmill import RunOptions
        >>> RunOptions(n_ctx=256, chunks=8).dtype
        'f32'
    """

    n_ctx: int | None = None
    chunks: int | None = None
    first_chunk: int = 0
    batch: int = 0
    parse_special: bool = False
    dtype: Literal["f32", "bf16", "auto"] = "f32"
    device: str = "cpu"
    skip_bad_chunks: bool = False


DEFAULT_RUN = RunOptions()
# The fields of RunOptions as the commands call them.
_RUN_FLAGS = {
    "n_ctx": "--ctx-size",
    "chunks": "--chunks",
    "first_chunk": "--from-chunk",
    "batch": "--batch",
    "parse_special": "--parse-special",
    "dtype": "--dtype",
    "device": "--device",
    "skip_bad_chunks": "--skip-bad-chunks",
}


def run_options_given(run: RunOptions) -> dict[str, bool]:
    """Whether each option of a text's run differs from its default, by the name that the commands give it."""
    return {flag: getattr(run, name) != getattr(DEFAULT_RUN, name) for name, flag in _RUN_FLAGS.items()}


def open_weights(model: Path, progress: Progress | None = None) -> Weights:
    """A model of any kind and type, its quantized tensors decoded as they are read; see ``read_model``."""
    from ...imatrix.weights import Weights
    from ...quantize.decode import as_float

    return Weights(as_float(read_model(model, progress=progress)))


def open_text(weights: Weights, text: Path | None, options: RunOptions) -> Corpus:
    """The chunks of a text in the model's tokens; without a text, of the one that ships with the package.

    Raises:
        QuantmillError: the text cannot be read, or is too short. TokenizerError: it is another model's tokenizer.
    """
    from ...imatrix.corpus import cut, default_text, read_text

    path, n_ctx, chunks = text or default_text(), options.n_ctx or DEFAULT_N_CTX, options.chunks
    if text is None and chunks is None:
        chunks = max(1, SHIPPED_TOKENS // n_ctx)
    tokenizer = weights.tokenizer()
    return cut(
        tokenizer.encode(read_text(path), options.parse_special),
        n_ctx,
        tokenizer.bos,
        chunks=chunks,
        from_chunk=options.first_chunk,
        name=str(path) if text else path.name,
    )


def open_sample(weights: Weights, text: Path | None, options: RunOptions, progress: Progress | None) -> Corpus:
    """The chunks of a text that GPTQ, AWQ and scales of activations are made from; see ``open_text``.

    Unless the options name another number, as many chunks as other programs use.
    """
    longest = int(weights.config.get("max_position_embeddings") or _SAMPLE_N_CTX)
    n_ctx = options.n_ctx or min(_SAMPLE_N_CTX, longest)
    corpus = open_text(weights, text, replace(options, n_ctx=n_ctx))
    most = max(1, _SAMPLE // n_ctx)
    if options.chunks is not None or corpus.n_chunks <= most:
        return corpus
    note(progress, f"{most} of the text's {corpus.n_chunks} chunks of {n_ctx} tokens are used; --chunks -1 uses all")
    return replace(corpus, tokens=corpus.tokens[:most], inputs=corpus.inputs[:most])


@contextmanager
def on_device(run: RunOptions, progress: Progress | None) -> Iterator[RunOptions]:
    """The options with a device that is there, which what runs inside computes on, and with a type that it computes in.

    Raises:
        QuantmillError: there is no such device, or what runs inside needs more memory than it has.
    """
    from ...imatrix.devices import AUTO, choose, choose_dtype, memory_explained

    device = choose(run.device)
    if run.device == AUTO:
        note(progress, f"--device {AUTO}: {device}")
    dtype = choose_dtype(device) if run.dtype == AUTO else run.dtype
    if run.dtype == AUTO:
        has = "has" if dtype == "bf16" else "has no"
        note(progress, f"--dtype {AUTO}: {dtype} ({device} {has} units for bf16)")
    with memory_explained(device):
        yield replace(run, device=device, dtype=dtype)


def start_run(weights: Weights, corpus: Corpus, folder: Path, options: RunOptions, *, share: int = 1) -> Runner:
    """A runner at the first block, whose activations go to ``folder`` if they are too many for memory.

    Args:
        share: how many runs there are whose activations are kept at the same time.
    """
    from ...imatrix.activations import SPILL, Activations
    from ...imatrix.runner import DTYPES, ComputeOptions, Runner

    shape = (corpus.n_chunks, corpus.n_ctx, weights.hidden_width)
    how = ComputeOptions(options.dtype, options.device, options.batch, options.skip_bad_chunks)
    return Runner(weights, corpus, how, Activations(shape, DTYPES[options.dtype], folder, SPILL // share))


def open_run(
    model: Path, text: Path | None, folder: Path, options: RunOptions, progress: Progress | None = None
) -> Runner:
    """``start_run`` for a model and a text that ``open_weights`` and ``open_text`` open."""
    weights = open_weights(model, progress)
    return start_run(weights, open_text(weights, text, options), folder, options)


def finish_run(runner: Runner, progress: Progress | None) -> Runner:
    """Embed the text and run it through every block, reporting each batch."""
    runner.embed()
    emit(progress, runner.started())
    runner.finish(progress=progress)
    return runner
