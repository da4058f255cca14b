"""Gather the figures of a model that the page of ``quantmill inspect --html`` shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ...formats.gguf.keys import GENERAL_FILE_TYPE, LEVEL_OF_FILE_TYPE
from ...formats.ir import Role, Tensor
from ...formats.storage.output import human_bytes
from ..api.description import TypeTotals, type_totals
from ..api.differences import measure_errors

if TYPE_CHECKING:
    from ...formats.gguf.header import GGUFHeader
    from ...formats.imatrix_file import Imatrix
    from ...formats.ir import Model
    from ...quantize.compare import TensorReport

_MAX_FACT = 120  # characters of a fact at the top of the page
PARTS = ("attention", "feed forward", "other")


@dataclass(frozen=True)
class LayerRow:
    """The bytes of a layer, by part, and its number of weights."""

    layer: int
    nbytes: Mapping[str, int]
    weights: int

    @property
    def total(self) -> int:
        return sum(self.nbytes.values())


@dataclass(frozen=True)
class Cell:
    """One square of a heat map; ``about`` is its description, which a pointer or a screen reader shows."""

    value: float
    about: str


@dataclass(frozen=True)
class HeatMap:
    """A value for each layer and role, and for the tensors outside the layers by name."""

    roles: tuple[str, ...]
    layers: tuple[int, ...]
    cells: Mapping[tuple[int, str], Cell]
    outside: Mapping[str, Cell]

    @property
    def values(self) -> list[float]:
        return [cell.value for cell in (*self.cells.values(), *self.outside.values())]


@dataclass(frozen=True)
class Report:
    """Everything that the page shows."""

    title: str
    facts: tuple[tuple[str, str], ...]
    types: tuple[TypeTotals, ...]
    layers: tuple[LayerRow, ...]
    outside_bytes: int
    metadata: tuple[
        tuple[str, str, str, str | None], ...
    ]  # key, type, value on one line, the whole value of a long text
    tensors: tuple[Tensor, ...]
    errors: Mapping[str, TensorReport] = field(default_factory=dict)
    error_map: HeatMap | None = None
    against: str = ""
    importance_map: HeatMap | None = None
    imatrix: str = ""


def gather(
    model: Model,
    headers: tuple[GGUFHeader, ...],
    *,
    against: Model | None = None,
    imatrix: Imatrix | None = None,
    threads: int | None = None,
    done: Callable[[int], object] | None = None,
) -> Report:
    """Gather the figures of a model and its files' headers.

    Args:
        against: the model to measure each tensor's error against.
        imatrix: the importance matrix to show.
        threads: to measure with; None for one for each CPU.
        done: called with the bytes of each tensor that was measured, from any thread.
    """
    errors = measure_errors(model, against, threads=threads, done=done) if against is not None else {}
    return Report(
        title=_cut(str(model.get("general.name") or model.path.name)),
        facts=tuple(_facts(model, headers)),
        types=type_totals(model),
        layers=_layers(model),
        outside_bytes=sum(t.nbytes for t in model if t.layer is None),
        metadata=tuple(_metadata(model)),
        tensors=model.tensors,
        errors=errors,
        error_map=_error_map(model, errors) if against is not None else None,
        against=against.path.name if against is not None else "",
        importance_map=_importance_map(model, imatrix) if imatrix is not None else None,
        imatrix=imatrix.path.name if imatrix is not None and imatrix.path is not None else "",
    )


def _facts(model: Model, headers: tuple[GGUFHeader, ...]) -> list[tuple[str, str]]:
    weights = sum(t.n_weights for t in model)
    nbytes = sum(t.nbytes for t in model)
    size = sum(header.file_size for header in headers)
    file_type = model.get(GENERAL_FILE_TYPE)
    heads, kv = model.hparam("attention.head_count"), model.hparam("attention.head_count_kv")
    tokens = model.get("tokenizer.ggml.tokens")
    first = headers[0]
    facts = [
        ("File", model.path.name),
        ("Size", human_bytes(size) + (f" in {len(headers)} shards" if len(headers) > 1 else "")),
        ("Architecture", model.arch),
        ("Weights", _count(weights)),
        ("Bits per weight", f"{nbytes * 8 / weights:.2f}" if weights else None),
        ("Level", LEVEL_OF_FILE_TYPE.get(file_type) if isinstance(file_type, int) else None),
        ("Layers", model.hparam("block_count")),
        ("Width", model.hparam("embedding_length")),
        ("Heads", f"{heads}, {kv} of keys and values" if isinstance(kv, int) and kv != heads else heads),
        ("Experts", model.hparam("expert_count")),
        ("Context", model.hparam("context_length")),
        ("Vocabulary", len(tokens) if isinstance(tokens, tuple) else None),
        ("Tensors", len(model.tensors)),
        ("Importance matrix", model.get("quantize.imatrix.file")),
        ("License", model.get("general.license")),
        ("Format", f"GGUF v{first.version}, {first.byteorder}-endian, aligned to {first.alignment}"),
    ]
    texts = [(label, _as_text(value)) for label, value in facts if value is not None]
    return [(label, _cut(text)) for label, text in texts if text]


def _cut(value: str) -> str:
    """Shorten a fact for the top of the page; the table of metadata shows it in full."""
    return value if len(value) <= _MAX_FACT else f"{value[:_MAX_FACT]} ..."


def _as_text(value: object) -> str:
    """Format a fact; an array with a number for each layer is shown by its minimum and maximum."""
    if isinstance(value, np.ndarray):
        return f"{value.min()} to {value.max()}, by layer" if value.size else ""
    return str(value)


def _count(n: int) -> str:
    for unit, name in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
        if n >= unit:
            return f"{n / unit:.2f} {name}"
    return str(n)


def part_of(role: Role) -> str:
    """Give the part of a layer, of ``PARTS``, that a tensor with this role belongs to."""
    name = role.value
    if name.startswith(("attn", "cross_attn", "vis_attn", "indexer", "post_attention")):
        return "attention"
    return "feed forward" if name.startswith(("ffn", "post_ffw", "exp_probs")) else "other"


def _layers(model: Model) -> tuple[LayerRow, ...]:
    nbytes: dict[int, dict[str, int]] = {}
    weights: dict[int, int] = {}
    for tensor in model:
        if tensor.layer is not None:
            parts = nbytes.setdefault(tensor.layer, dict.fromkeys(PARTS, 0))
            parts[part_of(tensor.role)] += tensor.nbytes
            weights[tensor.layer] = weights.get(tensor.layer, 0) + tensor.n_weights
    return tuple(LayerRow(layer, nbytes[layer], weights[layer]) for layer in sorted(nbytes))


def _metadata(model: Model) -> list[tuple[str, str, str, str | None]]:
    from ...formats.gguf.edit import show_value
    from ...formats.gguf.keys import type_name

    rows = []
    for key, value in model.metadata.items():
        long = value.data if isinstance(value.data, str) and len(value.data) > 100 else None
        shown = show_value(value, model.metadata, key, limit=100)
        if key == GENERAL_FILE_TYPE and isinstance(value.data, int) and value.data in LEVEL_OF_FILE_TYPE:
            shown += f" ({LEVEL_OF_FILE_TYPE[value.data]})"
        rows.append((key, type_name(value.type, value.item), shown, long))
    return rows


def _error_map(model: Model, errors: Mapping[str, TensorReport]) -> HeatMap:
    found = {}
    for tensor in model:
        report = errors.get(tensor.name)
        if report is not None and report.rmse is not None and len(tensor.shape) > 1:
            about = f"{tensor.name}, {report.type}: relative RMSE {report.rmse:.2e}, cosine {report.cosine:.6f}"
            found[tensor.name] = Cell(report.rmse, about)
    return _heat_map(model, found)


def _importance_map(model: Model, imatrix: Imatrix) -> HeatMap:
    """The importance of each matrix: the mean square of its inputs, by which quantization weighs errors, averaged."""
    found = {}
    for name, vector in imatrix.vectors().items():
        if vector.size:
            mean, top = float(vector.mean(dtype="f8")), float(vector.max())
            found[name] = Cell(mean, f"{name}: mean squared input {mean:.3g}, of the busiest column {top:.3g}")
    return _heat_map(model, found)


def _heat_map(model: Model, found: Mapping[str, Cell]) -> HeatMap:
    """Arrange cells by layer and role. Where several tensors share a place, the largest value is shown."""
    cells: dict[tuple[int, str], Cell] = {}
    outside: dict[str, Cell] = {}
    for tensor in model:
        cell = found.get(tensor.name)
        if cell is None:
            continue
        if tensor.layer is None:
            outside[tensor.name.removesuffix(".weight")] = cell
            continue
        role = tensor.role.value if tensor.role is not Role.OTHER else tensor.name.split(".", 2)[-1]
        place = (tensor.layer, role)
        if place not in cells or cells[place].value < cell.value:
            cells[place] = cell
    roles = sorted(dict.fromkeys(role for _, role in cells), key=lambda role: (_ORDER.get(role, 99), role))
    return HeatMap(tuple(roles), tuple(sorted({layer for layer, _ in cells})), cells, outside)


# The order of the columns: that in which a text passes through the matrices.
_ORDER = {role.value: i for i, role in enumerate((
    Role.ATTN_Q, Role.ATTN_K, Role.ATTN_V, Role.ATTN_QKV, Role.ATTN_OUTPUT,
    Role.FFN_GATE_INP, Role.FFN_GATE, Role.FFN_UP, Role.FFN_DOWN,
    Role.FFN_GATE_EXPS, Role.FFN_UP_EXPS, Role.FFN_DOWN_EXPS,
))}  # fmt: skip
