"""Print plans and what became of them: for ``quantize``, ``convert`` and ``plan``."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ...formats.storage.output import human_bytes
from .lines import print_json, print_line
from .table import print_table
from .units import in_gb

if TYPE_CHECKING:
    from ..api.conversion import Conversion
    from ..api.planning import ImportanceFit

Json = dict[str, object]


def print_conversion(done: Conversion, *, as_json: bool, quiet: bool) -> None:
    """Print what was written at a level; for a dry run, print the plan."""
    if not done.written:
        _print_plan(done, as_json)
    elif as_json:
        shards = [str(path) for path in done.paths] if len(done.paths) > 1 else None
        made: Json = {"output": str(done.paths[0]), "shards": shards, "seconds": round(done.seconds, 3)}
        if done.mmproj is not None:
            made["mmproj"] = str(done.mmproj)
        print_json(made | _totals(done) | {"size": done.size})
    elif not quiet:
        if done.budget is not None:
            print_choice(done)
        more = f" and {len(done.paths) - 1} more" if len(done.paths) > 1 else ""
        _print_summary(done, f"{done.paths[0]}{more}: ", f", {done.seconds:.1f} s")
        if done.mmproj is not None:
            print_line(f"{done.mmproj}: the towers, {human_bytes(done.mmproj.stat().st_size)}")


def _print_plan(done: Conversion, as_json: bool) -> None:
    """Print each tensor's type and why, then the totals."""
    plan = done.plan
    assert plan is not None
    if as_json:
        tensors = [
            {
                "name": step.tensor.name,
                "shape": list(step.tensor.shape),
                "from": step.tensor.qtype.name,
                "to": step.type.name,
                "wanted": step.wanted.name if step.wanted else None,
                "reason": step.reason,
                "importance": step.uses_importance,
                "refined": step.refined,
                "offset": step.offset,
                "bytes": step.nbytes,
            }
            for step in plan.steps
        ]
        print_json(_totals(done) | {"tensors": tensors})
        return
    rows = []
    for step in plan.steps:
        shape = " x ".join(str(dim) for dim in step.tensor.shape)
        change = f"{step.tensor.qtype} -> {step.type}" if step.type is not step.tensor.qtype else f"{step.type}"
        rows.append((step.tensor.name, shape, change, step.reason))
    print_table(rows)
    _print_summary(done, f"{plan.source.path} as {plan.level}: ", "")


def _print_summary(done: Conversion, before: str, after: str) -> None:
    plan = done.plan
    assert plan is not None
    print_line(f"{before}{human_bytes(plan.size)} of {human_bytes(plan.source_bytes)}, {plan.bpw:.2f} bpw{after}")
    packed = [step for step in plan.steps if step.tensor.qtype.is_quantized]
    if kept := sum(step.type is step.tensor.qtype for step in packed):
        print_line(f"{kept} quantized tensors kept as they are, block for block")
    if again := sum(step.type is not step.tensor.qtype and step.type.is_quantized for step in packed):
        print_line(f"{again} quantized tensors decoded and quantized again")
    if refined := sum(step.refined for step in plan.steps):
        print_line(f"{refined} tensors refined with second moments")
    if plan.importance_fit is not None:
        print_line(str(plan.importance_fit))
    if plan.fallbacks:
        swaps = Counter(f"{step.wanted} -> {step.type}" for step in plan.fallbacks)
        listed = ", ".join(f"{n} {swap}" for swap, n in swaps.most_common())
        print_line(f"{len(plan.fallbacks)} tensors fell back to another type ({listed}): {plan.fallback_bpw:+.2f} bpw")


def _totals(done: Conversion) -> Json:
    plan = done.plan
    assert plan is not None
    return {
        "source": str(plan.source.path),
        "level": plan.level,
        "size": plan.size,
        "tensor_bytes": plan.tensor_bytes,
        "source_bytes": plan.source_bytes,
        "weights": plan.n_weights,
        "bpw": round(plan.bpw, 4),
        "fallbacks": len(plan.fallbacks),
        "fallback_bpw": round(plan.fallback_bpw, 4),
        "importance": importance_as_json(plan.importance_fit),
        "remarks": list(plan.remarks),
    }


def importance_as_json(fit: ImportanceFit | None) -> Json | None:
    """How far importance and tensors fit each other, as plain data: counts, and the names of what goes without."""
    if fit is None:
        return None
    return {
        "matched": len(fit.matched),
        "missed": list(fit.missed),
        "tensors": len(fit.weighed),
        "tensors_without": list(fit.lacking),
    }


def print_choice(done: Conversion) -> None:
    """Print the types chosen for a target size, by layer, and the size and loss that they give."""
    found = done.budget
    assert found is not None
    plan = found.plan
    outside = [step for step in plan.steps if step.tensor.layer is None and len(step.tensor.shape) > 1]
    inside = [step for step in plan.steps if step.tensor.layer is not None and step.tensor.name in found.losses]
    for step in outside:
        print_line(f"{step.tensor.name}: {step.type}")
    columns = list(dict.fromkeys(_name_in_layer(step.tensor.name) for step in inside))
    cells = {(step.tensor.layer, _name_in_layer(step.tensor.name)): step.type.name for step in inside}
    layers = sorted({step.tensor.layer for step in inside if step.tensor.layer is not None})
    rows = [(str(layer), *(cells.get((layer, column), "") for column in columns)) for layer in layers]
    print_table([("layer", *columns), *rows], right=(0,))
    print_line(
        f"{in_gb(plan.size)} ({plan.size} bytes, {plan.size / found.limit:.2%} of the target), "
        f"{plan.bpw:.2f} bpw, expected KL divergence {found.loss:.4f}"
    )
    if plan.importance_fit is not None and not done.written:
        print_line(plan.importance_fit)


def _name_in_layer(name: str) -> str:
    """``blk.3.ffn_up.weight`` -> ``ffn_up``."""
    return name.split(".", 2)[-1].removesuffix(".weight")


def choice_as_json(done: Conversion) -> Json:
    """The types chosen for a target size, as plain data."""
    found = done.budget
    assert found is not None
    plan = found.plan
    return {
        "target_bytes": found.limit,
        "bytes": plan.size,
        "bpw": round(plan.bpw, 4),
        "expected_kld": found.loss,
        "level": plan.level,
        "importance": importance_as_json(plan.importance_fit),
        "remarks": list(plan.remarks),
        "types": dict(Counter(step.type.name for step in plan.steps).most_common()),
        "tensors": {step.tensor.name: step.type.name for step in plan.steps},
    }
