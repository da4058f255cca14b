from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.gguf_samples import METADATA
from quantmill.formats.errors import QuantmillError
from quantmill.formats.gguf.edit import SECTOR, parse_value, plan_edit, set_metadata, show_value
from quantmill.formats.gguf.keys import parse_type
from quantmill.formats.gguf.reader import read_gguf, read_header
from quantmill.formats.gguf.writer import layout, write_gguf
from quantmill.formats.ir import Model, Value, ValueType

V = ValueType
EOS = "tokenizer.ggml.eos_token_id"


@pytest.fixture
def path(model: Model, tmp_path: Path) -> Path:
    write_gguf(tmp_path / "m.gguf", model)
    return tmp_path / "m.gguf"


def tensors(path: Path) -> list[tuple[str, bytes]]:
    return [(t.name, t.rows(0, t.n_rows).tobytes()) for t in read_gguf(path).tensors]


def test_a_token_id_is_written_in_place(path: Path) -> None:
    before, inode = path.read_bytes(), path.stat().st_ino
    edit = set_metadata(path, {EOS: Value(V.UINT32, 3)})
    after = path.read_bytes()
    assert edit.in_place
    assert path.stat().st_ino == inode
    assert [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] == [
        read_header(path).spans[EOS][1] - 4
    ]
    assert read_header(path).metadata[EOS].data == 3


@pytest.mark.parametrize("text", ["", "t", "tiny2", "tinY", "long " * 10_000])
def test_strings_of_any_length(path: Path, text: str) -> None:
    before = tensors(path)
    path.chmod(0o640)
    set_metadata(path, {"general.name": Value(V.STRING, text)})
    header = read_header(path)
    assert header.metadata["general.name"].data == text
    assert list(header.metadata)[1] == "general.name"  # it stays at its place
    assert tensors(path) == before
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_version_order_and_alignment_stay(model: Model, tmp_path: Path, byteorder: Any) -> None:
    path = tmp_path / "b.gguf"
    metadata = {**model.metadata, "general.alignment": Value(V.UINT32, 128)}
    write_gguf(path, Model("llama", metadata, model.tensors, path), version=3, byteorder=byteorder)
    before = tensors(path)
    set_metadata(path, {EOS: Value(V.UINT32, 1), "new.key": Value(V.FLOAT32, 0.5)}, ["a.u8"])
    header = read_header(path)
    assert (header.version, header.byteorder, header.alignment) == (3, byteorder, 128)
    assert (header.metadata[EOS].data, header.metadata["new.key"].data, "a.u8" in header.metadata) == (1, 0.5, False)
    assert list(header.metadata)[-1] == "new.key"
    assert tensors(path) == before


def test_there_and_back_is_the_same_file(path: Path) -> None:
    before = path.read_bytes()
    set_metadata(path, {"general.name": Value(V.STRING, "x" * 1000), "new": Value(V.UINT8, 1)})
    assert path.read_bytes() != before
    set_metadata(path, {"general.name": Value(V.STRING, "tiny")}, ["new"])
    assert path.read_bytes() == before


def test_dry_run_and_no_change_write_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    for name in ("pwrite", "replace", "fsync"):
        monkeypatch.setattr(os, name, never)
    edit = set_metadata(path, {EOS: Value(V.UINT32, 3)}, dry_run=True)
    assert (edit.changed, edit.in_place) == (True, True)
    assert not set_metadata(path, {EOS: Value(V.UINT32, 2)}).changed


def test_in_place_only_within_a_sector(path: Path) -> None:
    """A change that straddles two sectors could be torn by a power cut."""
    header = read_header(path)
    end = header.spans["a.strings"][1]
    strings = header.metadata["a.strings"].data
    straddles = Value(V.ARRAY, (*strings[:3], "y" * 300), V.STRING)
    edit = plan_edit(header, {"a.strings": straddles})
    assert len(edit.new_header) == header.data_start
    assert edit.in_place == ((end - 300) // SECTOR == (end - 1) // SECTOR)
    both = plan_edit(header, {EOS: Value(V.UINT32, 3), "a.u8": Value(V.UINT8, 1)})
    assert header.spans[EOS][0] - header.spans["a.u8"][0] > SECTOR
    assert len(both.new_header) == header.data_start
    assert not both.in_place


class Killed(BaseException):
    """Stands for the process ending where it is raised."""


STEPS = ("pwrite", "copy_file_range", "fchmod", "fsync", "replace")


@pytest.mark.parametrize("value", [Value(V.UINT32, 3), Value(V.STRING, "x" * 5000)], ids=["in place", "new file"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_at_any_step_leaves_the_old_or_the_new_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, value: Value, step: str, when: str
) -> None:
    changes = {EOS if value.type is V.UINT32 else "general.name": value}
    old = path.read_bytes()
    edit = set_metadata(path, changes, dry_run=True)
    new = edit.new_header + old[edit.header.data_start :]
    real = getattr(os, step)
    calls = []

    def dies(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if when == "after":
            real(*args, **kwargs)
        raise Killed

    monkeypatch.setattr(os, step, dies)
    with suppress(Killed):
        set_metadata(path, changes)
    monkeypatch.undo()
    assert path.read_bytes() in (old, new)
    assert read_gguf(path).metadata
    assert os.listdir(path.parent) == [path.name]
    assert bool(calls) == (value.type is V.STRING or step in ("pwrite", "fsync"))


@pytest.mark.parametrize("step", ["pwrite", "copy_file_range", "fsync", "replace"])
def test_a_process_killed_outright_leaves_the_old_or_the_new_file(path: Path, step: str) -> None:
    """SIGKILL: no handler runs. At worst the temporary file stays behind."""
    code = (
        "import os, signal, sys\n"
        f"real = os.{step}\n"
        f"os.{step} = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from quantmill.formats.gguf.edit import set_metadata\n"
        "from quantmill.formats.ir import Value, ValueType\n"
        "set_metadata(sys.argv[1], {'general.name': Value(ValueType.STRING, 'x' * 5000)})\n"
    )
    old = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == old
    set_metadata(path, {"general.name": Value(V.STRING, "after")})
    assert read_gguf(path).get("general.name") == "after"


def test_a_kernel_that_cannot_copy(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tensors(path)

    def refuses(*_: object) -> int:
        raise OSError(errno.EXDEV, "no")

    monkeypatch.setattr(os, "copy_file_range", refuses)
    set_metadata(path, {"general.name": Value(V.STRING, "x" * 100)})
    assert tensors(path) == before


def test_a_link_is_followed(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.gguf"
    link.symlink_to(path)
    set_metadata(link, {"general.name": Value(V.STRING, "x" * 100)})
    assert link.is_symlink()
    assert read_gguf(path).get("general.name") == "x" * 100


@pytest.mark.parametrize(
    ("changes", "removals", "problem"),
    [
        ({EOS: Value(V.UINT32, 4)}, [], "token 4 is outside the vocabulary of 4"),
        ({EOS: Value(V.INT32, -1)}, [], "outside the vocabulary"),
        ({"tokenizer.ggml.scores": Value(V.ARRAY, np.zeros(3, np.float32), V.FLOAT32)}, [], "3 entries"),
        ({"general.alignment": Value(V.UINT32, 64)}, [], "cannot be edited"),
        ({}, ["general.architecture"], "cannot be removed"),
        ({}, ["nothing"], "nothing: no such key"),
    ],
)
def test_what_cannot_be_right_is_refused(path: Path, changes: Any, removals: Any, problem: str) -> None:
    before = path.read_bytes()
    with pytest.raises(QuantmillError, match=problem):
        set_metadata(path, changes, removals)
    assert path.read_bytes() == before


def test_force_sets_a_token_id_outside(path: Path) -> None:
    set_metadata(path, {EOS: Value(V.UINT32, 4)}, force=True)
    assert read_header(path).metadata[EOS].data == 4


@pytest.mark.parametrize(
    ("text", "kind", "data"),
    [
        ("7", "uint8", 7), ("0x10", "int32", 16), ("-3", "int64", -3), ("1e-5", "float32", 1e-5), ("3", "float64", 3.0),
        ("true", "bool", True), ("0", "bool", False), ("7", "string", "7"), ("007", "uint32", 7),
    ],
)  # fmt: skip
def test_what_people_type(text: str, kind: str, data: Any) -> None:
    value = parse_value(text, parse_type(kind), "k")
    assert (value.data, type(value.data)) == (data, type(data))


@pytest.mark.parametrize(
    ("text", "kind"),
    [("x", "uint32"), ("256", "uint8"), ("maybe", "bool"), ("1.5", "int32"), ("{}", "int32[]"), ("[", "int32[]"),
     ("[1, \"a\"]", "int32[]")],
)  # fmt: skip
def test_what_is_no_such_value(text: str, kind: str) -> None:
    with pytest.raises(QuantmillError):
        parse_value(text, parse_type(kind), "k")


@given(st.lists(st.text()))
def test_arrays_are_typed_as_json(items: list[str]) -> None:
    assert parse_value(json.dumps(items), parse_type("string[]"), "k").data == tuple(items)


def test_values_are_shown_on_one_line(model: Model) -> None:
    shown = {key: show_value(value, model.metadata, key) for key, value in model.metadata.items()}
    assert shown[EOS] == "2 '</s>'"
    assert shown["a.ints"] == "int32[] of 3: [1, -2, 3]"
    assert all("\n" not in line and len(line) < 100 for line in shown.values())
    assert show_value(Value(V.STRING, "a\nb" * 99), {}, "k").endswith(" ...")


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from(["general.name", "a.u8", "b", "c"]), st.text(max_size=99), max_size=3))
def test_an_edited_header_is_the_one_written_from_scratch(tmp_path_factory: Any, changes: dict[str, str]) -> None:
    path = tmp_path_factory.mktemp("edit") / "m.gguf"
    path.write_bytes(layout(METADATA, []).header)
    values = {key: Value(V.STRING, text) for key, text in changes.items()}
    set_metadata(path, values)
    assert path.read_bytes() == layout({**METADATA, **values}, []).header
