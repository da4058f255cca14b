"""The size of a model's file at every level, and the memory to run it: the function behind ``quantmill plan``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ...formats.errors import PlanError
from ...formats.gguf.image_archs import is_image
from ...formats.progress import Progress
from ...formats.storage.endings import ending
from ...formats.storage.output import human_bytes
from .checks import check_layout, plan_options_given, refuse
from .models import read_for_plan
from .options import StrPath
from .planning import with_imatrix

if TYPE_CHECKING:
    from ...formats.hf.tables.further import Mtp
    from ...formats.ir import Model
    from ...quantize.estimate.levels import LevelSize
    from ...quantize.plan import PlanOptions

Format = Literal["gguf", "ggml", "gptq"]
# Levels that are not recommended: others are better at the same size, or they are for models trained for them.
_NOT_RECOMMENDED = frozenset(
    {"F32", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ1_0", "TQ2_0", "MXFP4_MOE", "MXFP4", "NVFP4", "Q1_0", "Q2_0"}
)


@dataclass(frozen=True)
class SizeTable:
    """What a model's file would weigh at each level.

    Args:
        model: the model that was planned.
        format: what would be written.
        recipe_set: the recipe set of the levels; None for GPTQ.
        ctx: the context in tokens that ``run_bytes`` counts.
        levels: the size at each level, and why a level is impossible.
        run_bytes: by level, the memory to run the file with llama.cpp at that context: weights, cache and buffers.
        all_levels: whether every level of the recipe set was planned, not some that were named.
        vocabulary_assumed: whether a vocabulary of the usual size was counted, for there was no tokenizer.

    Example:
        >>> from quantmill import plan, tiny_llama
        >>> table = plan(tiny_llama(), ["Q4_K_M", "Q8_0"])
        >>> [size.level for size in table.levels]
        ['Q4_K_M', 'Q8_0']
    """

    model: Model
    format: Format
    recipe_set: str | None
    ctx: int
    levels: tuple[LevelSize, ...]
    run_bytes: Mapping[str, int]
    all_levels: bool
    vocabulary_assumed: bool

    def best_fit(self, limit: int) -> LevelSize:
        """The largest level that runs in ``limit`` bytes; of all levels, the largest of those that are recommended.

        Raises:
            PlanError: no level runs in so little memory.
        """
        possible = [
            row for row in self.levels if not row.problem and not (self.all_levels and row.level in _NOT_RECOMMENDED)
        ]
        own = {tensor.qtype.name for tensor in self.model.tensors if len(tensor.shape) > 1}
        fitting = [row for row in possible if self.run_bytes[row.level] <= limit]
        if fitting:
            return max(fitting, key=lambda row: (row.nbytes, row.level in own))
        if not possible:
            raise PlanError("none of these levels is possible", where="--fits")
        least = min(possible, key=lambda row: row.nbytes)
        need = human_bytes(self.run_bytes[least.level])
        problem = f"{human_bytes(limit)} are too little: the smallest level, {least.level}, needs {need}"
        raise PlanError(problem, where="--fits", hint="give a smaller --ctx, or a smaller model")


def plan(
    model: StrPath | Model,
    levels: Sequence[str] = (),
    *,
    format: Format = "gguf",
    imatrix: StrPath | None = None,
    options: PlanOptions | None = None,
    ctx: int = 4096,
    mtp: Mtp = "keep",
    progress: Progress | None = None,
) -> SizeTable:
    """Calculate the size of a model's file at each level. No weight is read.

    Args:
        model: a Hugging Face folder, a config.json alone, a GGUF or GGML file, or a model that was read before.
        levels: levels such as ``Q4_K_M``, or for GPTQ variants such as ``4bit-128g``; none for all.
        format: what would be written.
        imatrix: an importance matrix's file to plan with.
        options: how to depart from the levels' recipes; see ``PlanOptions``.
        ctx: the context in tokens to calculate the memory for.
        mtp: what becomes of a checkpoint's layers that predict further tokens; see ``ReadOptions``.
        progress: called with a ``Note`` for what is assumed or left out.

    Raises:
        PlanError: a level or the recipe set is unknown. FormatError: the model cannot be read.

    Example:
        >>> import numpy as np
        >>> from quantmill import plan
        >>> from quantmill.formats.arrays import model_from_arrays
        >>> model = model_from_arrays("llama", {"blk.0.ffn_up.weight": np.ones((8, 256), np.float32)})
        >>> [(row.level, row.types) for row in plan(model, ["Q4_K_M", "Q8_0"]).levels]
        [('Q4_K_M', {'Q4_K': 1}), ('Q8_0', {'Q8_0': 1})]
    """
    from ...formats.hf.shapes import lacks_vocabulary, with_vocabulary
    from ...formats.hub.address import find_address
    from ...formats.ir import Model
    from ...quantize.estimate.memory import run_memory
    from ...quantize.image_recipes import IMAGE_SET
    from ...quantize.plan import PlanOptions

    source = read_for_plan(model, mtp=mtp, progress=progress)
    # A config.json by itself, or a model on the hub: its checkpoint has a tokenizer, which is not here to be counted.
    bare = not isinstance(model, Model) and (ending(str(model)) == ".json" or find_address(model) is not None)
    assumed = source.from_checkpoint and bare and lacks_vocabulary(source)
    if assumed:
        source = with_vocabulary(source)
    options = options or PlanOptions()
    check_layout(options)
    if format == "gptq":
        refuse({"--imatrix": imatrix is not None, **plan_options_given(options)}, "GPTQ takes no plan")
    if format != "gguf" and is_image(source.arch):
        raise PlanError("is for text models", path=source.path, where=f"--format {format}", hint="leave it out")
    usual = IMAGE_SET if is_image(source.arch) else "current"
    recipe_set = {"gguf": options.recipe_set or usual, "ggml": options.recipe_set or "ggml-v3"}.get(format)
    planned = source
    if format == "ggml":
        from ...formats.ggml.writer import layout, untied

        planned, options = untied(source), replace(options, layout=layout)
    options, _ = with_imatrix(options, planned, None if imatrix is None else Path(imatrix))
    rows = _sizes(planned, levels, format, replace(options, recipe_set=recipe_set))
    image = is_image(source.arch)  # which keeps no cache; what it computes with depends on the picture's size
    memory = {row.level: row.nbytes if image else run_memory(source, row.nbytes, ctx) for row in rows}
    return SizeTable(source, format, recipe_set, ctx, tuple(rows), memory, not levels, assumed)


def _sizes(model: Model, levels: Sequence[str], format: Format, options: PlanOptions) -> list[LevelSize]:
    from ...quantize.estimate.levels import size_levels

    if format == "gptq":
        from ...quantize.estimate.packed import VARIANTS, parse_variant, size_variants

        return size_variants(model, [parse_variant(level) for level in levels] or VARIANTS)
    return size_levels(model, levels, options)
