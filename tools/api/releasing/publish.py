"""What a release holds besides its models: the model card, its picture, the checksums and the manifest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ....formats.gguf.image_archs import is_image
from ....formats.hf.files.hub_cache import checkpoint_id, checkpoint_name
from ....formats.progress import Progress, note
from .card import Facts, File, model_card, with_plain
from .chat import chat_of
from .checkpoint_card import checkpoint_rows
from .checkpoint_folders import write_cards
from .front_matter import FrontMatter
from .images import image_class, image_task
from .manifest import NAME, EvaluationFacts, Manifest, versions, write_manifest
from .markdown import with_base
from .measuring import plain_name
from .ollama_file import write_modelfile
from .plot import plot_sizes
from .prompt import prompt_template
from .provenance import imatrix_facts, provenance
from .published import read_published
from .towers import sees_and_hears, task

if TYPE_CHECKING:
    from ....formats.ir import Model
    from .members import Planned
    from .options import ReleaseOptions
    from .refining import RefinementFacts
    from .state import ReleaseState

_PLOT = "size-kld.png"


def publish(
    path: Path,
    model: Model,
    stem: str,
    members: Sequence[Planned],
    state: ReleaseState,
    options: ReleaseOptions,
    *,
    imatrix: Path | None,
    evaluation: EvaluationFacts | None,
    refinement: RefinementFacts | None,
    progress: Progress | None,
) -> Manifest:
    """Write everything but the models; the manifest last, since it says that the release is complete.

    Args:
        path: the model's file or folder.
        model: the model.
        stem: what the files' names begin with.
        members: the GGUF models and their files.
        state: what is known of the files.
        options: the release's options.
        imatrix: the file of the importance matrix, or None.
        evaluation: what was measured, or None.
        refinement: how the files were refined, or None.
        progress: told where the card departs from the original's.
    """
    folder = state.folder
    rows = [_row(one, evaluation) for one in members if not one.member.mmproj]
    rows.sort(key=lambda row: row.n_bytes)
    in_order = sorted(members, key=lambda one: (one.member.mmproj, 0 if one.member.mmproj else one.size))
    manifest = Manifest(
        versions=versions(),
        source_name=checkpoint_name(path),
        source=state.source or {},
        recipe_set=options.recipe_set,
        imatrix=None if imatrix is None else imatrix_facts(imatrix, members[0].plan, options),
        files={job.path.name: state.files[job.path.name] for one in in_order for job in one.jobs},
        evaluation=evaluation,
        tensor_types=options.rules,
        targets=state.targets or {},
        split_max_size=options.split_max_size,
        refinement=refinement,
        checkpoints=state.checkpoints,
    )
    facts = _card_facts(path, model, stem, rows, members, manifest, options, folder)
    if conflicts := facts.front.conflicts():
        note(progress, f"README.md: beside the original's card, {', '.join(conflicts)}")
    if plot_sizes(with_plain(rows), facts.others, stem, folder / _PLOT):
        facts = replace(facts, plot=_PLOT)
    if not facts.image:
        facts = replace(facts, modelfile=write_modelfile(folder, path, model, facts, progress))
    facts = replace(facts, checkpoints=checkpoint_rows(manifest))
    write_cards(folder, facts.name, facts.front, manifest)
    (folder / "README.md").write_text(model_card(facts), encoding="utf-8")
    sums = {name: about.sha256 for name, about in manifest.files.items()}
    if manifest.imatrix is not None and imatrix is not None and imatrix.parent == folder:
        sums[manifest.imatrix.file] = manifest.imatrix.sha256
    lines = "".join(_checksum(name, sums[name]) for name in sorted(sums))
    (folder / "SHA256SUMS").write_text(lines, encoding="utf-8", errors="surrogateescape")
    write_manifest(folder / NAME, manifest)
    return manifest


def _checksum(name: str, sha256: str) -> str:
    """A line as sha256sum writes and reads it: after a backslash, those of the name and line breaks are escaped."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if escaped == name else chr(92)}{sha256}  {escaped}\n"


def _row(one: Planned, evaluation: EvaluationFacts | None) -> File:
    weights: dict[str, int] = {}
    plan, member = one.plan, one.member
    for step in plan.steps:
        weights[step.type.name] = weights.get(step.type.name, 0) + step.tensor.n_weights
    types = tuple(sorted((name for name in weights if name != "F32"), key=lambda name: -weights[name]))
    figures: Mapping[str, float] = {}
    if evaluation is not None and not member.mmproj:
        figures = evaluation.base if member.original else evaluation.levels[member.name]
    about = f"a mix around {plan.level}, chosen for this size" if member.target else ""
    row = File(one.path.name, member.name, one.size, plan.bpw, types, figures, shards=len(one.jobs), about=about)
    if one.plain is None:
        return row
    found = {} if evaluation is None else evaluation.levels.get(plain_name(member.name), {})
    plain = File("not in this release", f"{member.name}, plain", one.plain.size, one.plain.bpw, types, found)
    return replace(row, refined=True, plain=plain if found else None)


def _card_facts(
    path: Path,
    model: Model,
    stem: str,
    rows: Sequence[File],
    members: Sequence[Planned],
    manifest: Manifest,
    options: ReleaseOptions,
    folder: Path,
) -> Facts:
    from ....formats.hf.files.card import card_body, front_matter

    context = model.hparam("context_length")
    own = path / "README.md"
    card = front_matter(own) if path.is_dir() else {}
    base_model = options.base_model or _base_model(path, card)
    towers = [one for one in members if one.member.mmproj]
    sees, hears = sees_and_hears(towers[0].plan.source) if towers else (False, False)
    chat, image = chat_of(model), is_image(model.arch)
    kind = image_task(model) if image else task(sees, hears)
    return Facts(
        name=stem,
        front=FrontMatter(base_model, card, kind, options.quantized_by, tuple(options.language), options.license),
        files=rows,
        provenance=provenance(manifest, options, folder.resolve().name),
        prompt=prompt_template(chat.template, chat.tokens),
        context=context if isinstance(context, int) else None,
        mmproj=[_row(one, None) for one in towers],
        sees=sees,
        hears=hears,
        others=() if options.compare is None else read_published(Path(options.compare)),
        others_table=None if options.compare is None else Path(options.compare).name,
        original=_original(card_body(own), base_model) if path.is_dir() else "",
        image=image,
        image_class=image_class(model) if image else "",
    )


def _original(text: str, base_model: str) -> str:
    """The original's card, whose links to files beside it lead to its repository, if that is known."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", base_model):
        return text
    return with_base(text, f"https://huggingface.co/{base_model}/resolve/main/")


def _base_model(path: Path, card: Mapping[str, object]) -> str:
    """The name that the checkpoint's own card gives, else the id in the Hugging Face cache, else the folder's name."""
    for key in ("model_id", "model_name", "name"):
        if isinstance(name := card.get(key), str):
            return name
    return checkpoint_id(path)
