"""Tensors of checkpoints that become no tensor of a GGUF file: what each kind is, and what makes leaving it out right.

Nothing goes unseen: a copy is compared with its original, a buffer with what config.json makes it, and parts that the
text model is computed without are counted and said in a line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from ...json_types import FLAG
from . import rope
from .dimensions import ALWAYS, Condition, Config
from .reads import OfParts, Reads

TIED = "tie_word_embeddings"
# Whether rows (float64 [n, width], and their numbers) of a buffer are what the config makes them.
Agrees = Callable[[Config, NDArray[np.float64], NDArray[np.intp]], bool]


@dataclass(frozen=True)
class Copy:
    """A tensor that transformers ties to another, unless the checkpoint holds both and they differ.

    One that differs is written if a rule has its name. If none has, llama.cpp has no place for it, and the checkpoint
    is refused.

    Args:
        name, of: the tensor and the one that it is tied to, under the names that the rules use.
        key: the config key that says so; None where it is always so.
        kept: whether an equal one is written, too, as llama.cpp's converter does.
    """

    name: str
    of: str
    key: str | None = TIED
    kept: bool = False

    def reads(self) -> Reads:
        return {self.key: FLAG} if self.key else {}


@dataclass(frozen=True)
class LeftOut(OfParts):
    """Parts that the text model is computed without: other towers, and heads and layers of other uses.

    Args:
        pattern: ``*`` stands for anything, ``{beyond}`` for the number of a layer after the last.
        what: what it is, for the line that says so.
        when: the configs in which it is such a part.
    """

    pattern: str
    what: str
    when: Condition = ALWAYS

    def matches(self, name: str, config: Config) -> bool:
        """Whether a tensor of this name is such a part."""
        if not self.when(config):
            return False
        root, beyond, rest = self.pattern.partition("{beyond}")
        if not beyond:
            return fnmatchcase(name, self.pattern)
        number, dot, end = name.removeprefix(root).partition(".")
        later = number.isdecimal() and int(number[:9]) >= int(config["num_hidden_layers"])
        return name.startswith(root) and later and fnmatchcase(dot + end, rest)


@dataclass(frozen=True)
class Buffer(OfParts):
    """What older versions of transformers saved in the middle of a computation. Newer ones do not read it.

    Args:
        pattern: ``*`` stands for anything.
        what: what it is, for the line that says that it is not what config.json makes it.
        agrees: whether rows of it are what config.json makes them.
    """

    pattern: str
    what: str
    agrees: Agrees

    def matches(self, name: str, config: Config) -> bool:
        """Whether a tensor of this name is such a buffer."""
        return fnmatchcase(name, self.pattern)


Extra = Copy | LeftOut | Buffer


def _inverse_frequencies(config: Config, rows: NDArray[np.float64], numbers: NDArray[np.intp]) -> bool:
    """Whether it is the rope before any scaling, as it was when buffers were saved, but for rounding to F16."""
    parameters = config.get("rope_parameters") or {}
    if "rope_theta" not in parameters:
        return False
    n = rope.dimensions(parameters, config["head_dim"])
    expected = float(parameters["rope_theta"]) ** -(np.arange(0, n, 2) / n)
    return rows.shape == (1, expected.size) and np.allclose(rows, expected, rtol=0.01, atol=1e-6)


def _causal_mask(config: Config, rows: NDArray[np.float64], numbers: NDArray[np.intp]) -> bool:
    """Whether a token sees itself and all before it."""
    width = rows.shape[1]
    return np.array_equal(rows != 0, np.arange(width) <= numbers[:, None] % width)


def _masked_value(config: Config, rows: NDArray[np.float64], numbers: NDArray[np.intp]) -> bool:
    """Whether it is a number so low that its softmax is nothing: -1e4 in old files, -1e9 in newer ones."""
    return rows.size == 1 and bool((rows <= -1e4).all())


def _positions(config: Config, rows: NDArray[np.float64], numbers: NDArray[np.intp]) -> bool:
    return np.array_equal(rows, np.arange(rows.shape[1])[None])


def causal_masks(module: str) -> tuple[Buffer, Buffer]:
    """The mask of attention and the value behind it, which some classes saved in each attention module."""
    return (
        Buffer(f"*.{module}.bias", "causal mask", _causal_mask),
        Buffer(f"*.{module}.masked_bias", "masked value", _masked_value),
    )


POSITIONS = Buffer("*embeddings.position_ids", "positions", _positions)
# In checkpoints of any class with a rope (``_adjust_missing_and_unexpected_keys`` of transformers).
EVERYWHERE = (Buffer("*rotary_emb.inv_freq", "rope frequencies", _inverse_frequencies),)
