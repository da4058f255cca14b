"""Make a release: from a checkpoint to a set of files with a model card, checksums and a manifest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ....formats.errors import WeightError, visible
from ....formats.hf.files.hub_cache import checkpoint_name
from ....formats.progress import Progress, note, notes
from ....formats.storage.endings import without_ending
from ....formats.storage.interrupts import when_cut_off
from ....formats.storage.output import explained
from ..checks import check_cluster, refuse
from ..convert import write_plans
from ..hub import local_path
from ..models import read_model, without_float_ending
from ..options import StrPath, WriteOptions
from ..planning import report_importance, with_imatrix
from .levels import chosen_levels
from .manifest import Figures, FileFacts, Manifest, source_files
from .options import AUTO, ReleaseOptions
from .push import open_destination, push_files
from .state import ReleaseState, has_state, open_state
from .towers import LEVELS as MMPROJ_LEVELS
from .towers import mmproj_name, release_towers

if TYPE_CHECKING:
    from ....formats.hub.upload import Destination
    from ....formats.ir import Model
    from ....quantize.plan import Plan
    from ..ray_pool import ClusterOptions
    from ..running import RunOptions

_EVALUATION_SHARE = 4  # of the text that ships with the package, a quarter is kept for the evaluation


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
        ['README.md', 'SHA256SUMS', 'manifest.json', 'tiny.Q8_0.gguf']
    """
    _check_options(options)
    check_cluster(cluster, threads)
    path, folder = local_path(model, progress=progress), Path(folder)
    importance = options.imatrix is not None
    levels = chosen_levels(options.levels, importance=importance, recipe_set=options.recipe_set)
    read = read_model(path, progress=progress)  # first: a model that cannot be read leaves no folder behind
    stem = _stem(path, options.name)
    towers = release_towers(path, progress)
    upload = open_destination(push, public=public, progress=progress)
    steps = _Steps(path, read, towers, folder, options, levels, stem, threads, cluster, upload, progress)

    def cut_off() -> None:
        if has_state(folder):
            note(progress, f"{folder}: what is done is kept; the same command goes on with it")

    with explained(folder), when_cut_off(cut_off):
        return steps.run(restart)


def _check_options(options: ReleaseOptions) -> None:
    """Raise ``PlanError`` for options that would have no effect."""
    collects = options.imatrix == AUTO
    if not collects:
        why = "no importance is collected" if options.imatrix is None else "importance is a file's"
        refuse({"--file": options.text is not None}, why)
    if not options.evaluate:
        refuse({"--evaluation-text": options.evaluation_text is not None}, "nothing is measured without --evaluate")
        if not collects:
            size = options.n_ctx != _DEFAULT.n_ctx
            refuse({"--ctx-size": size, "--chunks": options.chunks is not None}, "no text is read")


@dataclass(frozen=True)
class _Steps:
    """The steps of a release, each of which can be repeated.

    Args:
        path: the model's file or folder.
        model: what was read from it.
        towers: those of a checkpoint that sees or hears, or None.
        folder, options, threads, cluster, progress: see ``release``.
        upload: the repository that files go to, or None.
        levels: the levels, each once.
        stem: what the files' names begin with.
    """

    path: Path
    model: Model
    towers: Model | None
    folder: Path
    options: ReleaseOptions
    levels: tuple[str, ...]
    stem: str
    threads: int | None
    cluster: ClusterOptions | None
    upload: Destination | None
    progress: Progress | None

    @property
    def collects(self) -> bool:
        """Whether importance is collected here."""
        return self.options.imatrix == AUTO

    @property
    def imatrix(self) -> Path | None:
        """The file of the importance matrix."""
        if self.options.imatrix is None:
            return None
        return self.folder / f"{self.stem}.imatrix.gguf" if self.collects else Path(self.options.imatrix)

    def file(self, level: str) -> Path:
        return self.folder / f"{self.stem}.{level}.gguf"

    def run(self, restart: bool) -> Release:
        from .publish import publish

        self.check_levels()  # a level that cannot be made leaves no folder behind either
        state = open_state(self.folder, self.key(), stem=self.stem, restart=restart, say=notes(self.progress))
        self.collect(state)
        plans = self.plans()
        if self.imatrix is not None:
            report_importance(next(iter(plans.values())), self.imatrix, self.progress)
        towers = self.tower_plans()
        self.quantize(plans)
        self.write_towers(towers)
        self.verify(state)
        self.evaluate(state)
        if state.source is None:
            state.source = {path.name: FileFacts.of(path) for path in source_files(self.path)}
            state.save()
        files = {level: self.file(level) for level in plans}
        calibrated, evaluated = _text(self.options.text), _text(self.options.evaluation_text)
        manifest = publish(
            self.path, self.model, self.stem, files, plans, state, self.options, towers=towers, imatrix=self.imatrix,
            calibration_text=calibrated if self.collects else None, evaluation_text=evaluated,
        )  # fmt: skip
        if self.upload is not None:
            push_files(self.upload, self.folder, manifest)
        state.close()
        return Release(self.folder, tuple(self.folder / name for name in manifest.files), manifest)

    def key(self) -> dict[str, object]:
        """The settings that decide what the release holds, as JSON has them."""
        given = self.options
        texts = {name: None if path is None else str(path) for name, path in (
            ("imatrix", given.imatrix), ("text", given.text), ("evaluation_text", given.evaluation_text),
        )}  # fmt: skip
        source = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in source_files(self.path)]
        numbers = {"n_ctx": given.n_ctx, "chunks": given.chunks, "evaluate": given.evaluate}
        names = {"recipe_set": given.recipe_set, "name": given.name}
        return {"model": source, "levels": list(self.levels), **texts, **numbers, **names}

    def collect(self, state: ReleaseState) -> None:
        """Collect importance, unless it was given or is there."""
        if not self.collects or self.imatrix is None or self.imatrix.exists():
            return
        from ..importance import collect_imatrix

        text = self.options.text
        run = self.part_of_text(state, text, calibration=True)
        collect_imatrix(
            self.path, self.imatrix, text=text, run=run, perplexity=False, cluster=self.cluster, progress=self.progress
        )

    def part_of_text(self, state: ReleaseState, text: StrPath | None, calibration: bool) -> RunOptions:
        """The chunks to use. The text that ships with the package is divided between calibration and evaluation."""
        from ..running import RunOptions, open_text, open_weights

        n_ctx = self.options.n_ctx
        if text is not None:
            return RunOptions(n_ctx=n_ctx, chunks=self.options.chunks)
        if state.text_chunks is None:
            state.text_chunks = open_text(open_weights(self.path), None, RunOptions(n_ctx=n_ctx)).n_chunks
            state.save()
        kept = state.text_chunks // _EVALUATION_SHARE if self.options.evaluate else 0
        first, most = state.text_chunks - kept, self.options.chunks
        if not calibration:
            return RunOptions(n_ctx=n_ctx, first_chunk=first, chunks=most)
        return RunOptions(n_ctx=n_ctx, chunks=first if most is None else min(first, most))

    def check_levels(self) -> None:
        """Raise ``PlanError`` if a level cannot be made; say if importance is for none of them."""
        from ....quantize.estimate.levels import uniform_importance
        from ....quantize.plan import PlanOptions, make_plan

        if self.collects:
            options = PlanOptions(recipe_set=self.options.recipe_set, importance=uniform_importance(self.model))
            plans = {level: make_plan(self.model, level, options) for level in self.levels}
        else:
            plans = self.plans()
        if self.imatrix is not None and not any(step.uses_importance for plan in plans.values() for step in plan.steps):
            line = "no level of this release is encoded with importance: --imatrix none makes the same weights"
            note(self.progress, line, important=True)

    def plans(self) -> dict[str, Plan]:
        """The plan of each level: nothing is written before all of them are known to be possible."""
        from ....quantize.plan import PlanOptions, make_plan

        name = None if self.imatrix is None else self.imatrix.name  # its folder is another one on every machine
        options = PlanOptions(recipe_set=self.options.recipe_set)
        options, _ = with_imatrix(options, self.model, self.imatrix, name=name)
        return {level: make_plan(self.model, level, options) for level in self.levels}

    def quantize(self, plans: Mapping[str, Plan]) -> None:
        """Write every file that is not there yet, from one reading of the weights."""
        from ....quantize.execute import Job

        jobs = [Job(plan, self.file(level)) for level, plan in plans.items() if not self.file(level).exists()]
        if jobs:
            write_plans(
                jobs,
                options=WriteOptions(threads=self.threads),
                inputs=[] if self.imatrix is None else [self.imatrix],
                cluster=self.cluster,
                progress=self.progress,
            )

    def tower_plans(self) -> dict[str, Plan]:
        """The plan of each mmproj file; none for a model of text."""
        from ....quantize.plan import make_plan

        return {} if self.towers is None else {level: make_plan(self.towers, level) for level in MMPROJ_LEVELS}

    def write_towers(self, plans: Mapping[str, Plan]) -> None:
        """Write every mmproj file that is not there yet."""
        from ....quantize.execute import Job

        paths = {level: self.folder / mmproj_name(self.stem, level) for level in plans}
        jobs = [Job(plan, paths[level]) for level, plan in plans.items() if not paths[level].exists()]
        if jobs:
            write_plans(jobs, options=WriteOptions(threads=self.threads), cluster=self.cluster, progress=self.progress)

    def verify(self, state: ReleaseState) -> None:
        """Read every file back: its structure, and that each weight decodes to a finite number."""
        from ..verify import verify

        files = [(level, self.file(level), False) for level in self.levels]
        if self.towers is not None:
            files += [(level, self.folder / mmproj_name(self.stem, level), True) for level in MMPROJ_LEVELS]
        for level, path, mmproj in files:
            if path.name not in state.files:
                bad = [report.name for report in verify(path, progress=self.progress).tensors if report.non_finite]
                if bad:
                    raise WeightError("decodes to NaN or Inf", path=path, where=bad[0], hint="this is a bug; report it")
                state.files[path.name] = FileFacts.of(path, level, mmproj=mmproj)
                state.save()
                note(self.progress, f"{path.name}: verified")
            if self.upload is not None:
                self.upload.put(path, path.name, state.files[path.name].sha256)

    def evaluate(self, state: ReleaseState) -> None:
        """Measure the perplexity of the original, then the perplexity and the divergence of each file."""
        if not self.options.evaluate:
            return
        for level in self.levels:
            if level in state.figures:
                continue
            if state.base is None or not state.base_file.exists():
                state.base_file.unlink(missing_ok=True)
                state.base = self.measure(state, self.path, save_base=state.base_file)
                state.save()
            figures = state.figures[level] = self.measure(state, self.file(level), base=state.base_file)
            state.save()
            line = f"{level}: perplexity {figures['perplexity']:.4f}, KLD {figures['kld_mean']:.5f}"
            note(self.progress, line)

    def measure(
        self, state: ReleaseState, model: Path, *, base: Path | None = None, save_base: Path | None = None
    ) -> Figures:
        from ..evaluation import evaluate

        text = self.options.evaluation_text
        run = self.part_of_text(state, text, calibration=False)
        figures: Figures = asdict(
            evaluate(model, text, base=base, save_base=save_base, run=run, progress=self.progress)
        )  # fmt: skip
        return figures


def _stem(model: Path, name: str | None) -> str:
    """What the files' names begin with; a folder's name with control characters in it is not taken as it is."""
    own = without_float_ending(without_ending(checkpoint_name(model), ".gguf"))
    if not name and own == visible(own):
        return own
    seen = "".join(char if visible(char) == char else "-" for char in name or own)
    return re.sub(r"[^\w.+-]+", "-", seen).strip("-.") or "model"


def _text(path: StrPath | None) -> Path:
    from ....imatrix.corpus import default_text

    return default_text() if path is None else Path(path)
