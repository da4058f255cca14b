"""``quantmill release``: from a checkpoint to a published set, with its card, checksums and manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..formats.errors import PlanError
from ..formats.storage.interrupts import when_cut_off
from ..formats.storage.output import explained
from .terminal.options import RECIPE_SETS, RecipeSetOption, cluster_options

if TYPE_CHECKING:
    from ..quantize.plan import Plan
    from .library.releasing.card import File
    from .library.releasing.work import Work


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("folder", metavar="OUT_DIR", type=click.Path(path_type=Path))
@click.option("--levels", metavar="all|LIST", help="Such as Q4_K_M,Q5_K_M,IQ4_XS.  [default: all]")
@click.option(
    "--imatrix",
    default="auto",
    show_default=True,
    metavar="auto|none|FILE",
    help="Importance: collected from a text, none, or a file's.",
)
@click.option("-f", "--file", "text", type=click.Path(path_type=Path), help="The text to collect importance from.")
@click.option("-c", "--ctx-size", "n_ctx", type=click.IntRange(min=4), default=512, show_default=True)
@click.option("--chunks", type=click.IntRange(min=-1), default=-1, help="Of the texts, at most so many; -1 for all.")
@click.option("--evaluate", is_flag=True, help="Measure perplexity and KL divergence of every file.")
@click.option("--evaluation-text", type=click.Path(path_type=Path), help="The text to measure on.")
@click.option("--name", help="What the files' names begin with.  [default: the model's name]")
@click.option("--base-model", metavar="ID", help="The original's repository, for the card.")
@click.option("--quantized-by", metavar="NAME", help="You, for the card.")
@click.option(
    "--recipe-set",
    "--book",
    "recipe_set",
    cls=RecipeSetOption,
    type=click.Choice(RECIPE_SETS),
    default="current",
    show_default=True,
    help="The recipes of which time.",
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: one for each CPU.")
@click.option("--restart", is_flag=True, help="Begin anew, whatever is in OUT_DIR of a release.")
@click.option("--quiet", is_flag=True, help="No progress and no summary.")
@cluster_options
def command(model: Path, folder: Path, **options: Any) -> None:
    """Make a published set of MODEL in OUT_DIR: importance, every level from one reading, each file verified, a model
    card with its tables, checksums, and a manifest to make the same bytes again.

    A run that was cut off is taken up by running the same command again.

    \b
    Example: quantmill release Meta-Llama-3-8B-Instruct llama3-gguf --evaluate
             quantmill release TinyLlama-1.1B tinyllama-gguf --levels Q4_K_M,Q5_K_M,Q8_0 --imatrix none
    """
    from .library.releasing.levels import chosen_levels
    from .library.releasing.work import Work

    if options["imatrix"] == "none" and options["text"] is not None:
        raise PlanError("a text is of no use without importance", where="--file", hint="leave it out")
    levels = chosen_levels(_split(options["levels"]), importance=options["imatrix"] != "none")
    work = Work(model, folder, options)
    with explained(folder), when_cut_off(work.cut_off):
        _release(work, levels)
    if not options["quiet"]:
        click.echo(f"{folder}: {len(levels)} files, {NAMES}")


def _split(levels: str | None) -> list[str] | None:
    """The levels that are named; None for all."""
    if levels is None or levels.lower() == "all":
        return None
    return [level.strip() for level in levels.split(",") if level.strip()]


def _release(work: Work, levels: Sequence[str]) -> None:
    from .library.releasing.work import identity

    options = work.options
    _ = work.source  # a model that cannot be read leaves no folder behind
    if options["imatrix"] != "auto":
        work.plans(levels)  # nor does a level that cannot be made
    settings = ("imatrix", "text", "n_ctx", "chunks", "evaluate", "evaluation_text", "recipe_set", "name")
    key = {"model": [list(entry) for entry in identity(work.model)], "levels": list(levels)}
    work.open(key | {name: _plain(options[name]) for name in settings})
    work.make_imatrix()
    plans = work.plans(levels)
    work.quantize(plans)
    work.verify(levels)
    work.evaluate(levels)
    _publish(work, plans)
    work.close()


NAMES = "README.md, SHA256SUMS, manifest.json"


def _plain(value: Any) -> Any:
    """What JSON can hold."""
    return str(value) if isinstance(value, Path) else value


def _publish(work: Work, plans: Mapping[str, Plan]) -> None:
    """Everything but the models; the manifest last, since it says that the release is whole."""
    from .library.releasing.card import model_card
    from .library.releasing.manifest import NAME, write_json
    from .library.releasing.plot import plot_sizes

    files = sorted((_file(work, level, plan) for level, plan in plans.items()), key=lambda file: file.n_bytes)
    manifest = _manifest(work, files)
    plot = None
    if any(file.kld_mean is not None for file in files):
        plot = "size-kld.png"
        plot_sizes(files, work.stem, work.folder / plot)
    facts = _facts(work, files, manifest, plot)
    (work.folder / "README.md").write_text(model_card(facts), encoding="utf-8")
    sums = {name: about["sha256"] for name, about in manifest["files"].items()}
    if work.imatrix is not None and work.imatrix.parent == work.folder:
        sums[work.imatrix.name] = manifest["imatrix"]["sha256"]
    (work.folder / "SHA256SUMS").write_text("".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))
    write_json(work.folder / NAME, manifest)


def _file(work: Work, level: str, plan: Plan) -> File:
    from .library.releasing.card import File

    weights: dict[str, int] = {}
    for step in plan.steps:
        weights[step.type.name] = weights.get(step.type.name, 0) + step.tensor.n_weights
    types = tuple(sorted((name for name in weights if name != "F32"), key=lambda name: -weights[name]))
    figures = work.done.get("figures", {}).get(level, {})
    perplexity, kld_mean = figures.get("perplexity"), figures.get("kld_mean")
    return File(work.file(level).name, level, plan.size, plan.bpw, types, perplexity, kld_mean)


def _manifest(work: Work, files: Sequence[File]) -> dict[str, Any]:
    from ..formats.storage.durable import sha256_of_file
    from .library.releasing.manifest import FORMAT, describe, source_files, versions

    if "source" not in work.done:
        work.done["source"] = describe(source_files(work.model))
        work.save()
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "versions": versions(),
        "source": {"name": work.model.resolve().name, "files": work.done["source"]},
        "options": {"recipe_set": work.options["recipe_set"]},
        "imatrix": None,
        "files": {file.name: work.done["files"][file.name] for file in files},
    }
    if work.imatrix is not None:
        text = work.options["text"]
        manifest["imatrix"] = {
            "file": work.imatrix.name,
            "sha256": sha256_of_file(work.imatrix),
            "text": _text_facts(text) if work.options["imatrix"] == "auto" else None,
            "context": work.options["n_ctx"],
        }
    if work.options["evaluate"]:
        judged = _text_facts(work.options["evaluation_text"])
        figures = work.done.get("figures", {})
        manifest["evaluation"] = {"text": judged, "base": work.done.get("base"), "files": figures}
    return manifest


def _text_facts(text: Path | None) -> dict[str, str]:
    from ..imatrix.corpus import default_text

    path = text or default_text()
    return {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _facts(work: Work, files: Sequence[File], manifest: Mapping[str, Any], plot: str | None) -> Any:
    from ..formats.gguf.vocab import tokenizer_from_metadata
    from ..formats.hf.card import front_matter
    from .library.releasing.card import Facts
    from .library.releasing.prompt import prompt_template

    card = front_matter(work.model / "README.md") if work.model.is_dir() else {}
    tokenizer = tokenizer_from_metadata(work.source.metadata)
    tokens, template = {}, None
    if tokenizer is not None:
        names = {f"{short}_token": tokenizer.special.get(short) for short in ("bos", "eos")}
        tokens = {name: tokenizer.tokens[i] for name, i in names.items() if i is not None}
        template = tokenizer.chat_templates.get("default")
    base = work.options["base_model"] or _base_model(work, card)
    return Facts(
        name=work.stem,
        base_model=base,
        card=card,
        files=files,
        provenance=_provenance(work, manifest),
        prompt=prompt_template(template, tokens),
        plot=plot,
        context=work.source.number("context_length") or None,
        quantized_by=work.options["quantized_by"],
    )


def _base_model(work: Work, card: Mapping[str, Any]) -> str:
    """The card's own name, else the folder's."""
    for key in ("model_id", "model_name", "name"):
        if isinstance(card.get(key), str):
            return str(card[key])
    return work.model.resolve().name


def _provenance(work: Work, manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = manifest["versions"]
    lines = [("Program", f"quantmill {found['quantmill']}, recipe set `{work.options['recipe_set']}`")]
    imatrix = manifest["imatrix"]
    if imatrix is None:
        lines.append(("Importance matrix", "none"))
    elif imatrix["text"] is None:
        lines.append(("Importance matrix", f"`{imatrix['file']}`, SHA-256 `{imatrix['sha256']}`"))
    else:
        text = imatrix["text"]
        made = f"`{imatrix['file']}`, from `{text['name']}` (SHA-256 `{text['sha256']}`)"
        lines.append(("Importance matrix", f"{made} in chunks of {imatrix['context']} tokens"))
    if "evaluation" in manifest:
        text = manifest["evaluation"]["text"]
        base = manifest["evaluation"]["base"]
        measured = f"on `{text['name']}` (SHA-256 `{text['sha256']}`), apart from the calibration"
        lines.append(("Measured", f"{measured}; the original's perplexity there is {base['perplexity']:.3f}"))
    words = ["quantmill release", work.model.resolve().name, work.folder.resolve().name]
    words += ["--imatrix none"] if imatrix is None else []
    words += ["--evaluate"] if work.options["evaluate"] else []
    if work.options["levels"]:
        words.append(f"--levels {work.options['levels']}")
    return [*lines, ("Command", f"`{' '.join(words)}`")]
