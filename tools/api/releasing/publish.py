"""What a release holds besides its models: the model card, its picture, the checksums and the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ....formats.hf.files.hub_cache import checkpoint_id, checkpoint_name
from ....formats.storage.durable import sha256_of_file
from .card import Facts, File, model_card
from .manifest import NAME, EvaluationFacts, ImatrixFacts, Manifest, TextFacts, versions, write_manifest
from .markdown import code, word
from .prompt import prompt_template
from .towers import sees_and_hears

if TYPE_CHECKING:
    from ....formats.ir import Model
    from ....quantize.plan import Plan
    from .members import Planned
    from .options import ReleaseOptions
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
    calibration_text: Path | None,
    evaluation_text: Path,
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
        calibration_text: what importance was collected from, or None.
        evaluation_text: what the files were evaluated on, if they were.
    """
    folder = state.folder
    rows = sorted((_row(one, state) for one in members if not one.member.mmproj), key=lambda row: row.n_bytes)
    beside = [one for one in members if one.member.mmproj]
    in_order = sorted(members, key=lambda one: (one.member.mmproj, 0 if one.member.mmproj else one.size))
    manifest = Manifest(
        versions=versions(),
        source_name=checkpoint_name(path),
        source=state.source or {},
        recipe_set=options.recipe_set,
        imatrix=None if imatrix is None else _imatrix_facts(imatrix, calibration_text, options.n_ctx, members[0].plan),
        files={job.path.name: state.files[job.path.name] for one in in_order for job in one.jobs},
        evaluation=_evaluation_facts(state, evaluation_text) if options.evaluate else None,
        tensor_types=options.rules,
        targets=state.targets or {},
        split_max_size=options.split_max_size,
    )
    plot = None
    if any(row.kld_mean is not None for row in rows):
        from .plot import plot_sizes

        plot = _PLOT
        plot_sizes(rows, stem, folder / plot)
    facts = _card_facts(path, model, stem, rows, manifest, options, folder.resolve().name, plot)
    if beside:
        sees, hears = sees_and_hears(beside[0].plan.source)
        facts = replace(facts, mmproj=[_row(one, state) for one in beside], sees=sees, hears=hears)
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


def _row(one: Planned, state: ReleaseState) -> File:
    weights: dict[str, int] = {}
    plan, member = one.plan, one.member
    for step in plan.steps:
        weights[step.type.name] = weights.get(step.type.name, 0) + step.tensor.n_weights
    types = tuple(sorted((name for name in weights if name != "F32"), key=lambda name: -weights[name]))
    figures = state.figures.get(member.name, {}) if member.measured else {}
    about = f"a mix around {plan.level}, chosen for this size" if member.target else ""
    return File(
        one.path.name, member.name, one.size, plan.bpw, types, figures.get("perplexity"), figures.get("kld_mean"),
        shards=len(one.jobs), about=about,
    )  # fmt: skip


def _imatrix_facts(path: Path, text: Path | None, n_ctx: int, plan: Plan) -> ImatrixFacts:
    fit = plan.importance_fit
    facts = ImatrixFacts(path.name, sha256_of_file(path), None if text is None else TextFacts.of(text), n_ctx)
    return facts if fit is None else replace(facts, matched=len(fit.matched), missed=fit.missed)


def _evaluation_facts(state: ReleaseState, text: Path) -> EvaluationFacts:
    return EvaluationFacts(TextFacts.of(text), state.base or {}, state.figures)


def _card_facts(
    path: Path,
    model: Model,
    stem: str,
    rows: list[File],
    manifest: Manifest,
    options: ReleaseOptions,
    folder: str,
    plot: str | None,
) -> Facts:
    from ....formats.gguf.vocab import tokenizer_of
    from ....formats.hf.files.card import front_matter

    context = model.hparam("context_length")
    card = front_matter(path / "README.md") if path.is_dir() else {}
    tokenizer = tokenizer_of(model)
    tokens, template = {}, None
    if tokenizer is not None:
        ids = {f"{short}_token": tokenizer.special.get(short) for short in ("bos", "eos")}
        tokens = {name: tokenizer.tokens[i] for name, i in ids.items() if i is not None}
        template = tokenizer.chat_templates.get("default")
    return Facts(
        name=stem,
        base_model=options.base_model or _base_model(path, card),
        card=card,
        files=rows,
        provenance=_provenance(manifest, options, folder),
        prompt=prompt_template(template, tokens),
        plot=plot,
        context=context if isinstance(context, int) else None,
        quantized_by=options.quantized_by,
    )


def _base_model(path: Path, card: Mapping[str, object]) -> str:
    """The name that the checkpoint's own card gives, else the id in the Hugging Face cache, else the folder's name."""
    for key in ("model_id", "model_name", "name"):
        if isinstance(name := card.get(key), str):
            return name
    return checkpoint_id(path)


def _provenance(manifest: Manifest, options: ReleaseOptions, folder: str) -> list[tuple[str, str]]:
    """How the files were made, as labels and texts."""
    lines = [("Program", f"quantmill {manifest.versions['quantmill']}, recipe set `{manifest.recipe_set}`")]
    imatrix, evaluation = manifest.imatrix, manifest.evaluation
    if imatrix is None:
        lines.append(("Importance matrix", "none"))
    elif imatrix.text is None:
        lines.append(("Importance matrix", f"{code(imatrix.file)}, SHA-256 `{imatrix.sha256}`"))
    else:
        made = f"{code(imatrix.file)}, from {code(imatrix.text.name)} (SHA-256 `{imatrix.text.sha256}`)"
        lines.append(("Importance matrix", f"{made} in chunks of {imatrix.n_ctx} tokens"))
    if imatrix is not None and imatrix.missed:
        total = (imatrix.matched or 0) + len(imatrix.missed)
        used = f"{imatrix.matched} of {total} entries; the model has no tensor of the others"
        lines.append(("Importance used", used))
    if evaluation is not None:
        measured = f"on {code(evaluation.text.name)} (SHA-256 `{evaluation.text.sha256}`), apart from the calibration"
        lines.append(
            ("Measured", f"{measured}; the original's perplexity there is {evaluation.base['perplexity']:.3f}")
        )
    words = ["quantmill release", word(manifest.source_name), word(folder)]
    words += ["--imatrix none"] if imatrix is None else []
    words += ["--evaluate"] if options.evaluate else []
    words += [f"--levels {','.join(options.levels)}"] if options.levels else []
    return [*lines, ("Command", code(" ".join(words)))]
