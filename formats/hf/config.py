"""config.json <-> the ``{arch}.*`` keys: rows that are read both ways, and what no key can hold.

Keys, their order and their defaults follow conversion/base.py (``TextModel.set_gguf_parameters``) and
conversion/llama.py of llama.cpp, which read the config through transformers' config classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import FormatError
from ..ir import Metadata, Tensor
from . import rope
from .ops import Config

if TYPE_CHECKING:
    from .rules import Arch, HFClass

Getter = Callable[[str], Any]  # a hyper-parameter by the part of its key after the architecture, or None


class ConfigRow(Protocol):
    """One fact of config.json and its keys in GGUF."""

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]: ...

    def to_hf(self, get: Getter) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Key:
    """A config key that is one hyper-parameter. Of several rows with one ``hf`` key the first found is read back."""

    hf: str
    gguf: str

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        if (value := config.get(self.hf)) is not None:
            yield self.gguf, value

    def to_hf(self, get: Getter) -> dict[str, Any]:
        value = get(self.gguf)
        return {} if value is None else {self.hf: value}


@dataclass(frozen=True)
class Rope:
    """``rope_parameters`` and the ``rope.*`` keys."""

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        yield from rope.to_gguf(config["rope_parameters"])

    def to_hf(self, get: Getter) -> dict[str, Any]:
        return {"rope_parameters": rope.to_hf(get)}


# Said elsewhere (class and dtype have keys of their own), or true only of the folder it was found in.
_NOT_KEPT = {"architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "auto_map"}
_TOKEN_IDS = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}


_SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size"
)  # fmt: skip


def read_json(path: Path, *, required: bool = False) -> dict[str, Any]:
    """A JSON object, or {} when there is no such file and none is required."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not required:
            return {}
        raise FormatError("no such file", path=path, hint="give the folder of a Hugging Face checkpoint") from None
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", path=path) from None
    except (ValueError, RecursionError):
        raise FormatError("is not valid JSON", path=path) from None
    if not isinstance(data, dict):
        raise FormatError("is not a JSON object", path=path)
    return data


def complete(raw: Config, cls: HFClass, path: Path) -> dict[str, Any]:
    """A config with every default in its place and rope in transformers 5's form, checked.

    Raises:
        FormatError: a size is no positive number, heads do not divide, or the weights are quantized.
    """
    config = {**cls.defaults, **raw}
    if method := (config.get("quantization_config") or {}).get("quant_method"):
        hint = "convert the original checkpoint, or dequantize this one first"
        raise FormatError(f"the weights are quantized by {method!r}", path=path, where="quantization_config", hint=hint)
    if config.get("num_key_value_heads") is None:
        config["num_key_value_heads"] = config["num_attention_heads"]
    for key in _SIZES:
        _check_size(config, key, path)
    if config.get("head_dim") is None:
        config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    _check_size(config, "head_dim", path)
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    if heads % kv:
        problem = f"{heads} heads cannot share {kv} key/value heads"
        raise FormatError(problem, path=path, where="num_key_value_heads")
    config["rope_parameters"] = rope.canonical(config, path)
    for key in ("rope_theta", "rope_scaling"):
        config.pop(key, None)
    return config


def _check_size(config: Config, key: str, path: Path) -> None:
    value = config.get(key)
    if type(value) is not int or not 0 < value < 1 << 31:
        raise FormatError(f"{value!r} is no size", path=path, where=key)


def derive(arch: Arch, metadata: Metadata, tensors: tuple[Tensor, ...], path: Path) -> dict[str, Any]:
    """The config that the standard keys and the tensors of a GGUF tell, in ``complete``'s form."""

    def get(suffix: str) -> Any:
        value = metadata.get(f"{arch.name}.{suffix}")
        return None if value is None else plain(value.data, path, f"{arch.name}.{suffix}")

    config: dict[str, Any] = dict(arch.fixed)
    for row in arch.config:
        config = {**row.to_hf(get), **config}
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    if "token_embd.weight" in shapes:
        config.setdefault("vocab_size", shapes["token_embd.weight"][0])
    heads = config.get("num_attention_heads")
    if isinstance(heads, int) and heads > 0:
        config.setdefault("num_key_value_heads", heads)
        config.setdefault("head_dim", config.get("hidden_size", 0) // heads)
    roles = {(tensor.role, tensor.name.rpartition(".")[2]) for tensor in tensors}
    for rule in arch.rules:
        if rule.bias and (rule.role, "bias") in roles:
            config[rule.bias] = True
        if rule.unless:
            config[rule.unless] = (rule.role, "weight") not in roles
    for hf, name in _TOKEN_IDS.items():
        if (value := metadata.get(f"tokenizer.ggml.{name}_token_id")) is not None:
            config[hf] = value.data
    return config


def plain(value: Any, path: Path, where: str) -> Any:
    """A hyper-parameter as config.json writes it: the shortest decimal that gives this float32, one number for many
    equal ones."""
    if isinstance(value, np.ndarray):
        if value.size == 0 or (value != value[0]).any():
            problem = f"differs from layer to layer, which this model class cannot say: {value.tolist()}"
            raise FormatError(problem, path=path, where=where)
        value = value[0].item()
    return float(str(np.float32(value))) if isinstance(value, float) else value


def residue(original: Config, derived: Config, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What ``derived`` does not tell of a completed config, defaults left out: ``quantmill.hf.config``."""
    rest = {}
    for key, value in original.items():
        known = derived[key] if key in derived else defaults.get(key, _MISSING)
        if key not in _NOT_KEPT and value != known:
            rest[key] = value
    return rest


_MISSING = object()
