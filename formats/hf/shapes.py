"""Describe a checkpoint without its weights, from its config.json, and its tokenizer's files if there are any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError
from ..gguf.vocab import tokenizer_to_metadata
from ..ir import Bytes, Model, Role, Tensor, Tokenizer, TokenType
from ..qtypes import BF16, F16, F32
from ..storage.source import Elsewhere
from .files.links import check_links
from .files.weights import Stored
from .load import assemble, checkpoint_weights, required_shapes
from .mistral_params import config_path
from .settle import Say
from .tables.further import Mtp
from .tables.rules import Slot

_DTYPES = {"float16": F16, "bfloat16": BF16, "float32": F32}


def read_shapes(path: Path, *, pre: str | None = None, mtp: Mtp = "keep", say: Say | None = None) -> Model:
    """Build the Model that ``read_hf`` would return, without its weights: shapes follow from the architecture's rules.

    Its tensors have the config's dtype (F16 if it has none) and cannot be read.

    Args:
        path: a config.json.
        pre: llama.cpp's name of the pre-tokenizer, instead of the one that is found.
        mtp: what becomes of layers that predict further tokens, as for ``read_hf``.
        say: called with a line about what is assumed.

    Raises:
        FormatError: the config is not valid; UnknownArchitecture, TokenizerError: as for ``read_hf``.
    """

    def imagined(slots: Sequence[Slot], config: Mapping[str, Any]) -> dict[str, Stored]:
        qtype = _DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch."), F16)
        return {
            name: Tensor(name, Role.OTHER, None, shape, qtype, _no_weights, f"{path}: {name}")
            for name, shape in required_shapes(slots)
        }

    return assemble(Path(path), imagined, pre, readable=False, mtp=mtp, say=say)


def read_described(
    folder: Path,
    *,
    pre: str | None = None,
    follow_links: bool = False,
    mtp: Mtp = "keep",
    say: Say | None = None,
    elsewhere: Elsewhere | None = None,
) -> Model:
    """Build the Model that ``read_hf`` would return, without what only its weights tell. Arguments and errors as there.

    Weights are read only where two tensors, or a tensor and config.json, must agree.

    Args:
        elsewhere: those of the folder's files that do not lie on this machine, such as shards on the hub.
    """
    check_links(folder, follow=follow_links)

    path = config_path(folder)

    def weights(slots: Sequence[Slot], config: Mapping[str, Any]) -> Mapping[str, Stored]:
        return checkpoint_weights(path, config, say, follow_links=follow_links, elsewhere=elsewhere)

    return assemble(path, weights, pre, readable=False, mtp=mtp, say=say)


# What a token takes in a file on average: a text of Llama's 32,000, and a merge of Qwen2's 152,000.
_TOKEN_TEXT, _MERGE = "x" * 7, "x" * 12
_LARGE_SPM = 65536  # larger vocabularies are byte-level BPE, with merges


def with_vocabulary(model: Model) -> Model:
    """Add a stand-in of typical size for a missing vocabulary, so that planned sizes are close to the real ones."""
    embedding = next((t for t in model.tensors if t.name == "token_embd.weight"), None)
    n = embedding.shape[0] if embedding is not None else 0
    merges = (_MERGE,) * n if n > _LARGE_SPM else None
    scores = np.zeros(n, np.float32) if merges is None else None
    kind = "llama" if merges is None else "gpt2"
    types = np.full(n, TokenType.NORMAL, np.int32)
    stand_in = Tokenizer(kind, "default", (_TOKEN_TEXT,) * n, types, scores, merges, {"bos": 1, "eos": 2})
    return replace(model, metadata={**model.metadata, **tokenizer_to_metadata(stand_in)})


def lacks_vocabulary(model: Model) -> bool:
    """Whether the model was read without a tokenizer."""
    return bool(model.get("tokenizer.ggml.model") == "no_vocab")


def _no_weights(a: int, b: int) -> Bytes:
    raise FormatError("there are no weights here, only their shapes", hint="give the folder of the checkpoint")
