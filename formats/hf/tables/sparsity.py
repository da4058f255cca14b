"""The share of activations that layers leave out, which is a number of standard deviations in GGUF."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from ...errors import FormatError
from ...json_types import NUMBER, JsonType, list_of, optional
from .dimensions import LAYERS, Config
from .reads import Reads
from .rows import Getter

SHARES = list_of(
    JsonType("a number from 0 to 1", lambda value: NUMBER.holds(value) and 0 <= value <= 1), "numbers from 0 to 1"
)


@dataclass(frozen=True)
class Sparsity:
    """A config key with a share for each layer; GGUF has the normal distribution's quantile of it."""

    hf: str
    gguf: str

    def reads(self) -> Reads:
        return {self.hf: optional(SHARES)}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        if (shares := config.get(self.hf)) is not None:
            if len(shares) != LAYERS(config):
                raise FormatError(f"{len(shares)} values for {LAYERS(config)} layers", where=self.hf)
            yield self.gguf, [quantile(share) for share in shares]

    def to_hf(self, get: Getter) -> dict[str, Any]:
        found = get(self.gguf, each=True)
        return {} if found is None else {self.hf: [share_of(value) for value in found]}


def quantile(share: float) -> float:
    """The normal distribution's quantile, with the roundings of torch's ``icdf``."""
    f32 = np.float32
    x = float(f32(2) * f32(share) - f32(1))
    if abs(x) >= 1:
        return math.copysign(math.inf, x)
    return float(f32(NormalDist().inv_cdf((x + 1) / 2) / math.sqrt(2)) * f32(math.sqrt(2)))


def share_of(value: float) -> float:
    """The share with the fewest decimals that has this quantile."""
    if math.isinf(value):
        return 0.0 if value < 0 else 1.0
    share = NormalDist().cdf(value)
    tries = (round(share, digits) for digits in range(1, 9))
    return next((one for one in tries if np.float32(quantile(one)) == np.float32(value)), share)
