"""Options that change nothing: refused in one line that names both, or said; and importance that fits in part."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracles.tiny import TEXT, save_tiny_llama
from quantmill import (
    Note,
    PlanError,
    PlanOptions,
    QuantmillError,
    ReadOptions,
    ReleaseOptions,
    RunOptions,
    SizeTarget,
    WriteOptions,
    collect_imatrix,
    convert,
    evaluate,
    gptq,
    merge_imatrices,
    plan,
    read_gguf,
    release,
)
from quantmill.formats.imatrix_file import Entry, Imatrix, write_imatrix
from quantmill.formats.ir import Value, ValueType

Cli = Callable[..., Any]
FOREIGN = "blk.9.attn_q.weight"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """hf/ and f16.gguf are a model of 2 layers; text.txt."""
    folder = tmp_path_factory.mktemp("unused")
    save_tiny_llama(folder / "hf", layers=2, hidden=256)
    convert(folder / "hf", folder / "f16.gguf", "f16")
    (folder / "text.txt").write_text(TEXT * 12)
    return folder


def entries(model: Path, counts: int = 3) -> dict[str, Entry]:
    return {
        t.name: Entry(np.arange(1, t.width + 1, dtype=np.float32), np.array([counts]))
        for t in read_gguf(model)
        if len(t.shape) > 1
    }


def matrix(path: Path, found: dict[str, Entry], *, legacy: bool = False) -> Path:
    write_imatrix(path, Imatrix(found, ("text.txt",), 3, 0 if legacy else 512, legacy), force=True)
    return path


@pytest.fixture(scope="module")
def partial(here: Path) -> Path:
    """15 entries of the model's 16 matrices, and one of a layer that it does not have."""
    found = entries(here / "f16.gguf")
    del found["output.weight"]
    return matrix(here / "partial.gguf", {**found, FOREIGN: found["blk.0.attn_q.weight"]})


# Importance that fits in part


@pytest.mark.parametrize("legacy", [False, True])
def test_entries_used_are_counted_and_said(cli: Cli, here: Path, tmp_path: Path, legacy: bool) -> None:
    f16, found = here / "f16.gguf", entries(here / "f16.gguf")
    everything = matrix(tmp_path / "all.dat", found, legacy=legacy)
    some = matrix(tmp_path / "some.dat", {**found, FOREIGN: found["blk.0.attn_q.weight"]}, legacy=legacy)
    for name, file, missed in (("a", everything, []), ("b", some, [FOREIGN])):
        out = tmp_path / f"{name}.gguf"
        done = cli("quantize", f16, out, "Q4_K_M", "--imatrix", file, "--json")
        made = json.loads(done.out)
        assert made["importance"] == {"matched": 16, "missed": missed, "tensors": 16, "tensors_without": []}
        assert read_gguf(out).get("quantize.imatrix.entries_count") == 16
        assert ("1 of 17 entries belong to no tensor of this model" in done.err) == bool(missed)
    same = [read_gguf(tmp_path / f"{name}.gguf").tensors for name in "ab"]
    assert all(a.rows(0, a.n_rows).tobytes() == b.rows(0, b.n_rows).tobytes() for a, b in zip(*same, strict=True))


def test_the_line_is_in_every_summary(cli: Cli, here: Path, partial: Path, tmp_path: Path) -> None:
    counts = f"importance: 15 entries matched, 1 missed ({FOREIGN})"
    line = f"{counts}; 15 tensors encoded with it, 1 without (output.weight)"
    f16 = here / "f16.gguf"
    for words in (
        ("quantize", f16, tmp_path / "a.gguf", "Q4_K_M"),
        ("quantize", f16, "Q4_K_M", "--dry-run"),
        ("convert", here / "hf", tmp_path / "b.gguf", "--outtype", "Q4_K_M"),
        ("convert", here / "hf", tmp_path / "c.gguf", "--outtype", "Q4_K_M", "--dry-run"),
    ):
        done = cli(*words, "--imatrix", partial)
        assert (done.code, line in done.out.splitlines()) == (0, True), done
    for words in (("plan", f16, "Q4_K_M"), ("plan", here / "hf")):
        assert counts in cli(*words, "--imatrix", partial).out.splitlines()
    planned = json.loads(cli("plan", f16, "Q4_K_M", "--imatrix", partial, "--json").out)["levels"][0]
    for command, words in (
        ("quantize", (f16, "Q4_K_M")),
        ("convert", (f16, tmp_path / "d.gguf", "--outtype", "Q4_K_M")),
    ):
        dry = json.loads(cli(command, *words, "--imatrix", partial, "--dry-run", "--json").out)
        assert dry["importance"] == planned["importance"]
    assert planned["importance"]["tensors_without"] == ["output.weight"]
    target = (f16, "--target-bpw", "5", "--typical-sensitivity", "--imatrix", partial)
    chosen = json.loads(cli("plan", *target, "--json").out)
    assert chosen["importance"]["missed"] == [FOREIGN]
    assert counts in cli("plan", *target).out
    quiet = cli("quantize", f16, tmp_path / "q.gguf", "Q4_K_M", "--imatrix", partial, "--quiet")
    assert FOREIGN in quiet.err  # data left out is said even then


def test_a_release_counts_too(cli: Cli, here: Path, partial: Path, tmp_path: Path) -> None:
    words = ("release", here / "f16.gguf", tmp_path / "set", "--levels", "Q4_K_M,Q8_0", "--imatrix", partial)
    done = cli(*words)
    assert done.code == 0, done.err
    assert "importance: 15 entries matched, 1 missed" in done.out
    assert f"1 of 16 entries belong to no tensor of this model, or to one of another width: {FOREIGN}" in done.err
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert (manifest["imatrix"]["matched"], manifest["imatrix"]["missed"]) == (15, [FOREIGN])
    assert "15 of 16 entries; the model has no tensor of the others" in (tmp_path / "set" / "README.md").read_text()
    again = cli("reproduce", tmp_path / "set" / "manifest.json", "--model", here / "f16.gguf", "--imatrix", partial)
    assert again.code == 0, again


@pytest.mark.parametrize("names", ["model.layers.{}.mlp.up_proj.weight", "blk.{}.attn_norm.weight", "x.{}"])
def test_importance_of_another_model(refused: Cli, here: Path, tmp_path: Path, names: str) -> None:
    """HF's names, and what is never quantized, count as nothing."""
    found = {names.format(i): entry for i, entry in enumerate(list(entries(here / "f16.gguf").values())[:2])}
    file = matrix(tmp_path / "other.gguf", found)
    for words in (
        ("quantize", here / "f16.gguf", tmp_path / "o.gguf", "Q4_K_M"),
        ("convert", here / "hf", tmp_path / "o.gguf", "--outtype", "Q4_K_M"),
        ("plan", here / "f16.gguf"),
        ("release", here / "f16.gguf", tmp_path / "set", "--levels", "Q4_K_M"),
    ):
        line = refused(*words, "--imatrix", file)
        assert "other.gguf: holds no tensor of this model that can be quantized: it has " in line
        assert names.format(0) in line
        assert "the model has output.weight" in line


def test_importance_of_another_width(refused: Cli, here: Path, tmp_path: Path) -> None:
    found = entries(here / "f16.gguf")
    wide = {**found, "blk.0.attn_q.weight": Entry(np.ones(512, np.float32), np.array([3]))}
    experts = {**found, "blk.0.ffn_up.weight": Entry(np.ones(512, np.float32), np.array([3, 3]))}
    for name, file in (("blk.0.attn_q.weight", wide), ("blk.0.ffn_up.weight", experts)):
        line = refused("quantize", here / "f16.gguf", "Q4_K_M", "--imatrix", matrix(tmp_path / "w.gguf", file))
        assert f"{name}: its importance has 512 values, its rows have 256" in line


@pytest.mark.parametrize("legacy", [False, True])
def test_entries_that_saw_no_input_are_said(cli: Cli, here: Path, tmp_path: Path, legacy: bool) -> None:
    found = entries(here / "f16.gguf")
    empty = {**found, "blk.1.ffn_up.weight": Entry(np.ones(256, np.float32), np.array([0]))}
    file = matrix(tmp_path / "e", empty, legacy=legacy)
    done = cli("quantize", here / "f16.gguf", "Q4_K_M", "--imatrix", file, "--dry-run")
    line = "1 entries give all columns the same importance, as if they had seen no input: blk.1.ffn_up.weight"
    assert f"warning: {file}: {line}" in done.err.splitlines()
    again = cli("quantize", here / "f16.gguf", "Q8_0", "--imatrix", file, "--dry-run")
    assert line not in again.err  # nothing is encoded with them


def test_keys_of_ones_own_stay_beside_those_of_the_importance(here: Path, partial: Path, tmp_path: Path) -> None:
    options = PlanOptions(extra_metadata={"my.key": Value(ValueType.STRING, "mine")})
    made = read_gguf(convert(here / "f16.gguf", tmp_path / "o.gguf", "Q4_0", imatrix=partial, options=options).paths[0])
    assert (made.get("my.key"), made.get("quantize.imatrix.entries_count")) == ("mine", 15)


# Importance matrices of different models


def test_merging_matrices_of_different_models(cli: Cli, refused: Cli, here: Path, tmp_path: Path) -> None:
    found = entries(here / "f16.gguf")
    ours = matrix(tmp_path / "a.gguf", found)
    theirs = matrix(tmp_path / "b.gguf", {f"enc.{name}": entry for name, entry in found.items()})
    line = refused("imatrix", "--in-file", ours, "--in-file", theirs, "-o", tmp_path / "o.gguf")
    assert "b.gguf: has no entry of the files before it: they have blk.0.attn_k.weight" in line
    assert "it has enc.blk.0.attn_k.weight" in line
    some = matrix(tmp_path / "c.gguf", dict(list(found.items())[:3]) | {FOREIGN: found["blk.0.attn_q.weight"]})
    done = cli("imatrix", "--in-file", ours, "--in-file", some, "-o", tmp_path / "o.gguf", "--quiet")
    assert f"c.gguf: 3 entries are those of the files before; only it has 1 ({FOREIGN}); it lacks 13 (" in done.err


def test_merging_with_a_run_of_another_model(here: Path, tmp_path: Path) -> None:
    """Each file is checked, not only all of them together."""
    found = entries(here / "f16.gguf")
    shared = {"blk.0.attn_q.weight": found["blk.0.attn_q.weight"], FOREIGN: found["blk.0.attn_q.weight"]}
    files = [matrix(tmp_path / "a.gguf", shared), matrix(tmp_path / "b.gguf", {FOREIGN: shared[FOREIGN]})]
    run = RunOptions(n_ctx=16, chunks=1)
    text, said = here / "text.txt", list[str]()
    with pytest.raises(QuantmillError, match=r"b.gguf: holds no tensor of this model: it has blk.9.attn_q.weight"):
        collect_imatrix(here / "f16.gguf", text=text, run=run, merge=files)
    collect_imatrix(
        here / "f16.gguf", text=text, run=run, merge=files[:1], perplexity=False,
        progress=lambda event: said.append(event.text) if isinstance(event, Note) and event.important else None,
    )  # fmt: skip
    assert said == [f"warning: {files[0]}: 1 of 2 entries belong to no tensor of this model, and are kept: {FOREIGN}"]


def test_evaluating_against_another_model_is_said(here: Path, tmp_path: Path) -> None:
    save_tiny_llama(tmp_path / "hf", layers=1, hidden=256)
    said: list[str] = []
    run = RunOptions(n_ctx=16, chunks=2)
    for base in (here / "hf", tmp_path / "hf"):
        evaluate(
            here / "f16.gguf", here / "text.txt", base=base, run=run,
            progress=lambda event: said.append(event.text) if isinstance(event, Note) and event.important else None,
        )  # fmt: skip
    assert len(said) == 1
    assert "is another model (llama, 1 layers, 256 wide; f16.gguf: llama, 2 layers, 256 wide)" in said[0]


def test_a_page_with_importance_of_another_model(
    cli: Cli, refused: Cli, here: Path, partial: Path, tmp_path: Path
) -> None:
    other = matrix(tmp_path / "other.gguf", {FOREIGN: entries(here / "f16.gguf")["output.weight"]})
    line = refused("inspect", here / "f16.gguf", "--html", tmp_path / "o.html", "--imatrix", other)
    assert f"other.gguf: holds no tensor of this model: it has {FOREIGN}" in line
    done = cli("inspect", here / "f16.gguf", "--html", tmp_path / "o.html", "--imatrix", partial, "--quiet")
    assert (done.code, f"1 of 16 entries belong to no tensor of this model: {FOREIGN}" in done.err) == (0, True)


# Options that are refused, on the command line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        # convert to the same tensors, to a folder, or an adapter
        (
            "convert f16.gguf o.gguf --imatrix partial.gguf",
            "--imatrix: has no effect: without a level the tensors are co",
        ),
        (
            "convert f16.gguf o.gguf --tensor-type attn=Q8_0",
            "--tensor-type: has no effect: without a level the tensors",
        ),
        ("convert f16.gguf o.gguf --pure", "--pure: has no effect: without a level"),
        ("convert f16.gguf o.gguf --leave-output-tensor", "--leave-output-tensor: has no effect: without a level"),
        ("convert f16.gguf o.gguf --output-tensor-type F16", "--output-tensor-type: has no effect: without a level"),
        (
            "convert f16.gguf o.gguf --token-embedding-type F16",
            "--token-embedding-type: has no effect: without a level",
        ),
        ("convert f16.gguf o.gguf --recipe-set 2023-12", "--recipe-set: has no effect: without a level"),
        ("convert f16.gguf o.gguf --allow-requantize", "--allow-requantize: has no effect: without a level"),
        ("convert f16.gguf o.gguf --fallback-type Q4_0", "--fallback-type: has no effect: without a level"),
        ("convert f16.gguf o.gguf --no-fallback", "--no-fallback: has no effect: without a level"),
        ("convert f16.gguf o.gguf --refine", "--refine: has no effect: without a level"),
        ("convert f16.gguf o.gguf --cluster local", "--cluster: has no effect: without a level"),
        ("convert f16.gguf o.gguf -f text.txt", "--file: has no effect: without a level"),
        ("convert hf o.gguf --imatrix partial.gguf", "--imatrix: has no effect: without a level nothing is quantized"),
        ("convert f16.gguf o/ --imatrix partial.gguf", "--imatrix: has no effect: a Hugging Face folder holds floats"),
        ("convert f16.gguf o/ --outtype F16 --pure", "--pure: has no effect: a Hugging Face folder holds floats"),
        ("convert f16.gguf o/ --gguf-version 3", "--gguf-version: has no effect: a Hugging Face folder is written"),
        ("convert f16.gguf o/ --big-endian", "--big-endian: safetensors files are little-endian"),
        ("convert f16.gguf o.bin --gguf-version 3", "--gguf-version: has no effect: a GGML file is written"),
        ("convert f16.gguf o.gguf --pre llama-bpe", "--pre: is for Hugging Face folders, and the source is not one"),
        ("convert hf o.gguf --eps 1e-5", "--eps: is for GGML files, and the source is not one"),
        # refining
        ("quantize f16.gguf Q4_K_M --refine-width 512", "--refine-width: needs --refine"),
        ("quantize f16.gguf Q4_K_M --imatrix partial.gguf --refine --refine-width 300", "300 is not a multiple of 256"),
        # targets
        (
            "quantize f16.gguf --target-bpw 5 --typical-sensitivity --sensitivity-text text.txt",
            "--typical-sensitivity: excludes --sensitivity-text",
        ),
        ("plan f16.gguf --target-bpw 5 --ctx 100", "--ctx: has no effect: a target is a size"),
        ("plan f16.gguf --format gptq --imatrix partial.gguf", "--imatrix: has no effect: GPTQ takes no plan"),
        ("plan f16.gguf --format gptq --recipe-set 2023-12", "--recipe-set: has no effect: GPTQ takes no plan"),
        # releases
        ("release f16.gguf o --imatrix none -f text.txt", "--file: has no effect: no importance is collected"),
        ("release f16.gguf o --imatrix partial.gguf -f text.txt", "--file: has no effect: importance is a file's"),
        ("release f16.gguf o --evaluation-text text.txt", "--evaluation-text: has no effect: nothing is measured"),
        ("release f16.gguf o --imatrix none --chunks 3", "--chunks: has no effect: no text is read"),
        ("release f16.gguf o --imatrix partial.gguf -c 64", "--ctx-size: has no effect: no text is read"),
        ("release f16.gguf o --cluster local --threads 2", "--threads: is for one machine"),
        # checks and pages
        (
            "verify f16.gguf --max-rmse 0.1",
            "--max-rmse: has no effect: there is nothing to compare with (give --against",
        ),
        ("verify f16.gguf --min-cosine 0.9", "--min-cosine: has no effect: there is nothing to compare with"),
        ("inspect f16.gguf --imatrix partial.gguf", "--imatrix: has no effect: it is for the page (give --html PAGE"),
        ("inspect f16.gguf --threads 2", "--threads: has no effect: it is for the page"),
        ("inspect f16.gguf --html o.html --json", "--json: has no effect: --html writes a page"),
        # importance
        (
            "imatrix --in-file partial.gguf -o o.gguf --chunks 3",
            "--chunks: has no effect: without -m the files are merg",
        ),
        ("imatrix --in-file partial.gguf -o o.gguf --process-output", "--process-output: has no effect: without -m"),
        ("imatrix --in-file partial.gguf -o o.gguf -f text.txt", "--file: has no effect: without -m"),
        (
            "imatrix --in-file partial.gguf --show-statistics -o o.gguf",
            "--output: has no effect: --show-statistics does",
        ),
        (
            "imatrix -m f16.gguf -o o.gguf --moments-width 512",
            "--moments-width: has no effect: --second-moments is not",
        ),
        ("imatrix -m f16.gguf -o o.gguf --moments-size 1GiB", "--moments-size: has no effect: --second-moments is not"),
    ],
)
def test_refused(
    refused: Cli, here: Path, partial: Path, monkeypatch: pytest.MonkeyPatch, words: str, line: str
) -> None:
    monkeypatch.chdir(here)
    assert line in refused(*words.split())
    assert not [path for path in here.iterdir() if path.name.startswith("o")]


def test_two_numbers_of_threads(cli: Cli, here: Path) -> None:
    done = cli("quantize", here / "f16.gguf", "Q4_K_M", "2", "--threads", "3", "--dry-run")
    assert (done.code, "2 threads and --threads 3" in done.err) == (2, True)


def test_a_release_without_importance_has_none_to_reproduce(refused: Cli, cli: Cli, here: Path, partial: Path) -> None:
    folder = here / "plain"
    assert cli("release", here / "f16.gguf", folder, "--levels", "Q8_0", "--imatrix", "none").code == 0
    words = ("reproduce", folder / "manifest.json", "--model", here / "f16.gguf", "--imatrix", partial)
    assert "--imatrix: has no effect: the release was made without importance" in refused(*words)


# Options that are refused in a program


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"target": SizeTarget(bpw=5.0), "level": "Q4_K_M"}, "target: takes the place of a level, and Q4_K_M is given"),
        ({"target": SizeTarget(bpw=5.0), "kind": "hf"}, "target: has no effect: a Hugging Face folder holds floats"),
        ({"keep_split": True}, "--keep-split: has no effect: without a level"),
        ({"options": PlanOptions(chosen_types={"x": "Q8_0"})}, "options.chosen_types: has no effect"),
        ({"options": PlanOptions(layout=lambda metadata, infos: None), "level": "Q4_0"}, "options.layout: has no eff"),
        ({"read": ReadOptions(pre="gpt2"), "level": "Q4_0"}, "--pre: is for Hugging Face folders"),
    ],
)
def test_refused_in_a_program(here: Path, tmp_path: Path, options: dict[str, Any], problem: str) -> None:
    for source in (here / "f16.gguf", read_gguf(here / "f16.gguf")):
        with pytest.raises(PlanError, match=problem):
            convert(source, tmp_path / "o.gguf", **options)
    assert not list(tmp_path.iterdir())


def test_importance_given_twice(here: Path, partial: Path, tmp_path: Path) -> None:
    options = PlanOptions(importance={"output.weight": np.ones(256, np.float32)})
    for call in (
        lambda: convert(here / "f16.gguf", tmp_path / "o.gguf", "Q4_0", imatrix=partial, options=options),
        lambda: plan(here / "f16.gguf", ["Q4_0"], imatrix=partial, options=options),
    ):
        with pytest.raises(PlanError, match="imatrix: the options have importance already"):
            call()


def test_figures_of_some_chunks_are_refused(here: Path) -> None:
    with pytest.raises(PlanError, match=r"run\.skip_bad_chunks: has no effect"):
        evaluate(here / "f16.gguf", here / "text.txt", run=RunOptions(skip_bad_chunks=True))


# Options that are said


def important(call: Callable[..., object]) -> list[str]:
    """The lines that are shown even to those who want no reports."""
    said: list[str] = []
    call(progress=lambda event: said.append(event.text) if isinstance(event, Note) and event.important else None)
    return said


def test_what_changes_nothing_is_said_once(here: Path, partial: Path, tmp_path: Path) -> None:
    f16 = here / "f16.gguf"

    def lines(level: str, **options: Any) -> list[str]:
        return important(lambda progress: convert(f16, tmp_path / "o", level, kind="gguf", dry_run=True,
                                                  progress=progress, **options))  # fmt: skip

    pattern = PlanOptions(tensor_types=[("norm", "Q8_0"), ("attn_v", "Q8_0")])
    (line,) = lines("Q4_K_M", options=pattern)
    assert line.startswith("--tensor-type norm=Q8_0 changes nothing: it matches only what is never quantized (blk.0.at")
    assert len(lines("F16", options=pattern)) == 2
    assert lines("Q8_0", imatrix=partial)[1:] == [
        "--imatrix changes nothing: no tensor of Q8_0 is encoded with importance"
    ]
    assert lines("Q4_K_M", options=PlanOptions(tensor_types=[("attn_v", "Q8_0")])) == []
    threads = WriteOptions(threads=2)
    (line,) = important(lambda progress: convert(f16, tmp_path / "copy.gguf", write=threads, progress=progress))
    assert line.startswith("--threads has no effect")


def test_a_release_says_if_no_level_takes_importance(here: Path, tmp_path: Path) -> None:
    def make(level: str, imatrix: object) -> list[str]:
        options = ReleaseOptions(levels=[level], imatrix=imatrix, text=None)  # type: ignore[arg-type]
        return important(lambda progress: release(here / "f16.gguf", tmp_path / level, options, progress=progress))

    full = matrix(tmp_path / "full.gguf", entries(here / "f16.gguf"))
    assert make("Q4_0", full) == []
    assert make("Q8_0", full) == [
        "no level of this release is encoded with importance: --imatrix none makes the same weights"
    ]


def test_chunks_of_the_text_that_ships_with_the_package(here: Path, tmp_path: Path) -> None:
    options = ReleaseOptions(levels=["Q4_0"], n_ctx=64, chunks=2)
    made = release(here / "f16.gguf", tmp_path / "set", options)
    from quantmill import read_imatrix

    assert read_imatrix(made.folder / "f16.imatrix.gguf").chunk_count == 2


def test_one_group_has_no_order(here: Path, tmp_path: Path) -> None:
    from quantmill import GPTQSettings

    said: list[str] = []
    gptq(
        here / "hf", tmp_path / "out", settings=GPTQSettings(group_size=-1, desc_act=True), text=here / "text.txt",
        run=RunOptions(n_ctx=16, chunks=2),
        progress=lambda event: said.append(event.text) if isinstance(event, Note) else None,
    )  # fmt: skip
    assert "--desc-act change nothing with --group-size -1: a row has one group" in said


def test_json_of_a_copy(cli: Cli, here: Path, tmp_path: Path) -> None:
    copy = json.loads(cli("convert", here / "f16.gguf", tmp_path / "o.gguf", "--json").out)
    assert (copy["kind"], copy["tensors"]) == ("gguf", 21)
    assert copy["size"] == (tmp_path / "o.gguf").stat().st_size
    folder = json.loads(cli("convert", here / "f16.gguf", tmp_path / "o", "--json", "--quiet").out)
    assert (folder["kind"], folder["output"]) == ("hf", str(tmp_path / "o"))


def test_merging_needs_no_model(here: Path, partial: Path, tmp_path: Path) -> None:
    assert len(merge_imatrices([partial, partial], tmp_path / "o.gguf").imatrix.entries) == 16
