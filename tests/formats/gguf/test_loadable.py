"""What llama.cpp cannot load, ``verify --strict`` rejects: each case is asked of llama.cpp itself.

The table has its answer: it loads, it refuses, or a failed assertion ends the program. A case that it loads and that we
reject all the same is marked, since it only ignores what is wrong, or computes with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attacks.samples import gguf_bytes
from oracles.llama import Llama, LlamaError
from quantmill.formats.errors import FormatError
from quantmill.formats.examples import tiny_llama
from quantmill.formats.gguf.keys import NUMPY_TYPES
from quantmill.formats.gguf.known import BPE_TOKENIZERS, PRE_TOKENIZERS, ROPE_SCALINGS
from quantmill.formats.gguf.loadable import check_metadata
from quantmill.formats.gguf.strict import check_gguf
from quantmill.formats.ir import Value, ValueType
from quantmill.formats.qtypes import BY_NAME

V = ValueType
LOADS, REFUSES, ABORTS = "loads", "refuses", "aborts"
ONLY_WE = "loads, and we reject it"
F32 = BY_NAME["F32"]
MODEL = tiny_llama(width=64)
KEYS = {**MODEL.metadata, "general.file_type": Value(V.UINT32, 0)}
SHAPES: list[tuple[str, tuple[int, ...], Any]] = [(t.name, t.shape, F32) for t in MODEL]
TOKENS = KEYS["tokenizer.ggml.tokens"].texts
N = len(TOKENS)
P = "tokenizer.ggml."


def arr(item: ValueType, *items: Any) -> Value:
    if item in (V.STRING, V.ARRAY):
        return Value(V.ARRAY, items, item)
    return Value(V.ARRAY, np.array(items, NUMPY_TYPES[item]), item)


def tokens(*last: str) -> Value:
    """The vocabulary with other texts at its end."""
    return arr(V.STRING, *TOKENS[: N - len(last)], *last)


def u32(n: int) -> Value:
    return Value(V.UINT32, n)


def i32(n: int) -> Value:
    return Value(V.INT32, n)


def text(s: str) -> Value:
    return Value(V.STRING, s)


BPE = {P + "model": text("gpt2"), P + "pre": text("gpt-2"), P + "merges": arr(V.STRING, "e t"), P + "scores": None}
PLAIN = arr(V.INT32, 2, *[3] * 2, *[1] * (N - 3))  # types without bytes
WPM = {P + "model": text("bert"), P + "token_type": PLAIN}
UGM, RWKV, PLAMO2 = ({P + "model": text(kind)} for kind in ("t5", "rwkv", "plamo2"))
PHI3 = {"general.name": text("My-Phi-3-tune")}
CHARSMAP = P + "precompiled_charsmap"
L = "llama."

CASES: dict[str, tuple[dict[str, Value | None], str]] = {
    # tokenizers of each kind, sound
    "spm": ({}, LOADS),
    "bpe": (BPE, LOADS),
    "wpm": (WPM, LOADS),
    "ugm": (UGM, LOADS),
    "rwkv": (RWKV, LOADS),
    "plamo2": (PLAMO2, LOADS),
    "no vocabulary": ({P + "model": text("none")}, LOADS),
    # a text twice: of every kind
    "spm: repeated": ({P + "tokens": tokens("e")}, ABORTS),
    "bpe: repeated": ({**BPE, P + "tokens": tokens("e")}, ABORTS),
    "wpm: repeated": ({**WPM, P + "tokens": tokens("e")}, ABORTS),
    "ugm: repeated": ({**UGM, P + "tokens": tokens("e")}, ABORTS),
    "rwkv: repeated": ({**RWKV, P + "tokens": tokens("e")}, ABORTS),
    "plamo2: repeated": ({**PLAMO2, P + "tokens": tokens("e")}, ABORTS),
    "two empty texts": ({P + "tokens": tokens("", "")}, LOADS),  # they are named by their places
    "an empty text and its name": ({P + "tokens": tokens("", f"[EMPTY_{N - 2}]")}, ABORTS),
    "equal up to a zero byte": ({P + "tokens": tokens("e\0x")}, ABORTS),
    "zero bytes alone": ({P + "tokens": tokens("\0", "\0x")}, ONLY_WE),
    "not UTF-8": ({P + "tokens": tokens("\udcff")}, ONLY_WE),
    # the tokenizer's keys
    "no tokenizer": ({P + "model": None}, REFUSES),
    "unknown tokenizer": ({P + "model": text("sentence")}, REFUSES),
    "unknown pre-tokenizer": ({**BPE, P + "pre": text("gpt-9")}, REFUSES),
    "unknown pre-tokenizer, not BPE": ({P + "pre": text("gpt-9")}, LOADS),
    "no pre-tokenizer": ({**BPE, P + "pre": None}, LOADS),
    "pre-tokenizer of no text": ({**BPE, P + "pre": u32(1)}, REFUSES),
    "no tokens": ({P + "tokens": None}, REFUSES),
    "tokens of bytes": ({P + "tokens": arr(V.UINT8, *[1] * N)}, REFUSES),
    "scores: too few": ({P + "scores": arr(V.FLOAT32, 1)}, REFUSES),
    "scores: too many": ({P + "scores": arr(V.FLOAT32, *[0] * (N + 1))}, ONLY_WE),
    "scores: int32": ({P + "scores": arr(V.INT32, *[0] * N)}, ONLY_WE),
    "scores: float64": ({P + "scores": arr(V.FLOAT64, *[0] * N)}, REFUSES),
    "scores: a number": ({P + "scores": Value(V.FLOAT32, 1.0)}, REFUSES),
    "scores: none": ({P + "scores": None}, ONLY_WE),
    "scores: none in BPE": (BPE, LOADS),
    "types: too few": ({P + "token_type": arr(V.INT32, 1)}, REFUSES),
    "types: uint32": ({P + "token_type": arr(V.UINT32, *[1] * N)}, REFUSES),
    "types: none": ({P + "token_type": None}, LOADS),
    "types: unknown": ({P + "token_type": arr(V.INT32, *[9] * N)}, ONLY_WE),
    "a byte without its number": ({P + "token_type": arr(V.INT32, *[1] * 28, *[6] * 256, *[1] * 3)}, REFUSES),
    "a byte in WordPiece": ({P + "model": text("bert")}, ABORTS),
    "merges: none": ({**BPE, P + "merges": None}, REFUSES),
    "merges: none in Kimi": ({**BPE, P + "merges": None, P + "pre": text("kimi-k2")}, LOADS),
    "merges: empty": ({**BPE, P + "merges": arr(V.STRING)}, ONLY_WE),
    "merges: empty, not of texts": ({**BPE, P + "merges": arr(V.UINT8)}, REFUSES),
    "merges: no pair": ({**BPE, P + "merges": arr(V.STRING, "et")}, ONLY_WE),
    "id outside the vocabulary": ({P + "bos_token_id": u32(9999)}, ONLY_WE),
    "id: int32": ({P + "bos_token_id": i32(1)}, REFUSES),
    "id: uint64": ({P + "eos_token_id": Value(V.UINT64, 1)}, REFUSES),
    "id: of an old name, int32": ({P + "prefix_token_id": i32(1)}, REFUSES),
    "flag: uint8": ({P + "add_bos_token": Value(V.UINT8, 1)}, REFUSES),
    "suppressed: int32": ({P + "suppress_tokens": arr(V.INT32, 1)}, LOADS),
    "suppressed: uint32": ({P + "suppress_tokens": arr(V.UINT32, 1)}, REFUSES),
    "suppressed: outside": ({P + "suppress_tokens": arr(V.INT32, N)}, ONLY_WE),
    "token types: int32": ({P + "token_type_count": i32(2)}, REFUSES),
    "charsmap: short": ({**UGM, CHARSMAP: arr(V.UINT8, 1)}, REFUSES),
    "charsmap: its trie too long": ({**UGM, CHARSMAP: arr(V.UINT8, 255, 0, 0, 0, 1)}, REFUSES),
    "charsmap: int32": ({**UGM, CHARSMAP: arr(V.INT32, 1, 2)}, REFUSES),
    "charsmap: not T5": ({CHARSMAP: arr(V.UINT8, 1)}, LOADS),
    "named Phi-3": (PHI3, REFUSES),  # std::map::at of <|endoftext|>
    "named Phi-3 with its tokens": ({**PHI3, P + "tokens": tokens("<|endoftext|>")}, LOADS),
    # values
    "nested arrays": ({"a.b": arr(V.ARRAY, arr(V.INT32, 1))}, REFUSES),
    "nested arrays, empty": ({"a.b": arr(V.ARRAY)}, REFUSES),
    "array of bools": ({"a.b": arr(V.BOOL, True, False)}, LOADS),
    "empty array": ({"a.b": arr(V.STRING)}, LOADS),
    "key with a space": ({"a b": u32(1)}, ONLY_WE),
    "alignment 8": ({"general.alignment": u32(8)}, LOADS),
    "alignment 4": ({"general.alignment": u32(4)}, ONLY_WE),
    "alignment 3": ({"general.alignment": u32(3)}, REFUSES),
    "alignment 0": ({"general.alignment": u32(0)}, REFUSES),
    "alignment: uint64": ({"general.alignment": Value(V.UINT64, 32)}, REFUSES),
    "no architecture": ({"general.architecture": None}, REFUSES),
    "unknown architecture": ({"general.architecture": text("lama")}, REFUSES),
    "name: uint32": ({"general.name": u32(1)}, REFUSES),
    "level: int32": ({"general.file_type": i32(1)}, REFUSES),
    "level: unknown": ({"general.file_type": u32(999)}, ONLY_WE),
    "template: uint32": ({"tokenizer.chat_template": u32(1)}, ONLY_WE),
    "tags: a text": ({"general.tags": text("a")}, ONLY_WE),
    # hyper-parameters
    "blocks: int32": ({L + "block_count": i32(1)}, REFUSES),
    "blocks: array": ({L + "block_count": arr(V.UINT32, 1)}, REFUSES),
    "blocks: none": ({L + "block_count": None}, REFUSES),
    "blocks: 0": ({L + "block_count": u32(0)}, ABORTS),
    "blocks: 2 of 1": ({L + "block_count": u32(2)}, REFUSES),
    "blocks: 513": ({L + "block_count": u32(513)}, ABORTS),
    "context: none": ({L + "context_length": None}, REFUSES),
    "width: none": ({L + "embedding_length": None}, REFUSES),
    "width: wrong": ({L + "embedding_length": u32(128)}, REFUSES),
    "vocabulary: int32": ({L + "vocab_size": i32(N)}, REFUSES),
    "for each layer": ({L + "feed_forward_length": arr(V.UINT32, 192)}, LOADS),
    "for each layer, signed": ({L + "feed_forward_length": arr(V.INT32, 192)}, LOADS),
    "for each layer: uint64": ({L + "feed_forward_length": arr(V.UINT64, 192)}, REFUSES),
    "for each layer: too many": ({L + "feed_forward_length": arr(V.UINT32, 192, 192)}, REFUSES),
    "one number, signed": ({L + "feed_forward_length": i32(192)}, REFUSES),
    "base: uint32": ({L + "rope.freq_base": u32(10000)}, REFUSES),
    "epsilon: float64": ({L + "attention.layer_norm_rms_epsilon": Value(V.FLOAT64, 1e-5)}, REFUSES),
    "epsilon: nan": (
        {L + "attention.layer_norm_rms_epsilon": Value(V.FLOAT32, float("nan"))},
        ONLY_WE,
    ),  # it runs into it
    "causal: uint32": ({L + "attention.causal": u32(1)}, REFUSES),
    "pooling: int32": ({L + "pooling_type": i32(1)}, REFUSES),
    "scaling: unknown": ({L + "rope.scaling.type": text("ntk")}, ABORTS),
    "scaling: uint32": ({L + "rope.scaling.type": u32(1)}, REFUSES),
    "rotated axes: some": ({L + "rope.dimension_count": u32(32)}, REFUSES),
    "heads: of another size": ({L + "attention.head_count": u32(2)}, REFUSES),
    "experts, none used": ({L + "expert_count": u32(4)}, ABORTS),
    "experts, more used": ({L + "expert_count": u32(1), L + "expert_used_count": u32(2)}, ABORTS),
    "experts used, none there": ({L + "expert_used_count": u32(2)}, ABORTS),
    "experts: 2000": ({L + "expert_count": u32(2000), L + "expert_used_count": u32(2)}, ABORTS),
    "groups, no experts": ({L + "expert_group_count": u32(2)}, ABORTS),
    "more heads for tokens to come than layers": ({L + "nextn_predict_layers": u32(2)}, ABORTS),
    "unknown key": ({L + "new_thing": arr(V.INT8, 1)}, LOADS),
}


def changed(old: str, /, **change: Any) -> list[tuple[str, tuple[int, ...], Any]]:
    """The tensors, one of which has another name, shape or type; None leaves it out."""
    return [
        (change.get("name", n), change.get("shape", shape), BY_NAME[change.get("type", "F32")]) if n == old
        else (n, shape, kind) for n, shape, kind in SHAPES if n != old or change.get("name", n) is not None
    ]  # fmt: skip


RENAMED = changed("output.weight", name="token_embd.weight\0x", shape=(N, 64))
TENSORS: dict[str, tuple[list[tuple[str, tuple[int, ...], Any]], str]] = {
    "tied head": (changed("output.weight", name=None), LOADS),
    "no embedding": (changed("token_embd.weight", name=None), REFUSES),
    "no tensors": ([], REFUSES),
    "rows of another number": (changed("token_embd.weight", shape=(N - 1, 64)), REFUSES),
    "rows of another width": (changed("token_embd.weight", shape=(N, 32)), REFUSES),
    "name of 63 bytes too many": (changed("output.weight", name="é" * 32), REFUSES),
    "empty name": (changed("output.weight", name=""), REFUSES),
    "equal names up to a zero byte": (RENAMED, REFUSES),
    "zero byte at a name's end": (changed("output_norm.weight", name="output_norm.weight\0"), ONLY_WE),
    "norm of F16": (changed("output_norm.weight", type="F16"), ONLY_WE),
    "embedding of I8": (changed("token_embd.weight", type="I8"), ONLY_WE),
    "embedding of I32": (changed("token_embd.weight", type="I32"), ABORTS),
    "weights of I16": (changed("blk.0.attn_q.weight", type="I16"), ONLY_WE),
    "five axes": (changed("output.weight", shape=(1, 1, 1, N, 64)), REFUSES),
    "no axes": (changed("output_norm.weight", shape=()), REFUSES),
    "an axis of 0": (changed("output.weight", shape=(0, 64)), REFUSES),
    "a name twice": ([*SHAPES, SHAPES[0]], REFUSES),
}


class Oracle:
    """llama.cpp in a process that is started again after an assertion has ended it."""

    def __init__(self) -> None:
        self.llama: Llama | None = None

    def ask(self, path: Path) -> str:
        try:
            if self.llama is None:
                self.llama = Llama(path, n_ctx=32)
            else:
                self.llama.open(path, n_ctx=32)
        except LlamaError as error:
            if "died" not in str(error):
                return REFUSES
            self.close()
            return ABORTS
        return LOADS

    def close(self) -> None:
        if self.llama is not None:
            with contextlib.suppress(OSError):
                self.llama.close()
        self.llama = None


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    found = Oracle()
    yield found
    found.close()


def strictly(path: Path) -> list[str]:
    """What strict checks find, or why the file is not read at all."""
    try:
        return [str(error) for error in check_gguf(path)]
    except FormatError as error:
        return [str(error)]


def judge(oracle: Oracle, path: Path, data: bytes, answer: str) -> None:
    path.write_bytes(data)
    assert oracle.ask(path) == (LOADS if answer == ONLY_WE else answer)
    found = strictly(path)
    assert bool(found) == (answer != LOADS), found
    assert all(line.startswith(f"{path}: ") and line.endswith(")") for line in found)


@pytest.mark.parametrize("name", CASES)
def test_metadata(oracle: Oracle, tmp_path: Path, name: str) -> None:
    changes, answer = CASES[name]
    keys = {key: value for key, value in (KEYS | changes).items() if value is not None}
    alignment = keys["general.alignment"].data if "general.alignment" in keys else 32
    assert isinstance(alignment, int)
    judge(oracle, tmp_path / "x.gguf", gguf_bytes(keys, SHAPES, alignment=alignment or 32), answer)


@pytest.mark.parametrize("name", TENSORS)
def test_tensors(oracle: Oracle, tmp_path: Path, name: str) -> None:
    shapes, answer = TENSORS[name]
    judge(oracle, tmp_path / "x.gguf", gguf_bytes(dict(KEYS), shapes), answer)


def test_names_that_llama_cpp_knows(oracle: Oracle, tmp_path: Path) -> None:
    """Every pre-tokenizer and scaling of the lists; those of architectures need models of their own."""
    path = tmp_path / "x.gguf"
    named = [(P + "pre", pre) for pre in sorted(PRE_TOKENIZERS)]
    named += [(P + "model", model) for model in sorted(BPE_TOKENIZERS)]
    named += [(L + "rope.scaling.type", scaling) for scaling in sorted(ROPE_SCALINGS)]
    for key, name in named:
        path.write_bytes(gguf_bytes({k: v for k, v in (KEYS | BPE | {key: text(name)}).items() if v}, SHAPES))
        assert oracle.ask(path) == LOADS, name


def test_architectures_are_those_of_gguf_py() -> None:
    import gguf

    from quantmill.formats.gguf.known import ARCHITECTURES
    from quantmill.formats.hf.archs import ARCHS

    assert set(gguf.MODEL_ARCH_NAMES.values()) - {"mmproj"} <= ARCHITECTURES | {"clip"}
    assert {arch.gguf_name or arch.name for arch in ARCHS} <= ARCHITECTURES


def test_shards_after_the_first_have_few_keys() -> None:
    keys = {"split.no": Value(V.UINT16, 1), "split.count": Value(V.UINT16, 2), "split.tensors.count": i32(3)}
    assert list(check_metadata(keys)) == []
