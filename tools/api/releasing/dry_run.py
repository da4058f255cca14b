"""What a release would hold, found without writing anything: plans exist before weights are read."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ....formats.hub.address import find_address
from ....formats.progress import Progress, note, notes
from ....formats.storage.output import human_bytes
from ..hub import described_folder
from ..importance import DEFAULT_MOMENTS_SIZE
from ..models import read_for_plan, read_model
from ..options import StrPath
from .checkpoint_folders import make_way
from .checkpoints import sibling_folder
from .manifest import NAME
from .ollama_file import MODELFILE
from .options import ReleaseOptions
from .push import open_destination
from .release import Steps, steps_of
from .state import check_folder
from .texts import text_path
from .towers import release_towers

if TYPE_CHECKING:
    from ....formats.ir import Model
    from .members import Planned

_DEFAULT = ReleaseOptions()


@dataclass(frozen=True)
class PlannedFile:
    """A file that a release would hold.

    Args:
        name: its name.
        member: what tables call the model that it is, or is a shard of.
        nbytes: its size, with its header.
        bpw: bits per weight of the whole model; None where types would be chosen for a size.
        at_most: whether ``nbytes`` is the most that it can have.

    Example:
        >>> from quantmill import PlannedFile
        >>> PlannedFile("Tiny.4.2GB.gguf", "4.2GB", 4_200_000_000, None, at_most=True).nbytes
        4200000000
    """

    name: str
    member: str
    nbytes: int
    bpw: float | None
    at_most: bool = False


@dataclass(frozen=True)
class ReleasePlan:
    """What a release would hold, and what making it would take.

    Args:
        folder: where it would be.
        files: the GGUF files, in the order in which they were asked for.
        beside: names of what stands beside them.
        calibration: what importance would be collected from; None if it is not collected.
        evaluation: what the files would be measured on; None if they are not measured.
        repository: where they would be uploaded, ``org/name``; None without ``push``.
        makes_repository: whether that would be made.
        disk: bytes that are needed at most: the files, and what is removed at the end.
        free: bytes that are free there.

    Example:
        >>> from quantmill import ReleasePlan
        >>> [name for name in ReleasePlan.__dataclass_fields__ if "repository" in name]
        ['repository', 'makes_repository']
    """

    folder: Path
    files: tuple[PlannedFile, ...]
    beside: tuple[str, ...]
    calibration: str | None
    evaluation: str | None
    repository: str | None
    makes_repository: bool
    disk: int
    free: int

    @property
    def nbytes(self) -> int:
        """The size of all GGUF files."""
        return sum(file.nbytes for file in self.files)


def plan_release(
    model: StrPath,
    folder: StrPath,
    options: ReleaseOptions = _DEFAULT,
    *,
    restart: bool = False,
    push: str | None = None,
    public: bool = False,
    progress: Progress | None = None,
) -> ReleasePlan:
    """Find out what ``release`` would make, with the same arguments. Nothing is written or uploaded.

    Of a model on the hub, configuration, vocabulary and headers are read, and no weights.

    Args:
        model, folder, options, restart, push, public: as in ``release``.
        progress: told of what is assumed, and if the disk has too little room.

    Raises:
        FormatError, PlanError, OutputError: as ``release`` before it begins.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import ReleaseOptions, plan_release, tiny_llama, write_gguf
        >>> with TemporaryDirectory() as parent:
        ...     source = Path(parent, "tiny-f16.gguf")
        ...     _ = write_gguf(source, tiny_llama())
        ...     found = plan_release(source, Path(parent, "set"), ReleaseOptions(levels=["Q8_0"], imatrix=None))
        ...     [file.name for file in found.files], Path(parent, "set").exists()
        (['tiny.Q8_0.gguf'], False)
    """
    options.check()
    folder = Path(folder)
    path, read, towers, weights = _read(model, progress)
    upload = open_destination(push, public=public, progress=progress)
    steps = steps_of(path, read, towers, folder, options, upload=upload, weights=weights, progress=progress)
    members = steps.check_members()
    check_folder(folder, restart=restart)
    files = [*_files(members), *_of_sizes(steps)]
    beside = ["README.md", "SHA256SUMS", NAME, MODELFILE]
    if options.collects and steps.imatrix is not None:
        beside.append(steps.imatrix.name)
    if steps.checkpoints:
        make_way(folder, steps.checkpoints, restart=restart, remove=False)
        beside += [f"../{sibling_folder(folder, one.name).name}" for one in steps.checkpoints]
        note(progress, "folders of other formats are not counted in what the disk needs", important=True)
    disk, free = _disk(steps, members, sum(file.nbytes for file in files)), _free(folder)
    if disk > free:
        line = f"{folder}: {human_bytes(disk)} are needed, {human_bytes(free)} are free"
        note(progress, line, important=True)
    return ReleasePlan(
        folder=folder,
        files=tuple(files),
        beside=tuple(beside),
        calibration=str(text_path(options.text)) if options.collects else None,
        evaluation=str(text_path(options.evaluation_text)) if options.evaluate else None,
        repository=None if upload is None else upload.address.repo,
        makes_repository=upload is not None and not upload.exists,
        disk=disk,
        free=free,
    )


def _read(model: StrPath, progress: Progress | None) -> tuple[Path, Model, Model | None, bool]:
    """The model's path, the model, its towers, and whether its weights are here; of those on the hub they are not."""
    from ....formats.hf.shapes import read_described

    address = find_address(model)
    if address is not None and address.file:
        return Path(address.file), read_for_plan(model, progress=progress), None, False
    path, elsewhere = described_folder(model, progress=progress)
    if elsewhere is None:
        return path, read_model(path, progress=progress), release_towers(path, progress), True
    read = read_described(path, say=notes(progress, important=True), elsewhere=elsewhere)
    note(progress, "mmproj files, where the model sees or hears, are not counted: they need the weights")
    return path, read, None, False


def _files(members: list[Planned]) -> list[PlannedFile]:
    return [
        PlannedFile(job.path.name, one.member.name, job.plan.size, one.plan.bpw) for one in members for job in one.jobs
    ]


def _of_sizes(steps: Steps) -> list[PlannedFile]:
    """The files whose types are chosen for a size, which is not known before tensors are tried."""
    targets = [member for member in steps.members if member.target]
    return [
        PlannedFile(member.file(steps.stem), member.name, size, None, at_most=True)
        for member, size in zip(targets, steps.options.target_sizes, strict=True)
    ]


def _disk(steps: Steps, members: list[Planned], nbytes: int) -> int:
    """The most bytes that are in the folder at one time."""
    options = steps.options
    if options.collects:  # four bytes for each column of a matrix, of each expert
        columns = (t.n_weights // max(1, t.shape[-2]) for t in steps.model.tensors if len(t.shape) > 1)
        nbytes += 4 * sum(columns)
    if options.refine:
        nbytes += DEFAULT_MOMENTS_SIZE if options.collects else 0
        if options.evaluate:  # files without refining are made to be measured
            nbytes += sum(one.size for one in members if one.member.measured) + sum(options.target_sizes)
    return nbytes


def _free(folder: Path) -> int:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free
