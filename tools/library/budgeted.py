"""``--target-size`` and ``--target-bpw``: types chosen for a size, for ``quantize`` and ``plan``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...formats.errors import QuantmillError, TokenizerError, UnknownArchitecture, UnmatchedTensor
from ..terminal.progress import ProgressDisplay
from ..terminal.units import in_gb

if TYPE_CHECKING:
    from ...formats.ir import Model
    from ...quantize.budget.losses import Sensitivity
    from ...quantize.budget.plans import BudgetedPlan
    from ...quantize.plan import Importance, Plan

_CTX = 256  # tokens in a chunk of the text for the sensitivities
_CHUNKS = (4, 16)  # so many for large models and for small ones: some minutes on a CPU at most up to 8 billion weights
_CHUNKS_OF_WEIGHTS = 16 * 10**9
_CANNOT_RUN = (UnknownArchitecture, TokenizerError, UnmatchedTensor, ImportError)


def has_target(options: Mapping[str, Any]) -> bool:
    """Whether a budget is given.

    Raises:
        UsageError: two are; or an option that only a budget gives a meaning.
    """
    given = [name for name in ("target_size", "target_bpw") if options.get(name) is not None]
    if len(given) == 2:
        raise click.UsageError("--target-size and --target-bpw say the same twice; give one")
    if given and options.get("pure"):
        raise click.UsageError("--pure takes one type for all tensors; a target chooses for each")
    if not given and (options.get("sensitivity_text") or options.get("typical_sensitivity")):
        raise click.UsageError("sensitivities are for --target-size and --target-bpw")
    return bool(given)


def quantize_to_target(source: Path, out: Path | None, options: Mapping[str, Any], keep_split: bool) -> None:
    """``quantize MODEL [OUT] --target-size ...``."""
    from ..quantize import output_name
    from .planned import carry_out, print_plan

    found, importance = find_budget(source, options)
    if options["dry_run"]:
        print_plan(found.plan, bool(options["as_json"]))
        return
    if not (options["quiet"] or options["as_json"]):
        print_choice(found)
    path = out or output_name(source, f"{found.plan.bpw:.2f}bpw")
    carry_out(found.plan, path, importance, options, keep_split)


def plan_target(source: Path, options: Mapping[str, Any]) -> None:
    """``plan MODEL --target-size ...``: the choice, and what the nearest mix would cost."""
    found, _ = find_budget(source, options)
    if options["as_json"]:
        click.echo(json.dumps(_as_json(found)))
    else:
        print_choice(found)


def find_budget(source: Path, options: Mapping[str, Any]) -> tuple[BudgetedPlan, Importance | None]:
    """The best plan within the budget, and the importance it uses."""
    from ...quantize.budget.plans import make_budgeted_plan, of_bpw, of_size
    from ...quantize.plan import make_plan
    from ...quantize.threads import cpu_count
    from ..plan import read_any
    from .planned import read_plan_options, refiner_of

    model = read_any(source)
    plan_options = read_plan_options(options)
    limit = of_size(options["target_size"]) if options.get("target_size") is not None else of_bpw(options["target_bpw"])
    make_plan(model, "F16", plan_options)  # raises if an option is wrong, before any weight is read
    quiet = bool(options.get("quiet"))
    display = ProgressDisplay(quiet=quiet)
    found = make_budgeted_plan(
        model,
        limit,
        plan_options,
        refiner=refiner_of(options),
        sensitivity=dict if options["typical_sensitivity"] else lambda: _sensitivity(model, options, quiet),
        threads=options.get("threads") or cpu_count(),
        progress=display,
    )
    display.close()
    return found, plan_options.importance


def _sensitivity(model: Model, options: Mapping[str, Any], quiet: bool) -> dict[str, Sensitivity]:
    """Measured where the model can be run, else none, and a word about it on stderr."""
    from ...quantize.budget.losses import Sensitivity
    from ...quantize.decode import as_float

    try:
        from ...imatrix.sensitivity import measure_sensitivity
        from ...imatrix.weights import Weights
        from .running import RunOptions, open_text

        weights = Weights(as_float(model))
        n_weights = sum(tensor.n_weights for tensor in model.tensors)
        chunks = min(_CHUNKS[1], max(_CHUNKS[0], _CHUNKS_OF_WEIGHTS // n_weights))
        corpus = open_text(weights, options["sensitivity_text"], RunOptions(n_ctx=_CTX, chunks=chunks))
        with ProgressDisplay(quiet=quiet) as display:
            figures = measure_sensitivity(weights, corpus, progress=display)
    except _CANNOT_RUN as error:
        if options["sensitivity_text"] is not None and isinstance(error, QuantmillError):
            raise
        click.echo(f"warning: {error}; usual sensitivities are assumed", err=True)
        return {}
    return {name: Sensitivity(found.scales, found.columns) for name, found in figures.items()}


def print_choice(found: BudgetedPlan) -> None:
    """A table of types, layers by parts, and what it comes to."""
    from ..plan import print_columns

    outside = [step for step in found.plan.steps if step.tensor.layer is None and len(step.tensor.shape) > 1]
    inside = [step for step in found.plan.steps if step.tensor.layer is not None and step.tensor.name in found.losses]
    for step in outside:
        click.echo(f"{step.tensor.name}: {step.type}")
    parts = list(dict.fromkeys(_part(step.tensor.name) for step in inside))
    cells = {(step.tensor.layer, _part(step.tensor.name)): step.type.name for step in inside}
    layers = sorted({step.tensor.layer for step in inside if step.tensor.layer is not None})
    print_columns(
        [("layer", *parts), *((str(i), *(cells.get((i, part), "") for part in parts)) for i in layers)], right=(0,)
    )
    click.echo(
        f"{in_gb(found.plan.size)} ({found.plan.size} bytes, {found.plan.size / found.limit:.2%} of the target), "
        f"{found.plan.bpw:.2f} bpw, expected KL divergence {found.loss:.4f}"
    )


def _part(name: str) -> str:
    return name.split(".", 2)[-1].removesuffix(".weight")


def _as_json(found: BudgetedPlan) -> dict[str, Any]:
    plan: Plan = found.plan
    return {
        "target_bytes": found.limit,
        "bytes": plan.size,
        "bpw": round(plan.bpw, 4),
        "expected_kld": found.loss,
        "level": plan.level,
        "types": dict(Counter(step.type.name for step in plan.steps).most_common()),
        "tensors": {step.tensor.name: step.type.name for step in plan.steps},
    }
