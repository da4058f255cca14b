"""Divide plans into a queue of chunks, which are rows of tensors, in an order that is the same in every run."""

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
    """A plan and the file to write.

    Args:
        plan: from ``make_plan``.
        path: where the file is to appear.
    """

    plan: Plan
    path: Path


@dataclass(frozen=True)
class JobStep:
    """A step of one of the jobs' plans.

    Args:
        job: the job's number.
        item: the step's number in the job's plan.
        step: the step.
    """

    job: int
    item: int
    step: Step


@dataclass(frozen=True)
class Task:
    """A tensor and the steps of all jobs that encode it."""

    tensor: Tensor
    steps: tuple[JobStep, ...]


@dataclass(frozen=True)
class Chunk:
    """Some rows of a task's tensor.

    Args:
        number: the chunk's place in the queue.
        task: the task's number.
        a, b: the rows are ``a`` to ``b``.
    """

    number: int
    task: int
    a: int
    b: int


def tasks_of(jobs: Sequence[Job]) -> tuple[Task, ...]:
    """Group the steps of all jobs by tensor, in the order of the first job that has it."""
    found: dict[tuple[str, str], list[JobStep]] = {}
    for job, plan in enumerate(job.plan for job in jobs):
        for item, step in enumerate(plan.steps):
            found.setdefault((step.tensor.source, step.tensor.name), []).append(JobStep(job, item, step))
    return tuple(Task(steps[0].step.tensor, tuple(steps)) for steps in found.values())


def chunks_of(tasks: Sequence[Task], chunk_weights: int | None = None) -> Iterator[Chunk]:
    """Divide the rows of all tasks into chunks, in order. A chunk never has rows of two stacked matrices that have
    importance of their own.

    Args:
        tasks: from ``tasks_of``.
        chunk_weights: weights in a chunk, at least a row; None for the usual number.
    """
    number = 0
    for index, task in enumerate(tasks):
        rows = min(_chunk_rows(item.step, chunk_weights) for item in task.steps)
        each = min(rows_per_matrix(item.step) for item in task.steps)
        for start in range(0, task.tensor.n_rows, each):
            for a in range(start, start + each, rows):
                yield Chunk(number, index, a, min(a + rows, start + each))
                number += 1


def is_copy(step: Step) -> bool:
    """Return whether a step copies the bytes of its tensor."""
    return step.type is step.tensor.qtype


def rows_per_matrix(step: Step) -> int:
    """Return how many rows share an importance vector: those of a matrix in a stack, or all."""
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
