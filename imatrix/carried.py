"""What a token carries from block to block beside its hidden state: inputs of each block's own, and shared keys.

Gemma 4's small models have an embedding for each token and block, and blocks that attend to the keys and values of an
earlier one. Both stand in columns behind the hidden state, so that they are kept, resumed and shared as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..formats.hf.dimensions import HEAD_DIM, KV_HEADS, LAYERS, at_layer

_SHARED = "shared_kv_states"


class Carried:
    """The columns behind a model's hidden states.

    Args:
        config: a config under the names of ``formats/hf``.

    Attributes:
        own: columns of each block's own input.
        keys: heads and their width in the layers of each kind whose keys are shared.
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
        self._parts = [self.own] * self.n_layers + [heads * dim for heads, dim in self.keys.values() for _ in "kv"]
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
        self, module: nn.Module, all_of_it: torch.Tensor, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> torch.Tensor:
        """Run a block, and join what leaves it with what later blocks need."""
        hidden, *parts = torch.split(all_of_it, [all_of_it.shape[-1] - self.width, *self._parts], -1)
        if self.own:
            args = (parts[layer], *args[1:])
        shared = type(kwargs[_SHARED])()
        for kind, k, v in zip(self.keys, parts[self.n_layers :: 2], parts[self.n_layers + 1 :: 2], strict=True):
            shared[kind] = tuple(one.reshape(*one.shape[:2], *self.keys[kind]).transpose(1, 2) for one in (k, v))
        out = module(hidden, *args, **{**kwargs, _SHARED: shared})
        kept = (one.transpose(1, 2).flatten(2) for kind in self.keys for one in shared[kind])
        return torch.cat([out[0] if isinstance(out, tuple) else out, *parts[: self.n_layers], *kept], -1)
