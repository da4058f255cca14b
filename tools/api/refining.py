"""Refine a plan's tensors one after the other while a text runs through the model and through what it becomes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...formats.errors import (
    OutputError,
    PlanError,
    QuantmillError,
    SourceError,
    TokenizerError,
    UnknownArchitecture,
    UnmatchedTensor,
)
from ...formats.progress import Progress, note
from .options import StrPath
from .running import DEFAULT_N_CTX, DEFAULT_RUN, RunOptions, open_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...formats.ir import Metadata, Model
    from ...formats.moments_file import Moments, Packed
    from ...imatrix.corpus import Corpus
    from ...imatrix.weights import Weights
    from ...quantize.plan import Plan
    from ...quantize.plan_options import PlanOptions


@dataclass(frozen=True)
class TextRefinement:
    """A model, and the text by whose inputs its weights will be refined.

    Args:
        model: the model that is planned for.
        weights: its weights as a run reads them.
        corpus: the text.
        run: how it is run.
        width: columns that repair each other's errors; None to choose for each matrix.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import PlanOptions, RunOptions, execute, make_plan, open_refinement, tiny_llama
        >>> with TemporaryDirectory() as folder:
        ...     text, out = Path(folder, "text.txt"), Path(folder, "tiny.Q2_K.gguf")
        ...     _ = text.write_text("so it goes on and on, and so it went. " * 20)
        ...     refinement = open_refinement(tiny_llama(), text, run=RunOptions(n_ctx=16))
        ...     plan = make_plan(refinement.model, "Q2_K", refinement.plan_options(PlanOptions()))
        ...     with refinement.refined(plan, out) as (encoded, _):
        ...         execute(encoded, out)
        >>> plan.steps[3].tensor.name, plan.steps[3].refined, encoded.steps[3].tensor.qtype.name
        ('blk.0.attn_k.weight', True, 'Q2_K')
    """

    model: Model
    weights: Weights
    corpus: Corpus
    run: RunOptions
    width: int | None

    @property
    def text_name(self) -> str:
        """The text's name as files say it."""
        return Path(self.corpus.name).name

    @cached_property
    def reached(self) -> tuple[str, ...]:
        """The tensors whose inputs a run sees, by name."""
        import torch

        from ...imatrix.second_moments import measured
        from ...imatrix.skeleton import Skeleton

        with _must_run():
            skeleton = Skeleton(self.weights, torch.float32, "cpu")
        targets = [
            target
            for layer, module in enumerate(skeleton.layers)
            for target in self.weights.recorded_weights(layer, module).values()
        ]
        names = [name for target in targets for name in target.names if measured(name)]
        return (*names, *(() if self.weights.encodes else (self.weights.head.name,)))

    def plan_options(self, options: PlanOptions) -> PlanOptions:
        """The options of a plan whose tensors have the importance and the second moments that the run will collect."""
        from ...quantize.estimate.levels import uniform_importance
        from ...quantize.importance import chosen, n_matrices

        if options.importance is not None or options.moments is not None:
            raise PlanError("the options have importance already", where="--refine", hint="give one of them")
        reached = set(self.reached)
        importance = {name: one for name, one in uniform_importance(self.model).items() if name in reached}
        importance = dict(chosen(importance, options.include_weights, options.exclude_weights))
        tensors = {tensor.name: tensor for tensor in self.model.tensors if tensor.name in importance}
        counts = {name: np.zeros(n_matrices(tensor), np.int64) for name, tensor in tensors.items()}
        widths = {name: tensor.width for name, tensor in tensors.items()}
        return replace(
            options,
            importance=importance,
            moments=_to_come({name: name for name in tensors}, widths, counts),
            include_weights=(),
            exclude_weights=(),
            extra_metadata={**options.extra_metadata, **self._provenance(options, len(importance))},
        )

    def _provenance(self, options: PlanOptions, n: int) -> Metadata:
        from ...formats.imatrix_file import Imatrix

        if not options.imatrix_metadata:
            return {}
        seen = Imatrix({}, (self.text_name,), self.corpus.n_chunks, self.corpus.n_ctx)
        return seen.provenance(self.text_name, n)

    @contextmanager
    def refined(
        self, plan: Plan, output: Path, *, threads: int | None = None, restart: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[tuple[Plan, bool]]:  # fmt: skip
        """Refine the plan's tensors. An interrupted run leaves its state beside the output; the same call resumes it.

        Args:
            plan: made with ``plan_options``.
            output: the file that will be written, beside which the state is kept until the block ends without error.
            threads: None for one for each CPU. The bytes are the same with any number.
            restart: discard the state of an unfinished run.
            progress: told of each batch, each layer, and of what a person should know.

        Yields:
            the plan with these tensors encoded, and whether all of them were there already.

        Raises:
            PlanError: no tensor can be refined. QuantmillError: an activation is NaN or infinite. WeightError: a weight
            is, or is too large for its type.
        """
        from ...formats.storage.interrupts import when_cut_off
        from ...imatrix.run_state import finished_blocks, remove_state, state_folder
        from .refining_run import refine_in_order, with_encoded

        work = state_folder(output)

        def cut_off() -> None:
            if finished_blocks(work):
                note(progress, f"what is done is kept in {work.name}; the same command goes on with it")

        with when_cut_off(cut_off), _kept_if_of_use(work):
            walked = refine_in_order(
                plan, self.weights, self.corpus, self.run, work, width=self.width, threads=threads, restart=restart,
                progress=progress,
            )  # fmt: skip
        yield with_encoded(plan, walked.files), walked.resumed
        remove_state(work)


def open_refinement(
    model: Model,
    text: StrPath | None = None,
    *,
    run: RunOptions = DEFAULT_RUN,
    width: int | None = None,
    progress: Progress | None = None,
) -> TextRefinement:
    """Open a model and a text, to refine the one by the other.

    Args:
        model: any model that a run takes.
        text: a UTF-8 file; None for the text that ships with the package.
        run: which chunks of the text.
        width: columns that repair each other's errors, a multiple of 256; None to choose for each matrix.
        progress: told what a person should know.

    Raises:
        UnknownArchitecture: the model cannot be run. QuantmillError: the text is too short.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import RunOptions, open_refinement, tiny_llama
        >>> with TemporaryDirectory() as folder:
        ...     text = Path(folder, "text.txt")
        ...     _ = text.write_text("so it goes on and on, and so it went. " * 4)
        ...     refinement = open_refinement(tiny_llama(), text, run=RunOptions(n_ctx=16))
        >>> refinement.corpus.n_chunks, refinement.reached[0]
        (9, 'blk.0.attn_q.weight')
    """
    from ...imatrix.weights import Weights
    from ...quantize.decode import as_float

    if (run.dtype, run.device, run.skip_bad_chunks) != ("f32", "cpu", False):
        raise PlanError("refining computes every chunk in float32 on the processor", hint="leave the other options out")
    run = replace(run, n_ctx=run.n_ctx or DEFAULT_N_CTX)
    with _must_run():
        weights = Weights(as_float(model))
        corpus = open_text(weights, None if text is None else Path(text), run)
    return TextRefinement(model, weights, corpus, run, width)


@contextmanager
def _kept_if_of_use(work: Path) -> Iterator[None]:
    """Remove a run's state where the same run would end in the same error."""
    from ...imatrix.run_state import remove_state

    try:
        yield
    except QuantmillError as error:
        if not isinstance(error, (OutputError, SourceError)):
            remove_state(work)
        raise


@contextmanager
def _must_run() -> Iterator[None]:
    """Where a model cannot be run, say what refines it all the same."""
    try:
        yield
    except (UnknownArchitecture, UnmatchedTensor, TokenizerError) as error:
        hint = "it cannot be refined by a text: give --imatrix with second moments, or leave --refine out"
        raise type(error)(error.problem, path=error.path, where=error.where, hint=hint) from error


def _to_come(inputs: Mapping[str, str], widths: Mapping[str, int], counts: Mapping[str, NDArray[np.int64]]) -> Moments:
    """Second moments that there are none of yet."""
    from ...formats.moments_file import Moments

    def load(holder: str, matrix: int) -> Packed:
        raise AssertionError(f"{holder}: its second moments are not there yet")

    return Moments(max(widths.values(), default=1), inputs, widths, counts, load)
