"""A metadata value of any wrong kind: a command works all the same, or one line names the file and the key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attacks.samples import gguf_bytes
from oracles.tiny import TEXT
from quantmill.formats.examples import tiny_llama
from quantmill.formats.ir import Value, ValueType
from quantmill.formats.qtypes import BY_NAME

V = ValueType
MODEL = tiny_llama(width=64)
SHAPES = [(t.name, t.shape, BY_NAME["F32"]) for t in MODEL]
KEYS = {
    **MODEL.metadata,
    "general.name": Value(V.STRING, "x"),
    "general.file_type": Value(V.UINT32, 0),
    "general.alignment": Value(V.UINT32, 32),
    "general.quantization_version": Value(V.UINT32, 2),
    "llama.rope.scaling.type": Value(V.STRING, "linear"),
    "llama.rope.scaling.factor": Value(V.FLOAT32, 2.0),
    "llama.expert_count": Value(V.UINT32, 0),
    "llama.attention.key_length": Value(V.UINT32, 64),
    "llama.attention.value_length": Value(V.UINT32, 64),
    "tokenizer.chat_template": Value(V.STRING, "{{ messages }}"),
    "tokenizer.ggml.merges": Value(V.ARRAY, ("e t",), V.STRING),
    "tokenizer.ggml.add_space_prefix": Value(V.BOOL, True),
}
# Where a value contradicts another one, either may be named.
RELATED = {"tokenizer.ggml.tokens": ("tokenizer.ggml.token_type", "tokenizer.ggml.scores")}
WRONG = {
    "text": Value(V.STRING, "x"),
    "empty": Value(V.STRING, ""),
    "negative": Value(V.INT32, -1),
    "huge": Value(V.UINT64, 2**64 - 1),
    "nan": Value(V.FLOAT32, float("nan")),
    "flag": Value(V.BOOL, True),
    "numbers": Value(V.ARRAY, np.array([1, -2], np.int32), V.INT32),
    "nothing": Value(V.ARRAY, (), V.STRING),
    "texts": Value(V.ARRAY, ("a", "a"), V.STRING),
    "nested": Value(V.ARRAY, (Value(V.ARRAY, np.array([1], np.int32), V.INT32),), V.ARRAY),
}
COMMANDS = {
    "to HF": ("convert", "{path}", "{out}-hf", "--quiet"),
    "to GGML": ("convert", "{path}", "{out}.bin", "--outtype", "f16", "--quiet"),
    "quantize": ("quantize", "{path}", "{out}.gguf", "Q8_0", "--quiet"),
    "plan": ("plan", "{path}", "Q4_0"),
    "imatrix": ("imatrix", "-m", "{path}", "-f", "{text}", "-c", "16", "--chunks", "1", "-o", "{out}.imatrix.gguf"),
    "verify": ("verify", "{path}", "--strict", "--quiet"),
    "release": ("release", "{path}", "{out}", "--levels", "Q8_0", "--imatrix", "none", "--quiet"),
}
SLOW = ("imatrix", "release")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("key", KEYS)
def test_lines_name_file_and_key(
    cli: Callable[..., Any], tmp_path: Path, key: str, record_property: Callable[[str, object], None]
) -> None:
    refused = 0
    (tmp_path / "text.txt").write_text(TEXT)
    for kind, value in WRONG.items():
        path = tmp_path / f"{kind}.gguf"
        path.write_bytes(gguf_bytes(KEYS | {key: value}, SHAPES))
        for name, words in COMMANDS.items():
            if name in SLOW and kind not in ("text", "numbers"):
                continue
            out = tmp_path / f"{kind}-{name}".replace(" ", "-")
            done = cli(*(word.format(path=path, out=out, text=tmp_path / "text.txt") for word in words))
            assert done.code in (0, 2), (kind, name, done)
            if done.code == 2:
                refused += 1
                line = done.err.splitlines()[-1] if name != "verify" else done.err
                assert str(path) in line, (kind, name, done.err)
                assert any(named in line for named in (key, *RELATED.get(key, ()))), (kind, name, done.err)
    record_property("refused", refused)
