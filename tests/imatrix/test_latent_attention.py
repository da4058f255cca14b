"""What the halves of a latent vector's weight (MLA) are multiplied with, however the attention is computed."""

from __future__ import annotations

import numpy as np
import torch

from quantmill.imatrix.record_inputs import record_inputs
from quantmill.imatrix.sums import RecordedWeight

HEADS, WIDTH, VALUE, LATENT, TOKENS = 3, 4, 5, 6, 7


class Attention(torch.nn.Module):
    def __init__(self, spelled_out: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.kv_b = torch.nn.Parameter(torch.randn(HEADS * (WIDTH + VALUE), LATENT, generator=generator))
        self.spelled_out = spelled_out

    def forward(self, latent: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        both = torch.nn.functional.linear(latent, self.kv_b).view(2, TOKENS, HEADS, WIDTH + VALUE).transpose(1, 2)
        key, value = both.split((WIDTH, VALUE), -1)
        if not self.spelled_out:
            return torch.nn.functional.scaled_dot_product_attention(query, key, value)
        torch.matmul(query.transpose(1, 2), key[:, :1].transpose(2, 3))  # as an indexer's, which is none of the two
        return torch.matmul(torch.softmax(query @ key.transpose(2, 3) / WIDTH**0.5, -1), value)


def recorded(spelled_out: bool) -> tuple[dict[tuple[str, int], np.ndarray], torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    latent = torch.randn(2, TOKENS, LATENT, generator=generator)
    query = torch.randn(2, HEADS, TOKENS, WIDTH, generator=generator)
    module = Attention(spelled_out)
    found: dict[tuple[str, int], np.ndarray] = {}
    weight = RecordedWeight(("k_b", "v_b"), heads=(HEADS, WIDTH))

    def see(one: RecordedWeight, head: int, x: torch.Tensor) -> None:
        assert (one.names[0], head) not in found
        found[one.names[0], head] = x.numpy().copy()

    with torch.inference_mode(), record_inputs(module, {"kv_b": weight}, see, by_head=True):
        result = module(latent, query)
    return found, result


def test_two_products_are_seen_as_one_attention_is() -> None:
    (fused, result), (spelled_out, same) = recorded(False), recorded(True)
    assert torch.allclose(result, same, atol=1e-5)
    assert fused.keys() == spelled_out.keys() == {(name, head) for name in ("k_b", "v_b") for head in range(HEADS)}
    for key, x in fused.items():
        assert np.allclose(x, spelled_out[key], atol=1e-5), key
