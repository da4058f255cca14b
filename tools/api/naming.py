"""What a user calls a model and its files: facts of authorship, and templates of file names."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...formats.errors import PlanError
from .options import ReadOptions

if TYPE_CHECKING:
    from ...formats.ir import Model

_FIELD = re.compile(r"\{([^{}]*)\}")


def described(model: Model, read: ReadOptions) -> Model:
    """The model with the name and the facts that the options give, without its tensors if they say so.

    Raises:
        FormatError, QuantmillError: see ``read_authorship``.
    """
    if read.vocab_only:
        model = replace(model, tensors=(), shards=())
    if read.metadata is None and read.model_name is None:
        return model
    from ...formats.hf.files.authorship import read_authorship, with_authorship
    from ...formats.ir import Value, ValueType

    facts = {} if read.metadata is None else read_authorship(Path(read.metadata))
    if read.model_name is not None:
        facts["general.name"] = Value(ValueType.STRING, read.model_name)
    return replace(model, metadata=with_authorship(model.metadata, facts))


def filled(path: Path, level: str) -> Path:
    """A path whose name has the level for ``{ftype}`` or ``{outtype}``; ``{FTYPE}`` and ``{OUTTYPE}`` give it as it is.

    Raises:
        PlanError: the name has another field.

    Example:
        >>> from pathlib import Path
        >>> filled(Path("out", "m-{ftype}.gguf"), "Q4_K_M").name, filled(Path("m.{FTYPE}.gguf"), "F16").name
        ('m-q4_k_m.gguf', 'm.F16.gguf')
    """
    words = {"": level.lower(), "ftype": level.lower(), "outtype": level.lower(), "FTYPE": level, "OUTTYPE": level}
    unknown = next((field for field in _FIELD.findall(path.name) if field not in words), None)
    if unknown is not None:
        problem = f"its name has the field {{{unknown}}}, which nothing fills"
        raise PlanError(problem, path=path, hint="{ftype} or {FTYPE} is the level")
    return path.with_name(_FIELD.sub(lambda field: words[field[1]], path.name))
