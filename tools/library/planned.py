"""From options to a plan, and from a plan to a file or a table: what ``quantize`` and ``convert`` share."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...formats.errors import PlanError
from ...formats.progress import Event, Note, Progress, RowsDone
from ...formats.storage.output import human_bytes

if TYPE_CHECKING:
    from ...formats.gguf.wire import ByteOrder
    from ...formats.ir import Metadata, Model
    from ...quantize.plan import Importance, MakeLayout, Plan, PlanOptions
    from ...quantize.refine.refiner import Refiner

_PLAN_KEYS = (
    "pure", "leave_output", "output_type", "embedding_type", "tensor_types", "allow_requantize",
    "fallback_type", "no_fallback",
)  # fmt: skip


def plan_from(
    model: Model, level: str, options: Mapping[str, Any], *, container: str = "gguf"
) -> tuple[Plan, Importance | None]:
    """The plan for a model and the options of ``plan_options`` and ``write_options``, with the importance it uses.

    Args:
        container: ``gguf`` or ``ggml``.

    Raises:
        PlanError: see ``make_plan``; also an importance matrix that knows no tensor of the model. FormatError: a
            damaged importance matrix.
    """
    plan_options = read_plan_options(options, container)
    importance = plan_options.importance
    if importance is not None and not any(tensor.name in importance for tensor in model):
        raise PlanError("holds no tensor of this model", path=options["imatrix"], hint="another model's imatrix?")
    from ...formats.ggml.writer import untied
    from ...quantize.plan import make_plan

    made = make_plan(untied(model) if container == "ggml" else model, level, plan_options)
    if options.get("refine") and not any(step.refined for step in made.steps):
        hint = "leave --refine out, or make an imatrix of this model with --second-moments"
        raise PlanError(f"no tensor of {made.level} can be refined", path=options["imatrix"], hint=hint)
    return made, importance


def read_plan_options(options: Mapping[str, Any], container: str = "gguf") -> PlanOptions:
    """The plan's options from those of ``plan_options`` and ``write_options``."""
    from ...quantize.plan import PlanOptions

    importance, origin = None, None
    if options.get("imatrix"):
        from ...formats.imatrix_file import read_imatrix

        imatrix = read_imatrix(options["imatrix"])
        importance, origin = imatrix.vectors(), imatrix.provenance(options.get("imatrix_name") or options["imatrix"])
    refiner = refiner_of(options)
    return PlanOptions(
        recipe_set=recipe_set_for(container, options),
        importance=importance,
        moments=refiner.moments if refiner is not None else None,
        extra_metadata=origin or {},
        layout=_layout(container, options),
        **{key: options[key] for key in _PLAN_KEYS if key in options},
    )


def refiner_of(options: Mapping[str, Any]) -> Refiner | None:
    """What ``--refine`` asks for.

    Raises:
        PlanError: without an importance matrix, or with one that has no second moments.
    """
    if not options.get("refine"):
        return None
    from ...formats.imatrix_file import read_imatrix
    from ...quantize.refine.refiner import Refiner

    path = options.get("imatrix")
    if path is None:
        raise PlanError(
            "wants second moments", where="--refine", hint="--imatrix FILE, made by imatrix --second-moments"
        )
    moments = read_imatrix(path).moments
    if moments is None:
        raise PlanError("holds no second moments", path=path, hint="make it with imatrix --second-moments")
    return Refiner(moments, max(256, options["refine_width"] // 256 * 256))


def recipe_set_for(container: str, options: Mapping[str, Any]) -> str:
    """The requested recipe set, or the one of the container's time."""
    return str(options.get("recipe_set") or {"ggml": "ggml-v3", "gguf": "current"}[container])


def _layout(container: str, options: Mapping[str, Any]) -> MakeLayout:
    if container == "ggml":
        from ...formats.ggml.writer import layout as ggml_layout

        if options.get("big_endian"):
            raise PlanError("a GGML file is little-endian", where="--big-endian", hint="leave it out")
        return ggml_layout
    from ...formats.gguf.writer import layout as gguf_layout

    byteorder: ByteOrder = "big" if options.get("big_endian") else "little"
    return partial(gguf_layout, version=options.get("version", 2), byteorder=byteorder)


def tell_client(metadata: Metadata, path: Path) -> None:
    """Say on stderr what a GGML file's client must be told."""
    from ...formats.ggml.writer import client_options, vocabulary_warning

    if warning := vocabulary_warning(metadata):
        click.echo(f"warning: {path}: {warning}", err=True)
    click.echo(f"{path}: tell the client what the file cannot say: {client_options(metadata)}", err=True)


def carry_out(
    plan: Plan, path: Path, importance: Importance | None, options: Mapping[str, Any], keep_split: bool = False
) -> None:
    """Write the planned file with a progress bar on stderr, then say what came of it.

    Args:
        keep_split: write shards as the source's; ``path`` without ``.gguf`` is what their names begin with.
    """
    from ...quantize.execute import Job, execute_all
    from ...quantize.threads import cpu_count
    from ...quantize.warm import warm
    from .ray_pool import pool_of

    quiet = options.get("quiet", False)
    start = time.monotonic()
    types = {step.type for step in plan.steps if step.type is not step.tensor.qtype}
    say = None if quiet else partial(click.echo, err=True)
    warm(types, options.get("threads") or cpu_count(), say)
    inputs = [options["imatrix"]] if options.get("imatrix") else []
    jobs = [Job(plan, path)]
    if keep_split:
        from ...quantize.sharded import split_as_source

        prefix = path.with_name(path.name.removesuffix(".gguf"))
        jobs = [Job(part, shard) for shard, part in split_as_source(plan, prefix, _layout("gguf", options))]
    with pool_of(options) as pool, progress_bar(plan.source_bytes, path.name, quiet) as progress:
        execute_all(
            jobs, threads=options.get("threads"), importance=importance, refiner=refiner_of(options),
            progress=shown(progress, say), force=options.get("force", False), inputs=inputs,
            restart=options.get("restart", False), pool=pool,
        )  # fmt: skip
    seconds = time.monotonic() - start
    if options.get("as_json"):
        made = {"output": str(jobs[0].path), "shards": [str(job.path) for job in jobs] if keep_split else None}
        size = sum(job.plan.size for job in jobs)
        click.echo(json.dumps(made | {"seconds": round(seconds, 3)} | _totals(plan) | {"size": size}))
    elif not quiet:
        name = f"{jobs[0].path} and {len(jobs) - 1} more" if len(jobs) > 1 else f"{path}"
        _print_summary(plan, f"{name}: ", f", {seconds:.1f} s")


@contextmanager
def progress_bar(total: int, what: str, quiet: bool) -> Iterator[Callable[[int], object] | None]:
    """The ``update`` of a progress bar over bytes; None where nobody looks, for then tqdm is not worth its import."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="B", unit_scale=True, desc=what, file=sys.stderr) as bar:
        yield bar.update


def shown(update: Callable[[int], object] | None, say: Callable[[str], object] | None) -> Progress:
    """Events as a bar and lines."""

    def show(event: Event) -> None:
        if isinstance(event, RowsDone) and update is not None:
            update(event.nbytes)
        elif isinstance(event, Note) and say is not None:
            say(event.text)

    return show


def print_plan(plan: Plan, as_json: bool) -> None:
    """``--dry-run``: each tensor's type and why, then the totals."""
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
        click.echo(json.dumps(_totals(plan) | {"tensors": tensors}))
        return
    name = max((len(step.tensor.name) for step in plan.steps), default=0)
    shape = max((len(_shape(step.tensor.shape)) for step in plan.steps), default=0)
    for step in plan.steps:
        change = f"{step.tensor.qtype} -> {step.type}" if step.type is not step.tensor.qtype else f"{step.type}"
        click.echo(f"{step.tensor.name:<{name}}  {_shape(step.tensor.shape):<{shape}}  {change:<16}  {step.reason}")
    _print_summary(plan, f"{plan.source.path} as {plan.level}: ", "")


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(str(dim) for dim in shape)


def _print_summary(plan: Plan, before: str, after: str) -> None:
    click.echo(f"{before}{human_bytes(plan.size)} of {human_bytes(plan.source_bytes)}, {plan.bpw:.2f} bpw{after}")
    packed = [step for step in plan.steps if step.tensor.qtype.is_quantized]
    if kept := sum(step.type is step.tensor.qtype for step in packed):
        click.echo(f"{kept} quantized tensors kept as they are, block for block")
    if again := sum(step.type is not step.tensor.qtype and step.type.is_quantized for step in packed):
        click.echo(f"{again} quantized tensors decoded and quantized again")
    if refined := sum(step.refined for step in plan.steps):
        click.echo(f"{refined} tensors refined with second moments")
    if plan.fallbacks:
        swaps = Counter(f"{step.wanted} -> {step.type}" for step in plan.fallbacks)
        listed = ", ".join(f"{n} {swap}" for swap, n in swaps.most_common())
        click.echo(f"{len(plan.fallbacks)} tensors fell back to another type ({listed}): {plan.fallback_bpw:+.2f} bpw")


def _totals(plan: Plan) -> dict[str, Any]:
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
    }
