"""The intermediate representation: what every reader builds and every writer takes.

A ``Model`` is metadata in GGUF's vocabulary (the one namespace all formats here can be mapped to) and an ordered list
of lazy tensors under their GGUF names. It never changes: a new model is made with ``dataclasses.replace``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from math import prod
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError
from .qtypes import QType

Bytes = NDArray[np.uint8]
_MAX_NUMBER = 1 << 31  # of hyper-parameters that are whole numbers; a context length is the largest
_MAX_COUNT = 1 << 16  # layers, heads, experts: a hundred times what any model has


class Role(Enum):
    """What a tensor is for. The value is its base name in GGUF (source: ``LLM_TENSOR_NAMES``, llama-arch.cpp).

    Recipes choose types by role, never by parts of names; ``formats/gguf/names.py`` maps roles to names and back.

    Example:
        >>> from quantmill.formats.gguf.names import parse_name
        >>> parse_name("blk.3.ffn_down.weight")
        (<Role.FFN_DOWN: 'ffn_down'>, 3)
    """

    # outside the blocks
    TOKEN_EMBD = "token_embd"
    TOKEN_EMBD_NORM = "token_embd_norm"
    TOKEN_TYPES = "token_types"
    POS_EMBD = "position_embd"
    PER_LAYER_TOKEN_EMBD = "per_layer_token_embd"
    PER_LAYER_MODEL_PROJ = "per_layer_model_proj"
    PER_LAYER_PROJ_NORM = "per_layer_proj_norm"
    HRM_Z_L_INIT = "hrm.z_l_init"
    ALTUP_PROJ = "altup_proj"
    ALTUP_UNEMBD_PROJ = "altup_unembd_proj"
    OUTPUT = "output"
    OUTPUT_NORM = "output_norm"
    OUTPUT_HC_FN = "output_hc_fn"
    OUTPUT_HC_BASE = "output_hc_base"
    OUTPUT_HC_SCALE = "output_hc_scale"
    OUTPUT_HC_NORM = "output_hc_norm"
    OUTPUT_HC_DOWN = "output_hc_down"
    OUTPUT_HC_UP = "output_hc_up"
    CLS = "cls"
    CLS_OUT = "cls.output"
    CLS_NORM = "cls.norm"
    DENSE_2 = "dense_2"
    DENSE_3 = "dense_3"
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
    ATTN_KV = "attn_kv"
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
    ATTN_OUTPUT_A = "attn_output_a"
    ATTN_OUTPUT_B = "attn_output_b"
    ATTN_O = "attn_o"  # T5's name for it
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
    INDEXER_K_NORM = "indexer.k_norm"
    INDEXER_PROJ = "indexer.proj"
    INDEXER_ATTN_Q_B = "indexer.attn_q_b"
    INDEXER_K_PROJ = "indexer.k_proj"
    INDEXER_Q_PROJ = "indexer.q_proj"
    INDEXER_Q_NORM = "indexer.q_norm"
    ATTN_COMPRESSOR_KV = "attn_compressor_kv"
    ATTN_COMPRESSOR_GATE = "attn_compressor_gate"
    ATTN_COMPRESSOR_APE = "attn_compressor_ape"
    ATTN_COMPRESSOR_NORM = "attn_compressor_norm"
    INDEXER_COMPRESSOR_KV = "indexer_compressor_kv"
    INDEXER_COMPRESSOR_GATE = "indexer_compressor_gate"
    INDEXER_COMPRESSOR_APE = "indexer_compressor_ape"
    INDEXER_COMPRESSOR_NORM = "indexer_compressor_norm"
    # hyper-connections between several residual streams
    HC_ATTN_FN = "hc_attn_fn"
    HC_ATTN_BASE = "hc_attn_base"
    HC_ATTN_SCALE = "hc_attn_scale"
    HC_FFN_FN = "hc_ffn_fn"
    HC_FFN_BASE = "hc_ffn_base"
    HC_FFN_SCALE = "hc_ffn_scale"
    HC_ATTN_NORM = "hc_attn_norm"
    HC_ATTN_DOWN = "hc_attn_down"
    HC_ATTN_UP = "hc_attn_up"
    HC_ATTN_INJECT = "hc_attn_inject"
    HC_FFN_NORM = "hc_ffn_norm"
    HC_FFN_DOWN = "hc_ffn_down"
    HC_FFN_UP = "hc_ffn_up"
    HC_FFN_INJECT = "hc_ffn_inject"
    PLE_KEY = "ple_key"  # and the next: what hashes of n-grams look up
    PLE_VALUE = "ple_value"
    PLE_NORM_KEY = "ple_norm_key"
    PLE_NORM_QUERY = "ple_norm_query"
    PLE_NORM_CONV = "ple_norm_conv"
    PLE_CONV1D = "ple_conv1d"
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
    FFN_LATENT_DOWN = "ffn_latent_down"
    FFN_LATENT_UP = "ffn_latent_up"
    FFN_ACT = "ffn.act"
    LAYER_OUT_NORM = "layer_output_norm"
    # Gemma 3n and 4: each layer's own inputs
    ALTUP_CORRECT_COEF = "altup_correct_coef"
    ALTUP_CORRECT_SCALE = "altup_correct_scale"
    ALTUP_PREDICT_COEF = "altup_predict_coef"
    ALTUP_ROUTER = "altup_router"
    ALTUP_ROUTER_NORM = "altup_router_norm"
    LAUREL_L = "laurel_l"
    LAUREL_R = "laurel_r"
    LAUREL_POST_NORM = "laurel_post_norm"
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
    SSM_CONV1D_Q = "ssm_conv1d_q"
    SSM_CONV1D_K = "ssm_conv1d_k"
    SSM_CONV1D_V = "ssm_conv1d_v"
    SSM_F_A = "ssm_f_a"
    SSM_F_B = "ssm_f_b"
    SSM_G_A = "ssm_g_a"
    SSM_G_B = "ssm_g_b"
    SSM_X = "ssm_x"
    SSM_DT = "ssm_dt"
    SSM_A = "ssm_a"
    SSM_D = "ssm_d"
    SSM_DT_NORM = "ssm_dt_norm"
    SSM_B_NORM = "ssm_b_norm"
    SSM_C_NORM = "ssm_c_norm"
    SSM_NORM = "ssm_norm"
    SSM_OUT = "ssm_out"
    SSM_BETA_ALPHA = "ssm_ba"
    SSM_BETA = "ssm_beta"
    SSM_ALPHA = "ssm_alpha"
    SHORTCONV_CONV = "shortconv.conv"
    SHORTCONV_INPROJ = "shortconv.in_proj"
    SHORTCONV_OUTPROJ = "shortconv.out_proj"
    # layers that predict further tokens
    NEXTN_EH_PROJ = "nextn.eh_proj"
    NEXTN_EMBED_TOKENS = "nextn.embed_tokens"
    NEXTN_ENORM = "nextn.enorm"
    NEXTN_HNORM = "nextn.hnorm"
    NEXTN_SHARED_HEAD_HEAD = "nextn.shared_head_head"
    NEXTN_SHARED_HEAD_NORM = "nextn.shared_head_norm"
    OTHER = "other"  # any other tensor; its name is kept, and the recipe's default type applies


class ValueType(IntEnum):
    """The types of metadata values in GGUF, with their ids in the file.

    Example:
        >>> from quantmill import ValueType
        >>> ValueType(8).name
        'STRING'
    """

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


# What a metadata value is in Python; see ``Value``.
ValueData = int | float | bool | str | NDArray[np.generic] | tuple[str, ...] | tuple["Value", ...]


@dataclass(frozen=True)
class Value:
    """A typed metadata value.

    Args:
        type: the value's type in the file.
        data: an int, float, bool or str; for an array, a numpy array (numbers, bools), a tuple of str (strings) or a
            tuple of ``Value`` (arrays of arrays). Strings are decoded from UTF-8 with ``surrogateescape``, so that
            bytes that are not UTF-8 are written back as they were.
        item: the type of an array's items; None for other values.

    Example:
        >>> from quantmill.formats.ir import Value, ValueType
        >>> Value(ValueType.UINT32, 4096)
        Value(type=<ValueType.UINT32: 4>, data=4096, item=None)
    """

    type: ValueType
    data: ValueData
    item: ValueType | None = None

    @property
    def items(self) -> NDArray[Any] | tuple[str, ...] | tuple[Value, ...]:
        """The items of an array; empty for any other value."""
        return self.data if isinstance(self.data, (np.ndarray, tuple)) else ()

    @property
    def texts(self) -> tuple[str, ...]:
        """The value if it is a string, or the items of an array of strings; empty for any other value."""
        if isinstance(self.data, str):
            return (self.data,)
        strings = self.item is ValueType.STRING and isinstance(self.data, tuple)
        return cast("tuple[str, ...]", self.data) if strings else ()


Metadata = Mapping[str, Value]


@dataclass(frozen=True)
class Tensor:
    """A tensor whose rows are read when they are asked for.

    ``formats/arrays.py`` makes one from a numpy array.

    Args:
        name: its GGUF name, such as ``blk.0.attn_q.weight``.
        role: what it is for; ``OTHER`` when unknown.
        layer: the number of its block, or None outside the blocks.
        shape: numpy order (rows first; the innermost, contiguous axis is last).
        qtype: the type its bytes are in.
        read: ``read(a, b)`` returns rows a to b of the tensor, flattened to [n_rows, width], as uint8
            [b-a, row_bytes], little-endian, possibly read-only. It may be called from several threads.
        source: where it comes from, for messages: a file and the tensor's name there.

    Example:
        >>> import numpy as np
        >>> from quantmill.formats.arrays import tensor_from_array
        >>> tensor = tensor_from_array("blk.0.attn_q.weight", np.ones((4, 32), np.float16))
        >>> tensor.shape, tensor.n_rows, tensor.nbytes, tensor.rows(0, 2).view("<f2").shape
        ((4, 32), 4, 256, (2, 32))
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
        """All weights of the tensor."""
        return self.n_rows * self.width

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in ``qtype``."""
        return self.qtype.row_bytes(self.width)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows, without padding."""
        return self.n_rows * self.row_bytes

    def rows(self, a: int, b: int) -> Bytes:
        """Read rows ``a`` to ``b``: uint8 [b-a, row_bytes], in ``qtype``'s little-endian layout.

        Raises:
            FormatError: the file is damaged or was changed since it was opened.
        """
        assert 0 <= a <= b <= self.n_rows, (self.name, a, b)
        return self.read(a, b)

    def row_chunks(self, nbytes: int) -> Iterator[tuple[int, int]]:
        """Divide the rows into runs (first, end) of about ``nbytes`` bytes, each of at least one row."""
        step = max(1, nbytes // max(1, self.row_bytes))
        for first in range(0, self.n_rows, step):
            yield first, min(first + step, self.n_rows)


class TokenType(IntEnum):
    """The kinds of tokens in llama.cpp (``llama.h``, LLAMA_TOKEN_TYPE_*)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer in llama.cpp's terms. ``formats/gguf/vocab.py`` maps it to ``tokenizer.*`` keys and back.

    Args:
        model: ``llama`` (SentencePiece BPE), ``gpt2`` (byte-level BPE), ``t5`` (Unigram), ``bert`` (WordPiece),
            ``gemma4`` (BPE over characters, with merges).
        pre: the pre-tokenizer's name in llama.cpp, such as ``llama-bpe``, ``qwen2`` or ``default``; or None.
        tokens: the vocabulary in id order, padded to the embedding's rows.
        types: int32 ``TokenType`` of each token.
        scores: float32 SentencePiece scores, or None.
        merges: ``"left right"`` pairs in rank order, or None; a space inside a part is written U+0120 as in GGUF.
        special: token ids by llama.cpp's short names: bos, eos, unk, sep, pad, eot, eom, mask, fim_pre, ...
        flags: such as add_bos_token and add_space_prefix, those that the model sets, true or false; all of them are
            listed in ``FLAG_KEYS`` of ``formats/gguf/vocab.py``.
        chat_templates: name -> Jinja text; the template without a name is ``"default"``.
        precompiled_charsmap: the Unigram normalizer's table, or None.

    Example:
        >>> import numpy as np
        >>> from quantmill.formats.ir import Tokenizer, TokenType
        >>> types = np.array([TokenType.UNKNOWN, TokenType.NORMAL], np.int32)
        >>> tokenizer = Tokenizer("llama", "default", ("<unk>", "a"), types, special={"unk": 0})
        >>> tokenizer.tokens[tokenizer.special["unk"]]
        '<unk>'
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
    """One of the files of a split model. Its tensors follow those of the shard before it."""

    path: Path
    n_tensors: int


@dataclass(frozen=True)
class Model:
    """A model: metadata and lazy tensors, from a GGUF or GGML file, a checkpoint or an adapter.

    Args:
        arch: GGUF's name of the architecture (``general.architecture``), such as ``llama``.
        metadata: every key of a GGUF file of the model, in order: ``general.*``, ``{arch}.*``, ``tokenizer.*``.
        tensors: in file order; their names are unique.
        path: the file or folder it was read from.
        shards: the files it was read from, if it is split over several.
        from_checkpoint: whether it was read from a checkpoint. What llama.cpp's converter keeps whole is F32 then.
        from_fp8: names of the tensors whose weights a checkpoint holds as FP8 codes with scales.

    Example:
        >>> import numpy as np
        >>> from quantmill.formats.arrays import model_from_arrays
        >>> arrays = {"output_norm.weight": np.ones(64, np.float32)}
        >>> model = model_from_arrays("llama", arrays, {"llama.context_length": 2048})
        >>> model.hparam("context_length"), [tensor.name for tensor in model]
        (2048, ['output_norm.weight'])
    """

    arch: str
    metadata: Metadata
    tensors: tuple[Tensor, ...]
    path: Path
    shards: tuple[Shard, ...] = ()
    from_checkpoint: bool = False
    from_fp8: frozenset[str] = frozenset()

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file that the model was read from, or the folder of a checkpoint."""
        return tuple(shard.path for shard in self.shards) or (self.path,)

    def hparam(self, suffix: str, default: ValueData | None = None) -> ValueData | None:
        """The plain value of ``{arch}.{suffix}``, such as ``hparam("attention.head_count")``, or ``default``."""
        value = self.metadata.get(f"{self.arch}.{suffix}")
        return default if value is None else value.data

    def get(self, key: str, default: ValueData | None = None) -> ValueData | None:
        """The plain value of a full metadata key, or ``default``."""
        value = self.metadata.get(key)
        return default if value is None else value.data

    @property
    def n_layers(self) -> int:
        """Transformer blocks; 0 if the metadata does not say. Raises ``FormatError`` for an invalid number."""
        return self._count("block_count")

    @property
    def n_expert(self) -> int:
        """Experts of a layer; 0 for a dense model. Raises ``FormatError`` for an invalid number."""
        return self._count("expert_count")

    @property
    def n_gqa(self) -> int:
        """Query heads per key/value head, in the first layer that has attention."""
        heads, kv = (self._count(f"attention.head_count{s}") for s in ("", "_kv"))
        return heads // kv if kv else 1

    def numbers(self, suffix: str, default: int = 0) -> NDArray[np.int64]:
        """A hyper-parameter that is a whole number, or one for each layer: int64 [1] or [layers].

        Raises:
            FormatError: it is not a whole number, negative, or larger than in any model.
        """
        found = np.atleast_1d(np.asarray(self.hparam(suffix, default)))
        if found.size and (found.dtype.kind not in "iu" or found.min() < 0 or found.max() > _MAX_NUMBER):
            place = f"{self.arch}.{suffix}"
            raise FormatError("is not a whole number", path=self.path, where=place, hint="the file is damaged")
        return found.astype(np.int64)

    def number(self, suffix: str, default: int = 0) -> int:
        """The first of ``numbers(suffix)``, or ``default``."""
        return int(next(iter(self.numbers(suffix, default)), default))

    def _count(self, suffix: str) -> int:
        """The first of ``numbers`` that is not 0; 0 if there is none. Raises ``FormatError``."""
        found = self.numbers(suffix)
        count = int(next(iter(found[found != 0]), 0))
        if count > _MAX_COUNT:
            problem = f"is {count}, more than any model has"
            raise FormatError(problem, path=self.path, where=f"{self.arch}.{suffix}", hint="the file is damaged")
        return count

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensors)
