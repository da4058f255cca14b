"""The options that several commands share, as decorators.

A group of options reaches the command as one argument, a frozen dataclass of ``tools/api/options.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
from click.core import ParameterSource

from ...formats.errors import PlanError
from ..api.options import MmprojOptions, ReadOptions, SizeTarget, SourceKind, WriteOptions
from .units import Size

if TYPE_CHECKING:
    from ...formats.hf.tables.further import Mtp
    from ..api.ray_pool import ClusterOptions

F = TypeVar("F", bound=Callable[..., Any])
Group = Callable[[F], F]

KINDS = ("hf", "gguf", "ggml")
# Those of quantize/recipes.py, which --help need not import.
RECIPE_SETS = ("current", "2023-12", "ggml-v3", "ggml-org", "comfyui-gguf")


class RecipeSetOption(click.Option):
    """``--recipe-set``. Its former name ``--book`` still works, but is not shown."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        return record and (record[0].replace(", --book", ""), record[1])


def group(*options: Callable[[F], F]) -> Callable[[F], F]:
    """A decorator that adds options, in the order of the help."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def gather(name: str, build: Callable[..., object], *options: Callable[[F], F]) -> Callable[[F], F]:
    """A decorator that adds options. The command gets one argument ``name``: what ``build`` makes of their values."""
    keys = signature(build).parameters

    def decorate(command: F) -> F:
        @wraps(command)
        def gathered(**given: Any) -> Any:
            given[name] = build(**{key: given.pop(key) for key in keys})
            return command(**given)

        return group(*options)(cast(F, gathered))

    return decorate


def given(*names: str, ctx: click.Context | None = None) -> dict[str, bool]:
    """Whether options stand on the command line, by how they are spelt in the help; defaults and variables do not.

    Args:
        names: of the command's parameters; none for all of its options.
        ctx: of the command; None for the one that runs.
    """
    ctx = ctx or click.get_current_context()
    options = [param for param in ctx.command.params if isinstance(param, click.Option)]
    return {
        max(option.opts, key=len): ctx.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        for option in options
        if not names or option.name in names
    }


recipe_set_option = click.option(
    "--recipe-set", "--book", "recipe_set", cls=RecipeSetOption, type=click.Choice(RECIPE_SETS),
    help="The recipes of which time to use.  [default: current; ggml-v3 for GGML files, comfyui-gguf for image models]",
)  # fmt: skip
restart_option = click.option("--restart", is_flag=True, help="Begin anew where an unfinished run could be resumed.")
imatrix_option = click.option(
    "--imatrix", type=click.Path(path_type=Path), metavar="FILE", help="Importance matrix, .gguf or .dat."
)


# Each function makes a group of options from what was given on the command line.


def _write_options(threads: int | None, version: int, big_endian: bool, force: bool, restart: bool) -> WriteOptions:
    return WriteOptions(threads, version, big_endian, force, restart)


def _size_target(
    target_size: int | None, target_bpw: float | None, sensitivity_text: Path | None, typical_sensitivity: bool
) -> SizeTarget | None:
    if target_size is not None and target_bpw is not None:
        raise click.UsageError("--target-size and --target-bpw mean the same; give one")
    if target_size is None and target_bpw is None:
        if sensitivity_text is not None or typical_sensitivity:
            raise click.UsageError("sensitivities are for --target-size and --target-bpw")
        return None
    return SizeTarget(target_size, target_bpw, sensitivity_text, typical_sensitivity)


def _read_options(
    source: SourceKind | None,
    pre: str | None,
    gqa: int | None,
    eps: float | None,
    rope_base: float | None,
    context: int | None,
    vocab_dir: Path | None,
    base: Path | None,
    drop_extra_tokens: bool,
    follow_links: bool,
    no_mtp: bool,
    mtp_only: bool,
    model_name: str | None,
    metadata: Path | None,
    stream: bool,
    vocab_only: bool,
    mistral_format: bool,
    no_mistral_template: bool,
) -> ReadOptions:
    from ...formats.ggml.reader import GGMLSettings

    ggml = GGMLSettings(gqa, eps, rope_base, context, vocab_dir)
    mtp = _mtp(no_mtp, mtp_only)
    return ReadOptions(
        source, pre, ggml, base, drop_extra_tokens, follow_links, mtp, model_name, metadata, stream, vocab_only,
        mistral_format, not no_mistral_template,
    )  # fmt: skip


def _mtp(no_mtp: bool, mtp_only: bool) -> Mtp:
    if no_mtp and mtp_only:
        raise click.UsageError("--no-mtp and --mtp-only exclude each other")
    return "leave" if no_mtp else "only" if mtp_only else "keep"


def cluster_from(address: str | None, workers: int | None) -> ClusterOptions | None:
    """What ``--cluster`` and ``--workers`` ask for; None without a cluster.

    Raises:
        PlanError: workers of no cluster.
    """
    from ..api.ray_pool import ClusterOptions

    if address is None:
        if workers is not None:
            raise PlanError("is for --cluster", where="--workers", hint="--threads is for this machine")
        return None
    return ClusterOptions(address, workers)


def _numbers(ctx: click.Context, param: click.Parameter, given: str | None) -> tuple[float, ...] | None:
    try:
        return None if given is None else tuple(float(one) for one in given.split(","))
    except ValueError:
        raise click.BadParameter(f"{given!r} is not numbers with commas between them, such as 0.5,0.5,0.5") from None


def _mmproj_options(
    mmproj_file: str | None,
    mmproj_only: bool,
    mmproj_outtype: str,
    image_mean: tuple[float, ...] | None,
    image_std: tuple[float, ...] | None,
) -> MmprojOptions | None:
    if mmproj_file is None and not mmproj_only:
        needing = {**given("mmproj_outtype"), "--image-mean": bool(image_mean), "--image-std": bool(image_std)}
        for option in (option for option, is_given in needing.items() if is_given):
            raise PlanError("is for --mmproj", where=option, hint="give both, or leave it out")
        return None
    if mmproj_file and mmproj_only:
        raise PlanError("writes to DST, so that --mmproj has no file to write", where="--mmproj-only")
    file = Path(mmproj_file) if mmproj_file else None
    return MmprojOptions(file, mmproj_outtype, mmproj_only, image_mean, image_std)


imatrix_options: Group[Any] = group(
    imatrix_option,
    click.option(
        "--refine", is_flag=True,
        help="Let later weights correct the errors of earlier ones: for the inputs that a text (-f) gives them in the "
        "quantized model; with --imatrix, by its second moments.",
    ),
    click.option(
        "--refine-width", type=click.IntRange(min=256), metavar="N",
        help="At most so many columns correct each other, a multiple of 256: quality, time and memory grow with it.  "
        "[default: what serves each matrix best; 256 with --imatrix]",
    ),
    click.option(
        "-f", "--file", "text", type=click.Path(path_type=Path),
        help="With --refine: the text.  [default: the one that ships with quantmill]",
    ),
    click.option(
        "-c", "--ctx-size", "n_ctx", type=click.IntRange(min=2), metavar="N",
        help="With --refine: tokens in a chunk of the text.  [default: 512]",
    ),
    click.option(
        "--chunks", type=click.IntRange(min=-1), metavar="N", help="With --refine: use at most so many chunks."
    ),
)  # fmt: skip

print_options: Group[Any] = group(
    click.option("--dry-run", is_flag=True, help="Print what would become of each tensor, and write nothing."),
    click.option("--json", "as_json", is_flag=True, help="Print the plan or the summary as JSON."),
)

write_options: Group[Any] = gather(
    "write",
    _write_options,
    click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: one for each CPU."),
    click.option(
        "--gguf-version", "version", type=click.IntRange(2, 3), default=2, show_default=True,
        help="Version of the GGUF file.",
    ),
    click.option("--big-endian", is_flag=True, help="Write for a big-endian machine; needs --gguf-version 3."),
    click.option("--force", is_flag=True, help="Replace the output if it exists."),
    restart_option,
)  # fmt: skip

quiet_option = click.option("--quiet", is_flag=True, help="Print no progress and no summary.")

mmproj_options: Group[Any] = gather(
    "mmproj",
    _mmproj_options,
    click.option(
        "--mmproj", "mmproj_file", is_flag=False, flag_value="", metavar="[FILE]",
        help="Also write the towers of a model that sees or hears, to FILE.  [default: mmproj-NAME-F16.gguf beside DST]"
        "  Where DST is a folder: read them from FILE.",
    ),
    click.option("--mmproj-only", is_flag=True, help="Write the towers alone, to DST."),
    click.option(
        "--mmproj-outtype", default="F16", show_default=True, metavar="TYPE",
        help="The type of the towers: f16, bf16, f32 or q8_0.",
    ),
    click.option("--image-mean", metavar="R,G,B", callback=_numbers, help="If no preprocessor config says it."),
    click.option("--image-std", metavar="R,G,B", callback=_numbers, help="If no preprocessor config says it."),
)  # fmt: skip

cluster_options: Group[Any] = group(
    click.option(
        "--cluster", metavar="ADDRESS|local",
        help="Let a Ray cluster do the work: its head's address, or local to start one on this machine.",
    ),
    click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Use at most so many of the cluster."),
)  # fmt: skip

target_options: Group[Any] = gather(
    "target",
    _size_target,
    click.option(
        "--target-size", type=Size(), metavar="SIZE",
        help="Instead of a level: choose every tensor's type so that the file has this size, such as 4.5GiB.",
    ),
    click.option("--target-bpw", type=float, metavar="BITS", help="The same, in bits per weight over all tensors."),
    click.option(
        "--sensitivity-text", type=click.Path(path_type=Path), metavar="FILE",
        help="Text to measure each tensor's sensitivity on, best of the kind the model is for; its first few thousand "
        "tokens are used.  [default: one that ships with the package]",
    ),
    click.option("--typical-sensitivity", is_flag=True, help="Do not run the model: assume usual sensitivities."),
)  # fmt: skip

_MTP = (
    click.option(
        "--no-mtp", is_flag=True,
        help="Leave out the layers that predict further tokens (multi-token prediction).",
    ),
    click.option(
        "--mtp-only", is_flag=True,
        help="Write only these layers, with what they share with the model, to draft tokens for it.",
    ),
)  # fmt: skip

mtp_options: Group[Any] = gather("mtp", _mtp, *_MTP)

read_options: Group[Any] = gather(
    "read",
    _read_options,
    click.option(
        "--from", "source", type=click.Choice((*KINDS, "diffusion")), help="What SRC is, if it is not recognized."
    ),
    click.option("--pre", metavar="NAME", help="llama.cpp's name of the pre-tokenizer, if it is not recognized."),
    click.option(
        "--gqa", type=click.IntRange(min=1),
        help="GGML: query heads per key/value head.  [default: inferred from the shapes]",
    ),
    click.option("--eps", type=float, help="GGML: epsilon of the norms, which the file does not store."),
    click.option(
        "--rope-base", type=float, help="GGML: base of the rotary frequencies, which the file does not store."
    ),
    click.option(
        "--context", type=click.IntRange(min=1), help="GGML: trained context length, which the file does not store."
    ),
    click.option(
        "--vocab-dir", type=click.Path(path_type=Path), metavar="FOLDER",
        help="GGML: use the tokenizer of this Hugging Face folder, not the file's.",
    ),
    click.option(
        "--base", type=click.Path(path_type=Path), metavar="FOLDER",
        help="LoRA: the base model's folder, or its name on the hub.",
    ),
    click.option(
        "--drop-extra-tokens", is_flag=True,
        help="Leave out a checkpoint's tokens beyond the embedding's rows, as llama.cpp does for SentencePiece.",
    ),
    click.option(
        "--follow-links", is_flag=True,
        help="Read files whose links lead out of SRC, which could be any file of this machine.",
    ),
    *_MTP,
    click.option("--vocab-only", is_flag=True, help="Write no tensors: the vocabulary and the model's numbers alone."),
    click.option("--model-name", metavar="NAME", help="The model's name in the file."),
    click.option(
        "--metadata", type=click.Path(path_type=Path), metavar="FILE",
        help="A JSON file of facts about the model, such as general.author and general.base_models, as "
        "convert_hf_to_gguf.py takes it.",
    ),
    click.option(
        "--mistral-format", is_flag=True,
        help="Read params.json and consolidated*.safetensors, where SRC is a Hugging Face folder, too.",
    ),
    click.option(
        "--disable-mistral-community-chat-template", "no_mistral_template", is_flag=True,
        help="Mistral's format without a chat template: do not write the name of llama.cpp's own for it.",
    ),
    click.option(
        "--stream", is_flag=True, help="SRC is on the hub: keep at most two of its shards on disk, beside DST."
    ),
)  # fmt: skip
