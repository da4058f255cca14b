"""A GGUF with a tokenizer and nothing else, written by the official writer, for llama.cpp to load ``vocab_only``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter

from quantmill.formats.ir import Value, ValueType


def write_vocab_gguf(path: Path, metadata: Mapping[str, Any]) -> Path:
    """``metadata``: key -> our ``Value``, all of ``tokenizer.*``. The architecture is llama."""
    writer = GGUFWriter(path, "llama")
    for key, value in metadata.items():
        data = value.data.tolist() if hasattr(value.data, "tolist") else value.data
        if value.item is None:
            writer.add_key_value(key, data, GGUFValueType(value.type))
        else:
            writer.add_key_value(key, list(data), GGUFValueType.ARRAY, sub_type=GGUFValueType(value.item))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read_vocab_metadata(path: Path) -> dict[str, Value]:
    """The ``tokenizer.*`` keys of a GGUF, through the official reader."""
    out = {}
    for key, field in GGUFReader(path).fields.items():
        if not key.startswith(("tokenizer.", "general.name")):
            continue
        kind, data = ValueType(int(field.types[0])), field.contents()
        if kind is not ValueType.ARRAY:
            out[key] = Value(kind, data)
            continue
        item = ValueType(int(field.types[1]))
        out[key] = Value(kind, tuple(data) if item is ValueType.STRING else np.asarray(data), item)
    return out
