"""Configs that count layers after the last, which predict further tokens (``rules.Further``).

In a GGUF file these blocks follow the model's own and are counted with them, so all that reads a config sees it
with them: more layers, and a further word where a key has one for each layer.
"""

from __future__ import annotations

from typing import Any, Literal

from ...errors import FormatError
from .dimensions import FURTHER, Config
from .rules import Arch

# What becomes of these layers: kept with the model, left out, or written alone with embedding and head.
Mtp = Literal["keep", "leave", "only"]
_LAYERS = "num_hidden_layers"


def with_further(config: Config, arch: Arch, count: int) -> dict[str, Any]:
    """The config of a model and of ``count`` further layers, from that of the model alone."""
    row = arch.further
    if row is None or not count:
        return dict(config)
    given = {key: config[key] for key in row.sees if isinstance(config.get(key), list)}
    words = {key: [*words, *[row.sees[key]] * count] for key, words in given.items()}
    return {**config, **words, _LAYERS: config[_LAYERS] + count, FURTHER: count}


def without_further(config: Config, arch: Arch) -> dict[str, Any]:
    """Undo ``with_further``.

    Raises:
        FormatError: no layers of the model's own are left.
    """
    row, count = arch.further, config.get(FURTHER, 0)
    out = {key: value for key, value in config.items() if key != FURTHER}
    if row is None or not count:
        return out
    if count >= out[_LAYERS]:
        raise FormatError(f"{count} of {out[_LAYERS]} layers predict further tokens, and none is left", where=_LAYERS)
    own = out[_LAYERS] - count
    words = {key: out[key][:own] for key in (*row.sees, *arch.layouts) if isinstance(out.get(key), list)}
    return {**out, **words, _LAYERS: own}
