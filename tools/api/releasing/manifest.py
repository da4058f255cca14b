"""The manifest of a release: what is needed to make its files again, byte for byte."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ....formats.errors import FormatError, visible
from ....formats.json_text import read_json
from ....formats.json_types import OBJECT, TEXT, TEXTS, WHOLE, JsonType, by_name, list_of, optional, shown, take
from ....formats.storage.durable import sha256_of_file, write_durably
from ....formats.version import __version__
from .checkpoints import Checkpoint
from .fields import SIZE, needed
from .members import Member
from .refining import RefinementFacts
from .targets import TargetRecipe, recipes_from_json

FORMAT = 1
NAME = "manifest.json"
_PACKAGES = ("numpy", "numba", "torch", "transformers", "tokenizers", "safetensors")

_SOURCE = Member()  # what files of the checkpoint are
_REMEDY = "give the manifest.json that release wrote"
_RULE = JsonType("a pattern and a type", lambda value: TEXTS.holds(value) and len(value) == 2)
_RULES = list_of(_RULE, "patterns and types")
_TEXTS_BY_NAME = by_name(TEXT, "texts")
FIGURES = by_name(JsonType("a number", lambda value: type(value) in (int, float)), "numbers")  # infinities, too
FIGURES_BY_NAME = by_name(FIGURES, "objects of numbers")
_PART = by_name(optional(WHOLE), "whole numbers")

Figures = Mapping[str, float]  # those of imatrix/evaluate.py, by name


@dataclass(frozen=True)
class FileFacts:
    """A file's size in bytes and its SHA-256; for a file of the release also what it is, or is a shard of."""

    nbytes: int
    sha256: str
    member: Member = _SOURCE

    @classmethod
    def of(cls, path: Path, member: Member = _SOURCE) -> FileFacts:
        """Read the file and hash it."""
        return cls(path.stat().st_size, sha256_of_file(path), member)

    def to_json(self) -> dict[str, object]:
        """Give the fields as JSON has them."""
        return self.member.to_json() | {"bytes": self.nbytes, "sha256": self.sha256}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], path: Path, inside: str) -> FileFacts:
        """Read the fields.

        Raises:
            FormatError: they are not those of a file.
        """
        found = partial(needed, content, path=path, inside=inside)
        return cls(found("bytes", SIZE), found("sha256", TEXT), Member.from_json(content, path, inside))


@dataclass(frozen=True)
class TextFacts:
    """A text's file name and SHA-256."""

    name: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> TextFacts:
        """Hash the text."""
        return cls(path.name, sha256_of_file(path))


@dataclass(frozen=True)
class ImatrixFacts:
    """The importance matrix of a release.

    Args:
        file: its file's name.
        sha256: of the file.
        text: what it was collected from; None if the file was given.
        n_ctx: tokens in a chunk of the text.
        matched: how many of its entries belong to a tensor of the model; None in manifests of earlier versions.
        missed: the other entries.
        chunks: how many chunks of text were seen, as the file says; None if it does not.
        datasets: the names of the texts, as the file says.
    """

    file: str
    sha256: str
    text: TextFacts | None
    n_ctx: int
    matched: int | None = None
    missed: tuple[str, ...] = ()
    chunks: int | None = None
    datasets: tuple[str, ...] = ()


@dataclass(frozen=True)
class EvaluationFacts:
    """The evaluation of a release.

    Args:
        text: what was judged.
        base: the original's figures on it.
        levels: those of each model, by its name in tables; those of plain ones beside refined ones, too.
        part: which chunks were judged: ``n_ctx``, ``first_chunk`` and ``chunks``; empty in earlier manifests.
    """

    text: TextFacts
    base: Figures
    levels: Mapping[str, Figures]
    part: Mapping[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckpointFacts:
    """A checkpoint for transformers and vLLM that belongs to a release.

    Args:
        checkpoint: what it is.
        folder: its folder's name; it lies beside the release's.
        files: its files but the card, by name.
        text: what it was calibrated on, or None.
        n_ctx: tokens in a chunk of the text.
        chunks: how many chunks of it, from the first on; None for all.
    """

    checkpoint: Checkpoint
    folder: str
    files: Mapping[str, FileFacts]
    text: TextFacts | None = None
    n_ctx: int = 0
    chunks: int | None = None

    def to_json(self) -> dict[str, object]:
        """Give the fields as JSON has them."""
        read = {"text": None if self.text is None else vars(self.text), "context": self.n_ctx, "chunks": self.chunks}
        files = {name: facts.to_json() for name, facts in self.files.items()}
        return {**self.checkpoint.to_json(), "folder": self.folder, **read, "files": files}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], path: Path, inside: str) -> CheckpointFacts:
        """Read the fields.

        Raises:
            FormatError: they are not those of a checkpoint.
        """
        folder = needed(content, "folder", TEXT, path=path, inside=inside)
        files = files_from_json(content, "files", path, inside)
        for where, name in (("folder", folder), *(("files", name) for name in files)):
            if Path(name).name != name:
                raise FormatError("names what cannot be its own", path=path, where=f"{inside}{where}.{name[:80]}")
        found = partial(take, content, path=path, inside=inside)
        text = found("text", OBJECT)
        return cls(
            Checkpoint.from_json(content, path, inside),
            folder,
            files,
            None if text is None else _text(text, path, f"{inside}text."),
            found("context", WHOLE, 0),
            found("chunks", WHOLE),
        )


@dataclass(frozen=True)
class Manifest:
    """What is needed to make the files of a release again.

    Args:
        versions: of quantmill, Python and the packages it computes with, and the platform.
        source_name: the name of the checkpoint's folder or file.
        source: the files of the checkpoint, by name.
        recipe_set: the recipe set that the levels are of.
        imatrix: the importance matrix, or None.
        files: the files of the release, by name.
        evaluation: how good they are, or None if that was not measured.
        tensor_types: patterns and types that come before the recipes, in order.
        targets: the recipes that were found for target sizes, by name.
        split_max_size: the most bytes of a file; larger models are shards. None in manifests of earlier versions.
        refinement: how the files were refined, or None.
        checkpoints: those for transformers and vLLM, by their names in tables.
    """

    versions: Mapping[str, str]
    source_name: str
    source: Mapping[str, FileFacts]
    recipe_set: str
    imatrix: ImatrixFacts | None
    files: Mapping[str, FileFacts]
    evaluation: EvaluationFacts | None = None
    tensor_types: tuple[tuple[str, str], ...] = ()
    targets: Mapping[str, TargetRecipe] = field(default_factory=dict)
    split_max_size: int | None = None
    refinement: RefinementFacts | None = None
    checkpoints: Mapping[str, CheckpointFacts] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Give the content of manifest.json."""
        imatrix, evaluation = self.imatrix, self.evaluation
        content: dict[str, object] = {
            "format": FORMAT,
            "versions": dict(self.versions),
            "source": {
                "name": self.source_name,
                "files": {name: facts.to_json() for name, facts in self.source.items()},
            },
            "options": {
                "recipe_set": self.recipe_set,
                "tensor_types": [list(rule) for rule in self.tensor_types],
                "split_max_size": self.split_max_size,
            },
            "imatrix": None,
            "files": {name: facts.to_json() for name, facts in self.files.items()},
        }
        if self.targets:
            content["targets"] = {name: recipe.to_json() for name, recipe in self.targets.items()}
        if self.checkpoints:
            content["checkpoints"] = {name: one.to_json() for name, one in self.checkpoints.items()}
        if self.refinement is not None:
            content["refinement"] = self.refinement.to_json()
        if imatrix is not None:
            content["imatrix"] = {
                "file": imatrix.file,
                "sha256": imatrix.sha256,
                "text": None if imatrix.text is None else vars(imatrix.text),
                "context": imatrix.n_ctx,
                "matched": imatrix.matched,
                "missed": list(imatrix.missed),
                "chunks": imatrix.chunks,
                "datasets": list(imatrix.datasets),
            }
        if evaluation is not None:
            content["evaluation"] = {
                "text": vars(evaluation.text),
                "part": dict(evaluation.part),
                "base": dict(evaluation.base),
                "files": {level: dict(figures) for level, figures in evaluation.levels.items()},
            }
        return content


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest, whole or not at all."""
    write_json(path, manifest.to_json())


def read_manifest(path: str | Path) -> Manifest:
    """Read a manifest.

    Raises:
        FormatError: the file cannot be read, is not a manifest, or is of a later version.
    """
    path = Path(path)
    content = read_json(path, required=True)
    if "format" not in content:
        raise FormatError("is not the manifest of a release", path=path, hint=_REMEDY)
    if content["format"] != FORMAT:
        problem = f"is of format {shown(content['format'])}; {FORMAT} is known"
        raise FormatError(problem, path=path, hint="update quantmill", where="format")
    try:
        return _parse(content, path)
    except FormatError as error:
        raise FormatError(
            f"is not the manifest of a release: {error.problem}", path=path, where=error.where, hint=_REMEDY
        ) from None


def _parse(content: Mapping[str, Any], path: Path) -> Manifest:
    files = files_from_json(content, "files", path)
    for name, facts in files.items():
        if Path(name).name != name or not facts.member.name:
            raise FormatError("names a file that cannot be its own", path=path, where=f"files.{name[:80]}")
    targets = recipes_from_json(take(content, "targets", OBJECT, {}, path=path), path, "targets.")
    for target in (facts.member.target for facts in files.values() if facts.member.target):
        if target not in targets:
            raise FormatError("has no recipe", path=path, where=f"targets.{target[:80]}")
    options, source = (needed(content, key, OBJECT, path=path) for key in ("options", "source"))
    option = partial(take, options, path=path, inside="options.")
    refinement = take(content, "refinement", OBJECT, path=path)
    sets = (option(key, TEXT) for key in ("recipe_set", "book"))
    return Manifest(
        versions=take(content, "versions", _TEXTS_BY_NAME, path=path) or {},
        source_name=take(source, "name", TEXT, path=path, inside="source.") or "",
        source=files_from_json(source, "files", path, "source."),
        recipe_set=next(filter(None, sets), "current"),  # "book" is the former name
        imatrix=_imatrix(take(content, "imatrix", OBJECT, path=path), path),
        files=files,
        evaluation=_evaluation(take(content, "evaluation", OBJECT, path=path), path),
        tensor_types=tuple((pattern, type) for pattern, type in option("tensor_types", _RULES) or ()),
        targets=targets,
        split_max_size=option("split_max_size", SIZE),
        refinement=None if refinement is None else RefinementFacts.from_json(refinement, path, "refinement."),
        checkpoints=checkpoints_from_json(take(content, "checkpoints", OBJECT, {}, path=path), path, "checkpoints."),
    )


def _imatrix(content: Mapping[str, Any] | None, path: Path) -> ImatrixFacts | None:
    if content is None:
        return None
    found = partial(needed, content, path=path, inside="imatrix.")
    others = partial(take, content, path=path, inside="imatrix.")
    text = others("text", OBJECT)
    return ImatrixFacts(
        found("file", TEXT),
        found("sha256", TEXT),
        None if text is None else _text(text, path, "imatrix.text."),
        others("context", WHOLE, 0),
        others("matched", WHOLE),
        tuple(others("missed", TEXTS) or ()),
        others("chunks", WHOLE),
        tuple(others("datasets", TEXTS) or ()),
    )


def _evaluation(content: Mapping[str, Any] | None, path: Path) -> EvaluationFacts | None:
    if content is None:
        return None
    found = partial(needed, content, path=path, inside="evaluation.")
    text = _text(found("text", OBJECT), path, "evaluation.text.")
    part = take(content, "part", _PART, path=path, inside="evaluation.")
    return EvaluationFacts(text, found("base", FIGURES), found("files", FIGURES_BY_NAME), part or {})


def _text(content: Mapping[str, Any], path: Path, inside: str) -> TextFacts:
    name, sha256 = (needed(content, key, TEXT, path=path, inside=inside) for key in ("name", "sha256"))
    return TextFacts(name, sha256)


def files_from_json(content: Mapping[str, Any], key: str, path: Path, inside: str = "") -> dict[str, FileFacts]:
    """Read the files that a key lists, by name.

    Raises:
        FormatError: they are not described as files.
    """
    listed = needed(content, key, OBJECT, path=path, inside=inside)
    found = {}
    for name in listed:
        about = needed(listed, name, OBJECT, path=path, inside=f"{inside}{key}.")
        found[name] = FileFacts.from_json(about, path, f"{inside}{key}.{name}.")
    return found


def checkpoints_from_json(content: Mapping[str, Any], path: Path, inside: str) -> dict[str, CheckpointFacts]:
    """Read the checkpoints of a release, by name.

    Raises:
        FormatError: they are not described as checkpoints.
    """
    found = {}
    for name in content:
        about = needed(content, name, OBJECT, path=path, inside=inside)
        found[name] = CheckpointFacts.from_json(about, path, f"{inside}{name[:80]}.")
    return found


def write_json(path: Path, content: object) -> None:
    """Write JSON, whole or not at all; in ASCII where a name has characters that a reader cannot see."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    if visible(text, keep="\n") != text:
        text = json.dumps(content, indent=2)
    write_durably(path, f"{text}\n".encode())


def versions() -> dict[str, str]:
    """List the versions of quantmill, Python and the packages it computes with, and the platform.

    Example:
        >>> list(versions())[:2]
        ['quantmill', 'python']
    """
    found = {"quantmill": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | {"platform": f"{sys.platform} {platform.machine()}"}


def source_files(model: Path) -> list[Path]:
    """List the files that a model is read from: the file itself, or the files of a checkpoint's folder."""
    if model.is_file():
        return [model]
    return sorted(path for path in model.iterdir() if path.is_file() and not path.name.startswith("."))
