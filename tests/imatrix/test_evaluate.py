from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from quantmill.formats.errors import FormatError
from quantmill.imatrix.base_predictions import BaseWriter, SavedBase, read_base
from quantmill.imatrix.evaluate import Record, comparison, mean_and_error, token_nll

GENERATOR = torch.Generator().manual_seed(5)


def test_two_tokens_by_hand() -> None:
    """p = (1/4, 3/4) against q = (1/2, 1/2): KL = 1/4 ln 1/2 + 3/4 ln 3/2."""
    record = Record()
    base, model = torch.log(torch.tensor([[0.25, 0.75]])), torch.zeros(1, 2)
    record.add_against(model, base, torch.tensor([0]))
    assert record.nll[0] == pytest.approx([np.log(2)], rel=1e-6)
    assert record.nll_base[0] == pytest.approx([np.log(4)], rel=1e-6)
    assert record.kld[0] == pytest.approx([0.25 * np.log(0.5) + 0.75 * np.log(1.5)], rel=1e-6)
    assert record.same_top[0].tolist() == [0.0]  # a tie goes to the first token, the base likes the second


def test_summary_by_hand() -> None:
    nll = np.log(np.array([2.0, 8.0] * 8))
    figures = comparison(nll, nll.copy(), np.arange(16.0) / 16, np.array([1.0] * 12 + [0.0] * 4))
    error = np.log(2) / np.sqrt(15)
    assert figures.perplexity == pytest.approx(4.0)
    assert figures.perplexity_error == pytest.approx(4 * error)
    assert (figures.log_ppl_ratio, figures.dp_rms, figures.dp_rms_error) == (0, 0, 0)
    assert figures.log_ppl_ratio_error == pytest.approx(0, abs=1e-7)
    assert (figures.kld_mean, figures.kld_median, figures.kld_max) == (0.46875, 0.46875, 0.9375)
    assert figures.kld_p99 == pytest.approx((14 + 0.85) / 16)
    assert figures.top1 == 0.75
    assert figures.top1_error == pytest.approx(np.sqrt(0.75 * 0.25 / 15))
    assert mean_and_error(np.array([1.0, 2.0])) == (1.5, 0.0)


def test_a_model_does_not_diverge_from_itself() -> None:
    logits, targets = torch.randn(130, 50, generator=GENERATOR), torch.arange(130) % 50
    record = Record()
    record.add_against(logits, logits, targets)
    figures = record.report()
    assert figures.kld_max == pytest.approx(0, abs=1e-6)
    assert (figures.top1, figures.dp_rms) == (1, 0)
    alone = Record()
    alone.add(logits, targets)
    assert alone.report().perplexity == figures.perplexity
    expected = torch.nn.functional.cross_entropy(logits.double(), targets, reduction="none")
    np.testing.assert_allclose(token_nll(logits, targets), expected.numpy(), rtol=1e-5)


def saved(logits: torch.Tensor, targets: torch.Tensor, top_k: int, path: Path) -> SavedBase:
    writer = BaseWriter(top_k)
    writer.add(logits, targets)
    writer.write(path, np.zeros((1, 2 * len(targets) + 2), np.int32), logits.shape[1])
    return read_base(path)


def test_saved_base(tmp_path: Path) -> None:
    """With every token kept it is exact; with few it is a lower bound."""
    base, model = torch.randn(99, 40, generator=GENERATOR) * 3, torch.randn(99, 40, generator=GENERATOR) * 3
    targets = torch.arange(99) % 40
    full = Record()
    full.add_against(model, base, targets)
    exact = full.report()
    for top_k in (40, 8):
        record = Record()
        saved(base, targets, top_k, tmp_path / f"{top_k}.npz").compare(record, 0, model, targets)
        figures = record.report()
        assert figures.base_perplexity == pytest.approx(exact.base_perplexity, rel=1e-6)
        assert figures.top1 == exact.top1
        if top_k == 40:
            assert figures.kld_mean == pytest.approx(exact.kld_mean, rel=1e-5)
        else:
            assert np.all(np.concatenate(record.kld) <= np.concatenate(full.kld) + 1e-6)
            assert figures.kld_mean > 0.5 * exact.kld_mean


def test_damaged_base(tmp_path: Path) -> None:
    path = tmp_path / "base.npz"
    saved(torch.randn(9, 5, generator=GENERATOR), torch.arange(9) % 5, 5, path)
    data = path.read_bytes()
    for broken in (b"", data[:100], data[:-30], b"GGUF" + data):
        path.write_bytes(broken)
        with pytest.raises(FormatError, match="no saved base predictions"):
            read_base(path)
