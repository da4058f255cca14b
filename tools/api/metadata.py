"""Change, add or remove a metadata key of a GGUF file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...formats.errors import QuantmillError, SourceError, located

if TYPE_CHECKING:
    from ...formats.gguf.edit import Edit
    from ...formats.gguf.keys import KeyType
    from ...formats.ir import Metadata, Value

MetadataValue = bool | int | float | str | Sequence[bool] | Sequence[int] | Sequence[float] | Sequence[str]


def set_metadata(
    path: str | Path,
    key: str,
    value: MetadataValue,
    *,
    type: str | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> Edit:
    """Set a metadata key of a GGUF file. The tensors stay as they are; a crash leaves the old or the new file, whole.

    Args:
        path: the file.
        key: a full key, or a short form such as ``eos_token_id``, ``context_length`` or ``chat_template``.
        value: the new value. A text is parsed where the key is not of texts: ``"128009"``, ``"[1, 2]"``. For a token's
            id it may also be the token: ``"<|im_end|>"``.
        type: the type, such as ``uint32``, ``float32``, ``bool``, ``string``, or ``string[]`` for an array; adds the
            key if it is missing. None for the type that it has in the file.
        force: add a missing key of a well-known type; set a value that the checks refuse.
        dry_run: check the edit, and write nothing.

    Returns:
        What changed, and whether it could be written in place.

    Raises:
        QuantmillError: the key is missing, or the value does not fit the key.
        FormatError: the file is damaged. OutputError: it cannot be written.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import model_from_arrays, set_metadata, write_gguf
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "model.gguf")
        ...     _ = write_gguf(path, model_from_arrays("llama", {}, {"llama.context_length": 2048}))
        ...     edit = set_metadata(path, "context_length", 8192)
        ...     (edit.changes[0].key, edit.changes[0].old.data, edit.changes[0].new.data, edit.in_place)
        ('llama.context_length', 2048, 8192, True)
    """
    from ...formats.gguf.edit import parse_value
    from ...formats.gguf.edit import set_metadata as edit_metadata
    from ...formats.gguf.keys import make_value

    name, metadata = _resolve(path, key)
    wanted = _type_of(Path(path), name, metadata, type, force)
    with located(Path(path)):
        if isinstance(value, str):
            new = _token(value, wanted, name, metadata) or parse_value(value, wanted, name)
        else:
            new = make_value(wanted, value, name)
    return edit_metadata(path, {name: new}, force=force, dry_run=dry_run)


def set_vocabulary(
    path: str | Path,
    special_tokens: Mapping[str, str] | None = None,
    *,
    chat_template: str | Path | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> Edit:
    """Set which tokens are special, by their texts, and the chat template, in one edit. Keys are added if missing.

    Args:
        path: a GGUF file.
        special_tokens: a token's text by what it is for: ``bos``, ``eos``, ``eot``, ``eom``, ``unk``, ``sep``, ``pad``,
            ``mask``, ``fim_pre``...
        chat_template: a file with the template.
        force, dry_run: see ``set_metadata``.

    Raises:
        QuantmillError: no such kind of token, or no token or several have this text; nothing is to be set.
        FormatError: the file is damaged. OutputError: it cannot be written.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import model_from_arrays, set_vocabulary, write_gguf
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "model.gguf")
        ...     tokens = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a", "<|end|>"]}
        ...     _ = write_gguf(path, model_from_arrays("llama", {}, tokens))
        ...     edit = set_vocabulary(path, {"eos": "<|end|>"}, force=True)
        ...     edit.changes[0].key, edit.changes[0].new.data
        ('tokenizer.ggml.eos_token_id', 1)
    """
    from ...formats.gguf.edit import set_metadata as edit_metadata
    from ...formats.gguf.keys import key_type
    from ...formats.gguf.reader import read_header
    from ...formats.ir import Value, ValueType

    path = Path(path)
    metadata = read_header(path).metadata
    changes: dict[str, Value] = {}
    with located(path):
        for name, text in (special_tokens or {}).items():
            key = f"tokenizer.ggml.{_SHORT.get(name, name)}_token_id"
            known = key_type(key)
            if known is None or _SHORT.get(name, name) not in _KINDS:
                raise QuantmillError("is no kind of special token", where=name, hint="bos, eos, eot, unk, pad, ...")
            changes[key] = _by_text(text, known, key, metadata)
    if chat_template is not None:
        changes["tokenizer.chat_template"] = Value(ValueType.STRING, _template(Path(chat_template)))
    if not changes:
        raise QuantmillError("nothing is to be set", path=path, hint="give a special token or a chat template")
    return edit_metadata(path, changes, force=force, dry_run=dry_run)


_KINDS = frozenset(
    [
        "bos",
        "eos",
        "eot",
        "eom",
        "unknown",
        "seperator",
        "padding",
        "cls",
        "mask",
        "fim_pre",
        "fim_suf",
        "fim_mid",
        "fim_pad",
        "fim_rep",
        "fim_sep",
        "prefix",
        "suffix",
        "middle",
    ]
)
_SHORT = {"unk": "unknown", "sep": "seperator", "pad": "padding"}  # as llama.cpp spells them
_MAX_TEMPLATE = 8 << 20  # bytes; the longest published template is below 1 % of it


def _template(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_TEMPLATE + 1)
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror}", path=path) from error
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise QuantmillError(f"is not UTF-8 at byte {error.start}: this is no template", path=path) from None
    if not text.strip() or len(raw) > _MAX_TEMPLATE:
        raise QuantmillError("is empty" if not text.strip() else "is too long for a template", path=path)
    return text


def remove_metadata(path: str | Path, key: str, *, force: bool = False, dry_run: bool = False) -> Edit:
    """Remove a metadata key of a GGUF file; see ``set_metadata``.

    Raises:
        QuantmillError: the key is missing, or no loader takes a file without it.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import model_from_arrays, remove_metadata, write_gguf
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "model.gguf")
        ...     _ = write_gguf(path, model_from_arrays("llama", {}, {"general.name": "a"}))
        ...     remove_metadata(path, "name").changed
        True
    """
    from ...formats.gguf.edit import set_metadata as edit_metadata

    name, metadata = _resolve(path, key)
    if name not in metadata:
        raise _missing(Path(path), name, metadata)
    return edit_metadata(path, {}, [name], force=force, dry_run=dry_run)


def _resolve(path: str | Path, key: str) -> tuple[str, Metadata]:
    """The full key, and the file's metadata."""
    from ...formats.gguf.keys import GENERAL_ARCHITECTURE, expand_key
    from ...formats.gguf.reader import read_header

    metadata = read_header(path).metadata
    arch = metadata.get(GENERAL_ARCHITECTURE)
    return expand_key(key, str(arch.data) if arch is not None else "", metadata), metadata


def _type_of(path: Path, name: str, metadata: Metadata, given: str | None, force: bool) -> KeyType:
    """The type of the new value: the given one, the file's if the key takes it, or that of the well-known key."""
    from ...formats.gguf.keys import key_type, parse_type, type_name
    from ...formats.gguf.loadable import takes

    old = metadata.get(name)
    known = key_type(name)
    if given is not None:
        wanted = parse_type(given)
        if known is not None and not force and not takes(name, *wanted):
            problem = f"llama.cpp requires {type_name(*known)} here, not {type_name(*wanted)}"
            raise QuantmillError(problem, path=path, where=name, hint="--force sets it all the same")
        return wanted
    if old is not None and (known is None or force or takes(name, old.type, old.item)):
        return old.type, old.item
    if not force and old is None:
        how = f"--force adds it as {type_name(*known)}" if known else "--type TYPE adds it"
        raise _missing(path, name, metadata, how)
    if known is None:
        raise QuantmillError("the type of this key is unknown", path=path, where=name, hint="give it with --type TYPE")
    return known


def _token(text: str, type: KeyType, key: str, metadata: Metadata) -> Value | None:
    """The id of a token that is given by its text; None for a number, and where the key is not of a token's id.

    Raises:
        QuantmillError: no token has this text, or several have.
    """
    from ...formats.gguf.keys import is_token_id

    tokens = metadata.get("tokenizer.ggml.tokens")
    if type[1] is not None or not is_token_id(key) or tokens is None or _WHOLE.fullmatch(text.strip()):
        return None
    return _by_text(text, type, key, metadata)


def _by_text(text: str, type: KeyType, key: str, metadata: Metadata) -> Value:
    """The id of the one token that has this text."""
    from ...formats.gguf.keys import make_value

    tokens = metadata.get("tokenizer.ggml.tokens")
    if tokens is None:
        raise QuantmillError("the file has no vocabulary", where=key)
    found = [number for number, token in enumerate(tokens.texts) if token == text]
    if len(found) != 1:
        problem = f"no token is {text!r}" if not found else f"tokens {', '.join(map(str, found[:9]))} are {text!r}"
        raise QuantmillError(problem, where=key, hint="give an id")
    return make_value(type, found[0], key)


_WHOLE = re.compile(r"[+-]?(\d[\d_]*|0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+)", re.ASCII)


def _missing(path: Path, name: str, metadata: Metadata, how: str | None = None) -> QuantmillError:
    from ...formats.gguf.keys import nearest_keys

    near = nearest_keys(name, list(metadata))
    hints = [f"did you mean {' or '.join(near)}?"] if near else []
    return QuantmillError("no such key", path=path, where=name, hint="; ".join([*hints, *([how] if how else [])]))
