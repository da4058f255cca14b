"""The files that sentence-transformers has beside a checkpoint: kept on the way to GGUF, written on the way back.

What llama.cpp has keys and tensors for (pooling, dense modules) is read from those on the way back, the rest from what
was recorded: prompts, the length of texts, whether embeddings are normalized.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import FormatError
from ...gguf.keys import typed
from ...ir import Model, Tensor, Tokenizer, Value
from ...json_text import ROOM, parse_json, read_json
from ...json_types import FLAG, OBJECT, TEXT, WHOLE, take
from ..settle import Say
from ..tables.dimensions import DENSE
from ..tables.rules import Arch
from .generation import read_private
from .links import check_links
from .pooling import MODULES, mode_name, pooling_mode, read_modules, takes_dense
from .weights import Stored, read_weights

KEPT = "quantmill.hf.sentence_transformers"  # file -> content, as JSON
_BESIDE = ("config_sentence_transformers.json", "sentence_bert_config.json")
_OF_MODULE = re.compile(r"[A-Za-z0-9_-]{1,64}/config\.json", re.ASCII)
_IDENTITY = "torch.nn.modules.linear.Identity"
_PREFIX = "sentence_transformers.models."


def read_dense(folder: Path, arch: Arch) -> dict[str, int]:
    """The sizes of the dense modules that follow the pooling, under the keys of ``DENSE``; {} where llama.cpp has none.

    Raises:
        FormatError: there are not two, or they compute something that llama.cpp does not.
    """
    found: dict[str, int] = {}
    modules = [(name, folder / name / "config.json") for kind, name in read_modules(folder) if kind == "Dense"]
    if not modules or not takes_dense(arch):
        return found
    if len(modules) != len(DENSE):
        problem = f"{len(modules)} dense module{'s' if len(modules) > 1 else ''}; llama.cpp's {arch.gguf} has two"
        raise FormatError(problem, path=folder / MODULES, where="modules")
    for prefix, (_, path) in zip(DENSE, modules, strict=True):
        config = read_json(path, required=True)
        if take(config, "bias", FLAG, True, path=path):
            raise FormatError(f"a bias, which llama.cpp's {arch.gguf} has not", path=path, where="bias")
        activation = take(config, "activation_function", TEXT, "torch.nn.modules.activation.Tanh", path=path)
        if activation != _IDENTITY:
            problem = f"{activation!r}, where llama.cpp's {arch.gguf} has none"
            raise FormatError(problem, path=path, where="activation_function")
        for key in ("in_features", "out_features"):
            found[f"{prefix}.{key}"] = take(config, key, WHOLE, 0, path=path)
    return found


def dense_weights(folder: Path, config: Mapping[str, Any], say: Say | None, *, follow_links: bool) -> dict[str, Stored]:
    """The weights of the modules that ``read_dense`` found, as ``dense_2.linear.weight``."""
    if f"{DENSE[0]}.in_features" not in config:
        return {}
    found: dict[str, Stored] = {}
    names = [name for kind, name in read_modules(folder) if kind == "Dense"]
    for prefix, name in zip(DENSE, names, strict=True):
        check_links(folder / name, follow=follow_links)
        weights = read_weights(folder / name, say, follow_links=follow_links)
        found |= {f"{prefix}.{key}": stored for key, stored in weights.items()}
    return found


def kept_files(folder: Path, tokenizer: Tokenizer | None, say: Say) -> dict[str, Value]:
    """The private key with the content of the files.

    Args:
        folder: the checkpoint's.
        tokenizer: its tokenizer.
        say: called with a line about what llama.cpp leaves to who asks it.
    """
    if not (folder / MODULES).is_file():
        return {}
    raw = (folder / MODULES).read_bytes()
    content: dict[str, Any] = {MODULES: parse_json(raw, folder / MODULES, room=len(raw) + ROOM)}
    for name in (*_BESIDE, *(f"{name}/config.json" for _, name in read_modules(folder) if name)):
        if found := read_json(folder / name):
            content[name] = found
    path = folder / _BESIDE[0]
    prompts = take(content.get(path.name, {}), "prompts", OBJECT, {}, path=path)
    if named := [name for name, text in prompts.items() if text]:
        say(f"{folder}: there are no keys for its prompts ({', '.join(named)}): they are yours to put before a text")
    path = folder / _BESIDE[1]
    lowers = take(content.get(path.name, {}), "do_lower_case", FLAG, False, path=path)
    if lowers and tokenizer is not None and not tokenizer.flags.get("normalizer_lowercase"):
        say(f"{folder}: sentence-transformers makes text lower case, which llama.cpp does not")
    return {KEPT: typed(KEPT, json.dumps(content, ensure_ascii=False, sort_keys=True))}


def restore_files(model: Model, arch: Arch) -> dict[str, Any]:
    """The files, name -> content, of a model with a pooling; as they were, where they still say what the file does."""
    mode = mode_name(model.get(f"{arch.gguf}.pooling_type"))
    recorded = {name: one for name, one in read_private(model.metadata.get(KEPT)).items() if _is_known(name)}
    if not recorded and mode is None:
        return {}
    width = model.hparam("embedding_length")
    modules = recorded.get(MODULES) if isinstance(recorded.get(MODULES), list) else None
    files = recorded if modules is not None else _new_files(model)
    path = next((f"{name}/config.json" for kind, name in _names(files[MODULES]) if kind == "Pooling"), "")
    if mode is not None and _is_known(path) and _mode_of(files.get(path)) != mode:
        files[path] = {"word_embedding_dimension": width, "pooling_mode": mode, **_flags(mode)}
    return files


def dense_folders(files: Mapping[str, Any]) -> tuple[str, ...]:
    """The folders of the dense modules."""
    names = [name for kind, name in _names(files.get(MODULES)) if kind == "Dense" and _is_known(f"{name}/config.json")]
    return tuple(names) if len(names) == len(DENSE) else tuple(f"{i}_Dense" for i in (2, 3))


def without_dense(tensors: Sequence[Tensor], folders: Sequence[str]) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
    """A checkpoint's own tensors, and those of its dense modules by the name of their file."""
    beside: dict[str, list[Tensor]] = {}
    for prefix, folder in zip(DENSE, folders, strict=True):
        own = [t for t in tensors if t.name.startswith(f"{prefix}.")]
        if own:
            short = [replace(t, name=t.name.removeprefix(f"{prefix}.")) for t in own]
            beside[f"{folder}/model.safetensors"] = short
    return [t for t in tensors if not t.name.startswith(tuple(f"{prefix}." for prefix in DENSE))], beside


def _new_files(model: Model) -> dict[str, Any]:
    """The files of a model that was made by others."""
    names = ["", "1_Pooling"]
    files: dict[str, Any] = {"1_Pooling/config.json": None}
    for i, prefix in enumerate(DENSE, 2):
        sizes = [model.hparam(f"{prefix}_feat_{end}") for end in ("in", "out")]
        if all(sizes):
            names.append(f"{i}_Dense")
            config = {"in_features": sizes[0], "out_features": sizes[1], "bias": False}
            files[f"{i}_Dense/config.json"] = config | {"activation_function": _IDENTITY}
    names.append(f"{len(names)}_Normalize")
    kinds = [name.partition("_")[2] or "Transformer" for name in names]
    both = enumerate(zip(names, kinds, strict=True))
    files[MODULES] = [{"idx": i, "name": str(i), "path": name, "type": _PREFIX + kind} for i, (name, kind) in both]
    return files


def _flags(mode: str) -> dict[str, bool]:
    """The mode as older versions of sentence-transformers ask for it."""
    names = {"cls": "cls_token", "mean": "mean_tokens", "lasttoken": "lasttoken"}
    return {f"pooling_mode_{name}": own == mode for own, name in names.items()}


def _names(modules: Any) -> Iterator[tuple[str, str]]:
    for module in modules if isinstance(modules, list) else ():
        if isinstance(module, dict) and isinstance(module.get("type"), str) and isinstance(module.get("path"), str):
            yield module["type"].rpartition(".")[2], module["path"]


def _mode_of(config: Any) -> str | None:
    try:
        return pooling_mode(config, Path()) if isinstance(config, dict) else None
    except FormatError:
        return None


def _is_known(name: str) -> bool:
    """Whether a file of this name is one of sentence-transformers', inside the checkpoint's folder."""
    return name in (MODULES, *_BESIDE) or _OF_MODULE.fullmatch(name) is not None
