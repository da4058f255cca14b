"""What the goldens of quantize's command lines were made from, spelt by arithmetic: the same bytes everywhere."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from oracles.gguf_samples import array_tensor
from oracles.proofs import all_proofs, save_proof
from oracles.tower_proofs import all_tower_proofs, save_tower_proof
from quantmill import MmprojOptions, WriteOptions, convert, read_gguf
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.imatrix_file import Entry, Imatrix, write_imatrix
from quantmill.formats.ir import Model, Tensor, Value, ValueType
from quantmill.formats.qtypes import F16, F32, QType
from quantmill.tools.api.shards import split

V = ValueType
WIDTH, FFN, VOCAB = 256, 512, 8
RECIPE = """attn_v=q8_0 ffn_(up|gate)=Q5_K
^blk\\.[0-2]\\.ffn_down=q6_K
token_embd=iq4_nl
"""  # no comment: llama-quantize knows none
_ODD = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)


def weights(name: str, shape: tuple[int, ...], qtype: QType = F16) -> Tensor:
    """Weights like a bell, from a multiplicative hash of each place; F32 or F16."""
    seed = sum(i * byte for i, byte in enumerate(name.encode(), 1))
    place = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(seed << 20)
    parts = [(place * np.uint64(odd) >> np.uint64(40)).astype(np.float64) for odd in _ODD]
    values = (parts[0] + parts[1]) / (1 << 24) - 1
    raw = (values * 0.25).astype("<f4" if qtype is F32 else "<f2").view(np.uint8)
    return array_tensor(name, shape, qtype, raw)


def llama(layers: int = 6, experts: int = 0) -> Model:
    """A Llama, or a Mixtral of 4 experts, without a vocabulary, which no quantizer reads."""
    tensors = [weights("token_embd.weight", (VOCAB, WIDTH))]
    for i in range(layers):
        at = f"blk.{i}."
        tensors += [weights(f"{at}{name}.weight", (WIDTH,), F32) for name in ("attn_norm", "ffn_norm")]
        tensors += [weights(f"{at}attn_{name}.weight", (WIDTH, WIDTH)) for name in ("q", "output")]
        tensors += [weights(f"{at}attn_{name}.weight", (WIDTH // 2, WIDTH)) for name in "kv"]
        if experts:
            tensors += [weights(f"{at}ffn_gate_inp.weight", (experts, WIDTH), F32)]
            tensors += [weights(f"{at}ffn_{name}_exps.weight", (experts, 8, WIDTH)) for name in ("gate", "up")]
            tensors += [weights(f"{at}ffn_down_exps.weight", (experts, 8, WIDTH))]
        else:
            tensors += [weights(f"{at}ffn_{name}.weight", (FFN, WIDTH)) for name in ("gate", "up")]
            tensors += [weights(f"{at}ffn_down.weight", (WIDTH, FFN))]
    tensors += [weights("output_norm.weight", (WIDTH,), F32), weights("output.weight", (VOCAB, WIDTH))]
    numbers = {
        "context_length": 128, "embedding_length": WIDTH, "block_count": layers, "feed_forward_length": FFN,
        "attention.head_count": 4, "attention.head_count_kv": 2, "rope.dimension_count": 64, "vocab_size": VOCAB,
        **({"expert_count": experts, "expert_used_count": 2} if experts else {}),
    }  # fmt: skip
    metadata = {
        "general.architecture": Value(V.STRING, "llama"),
        "general.name": Value(V.STRING, "sample"),
        **{f"llama.{key}": Value(V.UINT32, number) for key, number in numbers.items()},
        "llama.attention.layer_norm_rms_epsilon": Value(V.FLOAT32, 2.0**-17),
        "general.file_type": Value(V.UINT32, 1),
    }
    return Model("llama", metadata, tuple(tensors), Path("in memory"))


def per_layer() -> Model:
    """A Llama whose blocks have numbers of their own, in arrays."""
    model = llama()
    ours = {"feed_forward_length": [512, 512, 256, 512, 256, 512], "attention.head_count_kv": [2, 2, 1, 2, 2, 1]}
    arrays = {f"llama.{key}": Value(V.ARRAY, np.array(each, np.int32), V.INT32) for key, each in ours.items()}
    return Model("llama", {**model.metadata, **arrays}, model.tensors, model.path)


def importance(model: Model) -> Imatrix:
    """Importance of every matrix of a model; of stacked ones, for each matrix."""
    entries = {}
    for tensor in model:
        if len(tensor.shape) > 1:
            n = int(np.prod(tensor.shape[:-2], dtype=int))
            ramp = np.arange(n * tensor.width, dtype=np.uint64) * np.uint64(37) % np.uint64(101) + np.uint64(1)
            entries[tensor.name] = Entry(ramp.astype(np.float32), np.full(n, 4, np.int64))
    return Imatrix(entries, ("text.txt",), 4, 512)


def write_samples(folder: Path) -> None:
    """Write models, their imatrix files, the shards of one, and mix.txt into the folder."""
    for name, model in (("llama", llama()), ("mixtral", llama(4, experts=4)), ("arrays", per_layer())):
        write_gguf(folder / f"{name}.gguf", model, version=3)
        write_imatrix(folder / f"{name}.imatrix.gguf", importance(model))
    split(folder / "llama.gguf", folder / "parts", max_tensors=20)
    (folder / "mix.txt").write_text(RECIPE)


@dataclass(frozen=True)
class Case:
    """A command line of llama-quantize: options, source, level.

    Args:
        source: the file's name without its ending.
        level: the level.
        options: what stands before the source.
        note: why our file differs from llama-quantize's, where it does.
        differs: the keys and the tensors that are otherwise.
        ours: our own options, where one stands for those of llama-quantize.
    """

    source: str
    level: str
    options: str = ""
    note: str = ""
    differs: tuple[str, ...] = ()
    ours: str = ""

    def words(self, out: str) -> tuple[str, ...]:
        """Of llama-quantize's command line."""
        return (*shlex.split(self.options), f"{self.source}.gguf", out, self.level)

    def our_words(self, out: str) -> tuple[str, ...]:
        return (*shlex.split(self.ours or self.options), f"{self.source}.gguf", out, self.level)


class Golden(TypedDict):
    """What a command line made: the hash of each file, and types, hashes and keys to see what differs."""

    command: str
    files: list[str]
    tensors: dict[str, str]
    keys: list[str]


def shards_of(path: Path) -> list[Path]:
    """The file, or those that were named after it."""
    return sorted(path.parent.glob(f"{path.stem}*"))


def summary(case: Case, files: list[Path]) -> Golden:
    model = read_gguf(files[0])
    types: dict[str, list[str]] = {}
    for tensor in model:
        digest = hashlib.sha256(tensor.rows(0, tensor.n_rows).tobytes()).hexdigest()[:6]
        types.setdefault(tensor.qtype.name, []).append(f"{tensor.name}:{digest}")
    keys = [
        f"{key} {value.type.name} {value.data if value.type is not V.ARRAY else list(value.items)[:16]}"
        for key, value in model.metadata.items()
        if not key.startswith("tokenizer.")
    ]
    return {
        "command": " ".join(case.words("out.gguf")),
        "files": [hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files],
        "tensors": {type: " ".join(names) for type, names in types.items()},
        "keys": keys,
    }


# Models with layers for further tokens, and towers: proof -> levels.
SOURCES = {"qwen35-mtp": "qwen35", "glm4moe-mtp": "glm4moe", "mmproj-gemma3": "gemma3", "mmproj-idefics3": "idefics3"}


def write_source(name: str, folder: Path) -> None:
    """Write the F16 file of a proof's tiny model."""
    path, kind = folder / f"{name}.gguf", SOURCES[name]
    hf = folder / f"{name}.hf"
    if name.startswith("mmproj-"):
        save_tower_proof(next(proof for proof in all_tower_proofs() if proof.id == kind), hf)
        convert(hf, path, mmproj=MmprojOptions(only=True), write=WriteOptions(gguf_version=3))
    else:
        save_proof(next(proof for proof in all_proofs() if proof.id == kind), hf)
        convert(hf, path, "F16", write=WriteOptions(gguf_version=3))


_ARRAYS = "llama-quantize leaves arrays with a value for each block as they are, and no program loads the file"
_GGML_ORG = (
    "--pure --tensor-type output.weight=q6_k --tensor-type shexp=q8_0 --tensor-type latent=q8_0 "
    "--tensor-type attn_=q8_0 --tensor-type ssm_=q8_0"
)
_TURNED = "llama.cpp turns this matrix while it computes, which blocks do not survive: its results are NaN"
CASES = (
    Case("llama", "Q4_K_M"),
    Case("llama", "Q4_K_M", "--tensor-type-file mix.txt"),
    Case("llama", "IQ4_XS", "--tensor-type blk\\.0\\.attn_v=q6_K --tensor-type-file mix.txt"),
    Case("llama", "Q3_K_M", "--tensor-type-file mix.txt --tensor-type attn_v=q6_K --tensor-type attn_k=f16"),
    Case(
        "llama", "Q4_K_M",
        "--override-kv llama.context_length=int:64 --override-kv llama.rope.freq_base=float:5e5 "
        "--override-kv general.name=str:another --override-kv sample.flag=bool:true",
    ),
    Case("llama", "IQ3_S", "--override-kv llama.attention.head_count_kv=int:1"),
    Case("llama", "Q4_0", "--imatrix llama.imatrix.gguf"),
    Case("llama", "Q4_0", "--imatrix llama.imatrix.gguf --include-weights ffn_down"),
    Case("llama", "Q4_K_M", "--imatrix llama.imatrix.gguf --include-weights ffn_down --include-weights blk.1"),
    Case("llama", "Q3_K_M", "--imatrix llama.imatrix.gguf --exclude-weights attn_v --exclude-weights output"),
    Case("llama", "Q5_0", "--imatrix llama.imatrix.gguf --exclude-weights weight"),
    Case("llama", "Q4_K_M", "--prune-layers 1,4"),
    Case("llama", "Q3_K_M", "--prune-layers 0"),
    Case("llama", "IQ4_XS", "--prune-layers 5,2,2 --imatrix llama.imatrix.gguf"),
    Case("llama", "Q2_K", "--prune-layers 3 --tensor-type blk\\.3\\.=q8_0 --override-kv general.name=str:pruned"),
    Case("mixtral", "Q4_K_M", "--prune-layers 1 --imatrix mixtral.imatrix.gguf"),
    Case("mixtral", "IQ2_S", "--prune-layers 0,3 --imatrix mixtral.imatrix.gguf"),
    Case("mixtral", "Q4_K_M", "--imatrix mixtral.imatrix.gguf --include-weights exps"),
    Case(
        "arrays", "Q4_K_M", "--prune-layers 2", _ARRAYS,
        ("llama.feed_forward_length", "llama.attention.head_count_kv"),
    ),
    Case("llama", "COPY"),
    Case("llama", "COPY", "--override-kv general.name=str:another"),
    Case("llama", "COPY", "--prune-layers 1,4"),
    Case("parts-00001-of-00003", "Q4_K_M", "--keep-split"),
    Case("parts-00001-of-00003", "Q4_K_M", "--keep-split --prune-layers 1"),
    Case("parts-00001-of-00003", "COPY", "--keep-split"),
    *(
        Case(source, "Q4_K_M", _GGML_ORG, ours="--recipe-set ggml-org")
        for source in ("llama", "mixtral", "qwen35-mtp", "glm4moe-mtp")
    ),
    *(Case("qwen35-mtp", level) for level in ("Q4_K_M", "Q3_K_M", "Q2_K", "Q8_0")),
    *(Case("glm4moe-mtp", level) for level in ("Q4_K_M", "IQ3_M", "Q5_K_M", "MXFP4_MOE")),
    *(Case("mmproj-idefics3", level) for level in ("Q8_0", "Q4_K_M")),
    *(Case("mmproj-gemma3", level, "", _TURNED, ("mm.input_projection.weight",)) for level in ("Q8_0", "Q4_K_M")),
)  # fmt: skip
