"""Make a release: from a checkpoint to a set of files with a model card, checksums and a manifest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ....formats.errors import PlanError, WeightError, visible
from ....formats.hf.files.hub_cache import checkpoint_name
from ....formats.progress import Progress, note, notes
from ....formats.storage.endings import without_ending
from ....formats.storage.interrupts import when_cut_off
from ....formats.storage.output import explained, human_bytes
from ..checks import check_cluster
from ..convert import write_plans
from ..hub import local_path
from ..importance import DEFAULT_MOMENTS_SIZE
from ..models import read_model, without_float_ending
from ..options import SizeTarget, StrPath, WriteOptions
from ..planning import report_importance, with_imatrix
from .checkpoint_folders import make_checkpoints, make_way
from .checkpoints import Checkpoint, chosen_checkpoints
from .images import options_for
from .levels import chosen_levels
from .manifest import NAME, FileFacts, Manifest, read_manifest, source_files
from .measuring import measure, plain_name
from .members import Member, Planned, chosen_members, plan_member, planned
from .options import ReleaseOptions
from .push import open_destination, push_checkpoints, push_files
from .refining import RefinementFacts, can_be_refined, collect_both, moments_digest, refined_by
from .state import ReleaseState, has_state, open_state
from .targets import find_recipes, size_name
from .texts import calibration_part, text_path
from .towers import release_towers

if TYPE_CHECKING:
    from ....formats.hub.upload import Destination
    from ....formats.ir import Model
    from ....quantize.execute import Job
    from ....quantize.plan import Plan, PlanOptions
    from ....quantize.refine.refiner import Refiner
    from ..ray_pool import ClusterOptions


@dataclass(frozen=True)
class Release:
    """A finished release.

    Args:
        folder: where it is.
        files: the quantized files, from small to large, and the mmproj files of a model that sees or hears.
        manifest: what manifest.json says.

    Example:
        >>> from quantmill import Release
        >>> sorted(Release.__dataclass_fields__)
        ['files', 'folder', 'manifest']
    """

    folder: Path
    files: tuple[Path, ...]
    manifest: Manifest


_DEFAULT = ReleaseOptions()


def release(
    model: StrPath,
    folder: StrPath,
    options: ReleaseOptions = _DEFAULT,
    *,
    threads: int | None = None,
    cluster: ClusterOptions | None = None,
    restart: bool = False,
    push: str | None = None,
    public: bool = False,
    progress: Progress | None = None,
) -> Release:
    """Quantize a model to several levels, and write all that belongs to a release.

    The steps are: collect importance, write every level from one reading of the weights, read each file back and check
    it, evaluate it if asked for, and write a model card, checksums and a manifest. A run that was interrupted is
    resumed by the same call. Beside the levels of a checkpoint that sees or hears stand its mmproj files, F16 and Q8_0.
    Checkpoints for transformers and vLLM are folders beside it: ``Tiny-GGUF`` has ``Tiny-GPTQ-Int4`` beside it.
    A model that is larger than ``split_max_size`` is written as shards, named as llama-gguf-split names them.

    Args:
        model: a Hugging Face folder or a GGUF file.
        folder: the folder to make.
        options: what the release holds.
        threads: how many threads compute; None for one for each CPU.
        cluster: a Ray cluster that collects importance and quantizes; None for this machine.
        restart: discard a release that is in the folder, finished or not.
        push: a repository on the hub, ``org/name``, to which each file is uploaded as soon as it is verified.
        public: make that repository public if it is made; else it is private.
        progress: called with typed events; see ``formats/progress.py``.

    Raises:
        FormatError: the model is damaged or unknown. PlanError: a level cannot be made. OutputError: the folder holds
            something else, or cannot be written. WeightError: a weight is NaN or infinite.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import ReleaseOptions, release, tiny_llama, write_gguf
        >>> with TemporaryDirectory() as parent:
        ...     source = Path(parent, "tiny-f16.gguf")
        ...     _ = write_gguf(source, tiny_llama())
        ...     made = release(source, Path(parent, "tiny-gguf"), ReleaseOptions(levels=["Q8_0"], imatrix=None))
        ...     sorted(path.name for path in made.folder.iterdir())
        ['Modelfile', 'README.md', 'SHA256SUMS', 'manifest.json', 'tiny.Q8_0.gguf']
    """
    options.check()
    check_cluster(cluster, threads)
    path, folder = local_path(model, progress=progress), Path(folder)
    read = read_model(path, progress=progress)  # first: a model that cannot be read leaves no folder behind
    towers = release_towers(path, progress)
    upload = open_destination(push, public=public, progress=progress)
    steps = steps_of(
        path, read, towers, folder, options, threads=threads, cluster=cluster, upload=upload, progress=progress
    )

    def cut_off() -> None:
        if has_state(folder):
            note(progress, f"{folder}: what is done is kept; the same command goes on with it")

    with explained(folder), when_cut_off(cut_off):
        return steps.run(restart)


def steps_of(
    path: Path,
    model: Model,
    towers: Model | None,
    folder: Path,
    options: ReleaseOptions,
    *,
    threads: int | None = None,
    cluster: ClusterOptions | None = None,
    upload: Destination | None = None,
    weights: bool = True,
    progress: Progress | None = None,
) -> Steps:
    """The steps of a release; see ``Steps``.

    Args:
        weights: whether the checkpoint's weights are here, whose headers tell if its other formats can be made.

    Raises:
        PlanError: a level is unknown, or the members contradict each other. Others: see ``chosen_checkpoints``.
    """
    options = options_for(model, options, progress)
    importance = options.imatrix is not None
    levels = chosen_levels(options.levels, importance=importance, recipe_set=options.recipe_set)
    targets = [size_name(size) for size in options.target_sizes]
    members = chosen_members(model, towers, levels, targets, original=options.original)
    stem = _stem(path, options.name)
    checkpoints = chosen_checkpoints(
        path, options.gptq, options.awq, options.compress, options.group_size, progress, check=weights
    )
    return Steps(path, model, towers, folder, options, members, checkpoints, stem, threads, cluster, upload, progress)


@dataclass(frozen=True)
class Steps:
    """The steps of a release, each of which can be repeated.

    Args:
        path: the model's file or folder.
        model: what was read from it.
        towers: those of a checkpoint that sees or hears, or None.
        folder, options, threads, cluster, progress: see ``release``.
        upload: the repository that files go to, or None.
        members: the GGUF models to make.
        checkpoints: those to make for transformers and vLLM.
        stem: what the files' names begin with.
    """

    path: Path
    model: Model
    towers: Model | None
    folder: Path
    options: ReleaseOptions
    members: tuple[Member, ...]
    checkpoints: tuple[Checkpoint, ...]
    stem: str
    threads: int | None
    cluster: ClusterOptions | None
    upload: Destination | None
    progress: Progress | None

    @property
    def imatrix(self) -> Path | None:
        """The file of the importance matrix."""
        if self.options.imatrix is None:
            return None
        return self.folder / f"{self.stem}.imatrix.gguf" if self.options.collects else Path(self.options.imatrix)

    def run(self, restart: bool) -> Release:
        from .publish import publish

        self.check_members()  # a file that cannot be made leaves no folder behind either
        levels = [member.level for member in self.members if member.level and member.measured]
        key = self.options.key(self.path, levels)
        make_way(self.folder, self.checkpoints, restart=restart)
        state = open_state(self.folder, key, stem=self.stem, restart=restart, say=notes(self.progress))
        if state.published:
            return self.finish(state, read_manifest(self.folder / NAME))
        self.collect(state)
        members, refiner = self.plans(state)
        if self.imatrix is not None:
            report_importance(members[0].plan, self.imatrix, self.progress)
        self.quantize(members, refiner)
        self.verify(state, members)
        folders = make_checkpoints(
            self.path, self.checkpoints, self.options, state, self.threads, self.progress
        )  # fmt: skip
        if state.source is None:
            state.source = {path.name: FileFacts.of(path) for path in source_files(self.path)}
            state.save()
        evaluation = None
        if self.options.evaluate:
            plain = self.write_plain(state, members)
            evaluation = measure(self.path, members, plain, folders, self.options, state, self.progress)
        manifest = publish(
            self.path, self.model, self.stem, members, state, self.options, imatrix=self.imatrix,
            evaluation=evaluation, refinement=self.refinement(state), progress=self.progress,
        )  # fmt: skip
        state.published = True
        state.save()
        return self.finish(state, manifest)

    def finish(self, state: ReleaseState, manifest: Manifest) -> Release:
        """What is left when all files are there."""
        if self.upload is not None:
            push_files(self.upload, self.folder, manifest)
            push_checkpoints(self.upload, self.folder, manifest)
        state.close(self.working_moments, *self.folder.glob(f".{escape(self.stem)}.*.plain.gguf"))
        return Release(self.folder, tuple(self.folder / name for name in manifest.files), manifest)

    @property
    def working_moments(self) -> Path:
        """Where second moments are kept until the release is complete."""
        return self.folder / f".{self.stem}.moments.gguf"

    @property
    def moments(self) -> Path | None:
        """The file with second moments; None if nothing is refined."""
        if not self.options.refine:
            return None
        return self.working_moments if self.options.collects else self.imatrix

    def collect(self, state: ReleaseState) -> None:
        """Collect importance, with second moments where levels are refined, unless it was given or is there."""
        if not self.options.collects or self.imatrix is None:
            return
        from ..importance import collect_imatrix

        text = self.options.text
        run = calibration_part(self.path, self.options, state)
        if self.moments is not None:
            if self.cluster is not None:
                line = "importance and second moments are collected on this machine, not on the cluster"
                note(self.progress, line, important=True)
            width = self.options.refine_width
            collect_both(self.path, self.moments, self.imatrix, text, run, width, DEFAULT_MOMENTS_SIZE, self.progress)
        elif not self.imatrix.exists():
            collect_imatrix(
                self.path, self.imatrix, text=text, run=run, perplexity=False, cluster=self.cluster,
                progress=self.progress,
            )  # fmt: skip

    def refinement(self, state: ReleaseState) -> RefinementFacts | None:
        """How to refine again."""
        if self.moments is None:
            return None
        chunks = calibration_part(self.path, self.options, state).chunks if self.options.collects else None
        return RefinementFacts(self.options.refine_width, moments_digest(self.moments), DEFAULT_MOMENTS_SIZE, chunks)

    def check_members(self) -> list[Planned]:
        """Plan the members whose types are known, before there is importance; say if it is for none of them.

        Raises:
            PlanError: a member cannot be made.
        """
        from ..target import check_targets

        if self.options.collects:
            options = self.expected_options()
        else:
            options = self.plan_options()
            if self.moments is not None:
                options, _ = refined_by(self.moments, self.options.refine_width, options)
        sizes = [SizeTarget(nbytes=size) for size in self.options.target_sizes]
        if sizes:
            check_targets(self.model, sizes, options)
        known = [member for member in self.members if not member.target]
        plans = [plan_member(member, self.model, self.towers, options, {}) for member in known]
        made = [self.files_of(member, plan) for member, plan in zip(known, plans, strict=True)]
        if self.options.refine and not sizes and not any(map(can_be_refined, plans)):
            raise PlanError("has no effect: no type of these levels is refined", where="--refine", hint="leave it out")
        weighed = bool(sizes) or any(step.uses_importance for plan in plans for step in plan.steps)
        if self.imatrix is not None and not weighed:
            line = "no level of this release is encoded with importance: --imatrix none makes the same weights"
            note(self.progress, line, important=True)
        return made

    def expected_options(self) -> PlanOptions:
        """The options of the levels' plans with importance that is still to be collected, and what it will say."""
        from ....formats.imatrix_file import Imatrix
        from ....quantize.estimate.levels import uniform_importance

        assert self.imatrix is not None
        text = self.options.text
        dataset = text_path(None).name if text is None else str(text)
        said = Imatrix({}, (dataset,), chunk_count=1).provenance(self.imatrix.name)
        importance = uniform_importance(self.model)
        return replace(self.options.plan_options, importance=importance, extra_metadata=said)

    def plan_options(self) -> PlanOptions:
        """The options of the levels' plans, with importance."""
        name = None if self.imatrix is None else self.imatrix.name  # its folder is another one on every machine
        options, _ = with_imatrix(self.options.plan_options, self.model, self.imatrix, name=name)
        return options

    def plans(self, state: ReleaseState) -> tuple[list[Planned], Refiner | None]:
        """The plan of each member, and what refines them: nothing is written before all are known to be possible."""
        options = plain = self.plan_options()
        refiner = None
        if self.moments is not None:
            options, refiner = refined_by(self.moments, self.options.refine_width, plain)
        if state.targets is None:
            state.targets = find_recipes(
                self.options.target_sizes, self.model, options,
                refiner=refiner, text=self.options.text, threads=self.threads, progress=self.progress,
            )  # fmt: skip
            state.save()
        plans = {m: plan_member(m, self.model, self.towers, options, state.targets) for m in self.members}
        remarks = dict.fromkeys(line for member, plan in plans.items() if member.measured for line in plan.remarks)
        for line in remarks:
            if not line.startswith("--imatrix "):  # of Q8_0 it is expected; check_members says it of a whole release
                note(self.progress, line, important=True)
        made = []
        for member, plan in plans.items():
            one = self.files_of(member, plan, self.progress)
            if any(step.refined for step in plan.steps):
                one = replace(one, plain=plan_member(member, self.model, self.towers, plain, state.targets))
            made.append(one)
        return made, refiner

    def files_of(self, member: Member, plan: Plan, progress: Progress | None = None) -> Planned:
        path = self.folder / member.file(self.stem)
        return planned(plan, member, path, self.options.split_max_size, progress)

    def quantize(self, members: Sequence[Planned], refiner: Refiner | None) -> None:
        """Write every file that is not there yet, from one reading of the weights of the model and of its towers."""
        for towers in (False, True):
            jobs = [job for one in members if one.member.mmproj == towers for job in one.jobs]
            self.write(jobs, None if towers else refiner)

    def write_plain(self, state: ReleaseState, members: Sequence[Planned]) -> dict[str, Path]:
        """Write what refined files would be without refining, where that is still to be measured; by ``plain_name``."""
        from ....quantize.execute import Job

        jobs = {}
        for one in members:
            name = plain_name(one.member.name)
            if one.plain is not None and name not in state.figures:
                jobs[name] = Job(one.plain, self.folder / f".{self.stem}.{one.member.name}.plain.gguf")
        if jobs:
            size = human_bytes(sum(job.plan.size for job in jobs.values()))
            note(self.progress, f"{len(jobs)} files without refining are made to be measured, and removed: {size}")
            self.write(list(jobs.values()))
        return {name: job.path for name, job in jobs.items()}

    def write(self, jobs: Sequence[Job], refiner: Refiner | None = None) -> None:
        """Write the files that are not there yet."""
        jobs = [job for job in jobs if not job.path.exists()]
        if jobs:
            write_plans(
                jobs,
                refiner=refiner,
                options=WriteOptions(threads=self.threads),
                inputs=[path for path in (self.imatrix, self.moments) if path is not None],
                cluster=self.cluster,
                progress=self.progress,
            )

    def verify(self, state: ReleaseState, members: Sequence[Planned]) -> None:
        """Read every file back: its structure, and that each weight decodes to a finite number."""
        from ..verify import verify

        for one in members:
            paths = [job.path for job in one.jobs]
            if not all(path.name in state.files for path in paths):
                bad = [report.name for report in verify(one.path, progress=self.progress).tensors if report.non_finite]
                if bad:
                    raise WeightError(
                        "decodes to NaN or Inf", path=one.path, where=bad[0], hint="this is a bug; report it"
                    )
                state.files |= {path.name: FileFacts.of(path, one.member) for path in paths}
                state.save()
                note(self.progress, f"{one.path.name}: verified")
            if self.upload is not None:
                for path in paths:
                    self.upload.put(path, path.name, state.files[path.name].sha256)


def _stem(model: Path, name: str | None) -> str:
    """What the files' names begin with; a folder's name with control characters in it is not taken as it is."""
    own = without_ending(without_ending(checkpoint_name(model), ".gguf"), ".safetensors")
    own = without_float_ending(own)
    if not name and own == visible(own):
        return own
    seen = "".join(char if visible(char) == char else "-" for char in name or own)
    return re.sub(r"[^\w.+-]+", "-", seen).strip("-.") or "model"
