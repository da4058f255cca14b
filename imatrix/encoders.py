"""Models of transformers without a head, which give hidden states, under the names that checkpoints have."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Named(nn.Module):
    """A bare model as a part of another, whose tensors' names begin as in the class with a head.

    Args:
        model: the bare model.
        base: what the names begin with, such as ``bert.``.
    """

    def __init__(self, model: nn.Module, base: str) -> None:
        super().__init__()
        self.add_module(base.removesuffix("."), model)
        self.__dict__["bare"] = model

    def forward(self, inputs_embeds: torch.Tensor, use_cache: bool) -> Any:
        """What the bare model makes of embeddings."""
        return self.__dict__["bare"](inputs_embeds=inputs_embeds, use_cache=use_cache)

    def get_input_embeddings(self) -> nn.Module:
        """The bare model's table of tokens."""
        table: nn.Module = self.__dict__["bare"].get_input_embeddings()
        return table


def without_pooler(model: nn.Module) -> nn.Module:
    """Take away what makes one vector of a text, where transformers has a module for it: no block depends on it."""
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # type: ignore[assignment]
    return model
