"""Read quantized checkpoints: GPTQ, AWQ, FP8, bitsandbytes, ... (methods.py). Their layers become lazy tensors.

A layer on an integer grid that GGML's blocks hold exactly becomes a tensor of such blocks (Q4_0, Q4_1, Q5_0, Q8_0,
MXFP4); any other decodes to F32 as its rows are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...errors import FormatError
from ...ir import Tensor
from ...json_types import shown
from ..files.safetensors import StoredTensor
from ..files.weights import Stored
from ..tables.packed_tensors import TransposedTensor, UnpackedTensor
from . import fp8
from .described import BESIDE, KEYS, Config, Say, find_config, method_of
from .integer_grid import IntegerGrid
from .methods import METHODS, Method, unknown
from .stored import Module, Panels
from .targets import Layer

_PACKED_ENDINGS = (
    ".qweight", ".weight_packed", ".weight_scale", ".weight_scale_inv", "_blocks", ".quant_map", ".SCB", ".W_q",
    ".weight._data", ".weight._scale", ".qscale_weight",
)  # fmt: skip
_OF_CACHES = (".k_scale", ".v_scale", ".q_scale")
_PLAIN = ("F64", "F32", "F16", "BF16")
# Methods whose float weights are quantized as the model runs: read as they are, they are another model.
_WHILE_RUNNING = ("bitnet",)


def float_dtype(raw: Config) -> str:
    """The float dtype that config.json gives the checkpoint: ``F16``, ``BF16`` or ``F32``."""
    name = str(raw.get("dtype") or raw.get("torch_dtype")).removeprefix("torch.")
    return {"float32": "F32", "bfloat16": "BF16"}.get(name, "F16")


def decode_packed(
    weights: Mapping[str, Stored],
    raw: Config,
    folder: Path,
    *,
    required: Collection[str] = (),
    unread: Container[str] = (),
    say: Say | None = None,
) -> dict[str, Stored]:
    """Replace the parts of every packed layer by its weight. A checkpoint that is not quantized stays as it is.

    Args:
        weights: the checkpoint's tensors, from ``read_weights``.
        raw: config.json.
        folder: the checkpoint's.
        required: names of tensors that the architecture needs. AutoGPTQ gave every layer a bias: biases that are not
            required are left out if they are all zero.
        unread: names of tensors that the architecture has no use for, such as masks.
        say: called with a line about what was found and what it becomes.

    Returns:
        the tensors, in the order of the first of their parts. Group indices and zeros are read, weights stay on disk.

    Raises:
        FormatError: the quantization is unknown or not described, the config contradicts itself or the tensors, or a
            part is missing.
    """
    say = say or _ignore
    lines: list[str] = []
    config, path = find_config(raw, folder, lines.append)
    if config is None:
        if name := next((name for name in weights if name.endswith(_PACKED_ENDINGS)), None):
            files = " or ".join(("config.json", next(iter(BESIDE))))
            problem = f"{name} is packed, and no quantization_config says how"
            raise FormatError(problem, path=folder, hint=f"get {files} of the same checkpoint")
        return _with_plain_fp8(weights, raw, folder, unread, say)
    if method_of(config) not in _WHILE_RUNNING and is_plain(weights, unread):
        problem = f"says that the weights are quantized by {shown(method_of(config))}, but all are plain floats"
        place = KEYS[0] if path.name == "config.json" else path.name
        say(f"{folder}: {place} {problem}: they are read as they are")
        return _without_caches(weights, folder, say)
    for line in lines:
        say(line)
    method = METHODS.get(str(method_of(config)))
    if method is None:
        raise unknown(config, path)
    method.check(config, path)
    weights = method.prepare(weights)
    found: dict[str, Stored] = {}
    outcome: Counter[str] = Counter()
    modules = _modules(weights, method, Panels())
    owner = {f"{module.name}{method.joint}{part}": module for module in modules.values() for part in module.parts}
    own = _configs(weights, method, modules, config, path, say)
    for name, stored in weights.items():
        module = owner.get(name)
        if module is not None:
            if name == f"{module.name}{method.joint}{next(iter(module.parts))}":
                tensor, how = _read(module, method, own.get(module.name, config), path)
                if not isinstance(tensor, UnpackedTensor):
                    tensor = UnpackedTensor(**vars(tensor))
                stated = tensor.qtype.name if tensor.qtype.name in ("F16", "BF16") else float_dtype(raw)
                found[tensor.name] = replace(tensor, stands_for=stated, fp8=_is_fp8(module))
                outcome[how] += 1
        elif not _surplus(name, stored, modules, method, required):
            found[name] = stored
    say(f"{folder}: {_summary(config, outcome)}")
    return _without_caches(found, folder, say)


def _without_caches(weights: Mapping[str, Stored], folder: Path, say: Say) -> dict[str, Stored]:
    """Leave aside the scales of a cache of keys and values, which a file of weights has no use for."""
    found = {name: stored for name, stored in weights.items() if not name.endswith(_OF_CACHES)}
    if n := len(weights) - len(found):
        say(f"{folder}: {n} scales of the cache of keys and values are left aside")
    return found


def _ignore(text: str) -> None:
    pass


def is_plain(weights: Mapping[str, Stored], unread: Container[str] = ()) -> bool:
    """Whether all of a checkpoint's weights are floats, and no part of a packed layer is among them."""
    return not any(name.endswith(_PACKED_ENDINGS) for name in weights) and all(
        isinstance(stored, Tensor) or stored.dtype in _PLAIN or name in unread for name, stored in weights.items()
    )


def _with_plain_fp8(
    weights: Mapping[str, Stored], raw: Config, folder: Path, unread: Container[str], say: Say
) -> dict[str, Stored]:
    """Decode FP8 weights that have no scales: each is its code's value, as transformers takes it."""
    found = dict(weights)
    for name, stored in weights.items():
        if isinstance(stored, StoredTensor) and stored.dtype in fp8.DTYPES and name not in unread:
            found[name] = UnpackedTensor(**vars(fp8.read_plain(stored)), stands_for=float_dtype(raw))
    if n := sum(found[name] is not weights[name] for name in found):
        say(f"{folder}: {n} weights of FP8 without scales are decoded as they are")
    return found


def _modules(weights: Mapping[str, Stored], method: Method, panels: Panels) -> dict[str, Module]:
    """The packed layers by name, their parts in the order of the checkpoint."""
    split = {name: method.split(name) for name in weights}
    names = {
        stem
        for name, (stem, part) in split.items()
        if (part in method.keys and (part != "scale" or f"{stem}.weight" in weights))
        or (part == "weight" and isinstance(stored := weights[name], StoredTensor) and stored.dtype in method.bare)
    }
    parts: dict[str, dict[str, Stored]] = {}
    for name, stored in weights.items():
        stem, part = split[name]
        if stem in names and part:
            parts.setdefault(stem, {})[part] = stored
    return {stem: Module(stem, found, panels, method.joint) for stem, found in parts.items()}


def _configs(
    weights: Mapping[str, Stored], method: Method, modules: Mapping[str, Module], config: Config, path: Path, say: Say
) -> Mapping[str, Config]:
    """The configs of packed layers that have their own."""
    if method.choose is None:
        return {}
    packed = [Layer(name, _in_file(module)) for name, module in modules.items()]
    others = [
        Layer(stem, _stored_name(name, stored).removesuffix(".weight"))
        for name, stored in weights.items()
        if (stem := name.removesuffix(".weight")) != name and stem not in modules and len(stored.shape) > 1
    ]
    return method.choose(config, path, packed, others, say)


def _in_file(module: Module) -> str:
    """A packed layer's name in its file, which the names of wrappers may begin."""
    part, stored = next(iter(module.parts.items()))
    return _stored_name(module.name, stored).removesuffix(module.joint + part)


def _stored_name(name: str, stored: Stored) -> str:
    return stored.name if isinstance(stored, StoredTensor) else name


def _read(module: Module, method: Method, config: Config, path: Path) -> tuple[Tensor, str]:
    found = method.read(module, config, path)
    if isinstance(found, tuple):
        tensor, reason = found
    else:
        tensor, reason = found.tensor() if isinstance(found, IntegerGrid) else (found, "")
    type = tensor.as_packed.qtype if isinstance(tensor, TransposedTensor) and tensor.as_packed else tensor.qtype
    if type.is_quantized:
        return tensor, f"exactly as {type}"
    return tensor, f"decoded ({reason})" if reason else "decoded"


def _is_fp8(module: Module) -> bool:
    weight = module.parts.get("weight")
    return isinstance(weight, StoredTensor) and weight.dtype in fp8.DTYPES


def _surplus(
    name: str, stored: Stored, modules: Mapping[str, Module], method: Method, required: Collection[str]
) -> bool:
    """Whether a tensor is left out: scales of activations, or a bias of zeros that the architecture does not need."""
    stem, _, part = name.rpartition(".")
    if part in method.extras:
        return True
    if part != "bias" or stem not in modules or name in required or len(stored.shape) != 1:
        return False
    tensor = stored if isinstance(stored, Tensor) else stored.tensor()
    return not tensor.rows(0, 1).view(np.uint8).any()


def _summary(config: Config, outcome: Counter[str]) -> str:
    what = str(method_of(config))
    if "bits" in config:
        what += f", {config['bits']} bits"
    if "group_size" in config:
        what += f", groups of {config['group_size']}" if config["group_size"] != -1 else ", one group per row"
    return f"{what}: " + (", ".join(f"{n} weights read {how}" for how, n in outcome.items()) or "no packed weights")
