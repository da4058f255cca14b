"""What a token carries from block to block beside its hidden state: inputs of each block's own, and shared keys.

Gemma 4's small models have an embedding for each token and block, and blocks that attend to the keys and values of an
earlier one; GLM's sparse attention has blocks that attend to the positions which the one before has chosen. All of it
stands in columns behind the hidden state, so that it is kept, resumed and shared as that is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..formats.hf.tables.dimensions import HEAD_DIM, KV_HEADS, LAYERS, at_layer

_SHARED = "shared_kv_states"
_CHOSEN = "prev_topk_indices"
_DIGIT = 256  # a position is kept as two numbers below it, which bfloat16 holds exactly


class Carried:
    """The columns behind a model's hidden states.

    Args:
        config: a config under the names of ``formats/hf``.

    Attributes:
        own: columns of each block's own input.
        keys: heads and their width in the layers of each kind whose keys are shared.
        chosen: how many positions a block may choose for the next.
        width: columns in all.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.n_layers = LAYERS(config)
        self.own = int(config.get("hidden_size_per_layer_input") or 0)
        self.keys: dict[str, tuple[int, int]] = {}
        if config.get("num_kv_shared_layers"):
            for layer, kind in enumerate(config["layer_types"]):
                seen = at_layer(config, layer, self.n_layers)
                self.keys.setdefault(kind, (KV_HEADS(seen), HEAD_DIM(seen)))
        self.chosen = 0
        if "shared" in (config.get("indexer_types") or ()):  # beside whole pools, the positions that fill none yet
            self.chosen = int(config["index_topk"]) + int(config.get("index_kpool") or 1) - 1
        self._parts = [self.own] * self.n_layers + [heads * dim for heads, dim in self.keys.values() for _ in "kv"]
        self._parts.append(2 * self.chosen)
        self.width = sum(self._parts)

    def joined(self, hidden: torch.Tensor, own: list[torch.Tensor]) -> torch.Tensor:
        """What enters the first block: hidden states [chunks, n_ctx, width], and the inputs of each block."""
        if not self.width:
            return hidden
        before = sum(self._parts[: self.n_layers])
        return torch.cat([hidden, *own, hidden.new_zeros(*hidden.shape[:2], self.width - before)], -1)

    def hidden(self, all_of_it: torch.Tensor) -> torch.Tensor:
        """The hidden states alone."""
        return all_of_it[..., : -self.width] if self.width else all_of_it

    def run(
        self,
        module: nn.Module,
        all_of_it: torch.Tensor,
        layer: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        apart: Callable[[torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """Run a block, and join what leaves it with what later blocks need.

        Args:
            apart: gives hidden states as the module has them.
        """
        hidden, *parts = torch.split(all_of_it, [all_of_it.shape[-1] - self.width, *self._parts], -1)
        *parts, chosen = parts
        given = dict(kwargs)
        if self.own:
            args = (parts[layer], *args[1:])
        if self.keys:
            shared = given[_SHARED] = type(kwargs[_SHARED])()
            for kind, k, v in zip(self.keys, parts[self.n_layers :: 2], parts[self.n_layers + 1 :: 2], strict=True):
                shared[kind] = tuple(one.reshape(*one.shape[:2], *self.keys[kind]).transpose(1, 2) for one in (k, v))
        if self.chosen:
            given[_CHOSEN] = _positions(chosen)
        out = module(apart(hidden), *args, **given)
        after, *further = out if isinstance(out, tuple) else (out,)
        if self.chosen and further[0] is not None:
            chosen = _digits(further[0], self.chosen).to(hidden)
        kept = (one.transpose(1, 2).flatten(2) for kind in self.keys for one in given[_SHARED][kind])
        return torch.cat([after.flatten(2), *parts[: self.n_layers], *kept, chosen], -1)


def _digits(positions: torch.Tensor, n: int) -> torch.Tensor:
    """Positions [..., up to n], or -1 for none, as [..., 2 * n]; the last is repeated, which chooses no other."""
    missing = n - positions.shape[-1]
    more = positions[..., -1:].expand(*positions.shape[:-1], missing)
    numbers = torch.cat([positions, more], -1) + 1
    return torch.cat([numbers // _DIGIT, numbers % _DIGIT], -1)


def _positions(digits: torch.Tensor) -> torch.Tensor:
    """The inverse of ``_digits``."""
    high, low = digits.to(torch.int32).chunk(2, -1)
    return high * _DIGIT + low - 1
