"""New targets against least squares on the tokens themselves, in numpy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from quantmill.formats.arrays import tensor_from_array
from quantmill.formats.errors import PlanError, WeightError
from quantmill.formats.qtypes import qtype
from quantmill.quantize.decode import decode
from quantmill.quantize.encode import encode
from quantmill.quantize.sequential.block import PRIOR_TOKENS, SequentialEncoder
from quantmill.quantize.sequential.matrix import Choice, Matrix
from quantmill.quantize.sequential.sums import Sums
from quantmill.quantize.sequential.targets import losses, retarget, ridge_factor
from quantmill.quantize.sequential.threads import Threads, computing
from quantmill.quantize.sequential.ways import PLAIN, Known, Way, ways

ALONE = Threads(None)
NAME = "blk.0.ffn_down.weight"


@dataclass(frozen=True)
class Batch:
    changed: torch.Tensor
    original: torch.Tensor | None = None
    residuals: dict[str, torch.Tensor] = field(default_factory=dict)
    kept_aside: bool = False


@dataclass(frozen=True, eq=False)
class Entering:
    names: tuple[str, ...]
    matrix: int
    n_matrices: int
    width: int
    routed: bool


def tokens(seed: int, n: int = 2000, width: int = 256, rows: int = 64) -> tuple[Any, Any, Any]:
    """Inputs of the original and of the changed model, correlated, and the residuals between them."""
    rng = np.random.default_rng(seed)
    mixed = np.random.default_rng(99).standard_normal((width, width)) / width**0.5
    x = rng.standard_normal((n, width)) @ mixed + 0.3 * rng.standard_normal((n, width))
    y = 0.9 * x + 0.05 * rng.standard_normal((n, width))
    r = 0.2 * (y @ mixed)[:, :rows] + 0.05 * rng.standard_normal((n, rows))
    return tuple(torch.from_numpy(a.astype(np.float32)) for a in (x, y, r))


def weights(rows: int = 64, width: int = 256) -> Any:
    return np.random.default_rng(5).standard_normal((rows, width)).astype(np.float32)


def sums_of(x: Any, y: Any, r: Any, w: Any, *, by_row: bool) -> Sums:
    sums = Sums(y.shape[1], ALONE.each, {NAME: torch.from_numpy(w)} if by_row else None)
    for part in (slice(0, 300), slice(300, None)):
        sums.add(Batch(y[part], x[part], {} if r is None else {NAME: r[part]}))
    return sums


@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_the_target_is_the_least_squares_solution(by_row: bool, residual: bool) -> None:
    x, y, r = tokens(1)
    w = weights()
    sums = sums_of(x, y, r if residual else None, w, by_row=by_row)
    factor = ridge_factor(sums.mean(), ridge=1e-9)
    drift = sums.drift(NAME, slice(0, 64), torch.from_numpy(w))
    assert factor is not None
    assert drift is not None
    found = retarget(torch.from_numpy(w), drift, factor).numpy()
    wanted = x.double().numpy() @ w.T.astype(np.float64) + (r.double().numpy() if residual else 0)
    expected = np.linalg.lstsq(y.double().numpy(), wanted, rcond=None)[0].T
    assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()


def test_losses_are_those_of_the_outputs() -> None:
    x, y, r = tokens(2)
    w, v = weights(), weights() + 0.1
    sums = sums_of(x, y, r, w, by_row=True)
    drift = sums.drift(NAME, slice(3, 40), torch.from_numpy(w[3:40]))
    found = losses(torch.from_numpy(v - w)[3:40], drift, sums.mean()).numpy()
    left = (x.double().numpy() @ w.T + r.double().numpy())[:, 3:40]
    of = [np.square(left - y.double().numpy() @ m[3:40].T.astype(np.float64)).mean(0) for m in (v, w)]
    assert np.allclose(found, of[0] - of[1], rtol=1e-3, atol=1e-3)


def choose(kind: str, seen: Sums, aside: Sums, w: Any) -> tuple[Choice, Any, Any]:
    """How a matrix is encoded, its bytes, and those of the plain encoder."""
    matrix, known = Matrix(tensor_from_array(NAME, w), 0, qtype(kind)), Known(seen, NAME)
    choice = matrix.choose(known, Known(aside, NAME), None, ALONE.each)
    return choice, *(matrix.encode(way, known, ALONE.each) for way in (choice.way, PLAIN))


def output_error(blocks: Any, kind: str, seed: int, w: Any) -> float:
    x, y, r = (a.double().numpy() for a in tokens(seed))
    return float(np.square(x @ w.T + r - y @ decode(blocks, kind).T.astype(np.float64)).mean())


@pytest.mark.parametrize("kind", ["Q2_K", "Q4_0", "IQ3_S"])
def test_a_matrix_errs_less_on_tokens_that_nothing_was_chosen_on(kind: str) -> None:
    w = weights()
    seen, aside = (sums_of(*tokens(seed), w, by_row=True) for seed in (1, 2))
    choice, best, plain = choose(kind, seen, aside, w)
    assert choice.way.ridge
    assert choice.way.width == 256
    assert choice.cost < 0.75 * choice.plain
    errors = [output_error(blocks, kind, 3, w) for blocks in (best, plain, encode(w, kind))]
    assert errors[0] < 0.75 * errors[1]
    assert errors[0] < 0.75 * errors[2]


def test_what_would_do_harm_is_not_taken() -> None:
    """Tokens kept aside of another kind, for which neither the moments nor the drift hold."""
    w = weights()
    seen = sums_of(*tokens(1, n=40), w, by_row=True)
    rng = np.random.default_rng(8)
    x = torch.from_numpy(rng.standard_normal((900, 256)).astype(np.float32))
    aside = sums_of(x, x, torch.zeros(900, 64), w, by_row=True)
    choice, _, _ = choose("Q4_K", seen, aside, w)
    assert choice.cost <= choice.plain
    assert not choice.way.ridge


def test_a_float_matrix_is_moved_or_left_exactly() -> None:
    w = weights().astype(np.float16)
    seen, aside = (sums_of(*tokens(seed), w.astype(np.float32), by_row=False) for seed in (1, 2))
    choice, _, plain = choose("F16", seen, aside, w)
    assert (plain == w.view(np.uint8)).all()
    assert choice.way.ridge
    x, _, _ = tokens(4)
    same = sums_of(x, x, None, w.astype(np.float32), by_row=False)
    _, best, _ = choose("F16", same, same, w)
    assert (best == w.view(np.uint8)).all()


def test_what_judged_serves_in_the_end() -> None:
    """The last encoding is by all tokens, as if none had been kept aside."""
    w = weights()
    parts = [sums_of(*tokens(seed), w, by_row=by_row) for by_row in (True, False) for seed in (1, 2)]
    for seen, aside in (parts[:2], parts[2:]):
        seen.absorb(aside)
        whole = sums_of(*(torch.cat(both) for both in zip(tokens(1), tokens(2), strict=True)), w, by_row=True)
        drifts = [sums.drift(NAME, slice(0, 64), torch.from_numpy(w)) for sums in (seen, whole)]
        assert drifts[0] is not None
        assert torch.allclose(drifts[0], drifts[1], rtol=1e-3, atol=1e-3)  # type: ignore[arg-type]
        assert torch.allclose(seen.mean(), whole.mean(), rtol=1e-3, atol=1e-4)


def test_the_width_that_was_asked_for_is_the_only_one() -> None:
    q4, f16 = qtype("Q4_K"), qtype("F16")
    assert {way.width for way in ways(1536, q4, None, 0.1)} == {256, 1536}
    assert {way.width for way in ways(1536, q4, 512, 0.1)} == {512}
    assert {way.ridge for way in ways(1536, q4, None, 0)} == {0}
    assert ways(1536, f16, None, 0.3) == [Way(0.3, 0)]


def test_the_bytes_are_the_same_with_any_threads() -> None:
    w, made = weights(rows=96), []
    for n in (1, 2, 7):
        with computing(n) as workers:
            one = Entering((NAME,), 0, 1, 256, False)
            encoder = SequentialEncoder({NAME: tensor_from_array(NAME, w)}, {NAME: qtype("Q3_K")}, None, workers)
            encoder.begin(0, [one])
            for seed in range(4):
                x, y, r = tokens(seed, rows=96)
                encoder.see(one, Batch(y, x, {NAME: r}, kept_aside=seed == 3))
            encoder.replace([one])
            made.append(encoder.arrays[NAME].tobytes())
    assert made[0] == made[1] == made[2]


def test_experts_that_saw_little_borrow_from_their_layer() -> None:
    """One that saw nothing at all is refined by what the others saw; what is said is what it saw itself."""
    name, w = "blk.0.ffn_up_exps.weight", np.stack([weights(), weights() + 0.01, weights() - 0.01])
    encoder = SequentialEncoder({name: tensor_from_array(name, w)}, {name: qtype("Q2_K")}, None, ALONE)
    inputs = [Entering((name,), i, 3, 256, True) for i in range(3)]
    encoder.begin(0, inputs)
    for part, n in ((0, 900), (1, 20)):
        for seed in (1, 2):
            encoder.see(inputs[part], Batch(tokens(seed + part, n)[1], kept_aside=seed == 2))
    (new,) = encoder.replace(inputs).values()
    assert new.shape == w.shape
    assert [report.tokens for report in encoder.reports] == [900, 20, 0]
    assert [report.width for report in encoder.reports] == [256, 256, 256]
    assert encoder.reports[2].tokens < PRIOR_TOKENS
    y = tokens(7)[1].double().numpy()
    for i, blocks in enumerate(np.split(encoder.arrays[name], 3)):
        refined, plain = (
            np.square(y @ (w[i] - decode(b, "Q2_K")).T.astype(np.float64)).mean()
            for b in (blocks, encode(w[i], "Q2_K"))
        )
        assert refined < 0.8 * plain


def test_what_is_refused() -> None:
    w = weights()
    w[3, 7] = np.nan
    seen = sums_of(*tokens(1), weights(), by_row=True)
    with pytest.raises(WeightError, match=r"blk\.0\.ffn_down\.weight: weight \[3, 7\] is nan"):
        choose("Q4_K", seen, seen, w)
    bad = sums_of(*tokens(1), weights(), by_row=True)
    bad.moments[1, 0] = 1e12
    with pytest.raises(PlanError, match="far from positive definite, from 2000 tokens for 256 columns"):
        choose("Q4_K", bad, seen, weights())
