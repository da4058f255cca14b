"""AWQ's grid and its two searches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quantmill.formats.errors import PlanError, QuantmillError
from quantmill.formats.hf.packed.awq import pack, unpack
from quantmill.quantize.awq.grid import quantize_to_grid, rounded
from quantmill.quantize.awq.search import EXPONENTS, Sample, SquaredOutputs, scales_of, search_clipping, search_scales
from quantmill.quantize.awq.settings import AWQSettings


def sample_of(x: torch.Tensor, keep: int = 4096) -> Sample:
    sample = Sample(keep)
    sample.add(x)
    return sample


def inputs(tokens: int, width: int, seed: int = 0) -> torch.Tensor:
    """Normal, but every eighth input is ten times larger."""
    x = torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))
    x[:, ::8] *= 10
    return x


def weights(rows: int, width: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def error(weight: torch.Tensor, back: torch.Tensor, x: torch.Tensor) -> float:
    return float(((back - weight) @ x.T).square().sum())


def test_a_group_by_hand() -> None:
    """Range -2..13 is 15 steps of 1, zero is code 2; the second group's -1..0.5 steps of 0.1 (a half), zero 10."""
    weight = torch.tensor([[-2.0, 13.0, 0.0, 0.4, -1.0, 0.5, 0.26, 0.0]])
    packed = quantize_to_grid(weight, 4)
    step = float(np.float16(0.1))
    assert packed.scales.tolist() == [[1.0, step]]
    assert packed.zeros.tolist() == [[2, 10]]
    assert packed.codes.tolist() == [[0, 15, 2, 2, 0, 15, 13, 10]]
    assert packed.decode().tolist() == [
        [-2.0, 13.0, 0.0, 0.0, *(np.float32([-10, 5, 3, 0]) * np.float32(step)).tolist()]
    ]


def test_weights_of_one_sign_keep_zero() -> None:
    packed = quantize_to_grid(torch.tensor([[3.0, 4.0, 5.0, 15.0], [-3.0, -4.0, -5.0, -15.0]]), 4)
    assert packed.zeros.tolist() == [[0], [15]]
    assert packed.decode().tolist() == [[3.0, 4.0, 5.0, 15.0], [-3.0, -4.0, -5.0, -15.0]]


def test_a_group_of_zeros() -> None:
    packed = quantize_to_grid(torch.zeros(8, 64), 32)
    assert bool((packed.scales == 1).all())
    assert bool((packed.decode() == 0).all())


@given(st.integers(0, 2**32 - 1), st.sampled_from([32, 64, -1]), st.floats(1e-3, 1e3))
def test_no_weight_is_further_than_half_a_step(seed: int, group_size: int, size: float) -> None:
    weight = weights(8, 64, seed) * size
    packed = quantize_to_grid(weight, group_size)
    step = packed.scales.repeat_interleave(64 // packed.scales.shape[1], dim=1)
    # the zero point's rounding moves the range by up to half a step; the scale's moves its ends by 15 * 2**-12 of one
    assert bool(((packed.decode() - weight).abs() <= step * 1.01).all())
    assert bool(((packed.decode() - weight).abs() <= step * 0.501).float().mean() > 0.8)
    assert torch.equal(packed.decode(), rounded(weight, group_size))
    codes = packed.codes.numpy().T
    assert np.array_equal(unpack(pack(np.ascontiguousarray(codes))), codes)


def test_a_weight_too_large_for_a_half_is_named() -> None:
    weight = torch.zeros(8, 32)
    weight[3, 5] = 1e6
    with pytest.raises(QuantmillError, match=r"here\.weight: .*65504"):
        quantize_to_grid(weight, 32, name="here.weight")


def test_a_sample_means_all_and_keeps_some() -> None:
    x = inputs(1000, 16)
    sample = Sample(100)
    for part in x.split(37):
        sample.add(part)
    assert sample.count == 1000
    torch.testing.assert_close(sample.magnitude, x.abs().sum(0).double())
    assert torch.equal(sample.rows, x[::16])  # 500, 250, 125 are too many
    before = sample.rows
    sample.scale(torch.full((16,), 2.0))
    assert torch.equal(sample.rows, before / 2)


@pytest.mark.parametrize("tokens", [5, 200])
def test_products_by_rows_and_by_their_gram_matrix(tokens: int) -> None:
    x, weight = inputs(tokens, 32), weights(8, 32)
    squared = SquaredOutputs(sample_of(x))
    assert (squared.gram is None) == (tokens < 32)
    assert squared.sum(weight) == pytest.approx(float((x @ weight.T).square().sum()), rel=1e-5)


def test_spread_by_hand() -> None:
    """Magnitudes 1, 4, 16 to the power 1/2 are 1, 2, 4, over the root of 4; a dead input stays."""
    assert scales_of(torch.tensor([1.0, 4.0, 0.0, 16.0]), 0.5).tolist() == [0.5, 1.0, 1.0, 2.0]
    assert scales_of(torch.zeros(4), 0.5).tolist() == [1.0] * 4


def test_search_beats_plain_rounding_where_inputs_differ() -> None:
    x, weight = inputs(512, 64), weights(32, 64)
    found = search_scales(x.abs().mean(0), [(weight, SquaredOutputs(sample_of(x)))], 32)
    assert found.exponent in EXPONENTS[1:]
    assert found.plain == pytest.approx(error(weight, rounded(weight, 32), x), rel=1e-4)
    back = rounded(weight * found.scales, 32) / found.scales
    assert found.error == pytest.approx(error(weight, back, x), rel=1e-4)
    assert found.error < 0.6 * found.plain


def test_search_is_over_scales_as_they_are_stored() -> None:
    x, weight = inputs(512, 64), weights(32, 64)
    found = search_scales(
        x.abs().mean(0), [(weight, SquaredOutputs(sample_of(x)))], 32, lambda s: s.log2().round().exp2()
    )
    assert torch.equal(found.scales, found.scales.log2().round().exp2())
    assert found.exponent > 0


def test_inputs_that_are_always_zero_change_nothing() -> None:
    weight = weights(16, 64)
    found = search_scales(torch.zeros(64), [(weight, SquaredOutputs(sample_of(torch.zeros(10, 64))))], 32)
    assert found.exponent == 0
    assert torch.equal(found.scales, torch.ones(64))
    low, high = search_clipping(weight, sample_of(torch.zeros(10, 64)), 32)
    assert torch.equal(quantize_to_grid(weight, 32, (low, high)).decode(), rounded(weight, 32))


def test_clipping_lowers_the_error_and_leaves_a_flat_group() -> None:
    """A group with one outlier is clipped; one whose weights are all on the grid is not."""
    weight = weights(32, 64)
    weight[:, 3] = 6.0
    weight[:, 32:] = torch.arange(32).remainder(16).float()
    x = torch.randn(400, 64, generator=torch.Generator().manual_seed(3))
    x[:, 3] *= 0.01
    sample = sample_of(x)
    low, high = search_clipping(weight, sample, 32)
    assert float((high[:, 0] < 6).float().mean()) > 0.9
    assert torch.equal(high[:, 1], torch.full((32,), 15.0))
    clipped = quantize_to_grid(weight, 32, (low, high)).decode()
    assert error(weight, clipped, x) < 0.8 * error(weight, rounded(weight, 32), x)


@pytest.mark.parametrize("size", [0, 16, 48, 256, -2])
def test_group_sizes_that_no_client_takes(size: int) -> None:
    with pytest.raises(PlanError, match=f"no groups of {size} "):
        AWQSettings(size).check()


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(PlanError, match=r"q_proj: groups of 128 do not divide its 576 inputs \(--group-size 64\)"):
        AWQSettings(128).check_shape("q_proj", 576, 576)
    with pytest.raises(PlanError, match=r"\(--group-size -1\)"):
        AWQSettings(64).check_shape("q_proj", 64, 40)
    with pytest.raises(PlanError, match="12 outputs"):
        AWQSettings(-1).check_shape("q_proj", 12, 40)
    AWQSettings(-1).check_shape("q_proj", 16, 40)
