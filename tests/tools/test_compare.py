"""``compare``: the figures of ``evaluate`` for each file, the base run once, differences paired by position."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from transformers import LlamaForCausalLM

from oracles.second_device import SecondDevice
from oracles.tiny import TEXT, save_tiny_llama
from quantmill import (
    BaseComparison,
    ComparedModel,
    ModelComparison,
    PlanError,
    RunOptions,
    compare_models,
    convert,
    describe,
    evaluate,
    split,
)
from quantmill.formats.progress import Event, RunStarted, StepDone
from quantmill.imatrix.evaluate import Record, mean_and_error
from quantmill.tools.api.comparison import _paired

RUN = RunOptions(n_ctx=32, chunks=6)
LEVELS = ("Q8_0", "Q5_0", "Q4_0")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, its files, and a text."""
    folder = tmp_path_factory.mktemp("compare")
    save_tiny_llama(folder / "tiny", layers=2)
    (folder / "text.txt").write_text(TEXT * 6)
    convert(folder / "tiny", folder / "f16.gguf", "F16")
    for level in LEVELS:
        convert(folder / "tiny", folder / f"m.{level}.gguf", level)
    return folder


@pytest.fixture(scope="module")
def files(here: Path) -> list[Path]:
    return [here / f"m.{level}.gguf" for level in LEVELS]


@pytest.fixture(scope="module")
def found(here: Path, files: list[Path]) -> ModelComparison:
    return compare_models(here / "f16.gguf", files, here / "text.txt", run=RUN)


def test_each_model_has_the_figures_of_evaluate(here: Path, files: list[Path], found: ModelComparison) -> None:
    for model, path in zip(found.models, files, strict=True):
        assert model.path == path
        assert model.figures == evaluate(path, here / "text.txt", base=here / "f16.gguf", run=RUN)
        assert (model.size.nbytes, model.size.bpw) == (path.stat().st_size, describe(path).bpw)
    assert found.base_size is not None
    assert found.base_size.nbytes == (here / "f16.gguf").stat().st_size
    assert (found.n_chunks, found.n_ctx) == (6, 32)


def test_saved_predictions_are_a_base(here: Path, files: list[Path], tmp_path: Path) -> None:
    base = tmp_path / "base.npz"
    evaluate(here / "f16.gguf", here / "text.txt", save_base=base, run=RUN)
    found = compare_models(base, files[:2], here / "text.txt", run=RUN)
    assert found.base_size is None
    assert [model.figures for model in found.models] == [
        evaluate(path, here / "text.txt", base=base, run=RUN) for path in files[:2]
    ]


def test_every_model_runs_once(here: Path, files: list[Path]) -> None:
    events: list[Event] = []
    compare_models(here / "f16.gguf", files, here / "text.txt", run=RUN, progress=events.append)
    assert sum(isinstance(event, RunStarted) for event in events) == 1 + len(files)


def test_differences_are_paired(found: ModelComparison) -> None:
    pairs = {(pair.first.name, pair.second.name): pair for pair in found.differences}
    assert len(pairs) == 3
    by_name = {model.path.name: model.figures for model in found.models}
    for (first, second), pair in pairs.items():
        a, b = by_name[first], by_name[second]
        assert pair.kld == pytest.approx(b.kld_mean - a.kld_mean, abs=1e-12)
        assert pair.top1 == pytest.approx(b.top1 - a.top1, abs=1e-12)
        assert pair.log_ppl == pytest.approx(np.log(b.perplexity / a.perplexity), abs=1e-12)
    pair = pairs["m.Q5_0.gguf", "m.Q4_0.gguf"]
    assert 0 < pair.log_ppl_error < pair.kld_error + by_name["m.Q4_0.gguf"].perplexity_error


def test_a_paired_error_by_hand() -> None:
    """Two models whose figures swing together by 1 differ by 0.25 or 0.75: the error is of that alone."""
    swing, offset = np.arange(20.0) % 2, np.array([0.25, 0.75] * 10)
    one = Record([swing], [swing], [swing], [swing])
    two = Record([swing + offset], [swing], [swing + offset], [swing])
    pair = _paired(Path("a"), Path("b"), one, two)
    assert (pair.kld, pair.kld_error) == pytest.approx((0.5, 0.25 / np.sqrt(19)))
    assert (pair.log_ppl, pair.log_ppl_error) == (pair.kld, pair.kld_error)
    assert (pair.top1, pair.top1_error) == (0, 0)
    assert mean_and_error(two.kld[0])[1] > 2 * pair.kld_error


def test_checkpoints_and_shards(here: Path, tmp_path: Path) -> None:
    split(here / "m.Q8_0.gguf", tmp_path / "m", max_tensors=8)
    shards = sorted(tmp_path.glob("m-*.gguf"))
    assert len(shards) == 3
    found = compare_models(here / "tiny", [shards[1], here / "tiny"], here / "text.txt", run=RUN)
    sharded, itself = found.models
    assert sharded.size.nbytes == sum(path.stat().st_size for path in shards)
    assert sharded.size.bpw == describe(here / "m.Q8_0.gguf").bpw
    assert itself.size == found.base_size
    assert itself.size.nbytes == (here / "tiny" / "model.safetensors").stat().st_size
    assert itself.size.bpw == pytest.approx(32, rel=0.02)
    assert (itself.figures.kld_max, itself.figures.top1) == (0, 1)


def test_activations_of_all_models_share_the_memory(
    here: Path, files: list[Path], found: ModelComparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantmill.imatrix import activations

    limits: list[int] = []
    begin = activations.Activations.__init__

    def init(self: activations.Activations, *args: object) -> None:
        limits.append(int(args[3]))  # type: ignore[call-overload]
        begin(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(activations.Activations, "__init__", init)
    of_one = 6 * 32 * 64 * 4  # chunks, tokens, width, bytes
    for spill, together in ((4000, 1), (3 * of_one, 2), (4 * of_one, 3)):  # beside the base
        events: list[Event] = []
        limits.clear()
        monkeypatch.setattr(activations, "SPILL", spill)
        assert compare_models(here / "f16.gguf", files, here / "text.txt", run=RUN, progress=events.append) == found
        assert limits == [spill // (together + 1)] * 4
        compared = [event for event in events if isinstance(event, StepDone) and event.stage == "predictions compared"]
        assert len(compared) == 6 * -(-3 // together)
        assert sum(isinstance(event, RunStarted) for event in events) == 4


def test_models_are_told_as_they_are_measured(here: Path, files: list[Path], found: ModelComparison) -> None:
    told: list[ComparedModel] = []
    compare_models(here / "f16.gguf", files, here / "text.txt", run=RUN, measured=told.append)
    assert tuple(told) == found.models


def test_on_a_second_device(here: Path, files: list[Path], found: ModelComparison) -> None:
    run = RunOptions(n_ctx=32, chunks=6, device="cuda")
    with SecondDevice():
        assert compare_models(here / "f16.gguf", files, here / "text.txt", run=run) == found


def test_the_table(here: Path, files: list[Path], found: ModelComparison, cli: Callable[..., object]) -> None:
    done = cli("compare", here / "f16.gguf", *files, "-f", here / "text.txt", "-c", 32, "--chunks", 6, "--quiet")
    assert isinstance(done.out, str)  # type: ignore[attr-defined]
    lines = done.out.splitlines()  # type: ignore[attr-defined]
    assert lines[0].split()[:4] == ["file", "size", "bpw", "perplexity"]
    assert [line.split()[0] for line in lines[1:5]] == ["f16.gguf", *(path.name for path in files)]
    figures: BaseComparison = found.models[2].figures
    assert f"{figures.kld_mean:.6f} ± {figures.kld_mean_error:.6f}" in lines[4]
    assert lines[4].endswith(f"{found.differences[1].kld:+.6f} ± {found.differences[1].kld_error:.6f}")
    assert lines[5].endswith("text.txt: 6 chunks of 32 tokens, 90 judged")


def test_json_and_pictures(here: Path, files: list[Path], found: ModelComparison, cli: Callable[..., object],
                           tmp_path: Path) -> None:  # fmt: skip
    common = ("compare", here / "f16.gguf", *files, "-f", here / "text.txt", "-c", 32, "--chunks", 6, "--quiet")
    svg, png = tmp_path / "sizes.svg", tmp_path / "sizes.png"
    done = cli(*common, "--json", "--plot", svg)
    told = json.loads(done.out)  # type: ignore[attr-defined]
    assert [row["kld_p999"] for row in told["models"]] == [model.figures.kld_p999 for model in found.models]
    assert told["models"][0]["bytes"] == files[0].stat().st_size
    assert told["differences"][2]["first"].endswith("m.Q5_0.gguf")
    assert told["base_bpw"] == pytest.approx(16, rel=0.01)
    first = svg.read_bytes()
    drawn = ElementTree.fromstring(first)
    assert drawn.tag.endswith("svg")
    assert all(f"m.{level}" in first.decode() for level in LEVELS)  # as comments, beside the letters' shapes
    cli(*common, "--plot", svg, "--force")
    assert svg.read_bytes() == first
    cli(*common, "--plot", png)
    assert png.read_bytes().startswith(b"\x89PNG")


def test_other_vocabularies(here: Path, files: list[Path], tmp_path: Path, refused: Callable[..., str]) -> None:
    larger, merging_less = tmp_path / "larger", tmp_path / "merging-less"
    shutil.copytree(here / "tiny", merging_less)
    tokenizer = json.loads((merging_less / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:4]
    (merging_less / "tokenizer.json").write_text(json.dumps(tokenizer))
    shutil.copytree(here / "tiny", larger)
    model = LlamaForCausalLM.from_pretrained(larger)
    model.resize_token_embeddings(328, mean_resizing=False)
    model.save_pretrained(larger)
    run = ("-f", here / "text.txt", "-c", 32, "--chunks", 2, "--quiet")
    for other, problem in (
        (larger, f"328 tokens in the vocabulary, 320 in {here / 'f16.gguf'}'s (it is another model)"),
        (merging_less, f"it splits the text into other tokens than {here / 'f16.gguf'} (it is another model)"),
    ):
        assert refused("compare", here / "f16.gguf", files[0], other, *run).endswith(f"{other}: {problem}")


def test_bad_input(here: Path, files: list[Path], tmp_path: Path, refused: Callable[..., str]) -> None:
    base, run = here / "f16.gguf", ("-f", here / "text.txt", "-c", 32, "--chunks", 2, "--quiet")
    short = tmp_path / "short.txt"
    short.write_text("a fox")
    (tmp_path / "old.svg").write_text("old")
    for words, problem in (
        ((tmp_path / "none.gguf", *files, *run), "none.gguf: no such file or folder"),
        ((base, files[0], tmp_path / "none.gguf", *run), "none.gguf: no such file or folder"),
        ((base, *files, "-f", short, "-c", 32), "short.txt"),
        ((base, *files, *run, "--plot", tmp_path / "sizes.pdf"), "sizes.pdf: is neither .svg nor .png"),
        ((base, *files, *run, "--plot", tmp_path / "old.svg"), "old.svg: exists (--force replaces it)"),
        ((base, *files, *run, "--force"), "--force: has no effect: there is no --plot"),
        ((base, *files, *run, "--device", "teapot"), "no device 'teapot' here"),
    ):
        assert problem in refused("compare", *words)
    with pytest.raises(PlanError, match="no model to compare"):
        compare_models(base, [], here / "text.txt")
