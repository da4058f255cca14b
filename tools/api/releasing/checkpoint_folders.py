"""The folders of a release's checkpoints: made and verified one after the other, resumed, described and pushed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ....formats.errors import FormatError, OutputError, WeightError
from ....formats.progress import Progress, note
from ....formats.storage.durable import sha256_of_file, write_durably
from ..blockwise import CheckpointOptions
from .checkpoint_card import checkpoint_card
from .checkpoints import Checkpoint, listed_files, sibling_folder
from .front_matter import FrontMatter
from .manifest import CheckpointFacts, FileFacts, Manifest, TextFacts
from .options import ReleaseOptions
from .state import ReleaseState, has_state, listed_checkpoints
from .texts import calibration_part, text_path


def make_way(release: Path, checkpoints: Sequence[Checkpoint], *, restart: bool, remove: bool = True) -> None:
    """Check, before a release begins, that the folders of its checkpoints are free.

    Args:
        release: the release's folder.
        restart: discard those that belong to the release that is there.
        remove: whether to remove what is discarded.

    Raises:
        OutputError: a folder exists and belongs to no release that may be discarded.
    """
    if has_state(release) and not restart:
        return  # whatever is there was made since the release began
    ours = listed_checkpoints(release) if restart else {}
    for one in checkpoints:
        folder = sibling_folder(release, one.name)
        if folder.is_dir() and ours.get(one.name) == folder.name and (folder / "config.json").is_file():
            if not remove:
                continue
            shutil.rmtree(folder)
        if folder.exists():
            hint = f"remove it, or choose another name than {release.name}"
            raise OutputError(f"exists, and is where {one.name} would be written", path=folder, hint=hint)


def make_checkpoints(
    model: Path, checkpoints: Sequence[Checkpoint], options: ReleaseOptions, state: ReleaseState,
    threads: int | None, progress: Progress | None,
) -> dict[str, Path]:  # fmt: skip
    """Make every checkpoint that is not there yet, and read it back.

    Args:
        model: the original's folder.
        checkpoints: those of the release.
        options: of the release, whose text calibrates them, in the same chunks as importance.
        state: told of each that is made.
        threads: how many compute; None for torch's own choice.

    Returns:
        the folders, by the checkpoints' names.

    Raises:
        WeightError: a weight decodes to NaN or infinity. Others: see ``Checkpoint.make``.
    """
    folders = {}
    for one in checkpoints:
        folder = folders[one.name] = sibling_folder(state.folder, one.name)
        if one.name not in state.checkpoints:
            run = calibration_part(model, options, state)
            if not folder.exists():
                note(progress, f"{folder}: {one.name}")
                one.make(model, folder, options.text, run, CheckpointOptions(threads=threads), progress)
            facts = CheckpointFacts(one, folder.name, {})
            if one.needs_text:
                text = TextFacts.of(text_path(options.text))
                facts = replace(facts, text=text, n_ctx=run.n_ctx or 0, chunks=run.chunks)
            _verify(folder, progress)
            files = {path.name: FileFacts.of(path) for path in listed_files(folder)}
            state.checkpoints[one.name] = replace(facts, files=files)
            state.save()
            note(progress, f"{folder.name}: verified")
    return folders


def _verify(folder: Path, progress: Progress | None) -> None:
    from ..verify import verify

    bad = [report.name for report in verify(folder, progress=progress).tensors if report.non_finite]
    if bad:
        raise WeightError("decodes to NaN or Inf", path=folder, where=bad[0], hint="this is a bug; report it")


def write_cards(release: Path, title: str, front: FrontMatter, manifest: Manifest) -> None:
    """Write the card of each checkpoint into its folder; see ``checkpoint_card``."""
    for name, one in manifest.checkpoints.items():
        card = checkpoint_card(name, one, title, front, manifest)
        write_durably(sibling_folder(release, name) / "README.md", card.encode("utf-8", "surrogateescape"))


def checked_folders(release: Path, manifest: Manifest) -> Mapping[str, Path]:
    """The folders of a finished release's checkpoints, by name.

    Raises:
        FormatError: one is missing, or a file of it was changed.
    """
    folders = {}
    for name, facts in manifest.checkpoints.items():
        folder = folders[name] = release.resolve().parent / facts.folder
        for file, about in facts.files.items():
            path = folder / file
            if not path.is_file() or sha256_of_file(path) != about.sha256:
                raise FormatError("is not the file that manifest.json lists", path=path, hint="make it again")
    return folders
