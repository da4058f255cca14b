"""Reading GGML files of mid 2023: ggjt version 1 in F16 and F32, version 3 in all its types.

The header lacks the norm's epsilon, the rotary base and the context length, which a GGUF file needs: they are given by
the caller, or assumed with a message. Blocks are not changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError, TokenizerError, UnmatchedTensor
from ..floats import to_f32
from ..gguf.header import TensorEntry
from ..gguf.keys import (
    FILE_TYPES,
    GENERAL_FILE_TYPE,
    GENERAL_QUANTIZATION_VERSION,
    LEVEL_OF_FILE_TYPE,
    QUANTIZATION_VERSION,
    typed,
)
from ..gguf.vocab import tokenizer_to_metadata
from ..gguf.wire import Cursor, align
from ..ir import Bytes, Model, Role, Tensor, Tokenizer, Value
from ..json_text import read_json
from ..qtypes import BY_ID
from ..storage.endings import without_ending
from ..storage.source import SourceFile
from . import wire
from .vocab import Vocabulary, decode_vocabulary, read_vocabulary
from .wire import ALIGNMENT, MAGIC, TYPES, Hparams

_AGAIN = "download or copy the file again"
_MAX_NAME = 256  # bytes; a Llama's longest has 37
_TENSOR_MEMORY = 2048  # bytes that a tensor's description and reader take at most (tracemalloc)


@dataclass(frozen=True)
class GGMLSettings:
    """What a GGML file does not store. A value of None is inferred or assumed, and what is assumed is reported.

    Args:
        gqa: query heads per key/value head; it must agree with the shapes in the file.
        eps: the epsilon of the norms.
        rope_base: base of the rotary frequencies.
        context: trained context length in tokens.
        vocab_dir: a Hugging Face folder whose tokenizer replaces the file's vocabulary.

    Example:
        >>> from quantmill import GGMLSettings
        >>> GGMLSettings(gqa=8, eps=1e-5).rope_base is None
        True
    """

    gqa: int | None = None
    eps: float | None = None
    rope_base: float | None = None
    context: int | None = None
    vocab_dir: Path | None = None


_NONE_GIVEN = GGMLSettings()


@dataclass(frozen=True)
class _Parsed:
    """A file's header and its tensors' entries, by GGUF name."""

    path: Path
    hparams: Hparams
    vocabulary: Vocabulary
    entries: Mapping[str, tuple[TensorEntry, Role, int | None]]
    freqs: TensorEntry | None  # a buffer of Meta's checkpoints, which every client computes itself


def read_ggml(
    path: str | Path,
    settings: GGMLSettings = _NONE_GIVEN,
    *,
    drop_extra_tokens: bool = False,
    warn: Callable[[str], object] = lambda text: None,
) -> Model:
    """Read a GGML file (ggjt, mid 2023): a Llama. Its tensors are read when they are asked for.

    Args:
        path: a ggjt file of version 1 (F16, F32) or 3 (every type of its time).
        settings: what the file does not store.
        drop_extra_tokens: leave out tokens of ``settings.vocab_dir`` beyond the embedding's rows.
        warn: called with a line for each value that had to be assumed, and for what is left out.

    Returns:
        the model with GGUF's names and metadata, its tensors in the file's own types.

    Raises:
        FormatError: the file is damaged or of another kind or version, or the settings contradict it.
        TokenizerError: the vocabulary is not SentencePiece's, and ``settings.vocab_dir`` is not given.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import read_ggml, write_ggml
        >>> from quantmill.formats.examples import tiny_llama
        >>> with TemporaryDirectory() as folder:
        ...     _ = write_ggml(Path(folder, "tiny.bin"), tiny_llama())
        ...     model = read_ggml(Path(folder, "tiny.bin"))
        >>> model.arch, model.n_layers
        ('llama', 1)
    """
    path = Path(path)
    file = SourceFile(path)
    parsed = _parse(Cursor(file, path))
    gqa = _gqa(parsed, settings.gqa)
    width = _check_shapes(parsed, gqa)
    metadata = _metadata(parsed, gqa, width, settings, warn)
    metadata |= tokenizer_to_metadata(_tokenizer(parsed, settings.vocab_dir, drop_extra_tokens, warn))
    tensors = tuple(_tensor(file, path, *found) for found in parsed.entries.values())
    if parsed.freqs is not None and not _are_freqs(file, parsed.freqs, parsed.hparams.n_rot, metadata):
        warn(f"{path}: {parsed.freqs.name} is not what the rotary base makes it; ignored, as clients do (--rope-base)")
    return Model("llama", metadata, tensors, path)


def _parse(cursor: Cursor) -> _Parsed:
    version = _read_version(cursor)
    cursor.what = "the header"
    hparams = Hparams(*(cursor.u32() for _ in range(7)))
    _check_hparams(cursor, hparams)
    vocabulary = read_vocabulary(cursor, hparams.n_vocab)
    entries: dict[str, tuple[TensorEntry, Role, int | None]] = {}
    freqs: TensorEntry | None = None
    while cursor.position < cursor.size:
        entry, name = _read_entry(cursor, version)
        if name.removesuffix(".weight").endswith("rope.freqs"):
            freqs = entry
            continue
        found = wire.gguf_name(name)
        if found is None:
            raise UnmatchedTensor(
                "a Llama has no such tensor", path=cursor.path, where=f"tensor {name!r}", hint="only Llama is read"
            )
        if found[0] in entries:
            raise FormatError("a second tensor of this name", path=cursor.path, where=f"tensor {name!r}", hint=_AGAIN)
        entries[found[0]] = entry, found[1], found[2]
    return _Parsed(cursor.path, hparams, vocabulary, entries, freqs)


def _read_version(cursor: Cursor) -> int:
    cursor.what = "the first bytes"
    magic = cursor.take(4)
    if magic in wire.OTHER_MAGICS:
        what, instead = wire.OTHER_MAGICS[magic]
        raise cursor.fail(f"not ggjt but {what}", hint=f"give {instead}")
    if magic != MAGIC:
        raise cursor.fail(f"not a GGML file: it begins with {magic!r}")
    cursor.what = "the version"
    version = cursor.u32()
    if version not in TYPES:
        known = version == 2
        problem = f"ggjt version {version} " + ("has blocks of another layout" if known else "is unknown")
        raise cursor.fail(f"{problem}; 1 (F16, F32) and 3 are read", hint="convert the original checkpoint")
    return version


def _check_hparams(cursor: Cursor, h: Hparams) -> None:
    for name in ("n_vocab", "n_embd", "n_mult", "n_head", "n_layer"):
        if not getattr(h, name):
            raise cursor.fail(f"{name} is 0", hint="the file is damaged, or of another architecture")
    if h.n_embd % h.n_head or h.n_rot != h.n_embd // h.n_head:
        raise cursor.fail(
            f"{h.n_head} heads of {h.n_rot} do not make {h.n_embd}: not a Llama's header",
            hint="the file is damaged, or of another architecture",
        )


def _read_entry(cursor: Cursor, version: int) -> tuple[TensorEntry, str]:
    """Read a tensor's description and its name in the file, and move the cursor behind its data."""
    cursor.what = "a tensor's description"
    cursor.charge(_TENSOR_MEMORY)
    n_dims, length, number = cursor.u32(), cursor.u32(), cursor.u32()
    if n_dims not in (1, 2):
        raise cursor.fail(f"{n_dims} axes; a Llama's tensors have 1 or 2", hint="the file is damaged")
    shape = tuple(cursor.u32() for _ in range(n_dims))[::-1]
    if length > _MAX_NAME:
        raise cursor.fail(f"a name of {length} bytes", hint="the file is damaged")
    name = cursor.take(length).decode("utf-8", "surrogateescape")
    cursor.what = f"tensor {name!r}"
    kind = BY_ID.get(number)
    if kind is None or kind.name not in TYPES[version]:
        what = f"type {kind or number} is not read from ggjt version {version}"
        raise cursor.fail(what, hint="the file is damaged, or its blocks are of a layout that was dropped")
    if shape[-1] % kind.block_size:
        raise cursor.fail(f"rows of {shape[-1]} weights are not a multiple of {kind}'s block of {kind.block_size}")
    n_rows = math.prod(shape[:-1])
    offset = align(cursor.position, ALIGNMENT)
    size = n_rows * kind.row_bytes(shape[-1])
    cursor.need(offset - cursor.position + size)
    cursor.position = offset + size
    return TensorEntry(name, shape, kind, offset, size), name


def _gqa(parsed: _Parsed, wanted: int | None) -> int:
    """Find the query heads per key/value head from the rows of the key projection."""
    h, path = parsed.hparams, parsed.path
    if wanted is not None and (wanted < 1 or h.n_head % wanted):
        raise FormatError(
            f"{h.n_head} heads cannot be divided into groups of {wanted}",
            path=path,
            where="--gqa",
            hint="leave it out to infer it",
        )
    key = parsed.entries.get("blk.0.attn_k.weight")
    if key is None:
        raise _missing(parsed, "blk.0.attn_k.weight")
    rows = key[0].shape[0]
    heads = rows // h.n_rot
    if rows % h.n_rot or not heads or h.n_head % heads:
        problem = f"{rows} rows do not divide {h.n_head} heads of {h.n_rot} evenly"
        raise FormatError(problem, path=path, where=key[0].name, hint="the file is damaged")
    found = h.n_head // heads
    if wanted not in (None, found):
        raise FormatError(
            f"{wanted} query heads per key/value head are requested; the file's shapes make it {found}",
            path=path,
            where="--gqa",
            hint="leave it out to infer it",
        )
    return found


def _check_shapes(parsed: _Parsed, gqa: int) -> int:
    """Check that every tensor is there and has the shape that the header gives it. Returns n_ff."""
    h = parsed.hparams
    width = wire.n_ff(h, gqa)
    expected = 0
    for name, shape in wire.tensor_shapes(h.n_vocab, h.n_embd, h.n_layer, width, h.n_embd // gqa):
        if name not in parsed.entries:  # also what ends the loop when a damaged header promises millions of layers
            raise _missing(parsed, name)
        entry = parsed.entries[name][0]
        if entry.shape != shape:
            problem = f"its shape is {list(entry.shape)}, the header makes it {list(shape)}"
            raise FormatError(problem, path=parsed.path, where=f"tensor {entry.name!r}", hint=_AGAIN)
        expected += 1
    if len(parsed.entries) > expected:
        entry = next(e for e, _, layer in parsed.entries.values() if layer is not None and layer >= h.n_layer)
        problem = f"beyond the header's {h.n_layer} layers"
        raise FormatError(problem, path=parsed.path, where=f"tensor {entry.name!r}", hint="the file is damaged")
    return width


def _missing(parsed: _Parsed, name: str) -> FormatError:
    return FormatError(f"{name} is missing: the file is truncated", path=parsed.path, hint=_AGAIN)


def _metadata(
    parsed: _Parsed, gqa: int, width: int, settings: GGMLSettings, warn: Callable[[str], object]
) -> dict[str, Value]:
    h = parsed.hparams

    def assume(option: str, value: float, why: str) -> float:
        warn(f"{parsed.path}: assumed {option} {value:g}, which the file does not store ({why})")
        return value

    eps, base, context = settings.eps, settings.rope_base, settings.context
    if eps is None:  # of the models of its day only Llama 2 shared key/value heads
        why = "Llama 2's" if gqa > 1 else "the old client's; Llama 1 has 1e-6, Llama 2 1e-5"
        eps = assume("--eps", 1e-5 if gqa > 1 else wire.DEFAULT_EPS, why)
    if base is None:
        base = assume("--rope-base", wire.DEFAULT_ROPE_BASE, "Llama's; CodeLlama has 1e6")
    if context is None:
        why = "Llama 2's" if gqa > 1 else "Llama 1's; Llama 2 has 4096"
        context = int(assume("--context", 4096 if gqa > 1 else 2048, why))
    keys: dict[str, Any] = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": without_ending(parsed.path.name, ".bin"),
        "llama.block_count": h.n_layer,
        "llama.context_length": context,
        "llama.embedding_length": h.n_embd,
        "llama.feed_forward_length": width,
        "llama.attention.head_count": h.n_head,
        "llama.attention.head_count_kv": h.n_head // gqa,
        "llama.rope.freq_base": base,
        "llama.attention.layer_norm_rms_epsilon": eps,
        "llama.vocab_size": h.n_vocab,
        "llama.rope.dimension_count": h.n_rot,
        GENERAL_QUANTIZATION_VERSION: QUANTIZATION_VERSION,
    }
    if h.ftype in LEVEL_OF_FILE_TYPE and h.ftype <= FILE_TYPES["Q6_K"]:
        keys[GENERAL_FILE_TYPE] = h.ftype
    return {key: typed(key, value) for key, value in keys.items()}


def _tokenizer(
    parsed: _Parsed, vocab_dir: Path | None, drop_extra_tokens: bool, warn: Callable[[str], object]
) -> Tokenizer:
    n_vocab = parsed.hparams.n_vocab
    if vocab_dir is None:
        found = decode_vocabulary(parsed.vocabulary)
        problem, path = "its vocabulary is not a Llama's SentencePiece, and the file has no merges", parsed.path
    else:
        from ..hf.tokenizer.read import read_tokenizer

        found = read_tokenizer(
            vocab_dir,
            vocab_size=n_vocab,
            model_ids=read_json(vocab_dir / "config.json"),
            drop_extra_tokens=drop_extra_tokens,
            say=warn,
        )
        problem, path = "no tokenizer in this folder", vocab_dir
    if found is None:
        raise TokenizerError(
            problem, path=path, hint="--vocab-dir FOLDER with the tokenizer of the original checkpoint"
        )
    return found


def _are_freqs(file: SourceFile, entry: TensorEntry, n_rot: int, metadata: Mapping[str, Value]) -> bool:
    """Whether a tensor holds the rotary frequencies of the model's base, but for rounding to F16."""
    if entry.shape != (n_rot // 2,) or not entry.qtype.is_float:
        return False
    values = to_f32(file.read(entry.offset, entry.nbytes, entry.name)[None], entry.qtype)[0]
    base = metadata["llama.rope.freq_base"].data
    assert isinstance(base, float)
    return np.allclose(values, base ** -(np.arange(0, n_rot, 2) / n_rot), rtol=0.01, atol=1e-6)


def _tensor(file: SourceFile, path: Path, entry: TensorEntry, role: Role, layer: int | None) -> Tensor:
    row_bytes = entry.qtype.row_bytes(entry.shape[-1])

    def read(a: int, b: int) -> Bytes:
        rows = file.read(entry.offset + a * row_bytes, (b - a) * row_bytes, entry.name)
        return rows.reshape(b - a, row_bytes)

    found = wire.gguf_name(entry.name)
    assert found is not None
    return Tensor(found[0], role, layer, entry.shape, entry.qtype, read, f"{path}: {entry.name}")
