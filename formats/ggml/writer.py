"""Write GGML files of mid 2023: ggjt version 3, a Llama in any of its types.

The format holds less than a Model. What neither the file nor a client's options can express (a head's own width,
biases, experts, rope factors) is refused; ``client_options`` lists what a client must be given.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import PlanError
from ..gguf.keys import FILE_TYPES, GENERAL_ARCHITECTURE, GENERAL_FILE_TYPE
from ..gguf.loadable import check_kinds
from ..gguf.names import parse_name, tensor_name
from ..gguf.vocab import tokenizer_from_metadata
from ..gguf.wire import align
from ..gguf.writer import Layout, TensorInfo, write_laid_out
from ..ir import Metadata, Model, Role
from ..progress import Progress, notes, work
from . import wire
from .vocab import encode_vocabulary
from .wire import ALIGNMENT, MAGIC, TYPES, VERSION, Hparams

_HINT = "keep the model in GGUF"
_EMBEDDING, _OUTPUT = tensor_name(Role.TOKEN_EMBD), tensor_name(Role.OUTPUT)


@dataclass(frozen=True)
class _Facts:
    """The numbers of the metadata that the format, or its clients, need."""

    n_embd: int
    n_head: int
    n_kv: int
    n_layer: int
    n_ff: int
    ftype: int

    @property
    def gqa(self) -> int:
        return self.n_head // self.n_kv

    @property
    def n_rot(self) -> int:
        return self.n_embd // self.n_head


def untied(model: Model) -> Model:
    """Add the output matrix that every GGML file has: a copy of the embeddings, if the model has none of its own."""
    names = {tensor.name: tensor for tensor in model.tensors}
    if _OUTPUT in names or _EMBEDDING not in names:
        return model
    output = replace(names[_EMBEDDING], name=_OUTPUT, role=Role.OUTPUT)
    return replace(model, tensors=(*model.tensors, output))


def layout(metadata: Metadata, infos: Iterable[TensorInfo]) -> Layout:
    """Compute the bytes of the header and descriptions, and the offset of every tensor.

    Args:
        metadata: of a Llama, with its tokenizer.
        infos: tensors in file order, the output matrix among them (see ``untied``).

    Raises:
        PlanError: a GGML file, or its clients, cannot hold the model.
    """
    check_kinds(metadata)
    tensors = tuple(infos)
    facts = _facts(metadata)
    n_vocab = next((info.shape[0] for info in tensors if info.name == _EMBEDDING and info.shape), 0)
    names = _names(tensors, facts, n_vocab)
    tokenizer = tokenizer_from_metadata(metadata)
    if tokenizer is None:
        raise PlanError("a GGML file needs a vocabulary, and the model has none", where="tokenizer.ggml.model")
    # As n_mult, n_ff gives itself, since it is a multiple of itself and no smaller than the client's least.
    hparams = Hparams(n_vocab, facts.n_embd, facts.n_ff, facts.n_head, facts.n_layer, facts.n_rot, facts.ftype)
    start = MAGIC + struct.pack("<I", VERSION) + hparams.encode() + encode_vocabulary(tokenizer, n_vocab)
    end = 0
    pieces: list[tuple[int, bytes]] = []
    offsets: list[int] = []
    for info, name in zip(tensors, names, strict=True):
        piece = (b"" if offsets else start) + _describe(info, name)
        offset = align(end + len(piece), ALIGNMENT)
        pieces.append((end, piece + bytes(offset - end - len(piece))))
        offsets.append(offset)
        end = offset + info.nbytes
    (_, header), *between = pieces
    return Layout(header, tuple(offsets), end, ALIGNMENT, "little", tuple(between))


def write_ggml(
    path: str | Path,
    model: Model,
    *,
    force: bool = False,
    restart: bool = False,
    progress: Progress | None = None,
) -> Layout:
    """Write a Llama to a GGML file (ggjt version 3, mid 2023) as it is, its blocks untouched.

    Args:
        path: the file to write; it appears when it is whole.
        model: a Llama with a tokenizer, its tensors F32, F16, Q4_0 to Q8_0 or Q2_K to Q6_K, its vectors F32.
        force: replace an existing file.
        restart: discard what an interrupted run left, rather than continue it.
        progress: called with typed events; see ``formats/progress.py``.

    Returns:
        the file's layout.

    Raises:
        PlanError: a GGML file, or its clients, cannot hold the model; see ``layout``.
        OutputError: the file exists, is one of the model's own, or cannot be written.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import read_ggml, write_ggml
        >>> from quantmill.formats.examples import tiny_llama
        >>> with TemporaryDirectory() as folder:
        ...     _ = write_ggml(Path(folder, "tiny.bin"), tiny_llama())
        ...     len(read_ggml(Path(folder, "tiny.bin")).tensors)
        12
    """
    model = untied(model)
    plan = layout(model.metadata, [TensorInfo(t.name, t.shape, t.qtype) for t in model.tensors])
    with work(progress, Path(path).name, sum(tensor.nbytes for tensor in model)) as done:
        write_laid_out(path, model, plan, force=force, restart=restart, done=done, say=notes(progress))
    return plan


def client_options(metadata: Metadata) -> str:
    """The options that a client needs because the file does not store them, as in llama-cpp-python 0.1.78."""
    facts = _facts(metadata)
    options: dict[str, Any] = {"n_gqa": facts.gqa} if facts.gqa > 1 else {}
    options["rms_norm_eps"] = _get(metadata, "attention.layer_norm_rms_epsilon", wire.DEFAULT_EPS)
    options["rope_freq_base"] = _get(metadata, "rope.freq_base", wire.DEFAULT_ROPE_BASE)
    if _get(metadata, "rope.scaling.type", "none") == "linear":
        options["rope_freq_scale"] = 1 / _get(metadata, "rope.scaling.factor", 1.0)
    return ", ".join(f"{name}={value:g}" for name, value in options.items())


def vocabulary_warning(metadata: Metadata) -> str | None:
    """Say what a client cannot do with the vocabulary; None if it can do everything."""
    model = metadata.get("tokenizer.ggml.model")
    if model is None or model.data != "gpt2":
        return None
    return (
        "the format cannot hold a byte-level BPE's merges: the client can print its tokens but not find them in a "
        "text; tokenize elsewhere and give it the ids"
    )


def _get(metadata: Metadata, suffix: str, default: Any) -> Any:
    value = metadata.get(f"llama.{suffix}")
    return default if value is None else value.data


def _facts(metadata: Metadata) -> _Facts:
    arch = metadata.get(GENERAL_ARCHITECTURE)
    if arch is None or arch.data != "llama":
        raise PlanError(
            f"a GGML file holds a Llama, not {arch.data if arch else 'this'}", where=GENERAL_ARCHITECTURE, hint=_HINT
        )
    n_embd, n_head = _number(metadata, "embedding_length"), _number(metadata, "attention.head_count")
    n_kv = _number(metadata, "attention.head_count_kv", n_head)
    if n_embd % n_head or n_head % n_kv:
        raise PlanError(
            f"{n_head} heads, {n_kv} key/value heads and a width of {n_embd} do not divide evenly",
            where="llama.attention.head_count",
            hint=_HINT,
        )
    for key in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        width = _get(metadata, key, n_embd // n_head)
        if width != n_embd // n_head:
            raise PlanError(f"{width}, but GGML's heads are {n_embd} / {n_head} wide", where=f"llama.{key}", hint=_HINT)
    if (scaling := _get(metadata, "rope.scaling.type", "none")) not in ("none", "linear"):
        raise PlanError(f"GGML's clients do not support {scaling} scaling", where="llama.rope.scaling.type", hint=_HINT)
    n_layer, n_ff = _number(metadata, "block_count"), _number(metadata, "feed_forward_length")
    least = wire.least_n_ff(n_embd, n_layer, n_head // n_kv)
    if n_ff < least:
        raise PlanError(
            f"{n_ff} is less than {least}, the least that a GGML header can express for a width of {n_embd}",
            where="llama.feed_forward_length",
            hint=_HINT,
        )
    return _Facts(n_embd, n_head, n_kv, n_layer, n_ff, _file_type(metadata))


def _number(metadata: Metadata, suffix: str, default: int | None = None) -> int:
    value = _get(metadata, suffix, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**32:
        problem = "missing" if value is None else "a GGML header holds one positive number for all layers"
        raise PlanError(problem, where=f"llama.{suffix}", hint=_HINT)
    return value


def _file_type(metadata: Metadata) -> int:
    """The number of the level, which is the same in both formats. Clients only print it for version 3."""
    value = metadata.get(GENERAL_FILE_TYPE)
    number = value.data if value is not None and isinstance(value.data, int) else FILE_TYPES["F16"]
    return number if number <= FILE_TYPES["Q6_K"] else FILE_TYPES["F16"]


def _names(tensors: tuple[TensorInfo, ...], facts: _Facts, n_vocab: int) -> list[str]:
    """Each tensor's name in the file, after a check that all tensors are as a client expects them."""
    found = {}
    for info in tensors:
        role, layer = parse_name(info.name)
        name = wire.ggml_name(role, layer)
        if name is None or info.name != tensor_name(role, layer):
            raise PlanError("a GGML file cannot hold this tensor", where=info.name, hint=_HINT)
        if info.qtype.name not in TYPES[VERSION]:
            hint = "choose another level or type: F16, F32, Q4_0 to Q8_0, Q2_K to Q6_K"
            raise PlanError(f"GGML v3 has no type {info.qtype}", where=info.name, hint=hint)
        if len(info.shape) == 1 and info.qtype.name != "F32":
            raise PlanError(f"GGML's clients need vectors in F32, not {info.qtype}", where=info.name, hint=_HINT)
        found[info.name] = name
    expected = dict(
        wire.tensor_shapes(n_vocab, facts.n_embd, facts.n_layer, facts.n_ff, facts.n_embd // facts.gqa)
    )  # fmt: skip
    if missing := expected.keys() - found.keys():
        raise PlanError(f"{len(missing)} tensors are missing", where=min(missing), hint="the model is incomplete")
    for info in tensors:
        if info.name not in expected:
            raise PlanError(f"beyond the model's {facts.n_layer} layers", where=info.name)
        if info.shape != expected[info.name]:
            problem = f"its shape is {list(info.shape)}, a GGML header makes it {list(expected[info.name])}"
            raise PlanError(problem, where=info.name, hint=_HINT)
    return [found[info.name] for info in tensors]


def _describe(info: TensorInfo, name: str) -> bytes:
    raw = name.encode()
    numbers = (len(info.shape), len(raw), info.qtype.id, *reversed(info.shape))
    return struct.pack(f"<{len(numbers)}I", *numbers) + raw
