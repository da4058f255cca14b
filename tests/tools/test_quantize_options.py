"""Options of quantize that publishers script: what is wrong with them is one line, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracles.quantize_samples import importance, llama, per_layer
from quantmill import PlanError, PlanOptions, convert, make_plan, parse_override, read_gguf, read_recipe, write_gguf
from quantmill.formats.imatrix_file import write_imatrix
from quantmill.formats.ir import Model, Value, ValueType
from quantmill.quantize.prune import parse_layers, prune

Cli = Callable[..., Any]
Refused = Callable[..., str]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "m-f16.gguf", llama(3))
    write_imatrix(tmp_path / "i.gguf", importance(llama(3)))
    return tmp_path / "m-f16.gguf"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("attn_v=Q8_0\nattn_z=Q8_0", "r.txt:2 'attn_z' matches no tensor"),
        ("attn_v=Q8_0\n\nffn=Q4_K attn_v=Q4_K", "r.txt:3: 'attn_v' stands in"),
        ("attn_v=Q9_0", "r.txt:1: unknown tensor type 'Q9_0'"),
        ("attn_v=I32", "r.txt:1: type I32 cannot hold quantized weights"),
        ("attn_v", "r.txt:1: 'attn_v' is not PATTERN=TYPE"),
        ("attn_v = Q8_0", "r.txt:1: 'attn_v' is not PATTERN=TYPE"),
        ("attn_v=Q8_0\nattn_(q=Q8_0", "r.txt:2 'attn_(q' is not a valid regular expression"),
        ("# nothing\n", "r.txt: holds no PATTERN=TYPE"),
        ("\xff", "r.txt: is not UTF-8"),
    ],
)
def test_bad_recipes(refused: Refused, source: Path, text: str, line: str) -> None:
    recipe = source.with_name("r.txt")
    recipe.write_bytes(text.encode("latin-1"))
    assert line in refused("quantize", source, "Q4_K_M", "--tensor-type-file", recipe)


def test_a_recipe_has_comments_and_no_order_of_lines(source: Path) -> None:
    recipe = source.with_name("r.txt")
    recipe.write_text("# values first\nattn_v=q8_0 attn_k=f16 # attn_q=Q2_K\r\n  ffn#down=Q5_K\n")
    assert [(rule.pattern, rule.type) for rule in read_recipe(recipe)] == [
        ("attn_v", "Q8_0"), ("attn_k", "F16"), ("ffn#down", "Q5_K"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--include-weights", "a", "--exclude-weights", "b"), "--include-weights: excludes --exclude-weights"),
        (("--include-weights", "ffn_zzz"), "--include-weights: no entry's name has 'ffn_zzz' in it"),
        (("--exclude-weights", "ffn_zzz"), "--exclude-weights: no entry's name has 'ffn_zzz' in it"),
    ],
)
def test_bad_choices_of_importance(refused: Refused, source: Path, words: tuple[str, ...], line: str) -> None:
    assert line in refused("quantize", source, "Q4_K_M", "--imatrix", source.with_name("i.gguf"), *words)


@pytest.mark.parametrize("words", [("--include-weights", "a"), ("--exclude-weights", "a"), ("--no-imatrix-metadata",)])
def test_without_importance_there_is_none_to_choose(refused: Refused, source: Path, words: tuple[str, ...]) -> None:
    assert f"{words[0]}: has no effect: there is no importance" in refused("quantize", source, "Q4_K_M", *words)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("llama.block_count", "'llama.block_count' is not KEY=TYPE:VALUE"),
        ("llama.block_count=3", "'llama.block_count=3' is not KEY=TYPE:VALUE"),
        ("llama.block_count=uint:3", "is not KEY=TYPE:VALUE"),
        ("llama.block_count=int:-3", "'-3' is not a whole number from 0 to"),
        ("llama.block_count=int:4294967296", "'4294967296' is not a whole number"),
        ("llama.block_count=int:3.0", "'3.0' is not a whole number"),
        ("llama.block_count=float:3", "llama.block_count: is uint32, not float32"),
        ("llama.rope.freq_base=int:3", "llama.rope.freq_base: is float32, not uint32"),
        ("llama.rope.freq_base=float:1e99", "'1e99' is not a number that a float32 holds"),
        ("llama.rope.freq_base=float:nan", "'nan' is not a number"),
        ("general.name=int:1", "general.name: is string, not uint32"),
        ("own.flag=bool:yes", "'yes' is neither true nor false"),
        ("general.name=str:" + "x" * 128, "a text has at most 127 bytes"),
        ("k" * 128 + "=int:1", "a key has at most 127 bytes"),
        ("general.architecture=str:qwen2", "cannot be overridden"),
        ("general.alignment=int:64", "cannot be overridden"),
        ("split.count=int:2", "cannot be overridden"),
        ("llama.block_count=int:100000", "llama.block_count"),
    ],
)
def test_bad_overrides(refused: Refused, source: Path, text: str, line: str) -> None:
    assert line in refused("quantize", source, "Q4_K_M", "--override-kv", text)


def test_an_override_is_given_once(refused: Refused, source: Path) -> None:
    words = ("--override-kv", "own.n=int:1", "--override-kv", "own.n=int:2")
    assert "own.n: is given twice" in refused("quantize", source, "Q4_K_M", *words)
    model = llama(1)
    mine = Model(model.arch, {**model.metadata, "own.n": Value(ValueType.UINT32, 1)}, model.tensors, model.path)
    options = PlanOptions(overrides=dict([parse_override("own.n=str:a")]))
    with pytest.raises(PlanError, match="is uint32, which no string replaces"):
        make_plan(mine, "Q4_0", options)


@pytest.mark.parametrize(
    ("layers", "line"),
    [
        ("3", "--prune-layers: there is no block 3: the model has 3, 0 to 2"),
        ("0-2", "--prune-layers: leaves no block"),
        ("2-1", "'2-1' is no block's number"),
        ("a", "'a' is no block's number"),
        ("1,,2", "'' is no block's number"),
        ("-1", "'-1' is no block's number"),
    ],
)
def test_bad_blocks(refused: Refused, source: Path, layers: str, line: str) -> None:
    assert line in refused("quantize", source, "Q4_K_M", f"--prune-layers={layers}")


def test_blocks_are_not_left_out_of_what_is_measured_whole(refused: Refused, source: Path) -> None:
    target = ("--target-bpw", "5", "--typical-sensitivity", "--prune-layers", "1")
    assert "a target is for the whole model" in refused("quantize", source, *target)


@pytest.mark.parametrize(
    "words",
    [("--pure",), ("--tensor-type", "attn_v=Q8_0"), ("--output-tensor-type", "Q8_0"), ("--fallback-type", "F16")],
)
def test_a_copy_has_no_types_to_choose(refused: Refused, source: Path, words: tuple[str, ...]) -> None:
    assert f"{words[0]}: has no effect: COPY keeps every tensor's type" in refused("quantize", source, "COPY", *words)


def test_a_ggml_file_has_no_such_keys(refused: Refused, source: Path) -> None:
    for words in (("Q4_0", "--override-kv", "general.name=str:a"), ("COPY",)):
        assert "GGML files hold no such keys" in refused("quantize", source, source.with_suffix(".bin"), *words)


def test_a_file_need_not_say_which_imatrix(cli: Cli, source: Path) -> None:
    out, matrix = source.with_name("o.gguf"), source.with_name("i.gguf")
    assert cli("quantize", source, out, "Q4_0", "--imatrix", matrix, "--no-imatrix-metadata").code == 0
    plain = convert(source, source.with_name("p.gguf"), "Q4_0", imatrix=matrix).paths[0]
    assert not [key for key in read_gguf(out).metadata if key.startswith("quantize.")]
    assert [key for key in read_gguf(plain).metadata if key.startswith("quantize.")]
    same = zip(read_gguf(out), read_gguf(plain), strict=True)
    assert all(a.rows(0, a.n_rows).tobytes() == b.rows(0, b.n_rows).tobytes() for a, b in same)


def test_what_a_block_has_of_its_own_is_mended() -> None:
    model = per_layer()
    keys = {"llama.leading_dense_block_count": 2, "llama.nextn_predict_layers": 1}
    more = {key: Value(ValueType.UINT32, number) for key, number in keys.items()}
    left = prune(Model("llama", {**model.metadata, **more}, model.tensors, model.path), (0, 2, 5)).model
    assert np.asarray(left.hparam("feed_forward_length")).tolist() == [512, 512, 256]
    assert np.asarray(left.hparam("attention.head_count_kv")).tolist() == [2, 2, 2]
    assert [left.hparam(key) for key in ("block_count", "leading_dense_block_count", "nextn_predict_layers")] == [
        3,
        1,
        0,
    ]
    assert {tensor.layer for tensor in left} == {None, 0, 1, 2}
    assert {tensor.name.split(".")[1] for tensor in left if tensor.layer is not None} == {"0", "1", "2"}


def test_blocks_stay_of_their_kind() -> None:
    model = llama(8)
    interval = {"llama.full_attention_interval": Value(ValueType.UINT32, 4)}
    mixed = Model("llama", {**model.metadata, **interval}, model.tensors, model.path)
    with pytest.raises(PlanError, match=r"block 2 would be of another kind.*leave out 4 in a row"):
        prune(mixed, (1,))
    assert prune(mixed, (2, 3, 4, 5)).model.n_layers == 4


@pytest.mark.parametrize(
    ("arch", "keys", "gone", "period"),
    [
        ("gemma3", {"attention.sliding_window": 512}, (1,), 6),
        ("gemma3", {}, (1,), None),  # llama.cpp gives it no windows
        ("olmo2", {"attention.sliding_window": 512}, (1,), 4),
        ("olmo2", {}, (1,), None),
        ("gemma2", {}, (1,), 2),
        ("cohere2moe", {"attention.sliding_window": 512}, (0, 1), 4),
        ("qwen3next", {}, (1,), 4),
        ("qwen3next", {"full_attention_interval": 2}, (0, 1), None),
        ("minimax-01", {}, (0, 1, 2, 3), 8),
        ("smollm3", {}, (1,), 4),
        ("llama4", {"attention.sliding_window": 0}, (1,), None),
        ("kimi-k3", {"attn_res.block_size": 3}, (1,), 3),
        ("rwkv6", {"rescale_every_n_layers": 2}, (1,), 2),
    ],
)
def test_kinds_of_blocks_that_llama_cpps_code_knows(
    arch: str, keys: dict[str, int], gone: tuple[int, ...], period: int | None
) -> None:
    model = of_arch(arch, 8, keys)
    if period is None:
        assert prune(model, gone).model.n_layers == 8 - len(gone)
        return
    with pytest.raises(PlanError, match=f"leave out {period} in a row"):
        prune(model, gone)


def test_a_pattern_for_each_block_does_not_say_which_have_a_rope() -> None:
    pattern = Value(ValueType.ARRAY, np.array([True, True, True, False] * 2), ValueType.BOOL)
    keys = {"afmoe.attention.sliding_window_pattern": pattern}
    model = of_arch("afmoe", 8, {"attention.sliding_window": 512})
    with pytest.raises(PlanError, match=r"block 2 would be of another kind"):
        prune(Model("afmoe", {**model.metadata, **keys}, model.tensors, model.path), (1,))


@pytest.mark.parametrize(
    ("arch", "blocks"), [("gemma2", 46), ("gemma3", 62), ("exaone4", 64), ("baichuan", 40), ("deepseek2", 27)]
)
def test_models_that_llama_cpp_knows_by_their_blocks(arch: str, blocks: int) -> None:
    """Gemma's attention scale, EXAONE's windows, Baichuan's ALiBi, DeepSeek Lite's queries."""
    with pytest.raises(
        PlanError, match=rf"--prune-layers: llama.cpp computes a {arch} of .*{blocks}.* blocks otherwise"
    ):
        prune(of_arch(arch, blocks, {}), range(12))


def of_arch(arch: str, blocks: int, keys: dict[str, int]) -> Model:
    """As many blocks of a llama, under another name."""
    model = llama(1)
    said = {f"{arch}.{key}": Value(ValueType.UINT32, number) for key, number in {**keys, "block_count": blocks}.items()}
    return Model(arch, said, model.tensors, model.path)


def test_ranges_of_blocks() -> None:
    assert parse_layers("7-9, 3,8") == (3, 7, 8, 9)
