"""Make the files of a release again, and compare their checksums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ....formats.errors import FormatError, PlanError
from ....formats.gguf.shards import shard_prefix
from ....formats.progress import Progress, note
from ....formats.storage.durable import sha256_of_file
from ..checks import refuse
from ..convert import write_plans
from ..hub import local_path
from ..models import read_model
from ..options import StrPath, WriteOptions
from ..planning import with_imatrix
from .checkpoints import listed_files
from .manifest import CheckpointFacts, FileFacts, Manifest, TextFacts, read_manifest, source_files
from .members import Member, plan_member, planned
from .refining import RefinementFacts, can_be_refined, check_again, collect_both, refined_by
from .towers import release_towers


@dataclass(frozen=True)
class Reproduction:
    """What ``reproduce`` found.

    Args:
        manifest: the release's manifest.
        same: whether each file that was made again has the release's bytes, by name.

    Example:
        >>> from quantmill import Reproduction
        >>> sorted(Reproduction.__dataclass_fields__)
        ['manifest', 'same']
    """

    manifest: Manifest
    same: Mapping[str, bool]

    @property
    def ok(self) -> bool:
        """Whether every file has the release's bytes."""
        return all(self.same.values())


def reproduce(
    manifest: StrPath,
    model: StrPath,
    *,
    imatrix: StrPath | None = None,
    text: StrPath | None = None,
    levels: Sequence[str] | None = None,
    work_folder: StrPath | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Reproduction:
    """Make the files of a release again from its manifest and the model, and compare their checksums.

    The importance matrix is the one that was published, because collecting it sums floats in an order that differs
    between machines. Second moments, by which a release was refined, are published by no release: they are collected
    again, in a file that a run which is interrupted leaves for the next, and a line says if they are not the release's.

    Args:
        manifest: the manifest.json of the release.
        model: the checkpoint that the release was made of.
        imatrix: the release's importance matrix; None for the one beside the manifest.
        text: the text that second moments, and checkpoints of GPTQ and AWQ, are made with; None for the one that ships
            with the package, or the one of that name beside the manifest.
        levels: make only these, or checkpoints by their names, such as ``AWQ``; None for all.
        work_folder: where each file is written before it is compared and removed; None for beside the manifest.
        threads: how many threads compute; None for one for each CPU.
        progress: called with typed events; see ``formats/progress.py``.

    Raises:
        FormatError: the manifest, the model or the importance matrix is not the release's. PlanError: the release has
            no such level.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import ReleaseOptions, release, reproduce, tiny_llama, write_gguf
        >>> with TemporaryDirectory() as parent:
        ...     source = Path(parent, "tiny-f16.gguf")
        ...     _ = write_gguf(source, tiny_llama())
        ...     made = release(source, Path(parent, "tiny-gguf"), ReleaseOptions(levels=["Q8_0"], imatrix=None))
        ...     reproduce(made.folder / "manifest.json", source).same
        {'tiny.Q8_0.gguf': True}
    """
    path, model = Path(manifest), local_path(model, progress=progress)
    content = read_manifest(path)
    files, checkpoints = _chosen(content, levels, path)
    _check_source(content, model)
    used = _find_imatrix(content, imatrix, path)
    collected = content.refinement is not None and content.imatrix is not None and content.imatrix.text is not None
    if not collected and not any(one.text for one in content.checkpoints.values()):
        refuse({"--file": text is not None}, "no text is read")
    work = _Work(content, model, used, path, Path(work_folder or path.parent), text, threads, progress)
    made = work.make(files) if files else {}
    same = {name: made.get(name) == facts.sha256 for name, facts in files.items()}
    for one in checkpoints:
        again = work.make_checkpoint(one)
        same |= {f"{one.folder}/{file}": again.get(file) == about.sha256 for file, about in one.files.items()}
    return Reproduction(content, same)


def _chosen(
    manifest: Manifest, levels: Sequence[str] | None, path: Path
) -> tuple[Mapping[str, FileFacts], list[CheckpointFacts]]:
    if levels is None:
        return manifest.files, list(manifest.checkpoints.values())
    wanted = {level.upper() for level in levels}
    names = {facts.member.name.upper() for facts in manifest.files.values()}
    if unknown := wanted - names - {name.upper() for name in manifest.checkpoints}:
        raise PlanError(f"has no {', '.join(sorted(unknown))}", path=path, where="--levels")
    files = {name: facts for name, facts in manifest.files.items() if facts.member.name.upper() in wanted}
    return files, [facts for name, facts in manifest.checkpoints.items() if name.upper() in wanted]


def _check_source(manifest: Manifest, model: Path) -> None:
    """Check that the files are the release's; others may have been added since."""
    if not model.exists():
        raise FormatError("no such file or folder", path=model)
    here = {path.name: path for path in source_files(model)}
    if model.is_file() and len(manifest.source) == 1:
        here = {next(iter(manifest.source)): model}  # whatever its name is now
    for name, facts in manifest.source.items():
        if name not in here:
            raise FormatError(f"{name} is missing, which the release was made of", path=model)
        if here[name].stat().st_size != facts.nbytes or sha256_of_file(here[name]) != facts.sha256:
            raise FormatError("is not what the release was made of", path=here[name], hint="get the same revision")


def _find_imatrix(manifest: Manifest, given: StrPath | None, path: Path) -> Path | None:
    if manifest.imatrix is None:
        refuse({"--imatrix": given is not None}, "the release was made without importance")
        return None
    imatrix = Path(given) if given is not None else path.parent / manifest.imatrix.file
    if not imatrix.is_file():
        raise FormatError("the importance matrix is missing", path=imatrix, hint="name it with --imatrix")
    if sha256_of_file(imatrix) != manifest.imatrix.sha256:
        raise FormatError("is not the importance matrix of the release", path=imatrix)
    return imatrix


@dataclass(frozen=True)
class _Work:
    """Makes the members of a release again.

    Args:
        manifest: the release's.
        model: its checkpoint.
        imatrix: its importance matrix, or None.
        path: of the manifest.
        folder: where files are written.
        text, threads, progress: see ``reproduce``.
    """

    manifest: Manifest
    model: Path
    imatrix: Path | None
    path: Path
    folder: Path
    text: StrPath | None
    threads: int | None
    progress: Progress | None

    def make(self, files: Mapping[str, FileFacts]) -> dict[str, str]:
        """Make one member after the other, so that the disk needs room for one, and give their files' checksums."""
        from ....quantize.plan_options import PlanOptions

        manifest, progress = self.manifest, self.progress
        source = read_model(self.model, progress=progress)
        name = None if manifest.imatrix is None else manifest.imatrix.file  # whatever its name is now
        options = PlanOptions(recipe_set=manifest.recipe_set, tensor_types=manifest.tensor_types)
        options, _ = with_imatrix(options, source, self.imatrix, name=name)
        towers = release_towers(self.model, progress) if any(facts.member.mmproj for facts in files.values()) else None
        sets: dict[Member, list[str]] = {}
        for name, facts in files.items():
            sets.setdefault(facts.member, []).append(name)
        plans = {member: plan_member(member, source, towers, options, manifest.targets) for member in sets}
        refiner, moments = None, None
        if manifest.refinement is not None and any(map(can_be_refined, plans.values())):
            moments = self.moments(manifest.refinement)
            refined, refiner = refined_by(moments, manifest.refinement.width, options)
            plans = {member: plan_member(member, source, towers, refined, manifest.targets) for member in sets}
        found = {}
        with TemporaryDirectory(prefix=".reproduce-", dir=self.folder) as folder:
            for member, plan in plans.items():
                path = Path(folder, f"{shard_prefix(Path(sets[member][0]))}.gguf")
                made = planned(plan, member, path, manifest.split_max_size or plan.size)
                how = WriteOptions(threads=self.threads)
                write_plans(made.jobs, refiner=None if member.mmproj else refiner, options=how, progress=progress)
                for job in made.jobs:
                    found[job.path.name] = sha256_of_file(job.path)
                    job.path.unlink()
        if moments is not None and moments != self.imatrix:
            moments.unlink()
        return found

    def make_checkpoint(self, facts: CheckpointFacts) -> dict[str, str]:
        """Make a checkpoint again, and give its files' checksums."""
        from ..blockwise import CheckpointOptions
        from ..running import RunOptions

        text = None if facts.text is None else self.find_text(facts.text)
        run = RunOptions(n_ctx=facts.n_ctx or None, chunks=facts.chunks)
        with TemporaryDirectory(prefix=".reproduce-", dir=self.folder) as folder:
            made = Path(folder, facts.folder)
            how = CheckpointOptions(threads=self.threads)
            facts.checkpoint.make(self.model, made, text, run, how, self.progress)
            return {file.name: sha256_of_file(file) for file in listed_files(made)}

    def moments(self, facts: RefinementFacts) -> Path:
        """The file with second moments: the importance matrix that was given, or one that is collected again."""
        imatrix = self.manifest.imatrix
        assert imatrix is not None
        assert self.imatrix is not None
        if imatrix.text is None:
            return self.imatrix
        from ..running import RunOptions

        text = self.find_text(imatrix.text)
        moments = self.folder / f".{imatrix.file}.moments.gguf"
        again = f"second moments are collected again, from {imatrix.text.name}"
        note(self.progress, f"{again}: the release publishes importance alone", important=True)
        run = RunOptions(n_ctx=imatrix.n_ctx, chunks=facts.chunks)
        collect_both(self.model, moments, None, text, run, facts.width, facts.moments_size, self.progress)
        check_again(moments, facts, self.progress)
        return moments

    def find_text(self, facts: TextFacts) -> Path | None:
        """The text of the release; None for the one that ships with the package."""
        from ....imatrix.corpus import default_text

        given = self.text
        if given is None and sha256_of_file(default_text()) == facts.sha256:
            return None
        path = self.path.parent / facts.name if given is None else Path(given)
        if not path.is_file():
            raise FormatError("the text of the release is missing", path=path, hint="name it with --file")
        if sha256_of_file(path) != facts.sha256:
            raise FormatError("is not the text of the release", path=path, hint="name it with --file")
        return path
