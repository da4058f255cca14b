"""Runs of a text through a model by the library's functions, as a notebook calls them: typed results and events."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quantmill import (
    BaseComparison,
    Evaluation,
    GPTQSettings,
    RunOptions,
    awq,
    collect_imatrix,
    evaluate,
    gptq,
    merge_imatrices,
    write_gguf,
    write_hf,
)  # fmt: skip
from quantmill.formats.errors import FormatError, OutputError, PlanError, QuantmillError
from quantmill.formats.examples import tiny_llama
from quantmill.formats.progress import Event, Note, RunStarted, StepDone, WorkEnded

RUN = RunOptions(n_ctx=16)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    write_gguf(path, tiny_llama(layers=2, width=128))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    write_hf(tiny_llama(layers=2, width=128), path)
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("so it goes on and on, and so it went. " * 4)
    return path


def test_without_an_output_nothing_is_left(model: Path, text: Path, tmp_path: Path) -> None:
    before = sorted(model.parent.iterdir())
    made = collect_imatrix(str(model), text=str(text), run=RUN)
    assert made.path is None
    assert sorted(model.parent.iterdir()) == before
    kept = collect_imatrix(model, tmp_path / "i.gguf", text=text, run=RUN)
    assert kept.path == tmp_path / "i.gguf"
    assert made.perplexity == kept.perplexity
    for name, entry in made.imatrix.entries.items():
        assert np.array_equal(entry.sums, kept.imatrix.entries[name].sums)


def test_second_moments_can_be_read_after_the_run(model: Path, text: Path, tmp_path: Path) -> None:
    made = collect_imatrix(model, tmp_path / "i.gguf", text=text, run=RUN, second_moments=True, perplexity=False)
    assert made.perplexity is None
    assert made.imatrix.moments is not None
    assert made.imatrix.moments.packed("blk.0.attn_q.weight").any()
    assert [path.name for path in tmp_path.iterdir()] == ["i.gguf"]
    with pytest.raises(PlanError, match="need an output file"):
        collect_imatrix(model, text=text, run=RUN, second_moments=True)


def test_merging_needs_something_to_merge(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="there is nothing to merge"):
        merge_imatrices([], tmp_path / "merged.gguf")
    (tmp_path / "taken.gguf").touch()
    with pytest.raises(OutputError, match="exists already"):
        merge_imatrices([tmp_path / "a.gguf"], tmp_path / "taken.gguf")


def test_events_of_a_run(model: Path, text: Path) -> None:
    events: list[Event] = []
    collect_imatrix(model, text=text, run=RUN, level="IQ2_XS", progress=events.append)
    assert isinstance(events[0], Note)
    assert events[0].important
    (start,) = (i for i, event in enumerate(events) if isinstance(event, RunStarted))
    assert events[start] == RunStarted(str(text), n_chunks=9, n_ctx=16, n_layers=2)
    steps = [event for event in events[start + 1 :] if isinstance(event, StepDone)]
    assert [step.layer for step in steps] == [0, 1, *[None] * 9]
    assert steps[0] == StepDone("layer 1/2", 1, 1, layer=0)
    assert events[-1] == WorkEnded()


def test_an_evaluation_is_typed(model: Path, text: Path, tmp_path: Path) -> None:
    alone = evaluate(model, text, run=RUN, save_base=tmp_path / "base.npz")
    assert type(alone) is Evaluation
    for base in (model, tmp_path / "base.npz"):
        against = evaluate(model, text, base=base, run=RUN)
        assert isinstance(against, BaseComparison)
        assert against.perplexity == alone.perplexity
        assert abs(against.kld_mean) < 1e-6
    with pytest.raises(QuantmillError, match="cannot be combined with a base"):
        evaluate(model, text, base=model, save_base=tmp_path / "other.npz", run=RUN)
    with pytest.raises(FormatError, match="no such file or folder"):
        evaluate("nothing.gguf")


def test_a_quantized_checkpoint_is_typed(folder: Path, text: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    settings = GPTQSettings(group_size=64)
    made = gptq(folder, tmp_path / "gptq", settings=settings, text=text, run=RUN, progress=events.append)
    assert len(made.linears) == 14
    assert (made.n_chunks, made.n_ctx) == (9, 16)
    assert made.linears[0].damp >= settings.damp
    assert made.nbytes == sum(path.stat().st_size for path in made.output.iterdir())
    assert events[-1] == WorkEnded()
    scaled = awq(folder, tmp_path / "awq", text=text, run=RUN)
    assert [report.name for report in scaled.linears] == [report.name for report in made.linears]
    assert any(report.exponent > 0 for report in scaled.linears)
    for run in (RunOptions(dtype="bf16"), RunOptions(skip_bad_chunks=True)):
        with pytest.raises(PlanError, match="compute every chunk in float32"):
            gptq(folder, tmp_path / "other", text=text, run=run)
