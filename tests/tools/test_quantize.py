"""The ``quantize`` command: names, arguments, the dry run, and errors that leave nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from quantmill.formats.errors import FormatError, OutputError, PlanError
from quantmill.formats.gguf.names import parse_name
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.imatrix_file import Entry, Imatrix, write_imatrix
from quantmill.formats.ir import Model, Tensor, Value, ValueType
from quantmill.formats.qtypes import F16
from quantmill.tools.api.models import output_path
from quantmill.tools.quantize import command, parse_arguments


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A 256-wide file of two matrices and one that only 32-wide types fit."""
    rng = np.random.default_rng(0)
    tensors = []
    for name, shape in {"attn_q": (64, 256), "ffn_down": (8, 512), "ffn_up": (8, 288)}.items():
        rows = rng.standard_normal(shape).astype("f2").view(np.uint8)
        full = f"blk.0.{name}.weight"
        tensors.append(Tensor(full, *parse_name(full), shape, F16, lambda a, b, rows=rows: rows[a:b]))
    metadata = {
        "general.architecture": Value(ValueType.STRING, "llama"),
        "llama.block_count": Value(ValueType.UINT32, 1),
        "llama.attention.head_count": Value(ValueType.UINT32, 4),
    }
    path = tmp_path / "model-f16.gguf"
    write_gguf(path, Model("llama", metadata, tuple(tensors), Path("none")))
    return path


def run(*args: object) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args], catch_exceptions=False)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model-f16.gguf", "model.Q4_K_M.gguf"),
        ("model.F16.gguf", "model.Q4_K_M.gguf"),
        ("a.b_bf16.gguf", "a.b.Q4_K_M.gguf"),
        ("m-fp32.gguf", "m.Q4_K_M.gguf"),
        ("half16.gguf", "half16.Q4_K_M.gguf"),
        ("noending", "noending.Q4_K_M.gguf"),
    ],
)
def test_output_path(name: str, expected: str) -> None:
    assert output_path(Path("d") / name, "Q4_K_M") == Path("d") / expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("Q4_K_M",), (None, "Q4_K_M", None)),
        (("q4_k_m", "4"), (None, "q4_k_m", 4)),
        (("o.gguf", "Q8_0"), (Path("o.gguf"), "Q8_0", None)),
        (("o.gguf", "Q8_0", "2"), (Path("o.gguf"), "Q8_0", 2)),
        (("o.gguf", "7"), (Path("o.gguf"), "7", None)),
        (("Q4_KM", "4"), (None, "Q4_KM", 4)),
    ],
)
def test_arguments(words: tuple[str, ...], expected: tuple[Path | None, str, int | None]) -> None:
    assert parse_arguments(words) == expected


def test_beside_the_input(source: Path) -> None:
    done = run(source, "Q4_K", "2")
    path = source.with_name("model.Q4_K_M.gguf")
    assert {t.name: t.qtype.name for t in read_gguf(path)} == {
        "blk.0.attn_q.weight": "Q4_K",
        "blk.0.ffn_down.weight": "Q6_K",
        "blk.0.ffn_up.weight": "Q5_0",
    }
    assert f"{path}: " in done.output
    assert "1 tensors fell back to another type (1 Q4_K -> Q5_0): +0.1" in done.output
    assert path.read_bytes()[4] == 2  # GGUF version


def test_dry_run_writes_nothing(source: Path) -> None:
    done = run(source, "Q4_K_M", "--dry-run")
    assert "blk.0.ffn_up.weight    8 x 288   F16 -> Q5_0" in done.output
    assert "Q4_K does not fit 288 columns" in done.output
    plan = json.loads(run(source, "Q4_K_M", "--dry-run", "--json").output)
    assert list(source.parent.iterdir()) == [source]
    assert plan["level"] == "Q4_K_M"
    assert plan["fallbacks"] == 1
    rows = {row["name"]: row for row in plan["tensors"]}
    assert rows["blk.0.attn_q.weight"]["bytes"] == 64 * 144
    assert rows["blk.0.ffn_up.weight"]["wanted"] == "Q4_K"
    run(source, "Q4_K_M", "--quiet")
    assert source.with_name("model.Q4_K_M.gguf").stat().st_size == plan["size"]


def test_options_reach_the_plan(source: Path) -> None:
    run(source, "Q4_K_M", "--tensor-type", "ATTN_.=q5_k", "--tensor-type", "ffn=F16", "--gguf-version", "3", "--quiet")
    path = source.with_name("model.Q4_K_M.gguf")
    assert [t.qtype.name for t in read_gguf(path)] == ["Q5_K", "F16", "F16"]
    assert path.read_bytes()[4] == 3


def test_imatrix(source: Path) -> None:
    widths = {"blk.0.attn_q.weight": 256, "blk.0.ffn_down.weight": 512, "blk.0.ffn_up.weight": 288}
    entries = {n: Entry(np.linspace(0, 9, w, dtype=np.float32), np.array([3])) for n, w in widths.items()}
    path = source.with_name("x.imatrix.gguf")
    write_imatrix(path, Imatrix(entries, ("text.txt",), 3, 512))
    out = source.with_name("a.gguf")
    run(source, out, "Q4_K_M", "--imatrix", path, "--quiet")
    model = read_gguf(out)
    assert model.get("quantize.imatrix.file") == str(path)[:127]
    assert model.get("quantize.imatrix.entries_count") == 3
    plain = source.with_name("b.gguf")
    run(source, plain, "Q4_K_M", "--quiet")
    assert model.tensors[0].rows(0, 64).tobytes() != read_gguf(plain).tensors[0].rows(0, 64).tobytes()


def test_imatrix_of_another_model(source: Path) -> None:
    path = source.with_name("x.dat")
    write_imatrix(path, Imatrix({"blk.9.other": Entry(np.ones(4, np.float32), np.array([1]))}, legacy=True))
    with pytest.raises(PlanError, match="holds no tensor of this model"):
        run(source, "Q4_K_M", "--imatrix", path)


def test_errors_leave_nothing_behind(source: Path) -> None:
    def files() -> list[str]:
        return sorted(p.name for p in source.parent.iterdir())

    with pytest.raises(PlanError, match="did you mean Q4_K_M"):
        run(source, "Q4_KM")
    with pytest.raises(PlanError, match="2 tensors need importance"):
        run(source, "IQ2_XXS")
    with pytest.raises(PlanError, match="--no-fallback"):
        run(source, "Q4_K_M", "--no-fallback")
    with pytest.raises(FormatError):
        run(source, "Q4_K_M", "--imatrix", source)
    assert files() == ["model-f16.gguf"]
    path = source.with_name("model.Q4_K_M.gguf")
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists"):
        run(source, "Q4_K_M")
    assert path.read_bytes() == b"precious"
    run(source, "Q4_K_M", "--force")
    assert path.read_bytes()[:4] == b"GGUF"
    with pytest.raises(OutputError, match="the output is the input"):
        run(source, source, "Q4_K_M", "--force")
    assert files() == ["model-f16.gguf", "model.Q4_K_M.gguf"]


def test_usage(source: Path) -> None:
    for words in (("Q4_K_M", "two"), ("o.gguf", "Q4_K_M", "2", "3"), ("Q4_K_M", "0"), ("Q4_K_M", "--tensor-type", "x")):
        done = run(source, *words)
        assert done.exit_code == 2
        assert "Usage" in done.output
