"""What is done of a release that is not finished, in a file of its folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from glob import escape
from pathlib import Path

from ....formats.errors import FormatError, OutputError
from ....formats.json_text import read_json
from ....formats.json_types import FLAG, OBJECT, WHOLE, take
from ....formats.storage.durable import partial_name
from .fields import needed
from .manifest import (
    FIGURES,
    FIGURES_BY_NAME,
    NAME,
    CheckpointFacts,
    Figures,
    FileFacts,
    checkpoints_from_json,
    files_from_json,
    write_json,
)
from .targets import TargetRecipe, recipes_from_json

_STATE = ".release.json"
_BEFORE = ".before.json"  # the manifest of the release that was here, for what it measured
# What a release writes into its folder, besides the files that are named after the model.
_OWN_FILES = ("*.state", "README.md", "SHA256SUMS", "Modelfile", "*.png")


@dataclass
class ReleaseState:
    """The steps of a release that are done; ``save`` after each.

    Args:
        folder: the release's folder.
        key: the settings that decide what the release holds. Another run with other settings cannot resume it.
        text_chunks: chunks of the text that ships with the package, in the model's tokens; None if not counted yet.
        files: the files that are written and verified, by name.
        base: the original's figures, or None.
        figures: the figures of the levels that are evaluated.
        source: the files of the checkpoint, by name; None if not hashed yet.
        targets: the recipes that were found for target sizes, by name; None if not looked for yet.
        checkpoints: those for transformers and vLLM that are made, by name.
        published: whether all that belongs to the release is written, and only working files are left.
    """

    folder: Path
    key: Mapping[str, object]
    text_chunks: int | None = None
    files: dict[str, FileFacts] = field(default_factory=dict)
    base: Figures | None = None
    figures: dict[str, Figures] = field(default_factory=dict)
    source: dict[str, FileFacts] | None = None
    targets: dict[str, TargetRecipe] | None = None
    published: bool = False
    checkpoints: dict[str, CheckpointFacts] = field(default_factory=dict)

    @property
    def before(self) -> Path:
        """The manifest of the release that was in the folder before, if there was one."""
        return self.folder / _BEFORE

    def save(self) -> None:
        """Write the state, durably."""
        write_json(_path(self.folder), {"key": dict(self.key), "done": self._to_json()})

    def close(self, *working: Path) -> None:
        """Remove working files, and last the state: the release is complete."""
        for path in (*working, self.before, _path(self.folder)):
            path.unlink(missing_ok=True)

    def _to_json(self) -> dict[str, object]:
        return {
            "text_chunks": self.text_chunks,
            "files": {name: facts.to_json() for name, facts in self.files.items()},
            "base": self.base,
            "figures": self.figures,
            "published": self.published,
            "checkpoints": {name: facts.to_json() for name, facts in self.checkpoints.items()},
            "source": None if self.source is None else {name: facts.to_json() for name, facts in self.source.items()},
            "targets": None if self.targets is None else {name: one.to_json() for name, one in self.targets.items()},
        }


def has_state(folder: Path) -> bool:
    """Tell whether a folder holds an unfinished release."""
    return _path(folder).is_file()


def check_folder(folder: Path, *, restart: bool = False) -> None:
    """Check that a release can be made in a folder, or resumed.

    Args:
        restart: whether a finished release there would be discarded.

    Raises:
        OutputError: the folder holds something else, or a finished release.
    """
    finished = (folder / NAME).is_file()
    if has_state(folder) or (finished and restart):
        return
    if finished:
        raise OutputError("holds a finished release", path=folder, hint="--restart makes it anew")
    ours = {partial_name(_path(folder)), folder / _BEFORE}
    if folder.exists() and (not folder.is_dir() or {*folder.iterdir()} - ours):
        raise OutputError("exists and is not an empty folder", path=folder, hint="choose another")


def listed_checkpoints(folder: Path) -> dict[str, str]:
    """The folders' names of the checkpoints that belong to a folder's release, finished or not, by their own names."""
    found: dict[str, str] = {}
    for path, *inside in ((folder / NAME,), (_path(folder), "done")):
        try:
            content = read_json(path)
            for key in inside:
                content = needed(content, key, OBJECT, path=path)
            listed = take(content, "checkpoints", OBJECT, {}, path=path)
            found |= {name: facts.folder for name, facts in checkpoints_from_json(listed, path, "checkpoints.").items()}
        except FormatError:
            continue  # it is damaged, or of another version: what it lists is not ours to remove
    return found


def open_state(
    folder: Path, key: Mapping[str, object], *, stem: str, restart: bool, say: Callable[[str], object] | None
) -> ReleaseState:
    """Begin a release, or resume the one that an earlier run left unfinished.

    Args:
        folder: the release's folder, which is made.
        key: the settings; see ``ReleaseState``.
        stem: what the release's files are named after.
        restart: discard what is in the folder of a release.
        say: called with a line when a release is resumed.

    Raises:
        OutputError: the folder holds something else, a finished release, or an unfinished one with other settings.
        FormatError: the state is damaged.
    """
    path = _path(folder)
    if restart:
        _discard(folder, stem)
    check_folder(folder)
    state = ReleaseState(folder, key)
    if path.is_file():
        state = _read(folder, key)
        if say is not None:
            say(f"{folder}: going on where an earlier run stopped; --restart begins anew")
    folder.mkdir(parents=True, exist_ok=True)
    state.save()
    return state


def _read(folder: Path, key: Mapping[str, object]) -> ReleaseState:
    path = _path(folder)
    try:
        saved = read_json(path)
        theirs, done = (needed(saved, name, OBJECT, path=path) for name in ("key", "done"))
        found = partial(take, done, path=path, inside="done.")
        files, source = (
            {} if done.get(name) is None else files_from_json(done, name, path, "done.") for name in ("files", "source")
        )
        figures = found("figures", FIGURES_BY_NAME) or {}
        targets = found("targets", OBJECT)
        state = ReleaseState(
            folder, key, found("text_chunks", WHOLE), files, found("base", FIGURES), figures, source or None,
            None if targets is None else recipes_from_json(targets, path, "done.targets."),
            found("published", FLAG) or False,
            checkpoints_from_json(found("checkpoints", OBJECT, {}), path, "done.checkpoints."),
        )  # fmt: skip
    except FormatError as error:
        problem = f"is damaged: {error.problem}"
        raise FormatError(problem, path=path, where=error.where, hint="--restart begins anew") from None
    if differs := [name for name in key if theirs.get(name) != key[name]]:
        problem = f"holds an unfinished release with other settings ({', '.join(differs)})"
        raise OutputError(problem, path=folder, hint="--restart discards it, or choose another folder")
    return state


def _path(folder: Path) -> Path:
    return folder / _STATE


def _discard(folder: Path, stem: str) -> None:
    """Remove what a release wrote into the folder, and nothing else; its manifest stays, by another name."""
    known = _path(folder), folder / NAME
    if not any(path.is_file() for path in known):
        return
    towers = (f"mmproj-{escape(stem)}-*.gguf", f".mmproj-{escape(stem)}-*")
    for pattern in (f"{escape(stem)}.*.gguf", f".{escape(stem)}.*", *towers, *_OWN_FILES):
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if (folder / NAME).is_file():
        (folder / NAME).replace(folder / _BEFORE)
    _path(folder).unlink(missing_ok=True)
