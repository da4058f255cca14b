"""``quantmill release``: make a release of a checkpoint, with its card, checksums and manifest."""

from __future__ import annotations

from pathlib import Path

import click

from .api.checks import check_cluster, refuse
from .terminal.lines import print_json, print_line
from .terminal.options import RECIPE_SETS, RecipeSetOption, cluster_from, cluster_options
from .terminal.plan_options import Rules, tensor_type_options
from .terminal.progress import ProgressDisplay
from .terminal.units import Size


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("folder", metavar="OUT_DIR", type=click.Path(path_type=Path))
@click.option("--levels", metavar="all|LIST", help="The levels, such as Q4_K_M,Q5_K_M,IQ4_XS.  [default: all]")
@click.option(
    "--imatrix",
    default="auto",
    show_default=True,
    metavar="auto|none|FILE",
    help="Collect importance from a text, use none, or use a file's.",
)
@click.option("-f", "--file", "text", type=click.Path(path_type=Path), help="The text to collect importance from.")
@click.option("-c", "--ctx-size", "n_ctx", type=click.IntRange(min=4), default=512, show_default=True)
@click.option(
    "--chunks",
    type=click.IntRange(min=-1),
    default=-1,
    help="The most chunks of a text to use.  [default: all, or 65,536 tokens of the text that ships]",
)
@click.option("--evaluate", is_flag=True, help="Measure perplexity and KL divergence of every file.")
@click.option("--evaluation-text", type=click.Path(path_type=Path), help="The text to measure on.")
@click.option("--name", help="What the files' names begin with.  [default: the model's name]")
@click.option("--base-model", metavar="ID", help="The original's repository, for the model card.")
@click.option("--quantized-by", metavar="NAME", help="Your name, for the model card.")
@click.option("--language", metavar="LIST", help="Languages, such as en,de, for the card.  [default: the original's]")
@click.option("--license", metavar="ID", help="The hub's identifier, such as apache-2.0.  [default: the original's]")
@click.option(
    "--compare",
    type=click.Path(path_type=Path),
    metavar="TABLE.csv",
    help="Show files of other sets beside these: name,level,size and figures.",
)
@click.option(
    "--recipe-set",
    "--book",
    "recipe_set",
    cls=RecipeSetOption,
    type=click.Choice(RECIPE_SETS),
    default="current",
    show_default=True,
    help="The recipe set to take the levels from.",
)
@tensor_type_options
@click.option(
    "--target-size",
    "target_sizes",
    type=Size(),
    multiple=True,
    metavar="SIZE",
    help="Add a file of this size, such as 4.5GiB, each of its types chosen so that it loses least. Repeatable.",
)
@click.option(
    "--refine",
    is_flag=True,
    help="Let later weights correct the errors of earlier ones. With --evaluate, files without it are measured, too.",
)
@click.option(
    "--refine-width",
    type=click.IntRange(min=256),
    default=256,
    show_default=True,
    metavar="N",
    help="At most so many columns correct each other, a multiple of 256.",
)
@click.option("--original", is_flag=True, help="Add the weights as they are, in a file to quantize from.")
@click.option(
    "--gptq",
    type=click.Choice(["2", "3", "4", "8"]),
    is_flag=False,
    flag_value="4",
    multiple=True,
    metavar="[BITS]",
    help="Add a GPTQ checkpoint, of 4 bits if none are named, in a folder of its own. Repeatable.",
)
@click.option("--awq", is_flag=True, help="Add an AWQ checkpoint, in a folder of its own.")
@click.option(
    "--compress",
    metavar="SCHEME",
    multiple=True,
    help="Add a checkpoint in a scheme of compressed-tensors, such as fp8 or w4a16, in a folder of its own.",
)
@click.option(
    "--group-size",
    type=int,
    help="Of those whose weights share scales in groups.  [default: the largest of 128, 64, 32 that fits all layers]",
)
@click.option(
    "--split-max-size",
    type=Size(),
    default="50GB",
    show_default=True,
    metavar="SIZE",
    help="The most bytes of a file; larger models are written as shards. The hub takes 50 GB a file.",
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: one for each CPU.")
@click.option("--push", metavar="ORG/NAME", help="Upload each file to this repository as soon as it is verified.")
@click.option("--public", is_flag=True, help="With --push: make the repository public, if it is made.")
@click.option("--restart", is_flag=True, help="Discard a release that is in OUT_DIR, finished or not.")
@click.option("--dry-run", is_flag=True, help="Say what would be made, and where it would go; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--quiet", is_flag=True, help="Print no progress and no summary.")
@cluster_options
def command(
    model: Path, folder: Path, levels: str | None, imatrix: str, text: Path | None, n_ctx: int, chunks: int,
    evaluate: bool, evaluation_text: Path | None, name: str | None, base_model: str | None, quantized_by: str | None,
    language: str | None, license: str | None, compare: Path | None,
    recipe_set: str, tensor_types: Rules, target_sizes: tuple[int, ...], refine: bool, refine_width: int,
    original: bool, gptq: tuple[str, ...], awq: bool, compress: tuple[str, ...], group_size: int | None,
    split_max_size: int,
    threads: int | None, push: str | None, public: bool, restart: bool, dry_run: bool, as_json: bool, quiet: bool,
    cluster: str | None, workers: int | None,
) -> None:  # fmt: skip
    """Make a release of MODEL in OUT_DIR.

    It collects importance, quantizes to every level in one reading of the weights, verifies each file, and writes a
    model card with its tables, checksums, and a manifest with which `quantmill reproduce` makes the same bytes again.

    If it is interrupted, run the same command again to resume it.

    \b
    Example: quantmill release Meta-Llama-3-8B-Instruct llama3-gguf --evaluate
             quantmill release TinyLlama-1.1B tinyllama-gguf --levels Q4_K_M,Q5_K_M,Q8_0 --imatrix none
             quantmill release org/Tiny-1B tiny-gguf --push me/Tiny-1B-GGUF --dry-run
             quantmill release org/Tiny-1B tiny-gguf --gptq --awq --compress fp8
             quantmill release org/Tiny-1B tiny-gguf --original --target-size 4.2GB --tensor-type-file recipe.txt
    """
    from .api.releasing.dry_run import plan_release
    from .api.releasing.options import ReleaseOptions
    from .api.releasing.release import release
    from .terminal.release_plan import plan_json, print_plan

    options = ReleaseOptions(
        levels=_split(levels),
        imatrix=None if imatrix == "none" else imatrix,
        text=text,
        n_ctx=n_ctx,
        chunks=None if chunks < 0 else chunks,
        evaluate=evaluate,
        evaluation_text=evaluation_text,
        name=name,
        base_model=base_model,
        quantized_by=quantized_by,
        language=_words(language or ""),
        license=license,
        compare=compare,
        recipe_set=recipe_set,
        tensor_types=tensor_types,
        target_sizes=target_sizes,
        refine=refine,
        refine_width=refine_width,
        original=original,
        gptq=[int(bits) for bits in gptq],
        awq=awq,
        compress=compress,
        group_size=group_size,
        split_max_size=split_max_size,
    )
    if push is None:
        refuse({"--public": public}, "it is for a repository that --push makes")
    if dry_run:
        check_cluster(cluster_from(cluster, workers), threads)
        with ProgressDisplay(quiet=quiet) as progress:
            found = plan_release(model, folder, options, restart=restart, push=push, public=public, progress=progress)
        if as_json:
            print_json(plan_json(found))
        elif not quiet:
            print_plan(found, public=public)
        return
    with ProgressDisplay(quiet=quiet) as progress:
        made = release(
            model, folder, options, threads=threads, cluster=cluster_from(cluster, workers), restart=restart,
            push=push, public=public, progress=progress,
        )  # fmt: skip
    if as_json:
        files = {name: facts.to_json() for name, facts in made.manifest.files.items()}
        print_json({"folder": str(folder), "files": files, "repository": push})
    elif not quiet:
        print_line(f"{folder}: {len(made.files)} files, README.md, SHA256SUMS, manifest.json")
        for facts in made.manifest.checkpoints.values():
            print_line(f"{folder.with_name(facts.folder)}: {len(facts.files)} files, README.md")
        if (used := made.manifest.imatrix) is not None:
            print_line(f"importance: {used.matched} entries matched, {len(used.missed)} missed")


def _split(levels: str | None) -> list[str] | None:
    """The levels that are named; None for all."""
    if levels is None or levels.lower() == "all":
        return None
    return _words(levels)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
