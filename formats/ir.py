"""The common form between every reader and every writer.

A ``Model`` is metadata in GGUF's vocabulary (the one namespace all formats here can be mapped to) and an ordered list
of lazy tensors under their GGUF names. Readers build it, writers consume it, nothing in it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError
from .qtypes import QType

Bytes = NDArray[np.uint8]
_MAX_NUMBER = 1 << 31  # of hyper-parameters that are whole numbers; a context length is the largest
_MAX_COUNT = 1 << 16  # layers, heads, experts: a hundred times what any model has


class Role(Enum):
    """What a tensor is for; the value is its base name in GGUF (source: ``LLM_TENSOR_NAMES``, llama-arch.cpp).

    Policies speak of roles; ``formats/gguf/names.py`` says which stand in a block and maps roles to names, both ways.
    """

    # outside the blocks
    TOKEN_EMBD = "token_embd"
    TOKEN_EMBD_NORM = "token_embd_norm"
    TOKEN_TYPES = "token_types"
    POS_EMBD = "position_embd"
    PER_LAYER_TOKEN_EMBD = "per_layer_token_embd"
    PER_LAYER_MODEL_PROJ = "per_layer_model_proj"
    PER_LAYER_PROJ_NORM = "per_layer_proj_norm"
    ALTUP_PROJ = "altup_proj"
    ALTUP_UNEMBD_PROJ = "altup_unembd_proj"
    OUTPUT = "output"
    OUTPUT_NORM = "output_norm"
    CLS = "cls"
    CLS_OUT = "cls.output"
    CLS_NORM = "cls.norm"
    ROPE_FREQS = "rope_freqs"
    ROPE_FACTORS_LONG = "rope_factors_long"
    ROPE_FACTORS_SHORT = "rope_factors_short"
    # attention
    ATTN_NORM = "attn_norm"
    ATTN_NORM_2 = "attn_norm_2"
    ATTN_Q = "attn_q"
    ATTN_K = "attn_k"
    ATTN_V = "attn_v"
    ATTN_QKV = "attn_qkv"
    ATTN_Q_A = "attn_q_a"
    ATTN_Q_B = "attn_q_b"
    ATTN_KV_A_MQA = "attn_kv_a_mqa"
    ATTN_KV_B = "attn_kv_b"
    ATTN_K_B = "attn_k_b"
    ATTN_V_B = "attn_v_b"
    ATTN_Q_NORM = "attn_q_norm"
    ATTN_K_NORM = "attn_k_norm"
    ATTN_Q_A_NORM = "attn_q_a_norm"
    ATTN_KV_A_NORM = "attn_kv_a_norm"
    ATTN_SUB_NORM = "attn_sub_norm"
    ATTN_GATE = "attn_gate"
    ATTN_SINKS = "attn_sinks"
    ATTN_REL_B = "attn_rel_b"
    ATTN_OUTPUT = "attn_output"
    ATTN_OUTPUT_NORM = "attn_output_norm"
    ATTN_O = "attn_o"  # T5's name of it
    ATTN_ROT_EMBD = "attn_rot_embd"
    ATTN_POST_NORM = "post_attention_norm"
    CROSS_ATTN_NORM = "cross_attn_norm"
    CROSS_ATTN_Q = "cross_attn_q"
    CROSS_ATTN_K = "cross_attn_k"
    CROSS_ATTN_V = "cross_attn_v"
    CROSS_ATTN_O = "cross_attn_o"
    CROSS_ATTN_REL_B = "cross_attn_rel_b"
    VIS_ATTN_QKV = "vis_attn_qkv"
    VIS_ATTN_OUTPUT = "vis_attn_output"
    INDEXER_ATTN_K = "indexer.attn_k"
    INDEXER_ATTN_Q_B = "indexer.attn_q_b"
    INDEXER_K_PROJ = "indexer.k_proj"
    INDEXER_Q_PROJ = "indexer.q_proj"
    # feed forward
    FFN_NORM = "ffn_norm"
    FFN_POST_NORM = "post_ffw_norm"
    FFN_SUB_NORM = "ffn_sub_norm"
    FFN_GATE_INP = "ffn_gate_inp"
    FFN_GATE_INP_SHEXP = "ffn_gate_inp_shexp"
    FFN_GATE_TID2EID = "ffn_gate_tid2eid"
    FFN_EXP_PROBS_B = "exp_probs_b"
    FFN_GATE = "ffn_gate"
    FFN_UP = "ffn_up"
    FFN_DOWN = "ffn_down"
    FFN_GATE_EXPS = "ffn_gate_exps"
    FFN_UP_EXPS = "ffn_up_exps"
    FFN_DOWN_EXPS = "ffn_down_exps"
    FFN_GATE_UP_EXPS = "ffn_gate_up_exps"
    FFN_GATE_SHEXP = "ffn_gate_shexp"
    FFN_UP_SHEXP = "ffn_up_shexp"
    FFN_DOWN_SHEXP = "ffn_down_shexp"
    FFN_GATE_CHEXPS = "ffn_gate_chexps"
    FFN_UP_CHEXPS = "ffn_up_chexps"
    FFN_DOWN_CHEXPS = "ffn_down_chexps"
    FFN_NORM_EXPS = "ffn_norm_exps"
    FFN_ACT = "ffn.act"
    LAYER_OUT_NORM = "layer_output_norm"
    # Gemma 4: each layer's own inputs
    PER_LAYER_INP_GATE = "inp_gate"
    PER_LAYER_PROJ = "proj"
    PER_LAYER_POST_NORM = "post_norm"
    LAYER_OUT_SCALE = "layer_output_scale"
    FFN_PRE_NORM_2 = "pre_ffw_norm_2"
    FFN_POST_NORM_1 = "post_ffw_norm_1"
    FFN_POST_NORM_2 = "post_ffw_norm_2"
    # state-space and recurrent blocks
    SSM_IN = "ssm_in"
    SSM_CONV1D = "ssm_conv1d"
    SSM_X = "ssm_x"
    SSM_DT = "ssm_dt"
    SSM_A = "ssm_a"
    SSM_D = "ssm_d"
    SSM_NORM = "ssm_norm"
    SSM_OUT = "ssm_out"
    SSM_BETA_ALPHA = "ssm_ba"
    SHORTCONV_CONV = "shortconv.conv"
    SHORTCONV_INPROJ = "shortconv.in_proj"
    SHORTCONV_OUTPROJ = "shortconv.out_proj"
    OTHER = "other"  # a tensor no table of ours knows; kept as it is, quantized by the default rule


class ValueType(IntEnum):
    """The metadata value types of GGUF, with their ids in the file."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


@dataclass(frozen=True)
class Value:
    """One typed metadata value.

    ``data`` is an int, float, bool or str; for arrays a numpy array (numbers, bools), a tuple of str (strings) or a
    tuple of ``Value`` (nested arrays), with ``item`` the type of its elements. Strings are UTF-8 decoded with
    ``surrogateescape``, so that bytes which are not UTF-8 survive the trip.
    """

    type: ValueType
    data: Any
    item: ValueType | None = None


Metadata = Mapping[str, Value]


@dataclass(frozen=True)
class Tensor:
    """A lazy tensor.

    Args:
        name: its GGUF name, e.g. ``blk.0.attn_q.weight``.
        role: what it is for; ``OTHER`` when unknown.
        layer: its block's number, or None outside the blocks.
        shape: numpy order (rows first; the innermost, contiguous axis is last).
        qtype: the type its bytes are in.
        read: ``read(a, b)`` gives rows a..b of the tensor flattened to (rows, width) as uint8
            [b-a, row_bytes], little-endian, possibly a read-only view of a mapped file. Thread-safe.
        source: where it comes from, for messages: a file and the tensor's name there.
    """

    name: str
    role: Role
    layer: int | None
    shape: tuple[int, ...]
    qtype: QType
    read: Callable[[int, int], Bytes] = field(repr=False, compare=False)
    source: str = ""

    @property
    def width(self) -> int:
        """Weights in a row."""
        return self.shape[-1] if self.shape else 1

    @property
    def n_rows(self) -> int:
        """Rows of all matrices together: the product of every axis but the last."""
        return prod(self.shape[:-1])

    @property
    def n_weights(self) -> int:
        return self.n_rows * self.width

    @property
    def row_bytes(self) -> int:
        return self.qtype.row_bytes(self.width)

    @property
    def nbytes(self) -> int:
        return self.n_rows * self.row_bytes

    def rows(self, a: int, b: int) -> Bytes:
        """Rows ``a`` to ``b`` as uint8 [b-a, row_bytes], in ``qtype``'s little-endian layout."""
        assert 0 <= a <= b <= self.n_rows, (self.name, a, b)
        return self.read(a, b)

    def row_chunks(self, nbytes: int) -> Iterator[tuple[int, int]]:
        """Divide the rows into runs (first, end) of about ``nbytes`` bytes, each of at least one row."""
        step = max(1, nbytes // max(1, self.row_bytes))
        for first in range(0, self.n_rows, step):
            yield first, min(first + step, self.n_rows)


class TokenType(IntEnum):
    """llama.cpp's token types (``llama.h``, LLAMA_TOKEN_TYPE_*)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer in llama.cpp's terms; ``formats/gguf/vocab.py`` maps it to ``tokenizer.*`` keys, both ways.

    Args:
        model: ``llama`` (SentencePiece BPE), ``gpt2`` (byte-level BPE), ``t5`` (Unigram), ``bert`` (WordPiece),
            ``gemma4`` (BPE over characters, with merges).
        pre: the pre-tokenizer's name in llama.cpp (``llama-bpe``, ``smollm``, ``qwen2``, ``default``...), or None.
        tokens: the vocabulary in id order, padded to the embedding's rows.
        types: int32 ``TokenType`` of each token.
        scores: float32 SentencePiece scores, or None.
        merges: ``"left right"`` pairs in rank order, or None; a space inside a part is written U+0120 as in GGUF.
        special: token ids by llama.cpp's short names: bos, eos, unk, sep, pad, eot, eom, mask, fim_pre, ...
        flags: add_bos_token, add_eos_token, add_space_prefix, remove_extra_whitespaces...: only those that are set
            (``FLAG_KEYS`` in ``formats/gguf/vocab.py``).
        chat_templates: name -> Jinja text; the nameless one is ``"default"``.
        precompiled_charsmap: the Unigram normalizer's table, or None.
    """

    model: str
    pre: str | None
    tokens: tuple[str, ...]
    types: NDArray[np.int32]
    scores: NDArray[np.float32] | None = None
    merges: tuple[str, ...] | None = None
    special: Mapping[str, int] = field(default_factory=dict)
    flags: Mapping[str, bool] = field(default_factory=dict)
    chat_templates: Mapping[str, str] = field(default_factory=dict)
    precompiled_charsmap: bytes | None = None


@dataclass(frozen=True)
class Shard:
    """One of the files of a model that is split over several; its tensors follow those of the file before."""

    path: Path
    n_tensors: int


@dataclass(frozen=True)
class Model:
    """A checkpoint, whatever file it came from.

    Args:
        arch: GGUF's architecture name (``general.architecture``), e.g. ``llama``.
        metadata: every key of the file-to-be in order, typed; ``general.*``, ``{arch}.*``, ``tokenizer.*``.
        tensors: in file order, names unique.
        path: the file or folder it was read from, for messages.
        shards: the files it was read from, when it is split over several.
        from_checkpoint: whether it was read from a Hugging Face checkpoint, not from a GGUF or GGML file. What
            llama.cpp's converter keeps whole (vectors, norms and a few more) then becomes F32 in a quantized file.
    """

    arch: str
    metadata: Metadata
    tensors: tuple[Tensor, ...]
    path: Path
    shards: tuple[Shard, ...] = ()
    from_checkpoint: bool = False

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file (or the folder) it was read from."""
        return tuple(shard.path for shard in self.shards) or (self.path,)

    def hparam(self, suffix: str, default: Any = None) -> Any:
        """The value of ``{arch}.{suffix}``, e.g. ``hparam("attention.head_count")``, or ``default``."""
        value = self.metadata.get(f"{self.arch}.{suffix}")
        return default if value is None else value.data

    def get(self, key: str, default: Any = None) -> Any:
        """The plain value of a full metadata key, or ``default``."""
        value = self.metadata.get(key)
        return default if value is None else value.data

    @property
    def n_layers(self) -> int:
        return self._count("block_count")

    @property
    def n_expert(self) -> int:
        return self._count("expert_count")

    @property
    def n_gqa(self) -> int:
        """Query heads per key/value head (of the first layer that has attention)."""
        heads, kv = (self._count(f"attention.head_count{s}") for s in ("", "_kv"))
        return heads // kv if kv else 1

    def numbers(self, suffix: str, default: Any = 0) -> NDArray[np.int64]:
        """A hyper-parameter that is a whole number, or one for each layer, as int64 [1] or [layers].

        Raises:
            FormatError: it is none, negative, or beyond any model's.
        """
        found = np.atleast_1d(np.asarray(self.hparam(suffix, default)))
        if found.size and (found.dtype.kind not in "iu" or found.min() < 0 or found.max() > _MAX_NUMBER):
            place = f"{self.arch}.{suffix}"
            raise FormatError("is not a whole number", path=self.path, where=place, hint="the file is damaged")
        return found.astype(np.int64)

    def number(self, suffix: str, default: int = 0) -> int:
        """The first of ``numbers``."""
        return int(next(iter(self.numbers(suffix, default)), default))

    def _count(self, suffix: str) -> int:
        """The first of ``numbers`` that is not zero; 0 where there is none. Raises ``FormatError``."""
        found = self.numbers(suffix)
        count = int(next(iter(found[found != 0]), 0))
        if count > _MAX_COUNT:
            problem = f"is {count}, more than any model has"
            raise FormatError(problem, path=self.path, where=f"{self.arch}.{suffix}", hint="the file is damaged")
        return count

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensors)
