"""The plan of a quantized file: each tensor's type and where its bytes go, made before any weight is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from ..formats.errors import ImportanceMissing, PlanError, located
from ..formats.gguf.factors import OUTPUT_SCALE
from ..formats.gguf.image_archs import is_image
from ..formats.gguf.keys import FILE_TYPES, GENERAL_FILE_TYPE, GENERAL_QUANTIZATION_VERSION, QUANTIZATION_VERSION
from ..formats.gguf.overrides import overridden
from ..formats.gguf.writer import Layout, TensorInfo, ggml_shape
from ..formats.ir import Metadata, Model, Tensor, Value, ValueType
from ..formats.moments_file import Moments
from ..formats.qtypes import BY_NAME, QType
from .choose import Choice, choose_types, converted_type, encodable, guess_float_type, visiting_order
from .images import float_type, recipe_set_of
from .importance import (
    ImportanceFit,
    check_matches,
    check_values,
    chosen,
    matching,
    n_matrices,
    unweighed_types,
    weighed_tensors,
)
from .kernels import ENCODABLE
from .plan_options import Importance, MakeLayout, PlanOptions
from .prune import prune, with_count_last
from .recipe import Recipe
from .recipes import COPY, IGNORES_IMPORTANCE, OWN_SEARCH, REFUSES_WITHOUT, find_recipe
from .refine import REFINED
from .remarks import check_copy, check_fp8, check_options, own_bytes, unrefined, unused_importance, unused_options
from .towers import floats_of, kept_floats, whole_type

__all__ = ["Importance", "MakeLayout", "Plan", "PlanOptions", "Step", "make_plan"]

_NO_OPTIONS = PlanOptions()


@dataclass(frozen=True)
class Step:
    """One tensor of the output.

    Args:
        tensor: the source.
        type: the type it becomes.
        reason: why it becomes that type, in words.
        offset: where its bytes begin in the file.
        nbytes: how many bytes it takes there.
        wanted: the type that a fallback replaced, or None.
        uses_importance: whether it is encoded with its importance vector.
        refined: whether it is refined with second moments.

    Example:
        >>> from quantmill import make_plan, tiny_llama
        >>> step = make_plan(tiny_llama(), "Q4_K_M").steps[0]
        >>> step.type.name, step.nbytes == step.tensor.n_rows * step.type.row_bytes(step.tensor.width)
        ('Q6_K', True)
    """

    tensor: Tensor
    type: QType
    reason: str
    offset: int
    nbytes: int
    wanted: QType | None = None
    uses_importance: bool = False
    refined: bool = False


@dataclass(frozen=True)
class Plan:
    """A file that can be written by ``execute``. Sizes are in bytes.

    Args:
        source: the model to read from.
        level: the level's name.
        steps: the tensors in file order.
        metadata: the file's keys.
        layout: the file's header and each tensor's place.
        importance: the importance vectors to encode with, by tensor name.
        as_converted: whether tensors keep axes of one row, as llama.cpp's converter writes them.
        remarks: what the options asked for in vain, and what is never quantized, in lines.
        unweighed: the types that are encoded without importance.

    Example:
        >>> from quantmill import make_plan, tiny_llama
        >>> plan = make_plan(tiny_llama(), "Q8_0")
        >>> plan.level, plan.tensor_bytes < plan.size < plan.source_bytes
        ('Q8_0', True)
    """

    source: Model
    level: str
    steps: tuple[Step, ...]
    metadata: Metadata
    layout: Layout
    importance: Importance = field(default_factory=dict, repr=False, compare=False)
    remarks: tuple[str, ...] = ()
    as_converted: bool = False
    unweighed: frozenset[str] = IGNORES_IMPORTANCE | OWN_SEARCH

    def infos(self, steps: Iterable[Step]) -> list[TensorInfo]:
        """What a file's header says of some of the steps' tensors."""
        return [
            TensorInfo(s.tensor.name, s.tensor.shape if self.as_converted else ggml_shape(s.tensor.shape), s.type)
            for s in steps
        ]

    @property
    def importance_fit(self) -> ImportanceFit | None:
        """How far the importance and the tensors fit each other; None where none was given."""
        if not self.importance:
            return None
        matched = matching(self.source, self.importance)
        taken = frozenset(matched)
        return ImportanceFit(
            matched=matched,
            missed=tuple(name for name in self.importance if name not in taken),
            weighed=tuple(step.tensor.name for step in self.steps if step.uses_importance),
            lacking=tuple(s.tensor.name for s in self.steps if self._could_use(s) and not s.uses_importance),
        )

    def _could_use(self, step: Step) -> bool:
        """Whether importance would change the bytes of a step."""
        return step.type.is_quantized and step.type is not step.tensor.qtype and step.type.name not in self.unweighed

    @property
    def n_weights(self) -> int:
        """The number of weights in all tensors."""
        return sum(step.tensor.n_weights for step in self.steps)

    @property
    def source_bytes(self) -> int:
        """The size of the source's tensors."""
        return sum(step.tensor.nbytes for step in self.steps)

    @property
    def tensor_bytes(self) -> int:
        """The size of the output's tensors, without header and padding."""
        return sum(step.nbytes for step in self.steps)

    @property
    def size(self) -> int:
        """The size of the output file."""
        return self.layout.size

    @property
    def bpw(self) -> float:
        """Bits per weight over all tensors."""
        return self.tensor_bytes * 8 / max(1, self.n_weights)

    @property
    def fallbacks(self) -> tuple[Step, ...]:
        """The steps whose type replaces the one that the recipe wanted."""
        return tuple(step for step in self.steps if step.wanted is not None)

    @property
    def fallback_bpw(self) -> float:
        """How many bits per weight over all tensors the fallbacks add."""
        bits = sum((s.type.bpw - s.wanted.bpw) * s.tensor.n_weights for s in self.steps if s.wanted is not None)
        return bits / max(1, self.n_weights)


def make_plan(model: Model, level: str, options: PlanOptions = _NO_OPTIONS) -> Plan:
    """Plan a model's file at a level: each tensor's type and place. No weight is read.

    Args:
        model: the source, as ``read_model`` and its like give it.
        level: a level's name such as ``Q4_K_M``, an alias or its number; ``COPY`` for tensors as they are; for a
            checkpoint also ``auto``, which keeps quantized blocks as they are and gives everything else the
            checkpoint's own 16-bit type.
        options: how to depart from the level's recipe, and the importance to quantize with.

    Raises:
        PlanError: the level, a type or a pattern is unknown; options exclude each other; a tensor would be quantized
            twice; importance is of another model, has the wrong length, is negative or is not finite; a width fits no
            type.
        ImportanceMissing: tensors that need importance have none; names them all.

    Example:
        >>> import numpy as np
        >>> from quantmill import PlanOptions, make_plan
        >>> from quantmill.formats.arrays import model_from_arrays
        >>> model = model_from_arrays("llama", {"blk.0.ffn_up.weight": np.ones((256, 256), np.float32)})
        >>> plan = make_plan(model, "Q4_K_M", PlanOptions(tensor_types=[("ffn_up", "Q6_K")]))
        >>> [(step.tensor.name, step.type.name, step.reason) for step in plan.steps]
        [('blk.0.ffn_up.weight', 'Q6_K', '--tensor-type ffn_up')]
        >>> plan.tensor_bytes, plan.bpw
        (53760, 6.5625)
    """
    keep_blocks = model.from_checkpoint and level.lower() == "auto"
    if keep_blocks:
        level = guess_float_type(model).name
    options = replace(options, recipe_set=recipe_set_of(model, options.recipe_set))
    recipe = find_recipe(level, options.recipe_set)
    importance = chosen(options.importance or {}, options.include_weights, options.exclude_weights)
    check_options(options)
    check_fp8(model, recipe, options)
    check_matches(model, importance)
    check_values(importance)
    whole = model = replace(model, metadata=overridden(model, options.overrides))
    if options.prune_layers:
        pruned = prune(model, options.prune_layers)
        model, importance = pruned.model, pruned.importance(importance)
    options = replace(options, importance=importance)
    if recipe is COPY:
        check_copy(model, options)
    choices = {} if recipe is COPY else choose_types(model, recipe, options, whole)
    remarks = tuple(unused_options(model, recipe, options, choices))
    if recipe.default_type.is_quantized:
        remarks += tuple(kept_floats(model, recipe.level))
    if model.from_checkpoint:
        convert = _as_image_converter if is_image(model.arch) else _as_converter
        choices = convert(model, recipe, choices, keep_blocks)
        choices |= _fp8_as_q8(model) if options.fp8_as_q8 else {}
    choices = {t.name: choices.get(t.name, Choice(t.qtype, "kept")) for t in model.tensors}
    ignore = unweighed_types(recipe, options.moments is not None)
    weighed = weighed_tensors(model, choices, importance, ignore)
    choices |= _without_importance(model, recipe, choices, weighed, options)
    _check_sources(model, choices, options.allow_requantize or model.from_checkpoint)
    refined = _to_refine(model, choices, weighed, options.moments) if options.moments is not None else frozenset()
    of_blocks = keep_blocks and not options.fp8_as_q8  # whose file is called by its floats
    level = _level_of_most(model, choices, recipe.level) if of_blocks else recipe.level

    in_order = is_image(model.arch) or (model.from_checkpoint and not recipe.default_type.is_quantized)
    tensors = model.tensors if in_order else sorted(model.tensors, key=lambda t: visiting_order(t.name))
    extra = {**options.overrides, **options.extra_metadata}
    file_type = _file_type_of_copy(model, choices) if recipe is COPY else FILE_TYPES[level]
    metadata = _metadata(model.metadata, file_type, extra, in_place=in_order)
    if options.prune_layers and not in_order:
        metadata = with_count_last(metadata, model.arch)
    shape = (lambda t: t.shape) if in_order else (lambda t: ggml_shape(t.shape))
    infos = [TensorInfo(t.name, shape(t), choices[t.name].type) for t in tensors]
    with located(model.path):
        place = options.layout(metadata, infos)
    steps = tuple(
        Step(t, c.type, c.reason, offset, info.nbytes, c.wanted, t.name in weighed, t.name in refined)
        for t, c, info, offset in zip(tensors, (choices[t.name] for t in tensors), infos, place.offsets, strict=True)
    )
    plan = Plan(model, level, steps, metadata, place, importance, as_converted=in_order, unweighed=ignore)
    return replace(plan, remarks=(*remarks, *_remarks_on_importance(plan, options.moments is not None)))


def _remarks_on_importance(plan: Plan, refine: bool) -> Iterator[str]:
    fit = plan.importance_fit
    if fit is not None:
        yield from unused_importance(plan.level, fit)
    yield from own_bytes({s.type.name for s in plan.steps if s.uses_importance and not s.refined} & OWN_SEARCH)
    if refine:
        weighed = [step for step in plan.steps if step.uses_importance]
        yield from unrefined([step.tensor.name for step in weighed if not step.refined and step.type.name in REFINED])


def _as_converter(model: Model, recipe: Recipe, choices: dict[str, Choice], keep_blocks: bool) -> dict[str, Choice]:
    """The choices by llama.cpp's converter's rules: what is not quantized becomes F32 or the requested float type.

    Args:
        keep_blocks: keep the blocks of tensors that are quantized.
    """
    default, floats = recipe.default_type, floats_of(model)
    converted = dict(choices)
    for tensor in model.tensors:
        choice = choices.get(tensor.name)
        if choice is not None and (choice.forced or default.is_quantized):
            continue
        if keep_blocks and tensor.qtype.is_quantized:
            converted[tensor.name] = Choice(tensor.qtype, "kept exactly")
        elif tensor.qtype.is_float or tensor.qtype.is_quantized:
            float_type = tensor.qtype if default.is_quantized else default
            found = whole_type(tensor, converted_type(tensor, float_type, model.arch), float_type, floats)
            converted[tensor.name] = Choice(found, "default" if found is float_type else "kept whole")
    return converted


def _fp8_as_q8(model: Model) -> dict[str, Choice]:
    """Q8_0 for matrices that were FP8, before llama.cpp's converter keeps any whole; F16 where rows do not fit it."""
    matrices = (t for t in model.tensors if t.name in model.from_fp8 and len(t.shape) > 1)
    wanted = BY_NAME["Q8_0"]
    found = {}
    for tensor in (one for one in matrices if not one.name.endswith("_norm.weight")):
        if tensor.width % wanted.block_size:
            problem = f"{wanted} does not fit {tensor.width} columns (--fp8-as-q8)"
            found[tensor.name] = Choice(BY_NAME["F16"], problem, wanted)
        else:
            found[tensor.name] = Choice(wanted, "--fp8-as-q8")
    return found


def _as_image_converter(
    model: Model, recipe: Recipe, choices: dict[str, Choice], keep_blocks: bool
) -> dict[str, Choice]:
    """The choices by ComfyUI-GGUF's converter's rules.

    Args:
        keep_blocks: whether no type was asked for, so that each matrix keeps its own 16 bits.
    """
    default = recipe.default_type
    asked = None if keep_blocks or default.is_quantized else default
    converted = dict(choices)
    for tensor in model.tensors:
        choice = choices.get(tensor.name)
        if choice is None or not (choice.forced or default.is_quantized):
            found = float_type(tensor, model.arch, asked)
            converted[tensor.name] = Choice(found, "default" if found is default else "kept whole")
    return converted


def _level_of_most(model: Model, choices: Mapping[str, Choice], otherwise: str) -> str:
    """The level to name in a file of kept blocks: that of the type which most weights have."""
    weights: Counter[str] = Counter()
    for tensor in model.tensors:
        weights[choices[tensor.name].type.name] += tensor.n_weights
    name = weights.most_common(1)[0][0] if weights else otherwise
    level = {"MXFP4": "MXFP4_MOE"}.get(name, name)
    return level if level in FILE_TYPES and not BY_NAME[name].is_float else otherwise


def _file_type_of_copy(model: Model, choices: Mapping[str, Choice]) -> int:
    """The file type that the source names, or that of the type which most weights have."""
    named = model.metadata.get(GENERAL_FILE_TYPE)
    if named is not None and isinstance(named.data, int):
        return named.data
    return FILE_TYPES[_level_of_most(model, choices, guess_float_type(model).name)]


def _metadata(source: Metadata, file_type: int, extra: Metadata, in_place: bool) -> dict[str, Value]:
    """The source's keys, and those of the new file.

    Args:
        in_place: replace keys where they are, as the converter does, instead of moving them to the end, as
            llama-quantize does.
    """
    new = {
        GENERAL_QUANTIZATION_VERSION: Value(ValueType.UINT32, QUANTIZATION_VERSION),
        GENERAL_FILE_TYPE: Value(ValueType.UINT32, file_type),
        **extra,
    }
    kept = {key: value for key, value in source.items() if not key.startswith("split.")}
    if not in_place:
        kept = {key: value for key, value in kept.items() if key not in new}
    return kept | new


def _to_refine(
    model: Model, choices: Mapping[str, Choice], weighed: frozenset[str], moments: Moments
) -> frozenset[str]:
    """The names of tensors to refine. Raises ``PlanError`` if the second moments are of another model."""
    names = set()
    for tensor in model.tensors:
        if tensor.name not in weighed or choices[tensor.name].type.name not in REFINED:
            continue
        if moments.holder(tensor.name) is None:
            continue
        have = (moments.n_matrices(tensor.name), moments.width(tensor.name))
        want = (n_matrices(tensor), tensor.width)
        if have != want:
            problem = f"its second moments are of {have[0]} x {have[1]} columns, it has {want[0]} x {want[1]}"
            raise PlanError(problem, where=tensor.name, hint="this imatrix belongs to another model")
        names.add(tensor.name)
    return frozenset(names)


def _without_importance(
    model: Model, recipe: Recipe, choices: dict[str, Choice], weighed: frozenset[str], options: PlanOptions
) -> dict[str, Choice]:
    """``fallback_type`` for the tensors without the importance that their type needs; raises if there is none."""
    lacking = [t for t in model.tensors if t.name not in weighed and _needs(t, choices[t.name].type, recipe)]
    if not lacking:
        return {}
    if options.fallback_type is None:
        names = ", ".join(f"{t.name} ({choices[t.name].type})" for t in lacking)
        raise ImportanceMissing(
            f"{len(lacking)} tensors need importance and have none: {names}",
            tensors=tuple(t.name for t in lacking),
            path=model.path,
            hint="--imatrix FILE, or --fallback-type TYPE for these alone",
        )
    fallback = encodable(options.fallback_type)
    found = {}
    for tensor in lacking:
        wanted = choices[tensor.name].type
        if _needs(tensor, fallback, recipe):
            raise PlanError(f"{fallback} needs importance itself", where=tensor.name, hint="--fallback-type Q4_K")
        if tensor.width % fallback.block_size:
            problem = (
                f"rows of {tensor.width} weights are not a multiple of {fallback}'s block of {fallback.block_size}"
            )
            raise PlanError(problem, where=tensor.name, hint="choose another --fallback-type")
        found[tensor.name] = Choice(fallback, f"no importance for {wanted}", wanted)
    return found


def _needs(tensor: Tensor, type: QType, recipe: Recipe) -> bool:
    if type is tensor.qtype:
        return False
    exempt = tensor.name in ("output.weight", "token_embd.weight", "per_layer_token_embd.weight")
    return type.name in REFUSES_WITHOUT or (not exempt and type.name in recipe.needs_importance)


def _check_sources(model: Model, choices: dict[str, Choice], allow_requantize: bool) -> None:
    changed = [t for t in model.tensors if choices[t.name].type is not t.qtype]
    for tensor in changed:
        if tensor.qtype.name not in ENCODABLE:
            raise PlanError(f"type {tensor.qtype} cannot be quantized", path=model.path, where=tensor.name)
        if tensor.name == "output.weight" and tensor.qtype is BY_NAME["NVFP4"] and OUTPUT_SCALE in choices:
            problem = f"llama.cpp multiplies with {OUTPUT_SCALE} only where the head is of NVFP4"
            raise PlanError(problem, path=model.path, where=tensor.name, hint="--output-tensor-type NVFP4 keeps it")
    # Decoding to floats loses nothing; encoding a second time does.
    again = [t for t in changed if t.qtype.is_quantized and choices[t.name].type.is_quantized]
    if again and not allow_requantize:
        raise PlanError(
            f"{len(again)} tensors are quantized already (the first as {again[0].qtype})",
            path=model.path,
            where=again[0].name,
            hint="start from a float file; --allow-requantize quantizes them again, which loses more quality",
        )
