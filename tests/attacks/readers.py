"""Each reader, reading everything there is in a file: what an attack is let loose on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from attacks.samples import JOURNAL_DIGEST
from quantmill.formats.ggml.reader import read_ggml
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.gguf.vocab import tokenizer_from_metadata
from quantmill.formats.hf.files.safetensors import StoredTensor, read_safetensors
from quantmill.formats.hf.files.weights import read_weights
from quantmill.formats.hf.tokenizer.read import read_tokenizer
from quantmill.formats.imatrix_file import read_imatrix
from quantmill.formats.ir import Model, Tensor
from quantmill.formats.storage.rows_journal import RowsJournal

FLOATS = ("F32", "F16", "BF16")


def gguf(path: Path) -> None:
    _everything(read_gguf(path))


def ggml(path: Path) -> None:
    _everything(read_ggml(path))


def _everything(model: Model) -> None:
    for tensor in model:
        tensor.rows(0, tensor.n_rows)
        tensor.rows(tensor.n_rows, tensor.n_rows)
    tokenizer_from_metadata(model.metadata)
    assert model.n_layers >= 0
    assert model.n_expert >= 0
    assert model.n_gqa >= 0


def imatrix(path: Path) -> None:
    read = read_imatrix(path)
    read.vectors()
    if read.moments is not None:
        for name in read.moments.inputs:
            for matrix in range(read.moments.n_matrices(name)):
                read.moments.blocks(name, matrix)


def safetensors(path: Path) -> None:
    for tensor in read_safetensors(path).values():
        if tensor.dtype in FLOATS:
            found = tensor.tensor()
            found.rows(0, found.n_rows)


def journal(path: Path) -> None:
    done = RowsJournal(path, JOURNAL_DIGEST)
    assert done.finished.count(0) >= 0
    done.close()


def weights(folder: Path) -> None:
    for tensor in read_weights(folder).values():
        if isinstance(tensor, StoredTensor) and tensor.dtype in FLOATS:
            tensor = tensor.tensor()
        if isinstance(tensor, Tensor):
            tensor.rows(0, tensor.n_rows)


def tokenizer(folder: Path) -> None:
    read_tokenizer(folder, vocab_size=400, model_ids={"bos_token_id": 0})


# What reads a file, and what reads a folder.
FILES: dict[str, Callable[[Path], None]] = {
    "gguf": gguf,
    "ggml": ggml,
    "imatrix": imatrix,
    "safetensors": safetensors,
    "journal": journal,
}
FOLDERS: dict[str, Callable[[Path], None]] = {"tokenizer": tokenizer, "weights": weights}
