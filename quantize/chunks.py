"""Plans as a queue: chunks of rows from all tensors, in an order that is the same in every run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..formats.ir import Tensor
from .plan import Plan, Step

CHUNK_WEIGHTS = 1 << 20  # small, so that the threads end together; large, so that Python between chunks costs little
REFINED_ROWS = 1024  # at least: refining is many short calls, whatever the rows
COPY_BYTES = 4 << 20  # copies are bound by the disk: fewer, larger writes


@dataclass(frozen=True)
class Job:
    """A plan and the file it becomes."""

    plan: Plan
    path: Path


@dataclass(frozen=True)
class Part:
    """A tensor's step in one of the jobs; ``item`` is its number in the job's plan."""

    job: int
    item: int
    step: Step


@dataclass(frozen=True)
class Task:
    """A tensor and everything that is to be made of it."""

    tensor: Tensor
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Chunk:
    """Rows ``a`` to ``b`` of a task's tensor; ``number`` is its place in the queue, ``task`` the task's number."""

    number: int
    task: int
    a: int
    b: int


def tasks_of(jobs: Sequence[Job]) -> tuple[Task, ...]:
    """Steps of the same tensor together, in the order of the first job that has it."""
    found: dict[tuple[str, str], list[Part]] = {}
    for job, plan in enumerate(job.plan for job in jobs):
        for item, step in enumerate(plan.steps):
            found.setdefault((step.tensor.source, step.tensor.name), []).append(Part(job, item, step))
    return tuple(Task(parts[0].step.tensor, tuple(parts)) for parts in found.values())


def chunks_of(tasks: Sequence[Task], chunk_weights: int | None = None) -> Iterator[Chunk]:
    """Every row of every task, in order. A chunk never crosses from one stacked matrix to the next.

    Args:
        chunk_weights: weights in a chunk, at least a row; None for the usual number.
    """
    number = 0
    for index, task in enumerate(tasks):
        rows = min(_chunk_rows(part.step, chunk_weights) for part in task.parts)
        each = min(rows_per_matrix(part.step) for part in task.parts)
        for start in range(0, task.tensor.n_rows, each):
            for a in range(start, start + each, rows):
                yield Chunk(number, index, a, min(a + rows, start + each))
                number += 1


def is_copy(step: Step) -> bool:
    """Whether its bytes stay as they are."""
    return step.type is step.tensor.qtype


def rows_per_matrix(step: Step) -> int:
    """How many rows share an importance vector: a matrix of a stack, or all."""
    shape = step.tensor.shape
    if len(shape) < 3 or not step.uses_importance:
        return max(1, step.tensor.n_rows)
    return max(1, shape[-2])


def _chunk_rows(step: Step, weights: int | None) -> int:
    width = max(1, step.tensor.width)
    if is_copy(step):
        return max(1, int(COPY_BYTES * 8 / step.tensor.qtype.bpw) // width)
    if weights is None:
        return max(1, CHUNK_WEIGHTS // width, REFINED_ROWS if step.refined else 1)
    return max(1, weights // width)
