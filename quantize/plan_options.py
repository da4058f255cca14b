"""The options of a plan: everything but the model and the level that decides what a quantized file holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..formats.gguf.writer import Layout, TensorInfo
from ..formats.gguf.writer import layout as gguf_layout
from ..formats.ir import Metadata
from ..formats.moments_file import Moments
from ..formats.qtypes import QType
from .patterns import TypeRule

Importance = Mapping[str, NDArray[np.float32]]
MakeLayout = Callable[[Metadata, Sequence[TensorInfo]], Layout]


@dataclass(frozen=True)
class PlanOptions:
    """How ``make_plan`` departs from the level's own recipe. Types are given by name or as a ``QType``.

    Args:
        recipe_set: which recipes the level is looked up in: ``current``, those of an earlier time (``2023-12``,
            ``ggml-v3``), or those of ggml-org's own files (``ggml-org``); a key of ``recipes.RECIPE_SETS``. None for
            ``current``, and for ``ggml-v3`` where ``convert`` writes a GGML file.
        pure: give every tensor the level's default type.
        leave_output: keep ``output.weight`` in the type that it has.
        output_type: the type of ``output.weight``.
        embedding_type: the type of the token embeddings.
        tensor_types: (pattern, type) pairs, or lines of a recipe's file as ``read_recipe`` reads them. The
            pattern is a regular expression that is searched for in each tensor's name, whatever the case of its
            letters. The first pair that matches replaces the recipe's choice.
        fallback_type: the type of tensors whose width fits no type, or that lack the importance which their type needs.
        no_fallback: raise an error for a tensor whose width does not fit its type, instead of choosing another type.
        allow_requantize: quantize tensors again that are quantized already. Tensors of a checkpoint may always be
            quantized again, for it is the only source there is; so may those that become floats, which loses nothing.
        include_weights, exclude_weights: parts of tensor names. Only tensors whose name has one of the first use their
            importance, or all whose name has none of the second. Give one of the two.
        imatrix_metadata: whether the file says which importance matrix it was made with (``quantize.imatrix.*``).
        overrides: metadata keys to set in the file, as ``parse_override`` reads them. They count for the recipe, too.
        prune_layers: numbers of blocks to leave out. The others are numbered anew.
        fp8_as_q8: at a float type, give the weights that a checkpoint holds in FP8 the type Q8_0, as llama.cpp's
            converter does with ``--fp8-as-q8``.
        importance: tensor name -> float32 [stacked matrices * width], the importance of each column; or None.
        moments: the second moments of each weight's inputs, with which the tensors that have importance are refined; or
            None.
        extra_metadata: keys to add to the file, such as the importance matrix's origin.
        chosen_types: types by tensor name, found for a target size. They come before ``tensor_types``.
        layout: places the tensors in the file. Use ``functools.partial`` of ``formats.gguf.writer.layout`` for a GGUF
            version or a byte order, and ``formats.ggml.writer.layout`` for a GGML file.

    Example:
        >>> from quantmill import PlanOptions
        >>> options = PlanOptions(output_type="Q8_0", tensor_types=[("attn_v", "Q6_K")])
        >>> options.output_type
        'Q8_0'
    """

    recipe_set: str | None = None
    pure: bool = False
    leave_output: bool = False
    output_type: str | QType | None = None
    embedding_type: str | QType | None = None
    tensor_types: Sequence[tuple[str, str | QType] | TypeRule] = ()
    fallback_type: str | QType | None = None
    no_fallback: bool = False
    allow_requantize: bool = False
    include_weights: Sequence[str] = ()
    exclude_weights: Sequence[str] = ()
    imatrix_metadata: bool = True
    overrides: Metadata = field(default_factory=dict)
    prune_layers: Sequence[int] = ()
    fp8_as_q8: bool = False
    importance: Importance | None = field(default=None, repr=False, compare=False)
    moments: Moments | None = field(default=None, repr=False, compare=False)
    extra_metadata: Metadata = field(default_factory=dict)
    chosen_types: Mapping[str, QType] = field(default_factory=dict)
    layout: MakeLayout = gguf_layout
