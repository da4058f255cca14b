"""Record the inputs of a module's weights, stacks of experts included, without changing the module.

transformers 5 keeps a layer's experts in one 3-D parameter and multiplies slices of it, where no module hook reaches.
Every such product is a call of ``torch.nn.functional.linear`` or of another function of a few, and PyTorch lets a mode
see those calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from .sums import RecordedWeight

_MATMULS = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)  # Mamba's time steps: the weight from the left
_INPUT_AT = {torch.nn.functional.linear: 0, torch.bmm: 0, torch.addmm: 1}  # the argument before the weight
OnInput = Callable[[RecordedWeight, int, torch.Tensor], None]


class _LinearInputs(TorchFunctionMode):
    """Passes the inputs of products on, where the weight is one of those that are recorded."""

    def __init__(self, stacks: Mapping[int, tuple[RecordedWeight, int]], on_input: OnInput, by_head: bool) -> None:
        super().__init__()
        self.stacks, self.on_input, self.by_head = stacks, on_input, by_head
        self._latent: tuple[RecordedWeight, torch.Tensor] | None = None
        self._query: torch.Tensor | None = None  # of attention that is spelled out as two products

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _MATMULS or (func in _INPUT_AT and (func is not torch.bmm or not kwargs)):
            self._see_product(func, args)
        if func in _MATMULS and self._latent is not None:
            self._see_spelled_out(*self._latent, *args[:2])
        if func is torch.nn.functional.scaled_dot_product_attention and self._latent is not None:
            self._see_heads(*self._latent, *args, **(kwargs or {}))
            self._latent = None
        return func(*args, **(kwargs or {}))

    def _see_product(self, func: Any, args: tuple[Any, ...]) -> None:
        at = _INPUT_AT.get(func, 0)
        x, weight = args[at : at + 2]
        if func in _MATMULS and x.untyped_storage().data_ptr() in self.stacks:
            x, weight = weight.mT, x
        found = self.stacks.get(weight.untyped_storage().data_ptr())
        if found is None or not x.numel():
            return
        recorded, stride = found
        if recorded.columns is not None:
            x = x[..., torch.from_numpy(recorded.columns).to(x.device)]
        if self.by_head and recorded.heads is not None:
            self._latent = (recorded, x)
        elif recorded.n_matrices == 1:  # bmm: in groups of rows
            self.on_input(recorded, 0, x)
        elif func is torch.bmm:  # every expert is given every token; zeros, if it was not chosen
            for expert, rows in enumerate(x):
                if len(chosen := rows[rows.any(-1)]):
                    self.on_input(recorded, expert, chosen)
        else:
            self.on_input(recorded, weight.storage_offset() // stride, x)

    def _see_heads(
        self,
        recorded: RecordedWeight,
        latent: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        **how: Any,
    ) -> None:
        """Pass on what llama.cpp multiplies with the two halves of the weight that ``latent`` is given to here."""
        latents = _of_each_head(recorded, latent, query)
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, latents, **how)
        self._give_halves(recorded, query, mixed)

    def _see_spelled_out(
        self, recorded: RecordedWeight, latent: torch.Tensor, x: torch.Tensor, y: torch.Tensor
    ) -> None:
        """The same where attention is a product of queries and keys, and then one of its weights and the values."""
        assert recorded.heads is not None
        n = recorded.heads[0]
        if x.dim() != 4 or y.dim() != 4 or x.shape[:2] != y.shape[:2] or x.shape[1] != n:
            return
        if x.shape[0] * x.shape[2] != latent.numel() // latent.shape[-1]:
            return  # an indexer's, which comes before
        if self._query is None:
            self._query = x
            return
        self._give_halves(recorded, self._query, x @ _of_each_head(recorded, latent, x))
        self._latent = self._query = None

    def _give_halves(self, recorded: RecordedWeight, query: torch.Tensor, mixed: torch.Tensor) -> None:
        assert recorded.heads is not None
        n, width = recorded.heads
        ours, theirs = (RecordedWeight((name,), n) for name in recorded.names)
        for head in range(n):
            self.on_input(ours, head, query[:, head, :, :width])
            self.on_input(theirs, head, mixed[:, head])


def _of_each_head(recorded: RecordedWeight, latent: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """The latent vectors as values that all heads share."""
    assert recorded.heads is not None
    return latent.reshape(query.shape[0], 1, -1, latent.shape[-1]).expand(-1, recorded.heads[0], -1, -1)


@contextmanager
def record_inputs(
    module: torch.nn.Module, recorded: Mapping[str, RecordedWeight], on_input: OnInput, *, by_head: bool = False
) -> Iterator[None]:
    """Call ``on_input(weight, expert, x)``, inside the block, with each input of the module's parameters.

    Args:
        module: its parameters must have their weights (not be on the meta device).
        recorded: by parameter name; the parameters are [out, in] or [in, out], and those of a stack have its experts
            one after the other.
        on_input: is given the input x [..., in] just before it is multiplied, in the order of GGUF's columns;
            ``expert`` is 0 for a plain matrix.
        by_head: give the inputs of the two halves of a weight with ``heads`` as GGUF has them, not the module's own.
    """
    stacks = {}
    for name, parameter in module.named_parameters():
        if (weight := recorded.get(name)) is not None:
            stacks[parameter.untyped_storage().data_ptr()] = (weight, parameter.numel() // weight.n_matrices)
    with _LinearInputs(stacks, on_input, by_head):
        yield
