"""A GGUF with a tokenizer and nothing else, written by the official writer, for llama.cpp to load ``vocab_only``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import GGUFValueType, GGUFWriter


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
