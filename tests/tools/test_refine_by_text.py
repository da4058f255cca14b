"""``--refine`` by a text: every weight for the inputs that the quantized model will give it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quantmill
from oracles.tiny import save_tiny_llama, save_tiny_mixtral
from quantmill import RunOptions, SizeTarget, convert
from quantmill.formats.gguf.reader import read_gguf
from quantmill.quantize.sequential import block

Cli = Callable[..., Any]
SMALL = RunOptions(n_ctx=64, chunks=24)
WORDS = ["-c", 64, "--chunks", 24]


def save_words(path: Path, seed: int) -> Path:
    """A text that repeats nothing long."""
    rng = random.Random(seed)
    words = [line for line in Path(random.__file__).read_text("utf-8").split() if line.isascii()]
    path.write_text(" ".join(rng.choices(words, k=3000)), "utf-8")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    save_tiny_llama(folder / "hf", layers=2, hidden=256)
    convert(folder / "hf", folder / "f16.gguf", "F16")
    for number, name in enumerate(("text", "test")):
        save_words(folder / f"{name}.txt", number)
    return folder


def divergence(file: Path, files: Path) -> float:
    run = RunOptions(n_ctx=64, chunks=12)
    return quantmill.evaluate(file, files / "test.txt", base=files / "f16.gguf", run=run).kld_mean


@pytest.mark.parametrize(
    "level", ["Q3_K_M", *(pytest.param(one, marks=pytest.mark.slow) for one in ("IQ2_XS", "Q4_0"))]
)
def test_predictions_are_kept_better(files: Path, tmp_path: Path, level: str) -> None:
    """On a text that nothing was chosen on, better than with second moments of the same text and than without."""
    moments = tmp_path / "moments.gguf"
    quantmill.collect_imatrix(
        files / "f16.gguf", moments, text=files / "text.txt", run=SMALL, perplexity=False, second_moments=True
    )
    source, text = files / "f16.gguf", files / "text.txt"
    plain = convert(source, tmp_path / "plain.gguf", level, imatrix=moments)
    once = convert(source, tmp_path / "once.gguf", level, imatrix=moments, refine=True)
    said: list[str] = []
    done = convert(
        source, tmp_path / "text.gguf", level, refine=True, text=text, run=SMALL,
        progress=lambda event: said.append(str(getattr(event, "text", ""))),
    )  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"moments.gguf", "plain.gguf", "once.gguf", "text.gguf"}
    errors = [divergence(one.paths[0], files) for one in (done, once, plain)]
    assert errors[0] < 0.9 * errors[1]
    assert errors[0] < 0.7 * errors[2]
    read = read_gguf(done.paths[0])
    assert [t.qtype for t in read] == [t.qtype for t in read_gguf(plain.paths[0])]
    assert done.plan is not None
    assert sum(step.refined for step in done.plan.steps) == 15  # with the output matrix
    assert read.get("quantize.imatrix.file") == "text.txt"
    assert any(line.startswith("15 matrices: ") and "judged on 3 of 24 chunks" in line for line in said)


def contents(path: Path) -> list[bytes]:
    return [tensor.rows(0, tensor.n_rows).tobytes() for tensor in read_gguf(path)]


def test_the_same_bytes_with_any_threads(files: Path, cli: Cli, tmp_path: Path) -> None:
    made = []
    for threads, command, level in ((1, "quantize", []), (2, "quantize", []), (7, "convert", ["--outtype"])):
        words = ["--refine", "-f", files / "text.txt", *WORDS, "--threads", threads]
        out = tmp_path / f"{threads}.gguf"
        assert cli(command, files / "f16.gguf", out, *level, "Q2_K", *words).code == 0
        made.append(contents(out))
    assert made[0] == made[1] == made[2]


class Killed(Exception):
    pass


def test_an_interrupted_run_goes_on(files: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into shards, which are cut from what was refined."""
    words = [files / "f16.gguf", "Q3_K_M", "--refine", "-f", files / "text.txt", *WORDS]
    shards = ["--split-max-tensors", 12]
    assert cli("quantize", words[0], tmp_path / "whole.gguf", *words[1:], *shards).code == 0
    replace = block.SequentialEncoder.replace

    def killed(self: Any, inputs: Any) -> Any:
        if inputs[0].names[0] == "blk.1.attn_output.weight":
            raise Killed
        return replace(self, inputs)

    monkeypatch.setattr(block.SequentialEncoder, "replace", killed)
    options = {"refine": True, "text": files / "text.txt", "run": SMALL}
    where = quantmill.SplitOptions(max_tensors=12)
    with pytest.raises(Killed):
        convert(files / "f16.gguf", tmp_path / "again.gguf", "Q3_K_M", split=where, **options)  # type: ignore[arg-type]
    monkeypatch.undo()
    assert (tmp_path / "again.gguf.state").is_dir()
    done = cli("quantize", words[0], tmp_path / "again.gguf", *words[1:], *shards)
    assert done.code == 0
    assert "going on at layer 2, where an earlier run stopped" in done.err
    assert not (tmp_path / "again.gguf.state").exists()
    whole, again = (sorted(tmp_path.glob(f"{name}*.gguf")) for name in ("whole", "again"))
    assert len(whole) == len(again) == 2
    for one, other in zip(whole, again, strict=True):
        assert contents(one) == contents(other)


def test_another_text_begins_anew(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier run left is of that run's text: neither its layers nor its unfinished file is taken up."""
    out, said = tmp_path / "o.gguf", []  # type: ignore[var-annotated]

    def make(path: Path, text: str) -> None:
        convert(
            files / "f16.gguf", path, "Q4_0", refine=True, text=files / text, run=SMALL,
            progress=lambda event: said.append(str(getattr(event, "text", ""))),
        )  # fmt: skip

    def stop(*args: object, **options: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("quantmill.tools.api.convert.write_plans", stop)
        with pytest.raises(Killed):
            make(out, "text.txt")
    assert (tmp_path / "o.gguf.state").is_dir()
    make(out, "test.txt")
    assert any("an unfinished run with another text" in line for line in said)
    make(tmp_path / "whole.gguf", "test.txt")
    assert contents(out) == contents(tmp_path / "whole.gguf")


def test_experts(tmp_path: Path) -> None:
    save_tiny_mixtral(tmp_path / "hf")
    text = save_words(tmp_path / "text.txt", 0)
    said: list[str] = []
    done = convert(
        tmp_path / "hf", tmp_path / "o.gguf", "Q3_K_M", refine=True, text=text, run=RunOptions(n_ctx=64, chunks=8),
        progress=lambda event: said.append(str(getattr(event, "text", ""))),
    )  # fmt: skip
    assert done.plan is not None
    refined = [step.tensor.name for step in done.plan.steps if step.refined]
    assert "blk.1.ffn_down_exps.weight" in refined
    assert any("experts saw fewer than 256 tokens, and borrow" in line for line in said)
    plain = convert(tmp_path / "hf", tmp_path / "plain.gguf", "Q3_K_M")
    convert(tmp_path / "hf", tmp_path / "f16.gguf", "F16")
    run = RunOptions(n_ctx=64, chunks=8, first_chunk=10)
    errors = [
        quantmill.evaluate(one.paths[0], text, base=tmp_path / "f16.gguf", run=run).kld_mean for one in (done, plain)
    ]
    assert errors[0] < 0.8 * errors[1]


def test_tied_embeddings_and_a_fixed_width(tmp_path: Path) -> None:
    """Refined as an output matrix; no output matrix is made."""
    save_tiny_llama(tmp_path / "hf", layers=1, hidden=512, tied=True)
    text = save_words(tmp_path / "text.txt", 0)
    said: list[str] = []
    done = convert(
        tmp_path / "hf", tmp_path / "o.gguf", "Q4_K_M", refine=True, refine_width=512, text=text, run=SMALL,
        progress=lambda event: said.append(str(getattr(event, "text", ""))),
    )  # fmt: skip
    assert done.plan is not None
    steps = {step.tensor.name: step for step in done.plan.steps}
    assert steps["token_embd.weight"].refined
    assert "output.weight" not in steps
    (line,) = [line for line in said if line.startswith("columns that repair each other")]
    assert " of 256" not in line
    assert " of 512" in line


def test_a_target_size(files: Path, tmp_path: Path) -> None:
    """Types are chosen by second moments of the text, then refined by it."""
    done = convert(
        files / "f16.gguf", tmp_path / "o.gguf", target=SizeTarget(bpw=4.5, typical_sensitivity=True), refine=True,
        text=files / "text.txt", run=RunOptions(n_ctx=64, chunks=8),
    )  # fmt: skip
    assert done.plan is not None
    assert done.plan.bpw <= 4.5
    assert any(step.refined for step in done.plan.steps)
    assert [path.name for path in tmp_path.iterdir()] == ["o.gguf"]


def test_a_dry_run_reads_no_weight(files: Path, tmp_path: Path) -> None:
    done = convert(files / "f16.gguf", tmp_path / "o.gguf", "IQ2_XS", refine=True, run=SMALL, dry_run=True)
    assert done.plan is not None
    assert any(step.refined for step in done.plan.steps)
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused(files: Path, refused: Cli, tmp_path: Path) -> None:
    source, out, text = files / "f16.gguf", tmp_path / "o.gguf", files / "text.txt"
    (tmp_path / "short.txt").write_text("So it goes.")
    line = refused("quantize", source, out, "Q4_0", "--refine", "-f", tmp_path / "short.txt")
    assert "a chunk needs 512" in line
    assert "no tensor of Q8_0 can be refined" in refused("quantize", source, out, "Q8_0", "--refine", "-f", text)
    assert "--file: has no effect: it needs --refine" in refused("quantize", source, out, "Q4_0", "-f", text)
    assert "--chunks: has no effect" in refused("quantize", source, out, "Q4_0", "--chunks", 3)
    line = refused("quantize", source, out, "Q4_0", "--refine", "--cluster", "local")
    assert "--cluster: cannot refine by a text" in line
    assert "No such file" in refused("quantize", source, out, "Q4_0", "--refine", "-f", tmp_path / "none.txt")
    out.write_bytes(b"mine")
    assert "exists" in refused("quantize", source, out, "Q4_0", "--refine", "-f", text)


def test_a_model_that_cannot_be_run(refused: Cli, tmp_path: Path) -> None:
    """T5's blocks do not run one after the other: moments of its own are asked for."""
    from transformers import T5Config, T5ForConditionalGeneration

    save_tiny_llama(tmp_path / "hf")
    (tmp_path / "hf" / "model.safetensors").unlink()
    config = T5Config(
        vocab_size=320, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, decoder_start_token_id=0,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "hf")
    line = refused("convert", tmp_path / "hf", tmp_path / "o.gguf", "--outtype", "Q4_0", "--refine")
    assert "encoder and a decoder" in line
    assert "--imatrix" in line


def test_a_weight_that_is_not_finite_is_named(files: Path, tmp_path: Path) -> None:
    from quantmill.formats.arrays import model_from_arrays
    from quantmill.formats.errors import QuantmillError
    from quantmill.imatrix.floats import read_floats

    model = read_gguf(files / "f16.gguf")
    arrays = {t.name: read_floats(t) if t.qtype.is_float else np.empty(0) for t in model}
    arrays["blk.1.ffn_up.weight"][5, 9] = np.inf
    bad = model_from_arrays("llama", arrays)
    bad = type(model)(model.arch, model.metadata, bad.tensors, model.path)
    with pytest.raises(QuantmillError, match="layer 1"):
        convert(bad, tmp_path / "o.gguf", "Q4_0", refine=True, text=files / "text.txt", run=SMALL)
    assert list(tmp_path.iterdir()) == []


def test_options_of_the_library(files: Path, tmp_path: Path) -> None:
    with pytest.raises(quantmill.PlanError, match="float32 on the processor"):
        convert(files / "f16.gguf", tmp_path / "o.gguf", "Q4_0", refine=True, run=RunOptions(dtype="bf16"))
    options = quantmill.PlanOptions(importance={"blk.0.attn_q.weight": np.ones(256, np.float32)})
    with pytest.raises(quantmill.PlanError, match="have importance already"):
        convert(files / "f16.gguf", tmp_path / "o.gguf", "Q4_0", refine=True, options=options, run=SMALL)
