"""What a release holds beside its levels: target sizes, the original, shards; all of it comes again byte for byte."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from oracles.kills import digest, run, survive
from quantmill.formats.errors import FormatError, PlanError
from quantmill.formats.gguf.reader import read_gguf
from quantmill.tools.api.convert import convert
from quantmill.tools.api.releasing.manifest import read_manifest
from quantmill.tools.api.releasing.options import ReleaseOptions
from quantmill.tools.api.releasing.release import Release, release
from quantmill.tools.api.releasing.reproduce import reproduce
from quantmill.tools.api.releasing.targets import size_name

RULES = (("attn_v", "Q8_0"), ("blk\\.1\\.ffn_down", "Q6_K"))


def options(text: Path, **more: object) -> ReleaseOptions:
    return ReleaseOptions(levels=["Q4_K_M", "Q8_0"], text=text, n_ctx=64, chunks=4, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def released(tiny: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Every kind of GGUF member: levels, a size, the original, in shards where they are large."""
    asked = options(text, target_sizes=[700_000], original=True, tensor_types=RULES, split_max_size=900_000)
    return release(tiny, tmp_path_factory.mktemp("release") / "set", asked)


def test_what_is_there(released: Release) -> None:
    names = {path.name for path in released.folder.iterdir()}
    assert {"Tiny.Q4_K_M.gguf", "Tiny.700kB.gguf", "Tiny.imatrix.gguf", "manifest.json"} <= names
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=released.folder, check=True)
    summed = (released.folder / "SHA256SUMS").read_text().split()[1::2]
    assert sorted(summed) == sorted(name for name in names if name.endswith(".gguf"))
    assert read_manifest(released.folder / "manifest.json") == released.manifest
    target = released.folder / "Tiny.700kB.gguf"
    assert 650_000 < target.stat().st_size <= 700_000


def test_types_of_the_recipe_file_come_first(released: Release) -> None:
    for name in ("Tiny.Q4_K_M.gguf", "Tiny.700kB.gguf"):
        types = {tensor.name: tensor.qtype.name for tensor in read_gguf(released.folder / name)}
        assert {types[f"blk.{layer}.attn_v.weight"] for layer in (0, 1)} == {"Q8_0"}
        assert types["blk.1.ffn_down.weight"] == "Q6_K"


def test_the_original_is_the_converted_file(released: Release, tiny: Path, tmp_path: Path) -> None:
    shards = sorted(released.folder.glob("Tiny.F16-0*-of-*.gguf"))
    assert len(shards) > 2
    facts = {released.manifest.files[shard.name].member for shard in shards}
    assert [(one.original, one.level) for one in facts] == [(True, "F16")]
    assert all(shard.stat().st_size <= 900_000 for shard in shards)
    whole = convert(tiny, tmp_path / "whole.gguf").paths[0]
    ours = {tensor.name: tensor.rows(0, tensor.n_rows).tobytes() for tensor in read_gguf(shards[0])}
    assert ours == {tensor.name: tensor.rows(0, tensor.n_rows).tobytes() for tensor in read_gguf(whole)}


def test_reproduce(released: Release, tiny: Path, tmp_path: Path) -> None:
    manifest = released.folder / "manifest.json"
    found = reproduce(manifest, tiny, work_folder=tmp_path)
    assert dict(found.same) == dict.fromkeys(released.manifest.files, True)
    assert list(reproduce(manifest, tiny, levels=["700Kb"], work_folder=tmp_path).same) == ["Tiny.700kB.gguf"]
    content = json.loads(manifest.read_text())
    content["targets"]["700kB"]["types"]["blk.0.ffn_up.weight"] = "Q8_0"
    changed = shutil.copytree(released.folder, tmp_path / "changed") / "manifest.json"
    changed.write_text(json.dumps(content))
    found = reproduce(changed, tiny, levels=["700kB", "Q8_0"], work_folder=tmp_path)
    assert dict(found.same) == {
        "Tiny.700kB.gguf": False,
        "Tiny.Q8_0-00001-of-00002.gguf": True,
        "Tiny.Q8_0-00002-of-00002.gguf": True,
    }


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"targets": {}}, "targets.700kB: .*has no recipe"),
        ({"targets": {"700kB": 3}}, "targets.700kB: .*is no object"),
        ({"targets": {"700kB": {"bytes": 9, "level": "Q4_K_M", "types": {"a": "Q99"}}}}, "targets.700kB.types: "),
        ({"options": {"recipe_set": "current", "tensor_types": [["a"]]}}, "options.tensor_types: "),
    ],
)
def test_damaged_manifests(released: Release, damage: dict[str, object], message: str, tmp_path: Path) -> None:
    content = json.loads((released.folder / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(content | damage))
    with pytest.raises(FormatError, match=message):
        read_manifest(tmp_path / "manifest.json")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"target_sizes": [1000]}, "too little: the smallest possible file has"),
        ({"target_sizes": [10**12]}, "more than the model has"),
        ({"target_sizes": [700_000, 700_000]}, "--target-size: two sizes are called 700kB"),
        ({"tensor_types": (("no_such", "Q8_0"),)}, "'no_such' matches no tensor"),
        ({"tensor_types": (("attn_v", "Q9_K"),)}, "Q9_K"),
        ({"split_max_size": 1000}, "--split-max-size: 1.0 kB are too little for the header"),
        ({"levels": ["F16"], "original": True}, "--original: has no effect: F16 is among the levels"),
    ],
)
def test_refused_before_anything_is_made(
    tiny: Path, text: Path, more: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match=message):
        release(tiny, tmp_path / "set", ReleaseOptions(**{"levels": ["Q8_0"], "text": text, **more}))  # type: ignore[arg-type]
    assert not (tmp_path / "set").exists()


def test_the_original_of_a_quantized_file(tiny: Path, tmp_path: Path) -> None:
    quantized = convert(tiny, tmp_path / "q.gguf", "Q8_0").paths[0]
    with pytest.raises(PlanError, match=r"--original: the model is quantized already"):
        release(quantized, tmp_path / "set", ReleaseOptions(levels=["F16"], imatrix=None, original=True))


def test_recipe_files_of_the_command(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "mix.txt").write_text("attn_v=Q8_0\nattn_v=Q6_K\n")
    words = ["release", str(tiny), "set", "--imatrix", "none", "--levels", "Q4_K_M", "--tensor-type-file", "mix.txt"]
    done = run(words, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("quantmill: mix.txt:2: 'attn_v' stands in mix.txt:1 already")
    (tmp_path / "mix.txt").write_text("attn_v=Q8_0\n")
    assert run([*words, "--tensor-type", "attn_k=Q6_K"], tmp_path).returncode == 0
    rules = json.loads((tmp_path / "set" / "manifest.json").read_text())["options"]["tensor_types"]
    assert rules == [["attn_v", "Q8_0"], ["attn_k", "Q6_K"]]


def test_names_of_sizes() -> None:
    assert [size_name(n) for n in (50 * 10**9, 5 << 30, 999, 1_230_000)] == ["50GB", "5GiB", "999B", "1.23MB"]


@pytest.mark.slow
def test_killed_and_taken_up(tiny: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    words = ["release", str(tiny), "set", "--levels", "Q4_K_M", "-f", str(text), "-c", "64", "--chunks", "4"]
    words += ["--target-size", "700kB", "--original", "--split-max-size", "0.9MB"]
    survive(words, tmp_path, lambda: digest(out), lambda: shutil.rmtree(out, ignore_errors=True), kills=4)
