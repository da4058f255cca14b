"""Error feedback: against a plain form of the method, by hand, and against the loss that it promises to lessen."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from quantmill.formats.qtypes import F32, qtype
from quantmill.quantize.kernels import kernel_for
from quantmill.quantize.kernels.simd import VEC
from quantmill.quantize.refine import REFINED
from quantmill.quantize.refine.columns import Columns, Lanes, new_scratch
from quantmill.quantize.refine.factor import DAMPING, Block, make_blocks, metric_of
from quantmill.quantize.refine.integers import matrix_units
from quantmill.quantize.refine.lattice_types import LATTICE_TYPES
from quantmill.quantize.refine.products import (
    SQUARE,
    add_product,
    cholesky,
    from_lanes,
    gram,
    pack,
    squared_products,
    to_lanes,
    unpack,
)
from quantmill.quantize.refine.refit import RefitScales, refit
from quantmill.quantize.refine.rows import encode_refined
from quantmill.quantize.refine.scalar_types import SCALAR_TYPES
from quantmill.quantize.refine.scalar_walk import ScalarCodes, feed, sweep
from quantmill.quantize.refine.scales import Bytewise, Scales

TYPES = sorted(REFINED)


def moments(width: int, seed: int = 0, rank: int | None = None) -> NDArray[np.float64]:
    """Of inputs whose columns go together, some of them far larger than others."""
    rng = np.random.default_rng(seed)
    rank = rank or width // 4
    x = rng.standard_normal((4 * width, rank)) @ rng.standard_normal((rank, width))
    x += 0.3 * rng.standard_normal(x.shape)
    x *= np.exp(rng.standard_normal(width))
    return x.T @ x / len(x)


def weights(n: int, width: int, seed: int = 1) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, width)) * 0.02).astype(np.float32)


def refined(rows: NDArray[np.float32], name: str, blocks: list[Block], passes: int | None = None) -> NDArray[np.uint8]:
    out = np.zeros((len(rows), qtype(name).row_bytes(rows.shape[1])), np.uint8)
    encode_refined(rows, qtype(name), blocks, out, passes)
    return out


def plain(rows: NDArray[np.float32], name: str, blocks: list[Block]) -> NDArray[np.uint8]:
    out = np.zeros((len(rows), qtype(name).row_bytes(rows.shape[1])), np.uint8)
    importance = np.concatenate([block.importance for block in blocks])
    kernel_for(qtype(name)).encode(rows.view(np.uint8), F32, importance, out)
    return out


def losses(
    rows: NDArray[np.float32], name: str, encoded: NDArray[np.uint8], h: list[NDArray[np.float64]]
) -> np.ndarray:
    """The quadratic loss of each row, in float64, from the bytes alone."""
    values = np.empty_like(rows)
    kernel_for(qtype(name)).decode(encoded, values)
    errors, at, total = (rows - values).astype(np.float64), 0, np.zeros(len(rows))
    for part in h:
        e = errors[:, at : at + len(part)]
        total += np.einsum("ri,ij,rj->r", e, part, e)
        at += len(part)
    return total


def damped(h: NDArray[np.float64], damping: float = DAMPING) -> NDArray[np.float64]:
    return h + np.eye(len(h)) * damping * np.diag(h).mean()


@pytest.mark.parametrize("name", TYPES)
def test_the_products_are_kept_better_and_no_row_worse(name: str) -> None:
    """Half the plain encoder's loss or less on inputs that go together; each row at most the plain one's."""
    h = [moments(512), moments(256, seed=3)]
    blocks, rows = make_blocks(h), weights(40, 768)
    with_feedback, without = refined(rows, name, blocks), plain(rows, name, blocks)
    d = [damped(part) for part in h]
    ours, theirs = losses(rows, name, with_feedback, d), losses(rows, name, without, d)
    assert (ours <= theirs * 1.0001).all()
    assert ours.sum() < 0.5 * theirs.sum()


@pytest.mark.parametrize("name", ["Q3_K", "Q4_0", "IQ4_NL", "NVFP4", "IQ2_XS", "IQ1_M"])
def test_bytes_do_not_depend_on_the_other_rows(name: str) -> None:
    """A row alone, in any company, in any lane: the same bytes. So threads and chunks do not show."""
    rows = weights(37, 512)
    for h in ([moments(256), moments(256, seed=3)], [moments(512)]):
        blocks = make_blocks(h)
        whole = refined(rows, name, blocks)
        for start, end in ((0, 1), (5, 6), (3, 20), (16, 37)):
            assert (refined(np.ascontiguousarray(rows[start:end]), name, blocks) == whole[start:end]).all()


@pytest.mark.skipif(not matrix_units(), reason="this processor has no matrix units")
@pytest.mark.parametrize("name", ["Q4_K", "IQ2_XS"])
def test_bytes_do_not_depend_on_matrix_units(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, h = weights(37, 768), moments(768)
    with_units = refined(rows, name, make_blocks([h]))
    monkeypatch.setattr("quantmill.quantize.refine.factor.matrix_units", lambda: False)
    assert (refined(rows, name, make_blocks([h])) == with_units).all()


@pytest.mark.parametrize("name", TYPES)
def test_rows_of_independent_columns_and_of_zeros(name: str) -> None:
    """Nothing to feed back: no worse than plain. Zeros stay zeros."""
    blocks, rows = make_blocks([np.eye(256)]), weights(4, 256)
    rows[2] = 0
    with_feedback, without = refined(rows, name, blocks), plain(rows, name, blocks)
    assert (
        losses(rows, name, with_feedback, [np.eye(256)]) <= losses(rows, name, without, [np.eye(256)]) * 1.0001
    ).all()
    values = np.empty_like(rows)
    kernel_for(qtype(name)).decode(with_feedback, values)
    assert np.abs(values[2]).max() == 0


@pytest.mark.parametrize("name", sorted(SCALAR_TYPES))
def test_against_the_plain_form(name: str) -> None:
    """The method in numpy, column by column in float64: the same codes, but for rows where two levels were as near."""
    h, rows = moments(256), weights(8, 256)
    encoded = refined(rows, name, make_blocks([h]), 2)
    values = np.empty_like(rows)
    kernel_for(qtype(name)).decode(encoded, values)
    expected = reference(rows, name, h)
    assert (np.abs(values - expected) < 1e-6).all(axis=1).mean() >= 0.75
    d = [damped(h)]
    e = (rows - expected).astype(np.float64)
    assert losses(rows, name, encoded, d).sum() == pytest.approx(np.einsum("ri,ij,rj->", e, d[0], e), rel=0.05)


def reference(rows: NDArray[np.float32], name: str, h: NDArray[np.float64], passes: int = 2) -> NDArray[np.float64]:
    """Feedback as Frantar et al. have it (GPTQ, arXiv 2210.17323), by Cholesky's factor; then coordinate descent over
    codes and scales, in squares of 32 columns: codes, scales, codes."""
    grid, width, size = SCALAR_TYPES[name], rows.shape[1], qtype(name).block_size
    h, importance = damped(h), np.diag(h).astype(np.float32)
    factor = np.linalg.cholesky(h[::-1, ::-1])[::-1, ::-1]
    errors, levels, scales, offsets = (np.zeros(rows.shape) for _ in range(4))
    units, offset_units = np.zeros(rows.shape), np.zeros(rows.shape)
    table = np.array(grid.table or range(grid.low, grid.high + 1), np.float64)

    def choose(x: np.ndarray, j: int) -> None:
        every = scales[:, j, None] * table + offsets[:, j, None]
        levels[:, j] = table[np.abs(every - x[:, None]).argmin(axis=1)]
        settle(slice(j, j + 1))

    def settle(c: slice) -> None:
        errors[:, c] = rows[:, c] - (scales[:, c] * levels[:, c] + offsets[:, c])

    def step(c: slice, v: np.ndarray) -> np.ndarray:
        curvature = np.einsum("ri,ij,rj->r", v, h[c, c], v)
        slope = ((errors @ h[:, c]) * v).sum(axis=1)
        return np.divide(slope, curvature, out=np.zeros(len(v)), where=curvature > 0)

    def refit(kind: Scales, values: np.ndarray, unit: np.ndarray, change: np.ndarray, c: slice) -> None:
        for row, delta in enumerate(change):
            wanted, u = values[row, c.start] + delta, unit[row, c.start]
            if isinstance(kind, Bytewise):
                values[row, c] = kind.table[np.abs(kind.table - wanted).argmin()] or values[row, c]
            elif kind.low == kind.high:
                values[row, c] = np.float16(wanted)
            elif u != 0:
                values[row, c] = u * (np.clip(np.rint(wanted / u - kind.shift), kind.low, kind.high) + kind.shift)
        settle(c)

    for at in range(0, width, size):
        x = rows[:, at : at + size] + errors[:, :at] @ (factor[:at, at : at + size] / np.diag(factor)[at : at + size])
        header = np.zeros((len(rows), qtype(name).block_bytes), np.uint8)
        x32 = x.astype(np.float32)
        kernel_for(qtype(name)).encode(x32.view(np.uint8), F32, importance[at : at + size], header)
        here = slice(at, at + size)
        scales[:, here], units[:, here] = (np.repeat(a, grid.size, axis=1) for a in grid.scales.read(header))
        if grid.offsets:
            read = grid.offsets.read(header)
            offsets[:, here], offset_units[:, here] = (np.repeat(a, grid.size, axis=1) for a in read)
        for j in range(at, at + size):
            choose(rows[:, j] + errors[:, :j] @ factor[:j, j] / factor[j, j], j)
    for at in [*range(0, width, 32)] * passes:
        for what in ("codes", "scales", "codes"):
            if what == "codes":
                for j in range(at, at + 32):
                    choose(rows[:, j] - errors[:, j] + errors @ h[:, j] / h[j, j], j)
                continue
            for first in range(at, at + 32, grid.size):
                c = slice(first, first + grid.size)
                refit(grid.scales, scales, units, step(c, np.where(scales[:, c] == 0, 0, levels[:, c])), c)
                if grid.offsets:
                    refit(grid.offsets, offsets, offset_units, step(c, np.ones((len(rows), grid.size))), c)
    return rows - errors


def square_of(rows: list[list[float]]) -> NDArray[np.float64]:
    """A unit matrix [32, 32] with these rows in its upper left."""
    square = np.eye(SQUARE)
    square[: len(rows), : len(rows)] = rows
    return square


def lanes_of(weights: list[float], errors: list[float]) -> Lanes:
    """A row of 32 columns whose first ones are given, the others zero, with a gradient of independent columns."""
    w, e = (to_lanes(np.float32([a + [0] * (SQUARE - len(a))])) for a in (weights, errors))
    return Lanes(w, e, e.copy(), e.copy(), SQUARE, np.zeros(VEC, np.float32))


def one_scale(value: float) -> NDArray[np.float32]:
    return to_lanes(np.float32([[value]]))


def test_feedback_by_hand() -> None:
    """Levels are whole numbers. 0.4 becomes 0; its error raises the next 0.4 by 0.4 * 0.5 to 0.6, which becomes 1. What
    is left is 0.4 in both; the second column's counts four times."""
    lanes = lanes_of([0.4, 0.4], [0, 0])
    factor, diagonal = pack(square_of([[1, 0.5], [0, 1]])), np.float32([1, 2] + [1] * 30)
    codes, none = np.zeros(lanes.weights.shape, np.uint8), np.zeros(0, np.float32)
    scalar = ScalarCodes(codes, one_scale(1), one_scale(0), SQUARE, -8, 7, none, none)
    feed(lanes, 0, SQUARE, factor, diagonal, Columns(lanes.weights.copy(), 0, SQUARE), scalar, new_scratch())
    assert from_lanes(codes, 1, SQUARE)[0, :3].tolist() == [8, 9, 8]
    assert from_lanes(lanes.errors, 1, SQUARE)[0, :3] == pytest.approx([0.4, -0.6, 0])
    assert from_lanes(lanes.left, 1, SQUARE)[0, :3] == pytest.approx([0.4, -0.4, 0])
    assert lanes.lost[0] == pytest.approx(0.4**2 + 4 * 0.4**2)


def test_descent_by_hand() -> None:
    """Two columns that go together, each 0.4 too low: the first is raised by 1, after which the second is best where
    it is. Of the loss 0.4^2 * (1 + 1 + 2 * 0.9) 0.6^2 + 0.4^2 - 2 * 0.6 * 0.4 * 0.9 is left."""
    h = square_of([[1, 0.9], [0.9, 1]])
    lanes, metric = lanes_of([0.4, 0.4], [0.4, 0.4]), metric_of(h)
    lanes.gradient[:] = to_lanes((from_lanes(lanes.errors, 1, SQUARE) @ h).astype(np.float32))
    lanes.lost[0] = 0.4**2 * 3.8
    codes, none = np.full(lanes.weights.shape, 8, np.uint8), np.zeros(0, np.float32)
    scale, zero = one_scale(1), one_scale(0)
    scalar = ScalarCodes(codes, scale, zero, SQUARE, -8, 7, none, none)
    fixed, absent = RefitScales(scale, zero, 0, 1, 0.0, 0, 0.0), RefitScales(zero, zero, 1, 0, 0.0, 0, 0.0)
    sweep(lanes, 0, metric, 3, 0, scalar, fixed, absent, new_scratch())
    assert from_lanes(codes, 1, SQUARE)[0, :3].tolist() == [9, 8, 8]
    assert from_lanes(lanes.errors, 1, SQUARE)[0, :3] == pytest.approx([-0.6, 0.4, 0])
    assert lanes.lost[0] == pytest.approx(0.6**2 + 0.4**2 - 2 * 0.6 * 0.4 * 0.9)
    expected = (from_lanes(lanes.errors, 1, SQUARE) @ h)[0]
    assert from_lanes(lanes.gradient, 1, SQUARE)[0] == pytest.approx(expected, abs=1e-6)


def test_a_scale_by_hand() -> None:
    """Weights of 1.1 with codes 1 and scale 1: independent columns ask for 1.1, a half; of multiples of 0.25, for 1;
    of floats of a byte, for the nearest. Then the offset, once more as near: nothing is left where it is a half."""
    metric, scratch = metric_of(np.eye(SQUARE)), new_scratch()
    free, none = (0, 0, 0.0, 10, 65504.0), (1, 0, 0.0, 0, 0.0)
    zeros = one_scale(0)
    for unit, ranges, expected in (
        (0.0, free, float(np.float16(1.1))),
        (0.0, (0, 0, 0.0, 0, 2.0**126), 1.0),  # a power of two
        (2.0**-10, (0, 0, 0.0, 3, 224.0), 1.125),  # eight to the octave
        (0.8, (0, 0, 0.0, 3, 224.0), 0.8),  # a subnormal
        (2.0**-10, (0, 0, 0.0, 3, 1.0), 1.0),  # as it was: 1.125 is too large
        (0.25, (0, 15, 0.0, 0, 0.0), 1.0),
        (0.4, (0, 1, 0.5, 0, 0.0), 0.6),
    ):
        scales, units = one_scale(1), one_scale(unit)
        lanes = lanes_of([1.1] * SQUARE, [0.1] * SQUARE)
        scratch.lost[:] = 0.1**2 * SQUARE
        refit(
            lanes, 0, metric, 0, SQUARE, RefitScales(scales, units, *ranges), RefitScales(zeros, zeros, *none), scratch
        )
        assert scales[0, 0] == pytest.approx(expected)
        assert from_lanes(lanes.errors, 1, SQUARE)[0] == pytest.approx(1.1 - expected, abs=1e-6)
        assert from_lanes(lanes.gradient, 1, SQUARE)[0] == pytest.approx(1.1 - expected, abs=1e-6)
        assert scratch.lost[0, 0] == pytest.approx((1.1 - expected) ** 2 * SQUARE, abs=1e-5)
    offsets = zeros.copy()
    halves, free_offsets = RefitScales(scales, units, 0, 1, 0.5, 0, 0.0), RefitScales(offsets, zeros, *free)
    refit(lanes, 0, metric, 0, SQUARE, halves, free_offsets, scratch)
    assert offsets[0, 0] == np.float16(0.5)
    assert from_lanes(lanes.errors, 1, SQUARE)[0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", TYPES)
def test_scales_are_written_as_they_are_read(name: str) -> None:
    kind = qtype(name)
    layout = SCALAR_TYPES.get(name) or LATTICE_TYPES[name]
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (50, kind.block_bytes), np.uint8)
    if name == "IQ1_M":
        blocks[:, 49::2] &= 0x3F  # the unit is a half in four parts, here a finite one
    if name in ("MXFP4", "NVFP4"):
        blocks[:, :4] = blocks[:, :4] % 125 + 2  # what encoders write; MXFP4's first two scales count as zero
    for scales in filter(None, (layout.scales, getattr(layout, "offsets", None))):
        with np.errstate(invalid="ignore"):  # some units are NaN
            before, (values, units) = blocks.copy(), scales.read(blocks)
        fine = np.isfinite(values).all(axis=1)
        assert fine.any()
        scales.write(values[fine], same := blocks[fine])
        assert (same == before[fine]).all()
        if scales.low == scales.high:
            continue
        wanted = units[fine] * (
            rng.integers(scales.low, scales.high + 1, values[fine].shape) + np.float32(scales.shift)
        )
        scales.write(wanted, other := blocks[fine])
        assert (scales.read(other)[0] == wanted).all()


def test_products_and_factor() -> None:
    h = moments(64)
    upper = h.copy()
    assert cholesky(upper)
    upper = np.triu(upper)
    assert np.abs(upper.T @ upper - h).max() < 1e-9 * np.abs(h).max()
    assert not cholesky(-h)
    a = np.float32(np.random.default_rng(0).standard_normal((20, 64)))
    out = np.zeros((2 * 32, 16), np.float32)
    add_product(pack(h), 8, 40, Columns(to_lanes(a), 8, 64), 16, 48, Columns(out, 0, 32))
    assert from_lanes(out, 20, 32) == pytest.approx(a[:, 8:48] @ h[8:48, 16:48], rel=1e-4, abs=1e-4)
    assert (unpack(pack(h)) == h.astype(np.float32)).all()
    lower = gram(upper)
    assert np.abs(np.tril(lower) - np.tril(upper @ upper.T)).max() < 1e-9 * np.abs(h).max()
    assert np.abs(lower - lower.T).max() < 1e-9 * np.abs(h).max()


def test_a_loss_is_added_up_until_it_is_enough() -> None:
    """The whole of it where the limit is far; a part that is above the limit, where that is near."""
    block, rows = make_blocks([moments(128)])[0], weights(20, 128)
    e, d = to_lanes(rows), damped(moments(128))
    expected = np.einsum("ri,ij,rj->r", rows.astype(np.float64), d, rows)
    for enough in (np.inf, expected.max() * 0.1):
        limit, out = np.full(2 * VEC, enough, np.float32), np.zeros(2 * VEC, np.float32)
        squared_products(block.factor, block.diagonal, e, 128, limit, out)
        if enough == np.inf:
            assert out[:20] == pytest.approx(expected, rel=1e-4)
        assert (out[:20] > min(enough, expected.min() * 0.999)).all()
        assert (out[:20] <= expected * 1.001).all()


def test_moments_that_are_hard() -> None:
    """Dead columns, few inputs, none at all, not quite definite; and none that ever were moments."""
    h = moments(256, rank=3)
    h[:, 7] = h[7] = 0
    for hard in (h, np.outer(np.ones(256), np.ones(256)), np.zeros((256, 256)), h - np.eye(256) * 1e-3):
        block = make_blocks([hard])[0]
        assert np.isfinite(block.factor).all()
        assert np.isfinite(block.importance).all()
    indefinite = np.eye(256) - 0.01
    assert make_blocks([indefinite])[0].damping > DAMPING
    hopeless = np.full((256, 256), 1e9)
    np.fill_diagonal(hopeless, 1)
    hopeless[0, 1] = hopeless[1, 0] = -1e12
    with pytest.raises(ValueError, match="positive definite"):
        make_blocks([hopeless])


def test_the_factor_is_of_the_moments() -> None:
    """H = M M^T with M upper: what ``Block`` says of itself."""
    h = moments(64)
    block = make_blocks([h])[0]
    square = unpack(block.factor).astype(np.float64) * block.diagonal
    assert np.allclose(np.triu(square), square)
    assert np.abs(square @ square.T - damped(h)).max() < 1e-5 * np.abs(h).max()
    turned = square.T * block.diagonal[:, None]
    assert np.allclose(unpack(block.panels[0].turned), turned, rtol=1e-5, atol=1e-5)


def test_the_panels_of_a_wide_block() -> None:
    """What a panel costs once later columns have repaired what they can: the least of the whole loss over them."""
    h = moments(640)
    block, d = make_blocks([h])[0], damped(h)
    assert [(panel.first, panel.width) for panel in block.panels] == [(0, 256), (256, 256), (512, 128)]
    for panel in block.panels:
        here, later = slice(panel.first, panel.first + panel.width), slice(panel.first + panel.width, None)
        repaired = d[here, here] - d[here, later] @ np.linalg.solve(d[later, later], d[later, here])
        assert np.allclose(unpack(panel.joint.moments), d[here, here], rtol=1e-5)
        assert np.abs(unpack(panel.ahead.moments) - repaired).max() < 1e-5 * repaired.max()
