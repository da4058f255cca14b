"""Quanto: int8 and FP8 weights with a scale for each row, as optimum-quanto saves them.

``weight._data`` [out, in] times ``weight._scale`` [out, 1]; which modules, ``quanto_qmap.json`` says. Weights of 4
and 2 bits are stored as groups whose file does not say how long a row is. Source: ``save_pretrained`` of models/, and
tensor/weights/qbytes.py, of optimum-quanto 0.2.7.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...ir import Tensor
from ...json_types import OBJECT, TEXT, shown
from . import fp8
from .described import Config, check_types, refusal
from .integer_grid import IntegerGrid
from .stored import FLOAT_DTYPES, Module, float_rows

KEYS = ("weight._data", "weight._data._data", "weight._scale", "weight._shift")
PARTS = KEYS
EXTRAS = ("input_scale", "output_scale")
KINDS = ("qint8", "qfloat8", "qfloat8_e4m3fn", "qfloat8_e5m2")


def check_config(config: Config, path: Path) -> None:
    """Raise ``FormatError`` for weights of other kinds."""
    check_types(config, {"modules": OBJECT}, path)
    modules = config.get("modules") or {}
    for name, one in modules.items():
        check_types(modules, {name: OBJECT}, path)
        check_types(one or {}, {"weights": TEXT}, path, f"{name}.")
        kind = (one or {}).get("weights")
        if kind not in (None, "none", *KINDS):
            hint = "load it with optimum-quanto and save each weight's dequantize()"
            problem = f"{shown(kind)} is not read ({', '.join(KINDS)} are): its rows have no length in the file"
            raise refusal(path, f"{name}.weights", problem, hint)


def read_layer(module: Module, config: Config, path: Path) -> IntegerGrid | Tensor:
    """Read a layer: int8 as an integer grid, FP8 decoded.

    Raises:
        FormatError: a part is missing, shapes disagree, or codes are packed.
    """
    if module.has("weight._data._data"):
        hint = "load it with optimum-quanto and save its dequantize()"
        raise module.error("weight._data._data", "weights of 2 and 4 bits are not read: no row's length is known", hint)
    data = module.plane("weight._data", ("I8", *fp8.DTYPES))
    (n_out, width), dtype = data.shape, data.stored.dtype
    scales = module.sized("weight._scale", FLOAT_DTYPES, (n_out, 1), "weight._data")
    if dtype != "I8":
        parts = {"weight": data.stored, "weight_scale": scales.stored}
        return fp8.read_layer(replace(module, parts=parts), None)
    values = float_rows(scales.all(), scales.stored.dtype)

    def codes(a: int, b: int) -> NDArray[np.uint8]:
        return data.rows(a, b).view(np.uint8) ^ np.uint8(128)

    return IntegerGrid(
        f"{module.name}.weight", data.where, (n_out, width), 8, np.zeros(width, np.int32), 1, codes,
        lambda a, b: np.full((b - a, 1), 128, np.int16), lambda a, b: values[a:b], scales.stored.dtype == "F16",
    )  # fmt: skip
