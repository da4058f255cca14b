"""Small whole files of every kind that is read, and Hypothesis strategies that make more of them."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
from hypothesis import strategies as st

from quantmill.formats.ggml.wire import Hparams, n_ff, tensor_shapes
from quantmill.formats.gguf.wire import ByteOrder, encode_string, encode_value
from quantmill.formats.ir import Value, ValueType
from quantmill.formats.moments_file import packed_size
from quantmill.formats.qtypes import BY_NAME, QType

V = ValueType
_NUMBERS: dict[ValueType, Any] = {
    V.UINT8: st.integers(0, 2**8 - 1), V.INT8: st.integers(-(2**7), 2**7 - 1),
    V.UINT16: st.integers(0, 2**16 - 1), V.INT16: st.integers(-(2**15), 2**15 - 1),
    V.UINT32: st.integers(0, 2**32 - 1), V.INT32: st.integers(-(2**31), 2**31 - 1),
    V.UINT64: st.integers(0, 2**64 - 1), V.INT64: st.integers(-(2**63), 2**63 - 1),
    V.FLOAT32: st.floats(width=32), V.FLOAT64: st.floats(), V.BOOL: st.booleans(),
}  # fmt: skip
_TEXT = st.text(max_size=12)
_NAMES = (
    "token_embd.weight",
    "output.weight",
    "blk.0.attn_q.weight",
    "blk.1.ffn_down.weight",
    "blk.0.ffn_up_exps.weight",
)


def values() -> st.SearchStrategy[Value]:
    """Any value: numbers, strings, arrays of them, arrays of arrays."""
    plain = st.one_of(*(numbers.map(lambda data, t=t: Value(t, data)) for t, numbers in _NUMBERS.items()))
    strings = st.lists(_TEXT, max_size=5)
    arrays = st.one_of(
        strings.map(lambda items: Value(V.ARRAY, tuple(items), V.STRING)),
        *(
            st.lists(numbers, max_size=5).map(lambda items, t=t: Value(V.ARRAY, np.array(items, _DTYPES[t]), t))
            for t, numbers in _NUMBERS.items()
        ),
    )
    nested = st.lists(arrays, max_size=3).map(lambda items: Value(V.ARRAY, tuple(items), V.ARRAY))
    return st.one_of(plain, _TEXT.map(lambda text: Value(V.STRING, text)), arrays, nested)


_DTYPES = {
    V.UINT8: "u1", V.INT8: "i1", V.UINT16: "u2", V.INT16: "i2", V.UINT32: "u4", V.INT32: "i4", V.UINT64: "u8",
    V.INT64: "i8", V.FLOAT32: "f4", V.FLOAT64: "f8", V.BOOL: "?",
}  # fmt: skip


def gguf_bytes(
    metadata: dict[str, Value],
    tensors: list[tuple[str, tuple[int, ...], QType]],
    *,
    byteorder: ByteOrder = "little",
    version: int = 3,
    alignment: int = 32,
    seed: int = 0,
) -> bytes:
    """A whole file with random blocks, laid out here: the writer would refuse some of what a reader must meet."""
    sign = "<" if byteorder == "little" else ">"
    head = b"GGUF" + struct.pack(sign + "IQQ", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        head += encode_string(key, byteorder) + encode_value(value, byteorder)
    data = b""
    random = np.random.default_rng(seed)
    for name, shape, kind in tensors:
        head += encode_string(name, byteorder) + struct.pack(f"{sign}I{len(shape)}Q", len(shape), *shape[::-1])
        head += struct.pack(sign + "IQ", kind.id, len(data))
        n = int(np.prod(shape))
        if kind.name == "F32":
            data += random.integers(1, 9, n).astype(sign + "f4").tobytes()
        else:
            data += random.integers(0, 256, n // kind.block_size * kind.block_bytes, np.uint8).tobytes()
        data += bytes(-len(data) % alignment)
    return head + bytes(-len(head) % alignment) + data


def vocabulary(tokens: tuple[str, ...]) -> dict[str, Value]:
    """A tokenizer's keys, as llama.cpp's converter writes them."""
    n = len(tokens)
    prefix = "tokenizer.ggml."
    return {
        prefix + "model": Value(V.STRING, "llama"),
        prefix + "tokens": Value(V.ARRAY, tokens, V.STRING),
        prefix + "scores": Value(V.ARRAY, -np.arange(n, dtype=np.float32), V.FLOAT32),
        prefix + "token_type": Value(V.ARRAY, np.ones(n, np.int32), V.INT32),
        prefix + "merges": Value(V.ARRAY, ("a b", "▁ t"), V.STRING),
        prefix + "bos_token_id": Value(V.UINT32, 0),
        prefix + "add_bos_token": Value(V.BOOL, True),
        "tokenizer.chat_template": Value(V.STRING, "{{ messages }}"),
    }


@st.composite
def gguf_files(draw: st.DrawFn) -> bytes:
    """Whole GGUF files: both versions and byte orders, any keys, any types, with and without a vocabulary."""
    metadata: dict[str, Value] = {"general.architecture": Value(V.STRING, "llama")}
    alignment = draw(st.sampled_from([32, 32, 8, 64]))
    if alignment != 32:
        metadata["general.alignment"] = Value(V.UINT32, alignment)
    if draw(st.booleans()):
        metadata |= vocabulary(tuple(draw(st.lists(_TEXT, min_size=1, max_size=6, unique=True))))
    keys = st.text(min_size=1, max_size=10).filter(lambda key: key not in metadata)
    metadata |= draw(st.dictionaries(keys, values(), max_size=5))
    tensors = [
        (name, (draw(st.integers(1, 3)), kind.block_size), kind)
        for name in draw(st.lists(st.sampled_from(_NAMES), max_size=4, unique=True))
        for kind in [draw(st.sampled_from(list(BY_NAME.values())))]
    ]
    return gguf_bytes(
        metadata,
        tensors,
        byteorder=draw(st.sampled_from(["little", "little", "big"])),
        version=draw(st.sampled_from([3, 2])),
        alignment=alignment,
    )


def ggml_bytes(*, version: int = 3, kind: str = "F32", n_layer: int = 1, seed: int = 0) -> bytes:
    """A whole ggjt file of a Llama with 2 heads of 16."""
    words = [" ⁇ ".encode(), b"", b"", *(bytes([i]) for i in range(256)), b" the", b""]
    hparams = Hparams(len(words), 32, 32, 2, n_layer, 16, 0)
    out = bytearray(b"tjgg" + struct.pack("<I", version) + hparams.encode())
    for i, word in enumerate(words):
        out += struct.pack("<I", len(word)) + word + struct.pack("<f", -float(i))
    random = np.random.default_rng(seed)
    for name, shape in tensor_shapes(hparams.n_vocab, 32, n_layer, n_ff(hparams, 1), 32):
        type = BY_NAME[kind if len(shape) > 1 else "F32"]
        raw = _ggml_name(name).encode()
        out += struct.pack("<III", len(shape), len(raw), type.id) + struct.pack(f"<{len(shape)}I", *shape[::-1]) + raw
        out += bytes(-len(out) % 32)
        out += random.integers(0, 256, int(np.prod(shape[:-1])) * type.row_bytes(shape[-1]), np.uint8).tobytes()
    return bytes(out)


def _ggml_name(name: str) -> str:
    from quantmill.formats.ggml.wire import ggml_name
    from quantmill.formats.gguf.names import parse_name

    found = ggml_name(*parse_name(name))
    assert found is not None
    return found


def ggml_files() -> st.SearchStrategy[bytes]:
    one = st.builds(
        lambda kind, n: ggml_bytes(version=1, kind=kind, n_layer=n), st.sampled_from(["F32", "F16"]), st.just(1)
    )
    three = st.builds(
        lambda kind, n: ggml_bytes(kind=kind, n_layer=n), st.sampled_from(["F32", "Q4_0", "Q8_0"]), st.integers(1, 2)
    )
    return st.one_of(one, three)


def imatrix_bytes(
    names: list[str], width: int = 4, experts: int = 2, keys: dict[str, Value] | None = None, block: int = 0
) -> bytes:
    """An importance file of the GGUF kind; with ``block`` columns in a block also second moments, all the first's."""
    f32 = BY_NAME["F32"]
    metadata = {
        "general.type": Value(V.STRING, "imatrix"),
        "imatrix.datasets": Value(V.ARRAY, ("wiki.txt",), V.STRING),
        "imatrix.chunk_count": Value(V.UINT32, 4),
        "imatrix.chunk_size": Value(V.UINT32, 512),
    } | (keys or {})
    tensors = []
    for name in names:
        tensors += [(f"{name}.in_sum2", (experts, width), f32), (f"{name}.counts", (experts, 1), f32)]
    if block:
        rows = {"block_width": Value(V.UINT32, block), "tensors": Value(V.ARRAY, tuple(names), V.STRING)}
        rows["inputs"] = Value(V.ARRAY, (names[0],) * len(names), V.STRING)
        metadata |= {f"quantmill.moments.{key}": value for key, value in rows.items()}
        size = packed_size(width, block)
        tensors.append((f"{names[0]}.moments", (size,) if experts == 1 else (experts, size), f32))
    return gguf_bytes(metadata, tensors)


def dat_bytes(names: list[str], width: int = 4, dataset: bytes = b"wiki.txt") -> bytes:
    """An importance file of the ``.dat`` kind."""
    parts = [struct.pack("<i", len(names))]
    for i, name in enumerate(names):
        raw = name.encode()
        parts.append(struct.pack("<i", len(raw)) + raw + struct.pack("<ii", 3, width))
        parts.append(np.arange(i, i + width, dtype="<f4").tobytes())
    return b"".join(parts) + struct.pack("<ii", 7, len(dataset)) + dataset


def imatrix_files() -> st.SearchStrategy[bytes]:
    names = st.lists(st.sampled_from(_NAMES), min_size=1, max_size=3, unique=True)
    sizes = st.integers(1, 8)
    return st.builds(
        lambda n, w, e, b: imatrix_bytes(n, w, e, block=b), names, sizes, st.integers(1, 3), st.integers(0, 9)
    )


def dat_files() -> st.SearchStrategy[bytes]:
    names = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3, unique=True)
    return st.builds(dat_bytes, names, st.integers(1, 8))


def safetensors_bytes(names: list[str], n: int = 4) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for i, name in enumerate(names):
        header[name] = {"dtype": "F32", "shape": [1, n], "data_offsets": [i * 4 * n, (i + 1) * 4 * n]}
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(4 * n * len(names))


def safetensors_files() -> st.SearchStrategy[bytes]:
    names = st.lists(
        st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"), max_size=3, unique=True
    )
    return st.builds(safetensors_bytes, names, st.integers(1, 4))


def index_bytes(shards: dict[str, str]) -> bytes:
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": shards}).encode()


_WORDS = ["<s>", "</s>", *(chr(0x100 + i) for i in range(33)), *map(chr, range(33, 127)), "ab", "abc"]


def tokenizer_files() -> dict[str, Any]:
    """The JSON files of a small byte-level BPE as a checkpoint's folder holds them."""
    added = [
        {"id": i, "content": text, "special": True, "lstrip": False, "rstrip": False}
        for i, text in enumerate(_WORDS[:2])
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "tokenizer.json": {
            "version": "1.0",
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": byte_level,
            "post_processor": {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": {}},
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "unk_token": None,
                "ignore_merges": False,
                "vocab": {text: i for i, text in enumerate(_WORDS)},
                "merges": [["a", "b"], "ab c"],
            },
        },
        "tokenizer_config.json": {
            "tokenizer_class": "GPT2Tokenizer",
            "bos_token": "<s>",
            "eos_token": {"content": "</s>"},
            "added_tokens_decoder": {"0": {"content": "<s>", "special": True}},
            "additional_special_tokens": ["<s>"],
            "chat_template": [{"name": "default", "template": "{{ messages }}"}],
        },
        "special_tokens_map.json": {"bos_token": "<s>", "additional_special_tokens": ["</s>"]},
        "added_tokens.json": {"</s>": 1},
        "generation_config.json": {"eos_token_id": [1]},
    }


def sentencepiece_bytes() -> bytes:
    """A small tokenizer.model."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    for i, text in enumerate(("<unk>", "<s>", "</s>", "▁a", "b", "▁ab")):
        proto.pieces.add(piece=text, score=-float(i), type=2 if i == 0 else 3 if i < 3 else 1)
    proto.trainer_spec.model_type = 2
    data: bytes = proto.SerializeToString()
    return data


def pickled_parts() -> dict[str, bytes]:
    """The records of a state dict that torch.save wrote: ``archive/data.pkl`` is the pickle."""
    import torch

    out = io.BytesIO()
    torch.save({"a.weight": torch.ones(2, 4), "b": torch.arange(3)}, out)
    with zipfile.ZipFile(out) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(parts: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return out.getvalue()


JOURNAL_DIGEST = "0" * 64


def journal_line(text: str) -> bytes:
    return f"{text} {zlib.crc32(text.encode()):08x}\n".encode()


def journal_bytes() -> bytes:
    return b"".join(map(journal_line, (f"quantmill journal 1 {JOURNAL_DIGEST}", "0:0-16 1:0-8", "2:0-1")))
