"""Special tokens by their texts, chat templates from files; and shards that go once the merged file is proven whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracles.quantize_samples import llama
from oracles.tiny import save_tiny_llama
from quantmill import FormatError, convert, merge, read_gguf, split, write_gguf

Cli = Callable[..., Any]
Refused = Callable[..., str]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_tiny_llama(tmp_path / "hf", layers=1)
    return convert(tmp_path / "hf", tmp_path / "m.gguf", "f16").paths[0]


def test_special_tokens_and_a_template_in_one_edit(cli: Cli, model: Path) -> None:
    template = model.with_name("chat.jinja")
    template.write_text("{{ messages }}\n", newline="")
    before = [tensor.rows(0, tensor.n_rows).tobytes() for tensor in read_gguf(model)]
    words = ("--special-token", "eos=Ġthe", "--special-token", "pad=<s>", "--chat-template", template)
    done = cli("gguf-set-metadata", model, *words)
    assert done.code == 0, done.err
    after = read_gguf(model)
    tokens = after.metadata["tokenizer.ggml.tokens"].texts
    assert tokens[int(str(after.get("tokenizer.ggml.eos_token_id")))] == "Ġthe"
    assert after.get("tokenizer.ggml.padding_token_id") == tokens.index("<s>")
    assert after.get("tokenizer.chat_template") == "{{ messages }}\n"
    assert [tensor.rows(0, tensor.n_rows).tobytes() for tensor in after] == before
    assert done.out.count(" -> ") == 3


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--special-token", "eos=<|none|>"), "tokenizer.ggml.eos_token_id: no token is '<|none|>'"),
        (("--special-token", "end=</s>"), "end: is no kind of special token"),
        (("--special-token", "eos"), "'eos' is not NAME=TOKEN"),
        (("--special-token", "eos=</s>", "--special-token", "eos=<s>"), "--special-token eos is given twice"),
        (("--special-token", "eos=</s>", "eos_token_id", "1"), "take the place of KEY and VALUE"),
        (("--chat-template", "none.jinja"), "none.jinja: cannot be read"),
        ((), "Missing argument 'KEY'"),
    ],
)
def test_bad_tokens(cli: Cli, model: Path, words: tuple[str, ...], line: str) -> None:
    before = model.read_bytes()
    done = cli("gguf-set-metadata", model, *words)
    assert (done.code, line in done.err, model.read_bytes() == before) == (2, True, True), done.err


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    write_gguf(tmp_path / "m.gguf", llama(2))
    return [shard.path for shard in split(tmp_path / "m.gguf", tmp_path / "p", max_tensors=6).shards]


def test_shards_are_deleted_when_the_file_is_whole(cli: Cli, tmp_path: Path, shards: list[Path]) -> None:
    done = cli("merge", shards[0], tmp_path / "again.gguf", "--delete-shards")
    assert (done.code, f"{len(shards)} shards compared and deleted" in done.out) == (0, True)
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "m.gguf").read_bytes()
    assert not [shard for shard in shards if shard.exists()]


def test_shards_stay_where_the_file_is_another(
    tmp_path: Path, shards: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantmill.formats.gguf import split as module

    whole = module.merge

    def damaged(source: Path, target: Path, **options: Any) -> Any:
        model = whole(source, target, **options)
        raw = bytearray(target.read_bytes())
        raw[-1] ^= 1
        target.write_bytes(raw)
        return model

    monkeypatch.setattr(module, "merge", damaged)
    with pytest.raises(FormatError, match="is not what the shards hold; they are kept"):
        merge(shards[0], tmp_path / "again.gguf", delete_shards=True)
    assert all(shard.exists() for shard in shards)


def test_shards_stay_where_the_file_cannot_be_written(refused: Refused, tmp_path: Path, shards: list[Path]) -> None:
    (tmp_path / "again.gguf").write_bytes(b"precious")
    assert "exists" in refused("merge", shards[0], tmp_path / "again.gguf", "--delete-shards")
    assert np.all([shard.exists() for shard in shards])
