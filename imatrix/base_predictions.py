"""A file of a base model's predictions: each position's most likely tokens, and the total probability of the others.

It is a ``.npz`` archive of ``format`` (1), ``tokens`` int32 [chunks, n_ctx], ``ids`` int32 and ``log_p`` float32
[positions, k] in falling order, ``nll`` float64 [positions], and ``n_vocab``. The divergence computed from it treats
all other tokens as one, which makes it a lower bound (by the log-sum inequality), and a close one, because the others
are those that the model finds unlikely.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..formats.errors import FormatError
from ..formats.storage.durable import replacing
from .evaluate import Record

if TYPE_CHECKING:
    import torch

TOP_K = 256
_FORMAT = 1


@dataclass
class BaseWriter:
    """Gathers the base model's predictions of a text's chunks, then writes them to a file.

    Args:
        top_k: how many of the most likely tokens are kept for each position.
    """

    top_k: int = TOP_K
    ids: list[NDArray[np.int32]] = field(default_factory=list)
    log_p: list[NDArray[np.float32]] = field(default_factory=list)
    nll: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Add a chunk.

        Args:
            logits: float32 [positions, vocab].
            targets: int64 [positions], the tokens that follow.
        """
        import torch

        for start in range(0, len(targets), 64):
            log_p = torch.log_softmax(logits[start : start + 64].float(), -1)
            top = log_p.topk(min(self.top_k, log_p.shape[1]), dim=1)
            self.ids.append(top.indices.cpu().numpy().astype(np.int32))
            self.log_p.append(top.values.cpu().numpy())
            at = targets[start : start + 64, None]
            self.nll.append((-log_p.gather(1, at)).squeeze(1).cpu().double().numpy())

    def write(self, path: Path, tokens: NDArray[np.int32], n_vocab: int) -> None:
        """Write the file.

        Args:
            path: the file, replaced if it exists.
            tokens: int32 [chunks, n_ctx], the text.
            n_vocab: tokens in the vocabulary.

        Raises:
            OutputError: the file cannot be written.
        """
        with replacing(path) as file:
            np.savez_compressed(
                file,
                format=np.int64(_FORMAT),
                tokens=tokens,
                ids=np.concatenate(self.ids),
                log_p=np.concatenate(self.log_p),
                nll=np.concatenate(self.nll),
                n_vocab=np.int64(n_vocab),
            )


@dataclass(frozen=True)
class SavedBase:
    """The content of such a file; the module's docstring describes each array."""

    tokens: NDArray[np.int32]
    ids: NDArray[np.int32]
    log_p: NDArray[np.float32]
    nll: NDArray[np.float64]
    n_vocab: int

    def compare(self, record: Record, chunk: int, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Compare the judged model's predictions of a chunk, and add the figures to the record.

        Args:
            record: of the judged model.
            chunk: the chunk's number, counted from the file's first.
            logits: the judged model's, float32 [positions, vocab].
            targets: int64 [positions], the tokens that follow.
        """
        import torch

        n = len(targets)
        part = slice(chunk * n, (chunk + 1) * n)
        log_q = torch.log_softmax(logits.float(), -1)
        ids, log_p = torch.from_numpy(self.ids[part]).long(), torch.from_numpy(self.log_p[part]).double()
        top_q = log_q.gather(1, ids.to(log_q.device)).cpu().double()
        kld = (log_p.exp() * (log_p - top_q)).sum(1)
        if ids.shape[1] < self.n_vocab:
            rest_p = (1 - log_p.exp().sum(1)).clamp_min(1e-12)
            rest_q = (1 - top_q.exp().sum(1)).clamp_min(1e-12)
            kld = kld + rest_p * (rest_p.log() - rest_q.log())
        record.kld.append(kld.numpy())
        record.nll.append((-log_q.gather(1, targets[:, None])).squeeze(1).cpu().double().numpy())
        record.nll_base.append(self.nll[part])
        record.same_top.append((log_q.argmax(1).cpu() == ids[:, 0]).double().numpy())


def read_base(path: Path) -> SavedBase:
    """Read a file that ``BaseWriter`` wrote.

    Raises:
        FormatError: the file cannot be read, is damaged, or is of another kind.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            if int(data["format"]) != _FORMAT:
                raise FormatError(f"format {int(data['format'])} is unknown", path=path, hint="write it again")
            found = SavedBase(data["tokens"], data["ids"], data["log_p"], data["nll"], int(data["n_vocab"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise FormatError(
            "no saved base predictions, or damaged", path=path, hint="--save-base writes such files"
        ) from None
    judged = (
        len(found.tokens) * (found.tokens.shape[-1] - 1 - found.tokens.shape[-1] // 2) if found.tokens.ndim == 2 else -1
    )
    if not judged == len(found.ids) == len(found.log_p) == len(found.nll):
        raise FormatError("its arrays differ in length", path=path, hint="write it again")
    return found
