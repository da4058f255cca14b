"""What a plan's options asked for in vain: one line each, for the person who gave them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from ..formats.errors import PlanError, name_list
from ..formats.ir import Model
from .choose import EMBEDDING_OPTION, OUTPUT_OPTION, Choice, patterns_of
from .importance import ImportanceFit
from .plan_options import PlanOptions
from .recipe import Recipe
from .recipes import COPY

_NAMED = 3  # tensors in a line
_OUTPUT = "output.weight"


def check_options(options: PlanOptions) -> None:
    """Raise ``PlanError`` for options that exclude each other."""
    if options.prune_layers and (options.moments is not None or options.chosen_types):
        problem = "excludes --refine and target sizes, which are measured on the whole model"
        raise PlanError(problem, where="--prune-layers", hint="prune to a float file first: quantize MODEL OUT COPY")
    if options.leave_output and options.output_type is not None:
        raise PlanError(f"excludes {OUTPUT_OPTION}", where="--leave-output-tensor", hint="leave one of them out")


def check_fp8(model: Model, recipe: Recipe, options: PlanOptions) -> None:
    """Raise ``PlanError`` where no weight could become Q8_0 for having been FP8."""
    reasons = {
        "blocks are left out": bool(options.prune_layers),
        f"{recipe.level} quantizes all matrices": recipe.default_type.is_quantized,
        "the source holds no FP8 weights with scales": not model.from_fp8,
    }
    for reason in (reason for reason, holds in reasons.items() if options.fp8_as_q8 and holds):
        raise PlanError(f"has no effect: {reason}", path=model.path, where="--fp8-as-q8", hint="leave it out")


def check_copy(model: Model, options: PlanOptions) -> None:
    """Raise ``PlanError`` for what a copy of a file's tensors cannot have."""
    if model.from_checkpoint:
        raise PlanError("is for GGUF files", path=model.path, where=COPY.level, hint="a checkpoint's own type is auto")
    typed = {
        "--pure": options.pure,
        "--leave-output-tensor": options.leave_output,
        OUTPUT_OPTION: options.output_type is not None,
        EMBEDDING_OPTION: options.embedding_type is not None,
        "--tensor-type": bool(options.tensor_types),
        "--fallback-type": options.fallback_type is not None,
        "--no-fallback": options.no_fallback,
        "--allow-requantize": options.allow_requantize,
        "--imatrix": bool(options.importance),
    }
    for option in (option for option, is_given in typed.items() if is_given):
        raise PlanError(f"has no effect: {COPY.level} keeps every tensor's type", where=option, hint="leave it out")


def unused_options(model: Model, recipe: Recipe, options: PlanOptions, choices: Mapping[str, Choice]) -> Iterator[str]:
    """Say which options decided no tensor's type, and why.

    Options that say what to do in a case (``fallback_type``, ``no_fallback``, ``allow_requantize``) are not among them.

    Args:
        model, recipe, options: what the plan is made of.
        choices: the types of the tensors that may be quantized, as ``choose_types`` gives them.
    """
    level = recipe.level
    asked = {choice.option for choice in choices.values()}
    if options.pure and not recipe.default_type.is_quantized:
        yield f"--pure changes nothing: {level} gives one type to all matrices"
    if options.leave_output and not any(tensor.name == _OUTPUT for tensor in model.tensors):
        yield f"--leave-output-tensor changes nothing: the model has no {_OUTPUT}"
    elif options.leave_output and model.from_checkpoint and not recipe.default_type.is_quantized:
        yield f"--leave-output-tensor changes nothing: {level} is not a quantized level"
    for option, type in ((OUTPUT_OPTION, options.output_type), (EMBEDDING_OPTION, options.embedding_type)):
        if type is not None and option not in asked:
            yield f"{option} {type} changes nothing: no tensor takes its type from it"
    yield from _unused_patterns(model, recipe, options, choices, asked)


def _unused_patterns(
    model: Model, recipe: Recipe, options: PlanOptions, choices: Mapping[str, Choice], asked: set[str]
) -> Iterator[str]:
    names = [tensor.name for tensor in model.tensors]
    for pattern in patterns_of(options, model.tensors):
        if pattern.option in asked:
            continue
        matched = pattern.matches(names)
        decided = [name for name in matched if name in choices]
        if not decided:
            why = f"it matches only what is never quantized ({name_list(matched, _NAMED)})"
        elif not recipe.default_type.is_quantized:
            why = f"patterns are for quantized levels, and {recipe.level} is not one"
        else:
            why = f"other options come before it for what it matches ({name_list(decided, _NAMED)})"
        yield f"{pattern.option} changes nothing: {why}"


def unused_importance(level: str, fit: ImportanceFit) -> Iterator[str]:
    """Say if importance was given and no tensor of the level is encoded with it."""
    if fit.weighed:
        return
    if fit.lacking:
        what = name_list(fit.lacking, _NAMED)
        yield f"--imatrix changes nothing: it has no entry for what {level} quantizes ({what})"
    else:
        yield f"--imatrix changes nothing: no tensor of {level} is encoded with importance"


def own_bytes(types: Collection[str]) -> Iterator[str]:
    """Say of which types the scales are chosen with importance, though llama.cpp's encoder ignores it."""
    for name in sorted(types):
        yield f"{name} scales are chosen with importance; llama.cpp's own encoder ignores it, as {name} without it does"


def unrefined(names: Sequence[str]) -> Iterator[str]:
    """Say which tensors could be refined, but have no second moments."""
    if names:
        yield f"{len(names)} tensors have no second moments and are not refined: {name_list(names, _NAMED)}"
