from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.gguf_samples import array_tensor, every_type
from oracles.split_samples import split_model, write_split_source
from quantmill.formats.errors import FormatError, OutputError
from quantmill.formats.gguf import split as split_module
from quantmill.formats.gguf.edit import set_metadata
from quantmill.formats.gguf.keys import typed
from quantmill.formats.gguf.reader import read_gguf, read_header, read_headers
from quantmill.formats.gguf.shards import FRAME, shard_path, shard_prefix
from quantmill.formats.gguf.split import group_tensors, merge, plan_split, write_split
from quantmill.formats.gguf.wire import ByteOrder
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.ir import Model, Value, ValueType
from quantmill.formats.qtypes import BY_NAME

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "split.json").read_text())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def split(source: Path, prefix: Path, **options: int | bool) -> list[Path]:
    plan = plan_split(source, prefix, **(options or {"max_tensors": 3}))  # type: ignore[arg-type]
    write_split(plan)
    return [shard.path for shard in plan.shards]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_split_source(tmp_path / "m.gguf")


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: " ".join([case["source"], *case["options"]]))
def test_shards_and_merged_files_are_llama_gguf_splits(
    case: dict, source: Path, smollm2_q4_1: Path, tmp_path: Path
) -> None:
    assert sha256(source) == GOLDEN["source"], "the golden was made from another file"
    source = {"small": source, "smollm2": smollm2_q4_1}[case["source"]]
    options = iter(case["options"])
    wanted: dict[str, int | bool] = {}
    for option in options:
        if option == "--no-tensor-first-split":
            wanted["empty_first"] = True
        elif option == "--split-max-tensors":
            wanted["max_tensors"] = int(next(options))
        else:
            wanted["max_bytes"] = int(next(options).removesuffix("M")) * 10**6
    shards = split(source, tmp_path / case["prefix"], **wanted)
    assert {path.name: sha256(path) for path in shards} == case["shards"]
    merge(shards[0], tmp_path / "theirs.gguf", keep_keys=True)
    assert sha256(tmp_path / "theirs.gguf") == case["merged"]
    merge(shards[0], tmp_path / "ours.gguf")
    assert sha256(tmp_path / "ours.gguf") == sha256(source)


def test_groups_by_hand() -> None:
    def names(**options: int | bool) -> list[list[str]]:
        return [[t.name for t in group] for group in group_tensors(tensors, **options)]  # type: ignore[arg-type]

    # 4, 32, 36 and 100 bytes, which count as 32, 32, 64 and 128
    f32 = BY_NAME["F32"]
    tensors = [
        array_tensor(n, (k,), f32, np.zeros(4 * k, np.uint8)) for n, k in zip("abcd", (1, 8, 9, 25), strict=True)
    ]
    assert names(max_bytes=64) == [["a", "b"], ["c"], ["d"]]
    assert names(max_bytes=63) == [["a"], ["b"], ["c"], ["d"]]
    assert names(max_bytes=128) == [["a", "b", "c"], ["d"]]
    assert names(max_bytes=16) == [["a"], ["b"], ["c"], ["d"]]
    assert names(max_bytes=10**9, empty_first=True) == [[], ["a", "b", "c", "d"]]
    assert names(max_tensors=2) == [["a", "b"], ["c", "d"]]
    assert names(max_tensors=3, empty_first=True) == [[], ["a", "b", "c"], ["d"]]


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("alignment", [None, 1, 8, 64, 4096])
@pytest.mark.parametrize("version", [2, 3])
def test_every_kind_of_file_comes_back(
    tmp_path: Path, version: int, alignment: int | None, byteorder: ByteOrder
) -> None:
    if version == 2 and byteorder == "big":
        version = 3  # there are no others; the case then repeats another, with shards of other sizes
    keys = {"general.alignment": Value(ValueType.UINT32, alignment)} if alignment else {}
    model = Model("llama", {**split_model().metadata, **keys}, every_type(), tmp_path)
    write_gguf(tmp_path / "m.gguf", model, version=version, byteorder=byteorder)
    shards = split(tmp_path / "m.gguf", tmp_path / "s", max_tensors=7)
    assert [read_header(path).version for path in shards] == [version] * len(shards)
    assert FRAME not in read_header(shards[0]).metadata
    merge(shards[-1], tmp_path / "back.gguf")
    assert (tmp_path / "back.gguf").read_bytes() == (tmp_path / "m.gguf").read_bytes()


def odd_files(raw: bytes, header_size: int) -> dict[str, bytes]:
    """Files as others have written them, each with something that shards have no place for."""
    flag = raw.index(b"a.bool") + len(b"a.bool") + 4
    return {
        "no padding at the end": raw.rstrip(b"\0"),
        "something behind the end": raw + b"signature",
        "padding that is not zero": raw[: header_size - 1] + b"\x55" + raw[header_size:],
        "a true that is 2": raw[:flag] + b"\x02" + raw[flag + 1 :],
    }


@pytest.mark.parametrize(
    "oddity", ["no padding at the end", "something behind the end", "padding that is not zero", "a true that is 2"]
)
def test_what_shards_cannot_say_is_remembered(source: Path, tmp_path: Path, oddity: str) -> None:
    raw = source.read_bytes()
    odd = odd_files(raw, read_header(source).data_start)[oddity]
    assert odd != raw
    source.write_bytes(odd)
    shards = split(source, tmp_path / "s")
    again = split(shards[1], tmp_path / "again", max_tensors=6)  # shards of shards remember it too
    for i, first in enumerate((shards[0], again[0])):
        merge(first, tmp_path / f"back{i}.gguf")
        assert (tmp_path / f"back{i}.gguf").read_bytes() == odd


def test_a_file_that_was_merged_elsewhere_comes_back(source: Path, tmp_path: Path) -> None:
    """llama-gguf-split leaves ``split.*`` with a count of 0 in what it merges."""
    merge(split(source, tmp_path / "s")[0], tmp_path / "theirs.gguf", keep_keys=True)
    merge(split(tmp_path / "theirs.gguf", tmp_path / "t")[0], tmp_path / "back.gguf")
    assert sha256(tmp_path / "back.gguf") == sha256(tmp_path / "theirs.gguf") != sha256(source)


def test_a_key_set_in_the_first_shard_is_kept(source: Path, tmp_path: Path) -> None:
    source.write_bytes(source.read_bytes() + b"tail")
    shards = split(source, tmp_path / "s")
    set_metadata(shards[0], {"general.name": typed("general.name", "renamed")})
    merge(shards[0], tmp_path / "back.gguf")
    model = read_gguf(tmp_path / "back.gguf")
    assert model.get("general.name") == "renamed"
    assert not [key for key in model.metadata if key.startswith(("split.", "quantmill."))]


@pytest.mark.parametrize("damage", ["no zlib", "cut short", "of another file", "a bomb"])
def test_a_frame_that_is_damaged_is_left_out(
    source: Path, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split_module, "_MAX_FRAME", 1 << 20)
    regular = source.read_bytes()
    source.write_bytes(regular + b"tail")
    shards = split(source, tmp_path / "s")
    raw = np.asarray(read_header(shards[0]).metadata[FRAME].data).tobytes()
    damaged = {
        "no zlib": b"x" * 40,
        "cut short": raw[: len(raw) // 2],
        "of another file": zlib.compress(zlib.decompress(raw)[:-300]),
        "a bomb": zlib.compress(zlib.decompress(raw) + bytes(2 << 20)),
    }[damage]
    value = Value(ValueType.ARRAY, np.frombuffer(damaged, np.uint8), ValueType.UINT8)
    set_metadata(shards[0], {FRAME: value})
    merge(shards[0], tmp_path / "back.gguf")
    assert (tmp_path / "back.gguf").read_bytes() == regular


@given(sizes=st.lists(st.integers(1, 70), min_size=1, max_size=12), n=st.integers(1, 13), first=st.booleans())
@settings(max_examples=25, deadline=None)
def test_any_model_any_shards(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], n: int, first: bool) -> None:
    folder = tmp_path_factory.mktemp("any")
    f32 = BY_NAME["F32"]
    tensors = tuple(array_tensor(f"t{i}", (k,), f32, np.arange(4 * k, dtype=np.uint8)) for i, k in enumerate(sizes))
    write_gguf(folder / "m.gguf", Model("x", split_model().metadata, tensors, folder))
    shards = split(folder / "m.gguf", folder / "s", max_tensors=n, empty_first=first)
    assert len(shards) == -(-len(sizes) // n) + first
    merge(shards[0], folder / "back.gguf")
    assert (folder / "back.gguf").read_bytes() == (folder / "m.gguf").read_bytes()


@pytest.mark.parametrize("which", [0, 1, 3])
def test_any_shard_reads_the_whole(
    source: Path, tmp_path: Path, which: int, equal: Callable[[Model, Model], None]
) -> None:
    shards = split(source, tmp_path / "s")
    model = read_gguf(shards[which])
    equal(model, read_gguf(source))
    assert model.arch == "llama"
    assert [(shard.path, shard.n_tensors) for shard in model.shards] == list(zip(shards, (3, 3, 3, 1), strict=True))
    assert model.paths == tuple(shards)
    assert read_gguf(source).paths == (source,)
    assert len(read_headers(shards[which])) == 4


def test_names() -> None:
    assert shard_path("a/b", 0, 12) == Path("a/b-00001-of-00012.gguf")
    assert shard_prefix(Path("a/b-00001-of-00012.gguf")) == "b"
    assert shard_prefix(Path("a/b.gguf")) == "b"
    assert shard_prefix(Path("a/b-1-of-2.gguf")) == "b-1-of-2"


def broken_sets(folder: Path, shards: list[Path], source: Path) -> dict[str, Callable[[], object]]:
    other = split(source, folder / "other", max_tensors=5)
    return {
        r"1 of the 4 shards of this model missing: s-00003-of-00004.gguf": shards[2].unlink,
        r"is shard 2 of 4 by its keys; expected 3 of 4": lambda: shards[2].write_bytes(shards[1].read_bytes()),
        r"is shard 2 of 2 by its keys; expected 3 of 4": lambda: shards[2].write_bytes(other[1].read_bytes()),
        r"must be 9, the tensors of the 4 shards; is 10": lambda: _replace_shard(shards[2], drop=1),
        r"blk.0.attn_q.weight: is also in s-00001-of-00004.gguf": lambda: _replace_shard(
            shards[2], rename="blk.0.attn_q.weight"
        ),
        r"has a split.count but no split.no": lambda: set_metadata(shards[0], {}, ["split.no"]),
        r"its name does not say so \(rename it to x-00001-of-00004.gguf": lambda: shards[0].rename(folder / "x.gguf"),
        r"byte order is not that of the first": lambda: _replace_shard(shards[2], byteorder="big"),
        r"s-00003-of-00004.gguf.*truncated": lambda: shards[2].write_bytes(shards[2].read_bytes()[:-600]),
    }


def _replace_shard(path: Path, drop: int = 0, rename: str | None = None, byteorder: ByteOrder = "little") -> None:
    header = read_header(path)
    tensors = [
        array_tensor(e.name, e.shape, e.qtype, np.fromfile(path, np.uint8, e.nbytes, offset=e.offset))
        for e in header.tensors
    ][drop:]
    if rename:
        tensors[0] = replace(tensors[0], name=rename)
    write_gguf(
        path, Model("", header.metadata, tuple(tensors), Path("memory")), version=3, byteorder=byteorder, force=True
    )


@pytest.mark.parametrize("number", range(9))
def test_broken_sets_are_told(source: Path, tmp_path: Path, number: int) -> None:
    shards = split(source, tmp_path / "s")
    problem, break_it = list(broken_sets(tmp_path, shards, source).items())[number]
    break_it()
    first = shards[0] if shards[0].exists() else tmp_path / "x.gguf"
    with pytest.raises(FormatError, match=problem) as caught:
        read_gguf(first)
    assert "\n" not in str(caught.value)


def test_no_part_of_a_set_stays(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    (tmp_path / "s-00003-of-00004.gguf").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists"):
        split(source, tmp_path / "s")
    assert (tmp_path / "s-00003-of-00004.gguf").read_bytes() == b"mine"
    (tmp_path / "s-00003-of-00004.gguf").unlink()
    plan = plan_split(source, tmp_path / "s", max_tensors=3)
    last = plan.source.tensors[-1]

    def fail(a: int, b: int) -> np.ndarray:
        raise FormatError("the disk is gone")

    monkeypatch.setitem(vars(last), "read", fail)
    with pytest.raises(FormatError, match="gone"):
        write_split(plan)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_whole_file_is_not_merged(source: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="whole model"):
        merge(source, tmp_path / "x.gguf")
    shards = split(source, tmp_path / "s")
    with pytest.raises(OutputError, match="the output is the input"):
        merge(shards[0], shards[1], force=True)
