"""The mix of anybody's file, printed as a recipe, on a model of one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oracles.gguf_samples import array_tensor
from oracles.quantize_samples import llama, weights
from quantmill import Model, PlanError, convert, find_recipe, read_gguf, write_gguf
from quantmill.formats.qtypes import BY_NAME

Cli = Callable[..., Any]
MIX = """output=q6_k token_embd=q8_0 blk.(0|5).attn_v=q8_0 blk.0.=q5_k blk.3.ffn_down=iq4_xs attn_k=f16
blk.[12].ffn_gate=q2_K blk.4.attn_output=bf16"""


def types(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.qtype.name for tensor in read_gguf(path)}


def test_the_mix_of_a_published_file(cli: Cli, tmp_path: Path) -> None:
    write_gguf(tmp_path / "base.gguf", llama())
    (tmp_path / "mix.txt").write_text(MIX)
    words = ("quantize", tmp_path / "base.gguf", tmp_path / "published.gguf", "Q3_K_M")
    assert cli(*words, "--tensor-type-file", tmp_path / "mix.txt").code == 0
    printed = cli("inspect", tmp_path / "published.gguf", "--recipe")
    assert printed.err.strip() == "use it with quantize MODEL OUT Q3_K_M --tensor-type-file FILE"
    assert not [line for line in printed.out.splitlines() if "=" not in line or "#" in line or " " in line]
    (tmp_path / "r.txt").write_text(printed.out)
    tuned = llama()
    ours = tuple(replace(weights(t.name, t.shape[:-1] + t.shape[-1:], t.qtype), name=t.name) for t in tuned)
    write_gguf(tmp_path / "tuned.gguf", replace(tuned, tensors=ours))
    for level in ("Q3_K_M", "Q6_K"):  # the recipe decides every type, whatever the level
        out = tmp_path / f"{level}.gguf"
        done = cli("quantize", tmp_path / "tuned.gguf", out, level, "--tensor-type-file", tmp_path / "r.txt")
        assert (done.code, types(out)) == (0, types(tmp_path / "published.gguf")), done.err
    assert len(set(types(tmp_path / "published.gguf").values())) >= 9


def test_what_no_recipe_gives_is_said(cli: Cli, tmp_path: Path) -> None:
    odd = array_tensor("blk.0.ffn_up.weight", (2, 256), BY_NAME["I8"], weights("a", (256,)).rows(0, 1))
    gate = array_tensor("blk.0.ffn_gate_inp.weight", (1, 32), BY_NAME["Q8_0"], weights("b", (34,)).rows(0, 1)[0, ::2])
    more = {"blk.0.ffn_up.weight": odd, "blk.0.attn_q.weight": gate}
    model = llama(1)
    write_gguf(tmp_path / "m.gguf", replace(model, tensors=tuple(more.get(t.name, t) for t in model)))
    printed = cli("inspect", tmp_path / "m.gguf", "--recipe")
    assert "not in the recipe: blk.0.ffn_up.weight is I8, which quantize cannot write" in printed.err
    assert "not in the recipe: blk.0.ffn_gate_inp.weight is Q8_0, and quantize leaves it in floats" in printed.err
    assert "ffn_up" not in printed.out


def test_names_of_strangers_are_one_pattern(tmp_path: Path) -> None:
    odd = replace(weights("x", (8, 256)), name="blk.0.a =b#\n.weight", layer=0)
    model = Model("llama", llama(1).metadata, (odd,), Path("odd"))
    (line,) = find_recipe(model).lines
    assert line == r"^blk\.0\.a..b..\.weight$=F16"
    with pytest.raises(PlanError, match="holds no tensor that a recipe could give a type"):
        find_recipe(replace(model, tensors=()))


@pytest.mark.parametrize("words", [("--json",), ("--no-tensors",), ("--markdown",), ("--html", "p.html")])
def test_a_recipe_is_nothing_else(cli: Cli, tmp_path: Path, words: tuple[str, ...]) -> None:
    write_gguf(tmp_path / "m.gguf", llama(1))
    done = cli("inspect", tmp_path / "m.gguf", "--recipe", *words)
    assert (done.code, done.out, "has no effect" in done.err) == (2, "", True)


def test_markdown(cli: Cli, tmp_path: Path) -> None:
    model = llama(1)
    named = replace(
        model, metadata={**model.metadata, "general.name": replace(model.metadata["general.name"], data="a|b`c")}
    )
    write_gguf(tmp_path / "m.gguf", named)
    convert(tmp_path / "m.gguf", tmp_path / "q.gguf", "Q8_0")
    text = cli("inspect", tmp_path / "q.gguf", "--markdown").out
    assert text.startswith("# `q.gguf`\n\nGGUF v2, ")
    assert "| `general.file_type` | `7 (Q8_0)` |\n" in text
    assert "| `general.name` | ``'a\\|b`c'`` |\n" in text
    assert "| `blk.0.attn_q.weight` | Q8_0 | 256 x 256 | 69.6 kB |\n" in text
    assert "blk.0." not in cli("inspect", tmp_path / "q.gguf", "--markdown", "--no-tensors").out
