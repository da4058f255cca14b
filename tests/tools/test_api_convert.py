"""``convert`` and ``plan`` as a program calls them: any source, any target, typed results and events."""

from __future__ import annotations

from pathlib import Path

import pytest

from oracles.tiny import save_tiny_llama
from quantmill import (
    Conversion,
    Note,
    PlanError,
    PlanOptions,
    ReadOptions,
    RowsDone,
    SizeTarget,
    WorkEnded,
    WorkStarted,
    WriteOptions,
    convert,
    plan,
    read_model,
)
from quantmill.tools.api.models import without_float_ending


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("library") / "tiny", layers=1, hidden=256)


@pytest.fixture(scope="module")
def f16(checkpoint: Path) -> Path:
    return convert(checkpoint, checkpoint.with_name("tiny-f16.gguf"), "f16").paths[0]


def types_of(done: Conversion) -> set[str]:
    return {tensor.qtype.name for tensor in read_model(done.paths[0]) if len(tensor.shape) > 1}


def test_a_name_of_its_own_and_typed_events(f16: Path, tmp_path: Path) -> None:
    source = tmp_path / f16.name
    source.write_bytes(f16.read_bytes())
    events: list[object] = []
    done = convert(source, level="q8_0", progress=events.append)
    assert done.paths == (tmp_path / "tiny.Q8_0.gguf",)
    assert done.written
    assert done.plan is not None
    assert done.size == done.plan.size == done.paths[0].stat().st_size
    steps = [event for event in events if not isinstance(event, Note)]
    assert isinstance(steps[0], WorkStarted)
    assert isinstance(steps[-1], WorkEnded)
    assert sum(event.nbytes for event in steps if isinstance(event, RowsDone)) == steps[0].total


def test_a_dry_run_writes_nothing(f16: Path, tmp_path: Path) -> None:
    done = convert(f16, tmp_path / "o.gguf", "Q4_K_M", dry_run=True)
    assert not done.written
    assert done.plan is not None
    assert list(tmp_path.iterdir()) == []


def test_quantized_files_decode_to_floats_but_are_not_quantized_twice(f16: Path, tmp_path: Path) -> None:
    q4 = convert(f16, tmp_path / "q4.gguf", "Q4_K_M")
    for level in ("F32", "F16", "BF16"):
        done = convert(q4.paths[0], tmp_path / f"{level}.gguf", level)
        assert types_of(done) == {level}
    with pytest.raises(PlanError, match="quantized already"):
        convert(q4.paths[0], tmp_path / "q5.gguf", "Q5_K_M")
    again = convert(q4.paths[0], tmp_path / "q5.gguf", "Q5_K_M", options=PlanOptions(allow_requantize=True))
    assert "Q5_K" in types_of(again)


def test_the_commands_decode_too(f16: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from quantmill.tools.convert import command as convert_command
    from quantmill.tools.quantize import command as quantize_command

    q4 = convert(f16, tmp_path / "q4.gguf", "Q4_K_M").paths[0]
    for command, words in (
        (convert_command, [str(q4), str(tmp_path / "a.gguf"), "--outtype", "F16"]),
        (quantize_command, [str(q4), str(tmp_path / "b.gguf"), "F16"]),
    ):
        done = CliRunner().invoke(command, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_every_kind_of_target(checkpoint: Path, f16: Path, tmp_path: Path) -> None:
    folder = convert(f16, tmp_path / "hf")
    assert (folder.kind, folder.plan) == ("hf", None)
    assert read_model(tmp_path / "hf").from_checkpoint
    copy = convert(f16, tmp_path / "copy.gguf", write=WriteOptions(gguf_version=3))
    assert (copy.kind, copy.plan, copy.size) == ("gguf", None, copy.paths[0].stat().st_size)
    straight = convert(read_model(checkpoint), tmp_path / "q8.gguf", "Q8_0")
    assert types_of(straight) == {"Q8_0"}


def test_a_target_size(f16: Path, tmp_path: Path) -> None:
    done = convert(f16, tmp_path / "o.gguf", target=SizeTarget(bpw=6.0, typical_sensitivity=True))
    assert done.budget is not None
    assert done.paths[0].stat().st_size == done.size <= done.budget.limit


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"target": SizeTarget()}, "in bytes or in bits"),
        ({"target": SizeTarget(bpw=6.0), "kind": "ggml"}, "for GGUF files"),
        ({"text": "text.txt"}, "needs --refine"),
        ({"read": ReadOptions(lora_base=Path("base"))}, "is for LoRA adapters"),
        ({"keep_split": True, "level": "Q8_0"}, "no shards to keep"),
    ],
)
def test_refused(f16: Path, tmp_path: Path, options: dict[str, object], problem: str) -> None:
    with pytest.raises(PlanError, match=problem):
        convert(f16, tmp_path / "o", **{"kind": "gguf", "level": "Q4_K_M", **options})  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_sizes_are_those_of_the_files(f16: Path, tmp_path: Path) -> None:
    table = plan(f16, ["Q4_K_M", "Q8_0"])
    for row in table.levels:
        assert convert(f16, tmp_path / f"{row.level}.gguf", row.level).size == row.nbytes
    assert table.best_fit(table.run_bytes["Q8_0"]).level == "Q8_0"
    with pytest.raises(PlanError, match="too little"):
        table.best_fit(1)


def test_float_endings() -> None:
    names = ("m-f16", "m.BF16", "m_fp32", "m-F32", "m", "mf16", "m-f8")
    assert [without_float_ending(name) for name in names] == ["m", "m", "m", "m", "m", "mf16", "m-f8"]
