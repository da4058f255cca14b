"""How good the files of a release are: all against the original in one walk, and no file twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ....formats.errors import FormatError
from ....formats.progress import Progress, note
from .manifest import EvaluationFacts, TextFacts, read_manifest
from .members import Planned
from .options import ReleaseOptions
from .texts import evaluation_part, text_path

if TYPE_CHECKING:
    from ..comparison import ComparedModel
    from .state import ReleaseState


def measure(
    model: Path, members: Sequence[Planned], plain: Mapping[str, Path], checkpoints: Mapping[str, Path],
    options: ReleaseOptions, state: ReleaseState,
    progress: Progress | None,
) -> EvaluationFacts:  # fmt: skip
    """Measure the perplexity of the original, and the perplexity and the divergence of each file.

    What an earlier run measured stands: of this release, or of the one that was in the folder before it, where the
    same files were measured on the same text against the same checkpoint.

    Args:
        model: the original's file or folder.
        members: the models that are written.
        plain: the files of refined members without refining that are still to be measured, by ``plain_name``; each is
            removed when it is measured.
        checkpoints: the folders of checkpoints, by their names.
        options: those of the release.
        state: whose ``source`` and ``files`` are known; each figure is saved to it as soon as it is known.
        progress: told of each batch and of each model.

    Returns:
        what manifest.json says of it.
    """
    from ..comparison import compare_models

    run = evaluation_part(model, options, state)
    text = TextFacts.of(text_path(options.evaluation_text))
    judged = [one for one in members if one.member.measured]
    _take_over(judged, state, lambda was: (was.text.sha256, was.part) == (text.sha256, _part(run)), progress)
    names = {one.path: one.member.name for one in judged if one.member.name not in state.figures}
    names |= {path: name for name, path in checkpoints.items() if name not in state.figures}
    names |= {path: name for name, path in plain.items()}

    def measured(found: ComparedModel) -> None:
        name, figures = names[found.path], asdict(found.figures)
        state.base = {key: figures[f"base_{key}"] for key in ("perplexity", "perplexity_error")}
        state.base = {**state.base, "tokens": figures["tokens"]}
        state.figures[name] = figures
        state.save()
        if name in plain:
            found.path.unlink()
        note(progress, f"{name}: perplexity {figures['perplexity']:.4f}, KLD {figures['kld_mean']:.5f}")

    if names:
        compare_models(model, list(names), options.evaluation_text, run=run, measured=measured, progress=progress)
    return EvaluationFacts(text, state.base or {}, state.figures, _part(run))


def plain_name(name: str) -> str:
    """What tables call the same file without refining.

    Example:
        >>> plain_name("Q4_K_M")
        'Q4_K_M plain'
    """
    return f"{name} plain"


def _part(run: object) -> dict[str, int | None]:
    """Which part of the text was judged, as the manifest has it."""
    return {name: getattr(run, name) for name in ("n_ctx", "first_chunk", "chunks")}


def _take_over(
    judged: Sequence[Planned], state: ReleaseState, same: Callable[[EvaluationFacts], bool], progress: Progress | None
) -> None:
    """Take over what was measured of the same files in the release that was in the folder before."""
    if not state.before.is_file():
        return
    try:
        before = read_manifest(state.before)
    except FormatError:
        return  # of another version: everything is measured again
    was = before.evaluation
    if was is None or before.source != state.source or not same(was):
        return
    for one in judged:
        name, paths = one.member.name, [job.path.name for job in one.jobs]
        theirs = {path for path, facts in before.files.items() if facts.member == one.member}
        known = theirs == set(paths) and all(before.files[path] == state.files[path] for path in paths)
        if known and name in was.levels and name not in state.figures:
            state.base, state.figures[name] = state.base or was.base, was.levels[name]
            note(progress, f"{name}: measured before, in the release that was here")
    state.save()
