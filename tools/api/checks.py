"""Options that would have no effect are refused before any work: each check names the option and what makes it vain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...formats.errors import PlanError
from .options import Kind, ReadOptions, SizeTarget, SourceKind, WriteOptions

if TYPE_CHECKING:
    from ...quantize.plan_options import PlanOptions
    from .ray_pool import ClusterOptions

# The fields of PlanOptions as the commands call them.
_PLAN_FLAGS = {
    "recipe_set": "--recipe-set",
    "pure": "--pure",
    "leave_output": "--leave-output-tensor",
    "output_type": "--output-tensor-type",
    "embedding_type": "--token-embedding-type",
    "tensor_types": "--tensor-type",
    "fallback_type": "--fallback-type",
    "no_fallback": "--no-fallback",
    "allow_requantize": "--allow-requantize",
    "include_weights": "--include-weights",
    "exclude_weights": "--exclude-weights",
    "imatrix_metadata": "--no-imatrix-metadata",
    "overrides": "--override-kv",
    "prune_layers": "--prune-layers",
    "fp8_as_q8": "--fp8-as-q8",
    "importance": "options.importance",
    "moments": "options.moments",
    "extra_metadata": "options.extra_metadata",
    "chosen_types": "options.chosen_types",
}


def refuse(given: Mapping[str, bool], why: str, hint: str = "leave it out") -> None:
    """Raise ``PlanError`` for the first option that is given.

    Args:
        given: whether each option is given, by its name.
        why: what makes the option vain, after its name and "has no effect".
        hint: what to do.

    Example:
        >>> refuse({"--imatrix": False, "--refine": True}, "a copy is not quantized")
        Traceback (most recent call last):
        ...
        quantmill.formats.errors.PlanError: --refine: has no effect: a copy is not quantized (leave it out)
    """
    for option in (option for option, is_given in given.items() if is_given):
        raise PlanError(f"has no effect: {why}", where=option, hint=hint)


def plan_options_given(options: PlanOptions | None) -> dict[str, bool]:
    """Whether each option of a plan differs from its default, by the name that the commands give it."""
    from ...quantize.plan_options import PlanOptions

    default = PlanOptions()
    have = options or default
    return {flag: _differs(getattr(have, name), getattr(default, name)) for name, flag in _PLAN_FLAGS.items()}


def _differs(value: object, default: object) -> bool:
    """Compare without ``==`` where a value may hold arrays."""
    return bool(value) if isinstance(default, Mapping) else value is not default and value != default


def check_layout(options: PlanOptions | None) -> None:
    """Raise ``PlanError`` for options with a layout of their own, which only ``make_plan`` takes."""
    from ...formats.gguf.writer import layout

    if options is not None:
        why = "the place of each tensor follows from the kind of file and from write=WriteOptions(...)"
        refuse({"options.layout": options.layout is not layout}, why)


def check_read(source: SourceKind | None, read: ReadOptions) -> None:
    """Raise ``PlanError`` for options that say something of another kind of source.

    Args:
        source: the kind; None for a model that was read before.
    """
    settings = {} if read.ggml is None else vars(read.ggml)
    ggml = {f"--{name.replace('_', '-')}": value is not None for name, value in settings.items()}
    if source is None:
        named = {"--model-name": read.model_name is not None, "--metadata": read.metadata is not None}
        refuse({**named, "--vocab-only": read.vocab_only}, "the model was read before", "give it to read_model")
    for kind, what, given in (
        ("ggml", "GGML files", ggml),
        ("lora", "LoRA adapters", {"--base": read.lora_base is not None}),
        (
            "hf",
            "Hugging Face folders",
            {
                "--pre": read.pre is not None,
                "--no-mtp": read.mtp == "leave",
                "--mtp-only": read.mtp == "only",
                "--mistral-format": read.mistral_format,
                "--disable-mistral-community-chat-template": not read.mistral_templates,
            },
        ),
    ):
        for option in (option for option, is_given in given.items() if is_given and source != kind):
            raise PlanError(f"is for {what}, and the source is not one", where=option, hint="leave it out")
    if read.drop_extra_tokens and source != "hf" and settings.get("vocab_dir") is None:
        raise PlanError("is for a checkpoint's folder, and the source is not one", where="--drop-extra-tokens")
    if read.follow_links and source not in ("hf", "lora"):
        raise PlanError(
            "is for a folder's files, and the source is not one", where="--follow-links", hint="leave it out"
        )


def check_write(kind: Kind, write: WriteOptions) -> None:
    """Raise ``PlanError`` for options of GGUF files where another kind is written."""
    if kind == "gguf":
        return
    if write.big_endian:
        what = "a GGML file is" if kind == "ggml" else "safetensors files are"
        raise PlanError(f"{what} little-endian", where="--big-endian", hint="leave it out")
    what = "a GGML file" if kind == "ggml" else "a Hugging Face folder"
    refuse({"--gguf-version": write.gguf_version != WriteOptions().gguf_version}, f"{what} is written")


def check_target(target: SizeTarget, level: str, kind: Kind) -> None:
    """Raise ``PlanError`` for a target size that is incomplete, contradicts itself, or has no effect."""
    if (target.nbytes is None) == (target.bpw is None):
        raise PlanError("give a target in bytes or in bits per weight, not both", where="target")
    if kind == "ggml":
        raise PlanError("a target size is for GGUF files", where="target")
    if target.typical_sensitivity and target.sensitivity_text is not None:
        raise PlanError("excludes --sensitivity-text", where="--typical-sensitivity", hint="leave one of them out")
    if level.lower() != "auto":
        raise PlanError(f"takes the place of a level, and {level} is given", where="target", hint="give one of them")


def check_cluster(cluster: ClusterOptions | None, threads: int | None) -> None:
    """Raise ``PlanError`` for threads of this machine where a cluster does the work."""
    if cluster is not None and threads is not None:
        raise PlanError("is for one machine", where="--threads", hint="--workers limits the workers of a cluster")
