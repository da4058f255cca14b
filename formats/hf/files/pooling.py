"""How token embeddings become one of the text, by the files of sentence-transformers beside a checkpoint.

Source: ``_try_set_pooling_type`` in conversion/base.py of llama.cpp; ``Pooling`` of sentence-transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import FormatError
from ...ir import Role, Value
from ...json_text import ROOM, parse_json, read_json
from ...json_types import FLAG, LIST, OBJECT, TEXT, check, take
from ..settle import Say
from ..tables.rules import Arch

MODULES = "modules.json"
_TYPES = {"mean": 1, "cls": 2, "lasttoken": 3}  # enum llama_pooling_type of llama.h
_RANK = 4  # of the same
_OPTIONS = {"mean": "mean", "cls": "cls", "lasttoken": "last"}  # of llama.cpp's --pooling
_FLAGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "lasttoken"}
_KNOWN = ("Transformer", "Pooling", "Normalize")  # llama.cpp's programs normalize
_RAW = "sentence-transformers does not normalize its embeddings: give llama.cpp's programs --embd-normalize -1"


def pooling_type(folder: Path, arch: Arch, say: Say, *, bare: bool = False) -> int | None:
    """llama.cpp's number of the pooling that modules.json names.

    It is written for a model without a head, and where llama.cpp's converter writes one; None elsewhere.

    Args:
        folder: the checkpoint's.
        bare: the checkpoint's class has no head.
        say: called with a line about what the file cannot hold.

    Raises:
        FormatError: llama.cpp has no such pooling, or a file is damaged.
    """
    modules = read_modules(folder)
    known = (*_KNOWN, "Dense") if takes_dense(arch) else _KNOWN
    beyond = [name for kind, name in modules if kind not in known]
    if beyond:
        say(f"{folder}: left out, though sentence-transformers applies it to the embeddings: {', '.join(beyond)}")
    found = next((name for kind, name in modules if kind == "Pooling"), None)
    if found is None:
        return None
    path = folder / found / "config.json"
    mode = pooling_mode(read_json(path, required=True), path)
    if all(kind != "Normalize" for kind, _ in modules):
        say(f"{folder}: {_RAW}")
    if arch.pools or bare:
        return _TYPES[mode]
    option = f"--pooling {_OPTIONS[mode]}"
    say(f"{folder}: {MODULES} says {mode} pooling, which files of {arch.gguf} do not: give llama.cpp {option}")
    return None


def say_rank(folder: Path, arch: Arch, written: Value | None, say: Say) -> None:
    """Say which option a classifier needs whose file does not make llama.cpp rank.

    Args:
        written: the pooling that the file names; None for none.
    """
    if written is None or written.data != _RANK:
        say(f"{folder}: a classifier, which files of {arch.gguf} do not say: give llama.cpp --pooling rank")


def takes_dense(arch: Arch) -> bool:
    """Whether llama.cpp applies dense modules to the architecture's embeddings."""
    return any(Role.DENSE_2 in rule.roles for rule in arch.rules)


def read_modules(folder: Path) -> list[tuple[str, str]]:
    """The last part of the class of each module that modules.json names, and its folder.

    Raises:
        FormatError: the file is damaged, or names a folder elsewhere.
    """
    path = folder / MODULES
    if not path.is_file():
        return []
    raw = path.read_bytes()
    modules = parse_json(raw, path, room=len(raw) + ROOM)
    check(modules, LIST, path=path, where="modules")
    found = []
    for i, module in enumerate(modules):
        check(module, OBJECT, path=path, where=str(i))
        kind, name = (take(module, key, TEXT, "", path=path, inside=f"{i}.") for key in ("type", "path"))
        if Path(name).name != name or name == ".." or "\0" in name:
            raise FormatError(f"{name!r} is no folder beside it", path=path, where=f"{i}.path")
        found.append((kind.rpartition(".")[2], name))
    return found


def mode_name(number: object) -> str | None:
    """What sentence-transformers calls a pooling of llama.cpp's; None if it has none such."""
    return next((mode for mode, own in _TYPES.items() if own == number), None)


def pooling_mode(config: dict[str, Any], path: Path) -> str:
    """The one mode of a pooling module's config, as old or new versions of sentence-transformers write it."""
    flags = [key for key in config if key.startswith("pooling_mode_") and take(config, key, FLAG, False, path=path)]
    modes = [_FLAGS.get(key, key) for key in flags] or [take(config, "pooling_mode", TEXT, "none", path=path)]
    if len(modes) > 1 or modes[0] not in _TYPES:
        problem = f"llama.cpp has no pooling like {' with '.join(modes)}, only {', '.join(_TYPES)}"
        hint = f"without {MODULES} the model converts, and pools nothing"
        raise FormatError(problem, path=path, where="pooling_mode", hint=hint)
    return modes[0]
