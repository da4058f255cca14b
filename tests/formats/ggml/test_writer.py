"""Writing GGML files: blocks pass through, and what a file cannot hold is refused before anything is written."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantmill.formats.errors import PlanError
from quantmill.formats.ggml.reader import GGMLSettings, read_ggml
from quantmill.formats.ggml.vocab import encode_vocabulary
from quantmill.formats.ggml.writer import client_options, layout, untied, write_ggml
from quantmill.formats.gguf.keys import typed
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.ir import Model, Tensor, Tokenizer
from quantmill.formats.qtypes import BF16, F16
from quantmill.quantize.execute import execute
from quantmill.quantize.plan import PlanOptions, make_plan
from quantmill.quantize.recipes import RECIPE_SETS


def quantized(source: Path, level: str, out: Path) -> Path:
    execute(make_plan(untied(read_gguf(source)), level, PlanOptions(recipe_set="ggml-v3", layout=layout)), out)
    return out


def blocks(model: Model) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {t.name: (t.qtype.name, t.shape, t.rows(0, t.n_rows).tobytes()) for t in model}


@pytest.mark.parametrize("level", ["F16", "Q4_0", "Q5_1", "Q2_K", "Q3_K_L", "Q4_K_M", "Q6_K"])
def test_round_trip(f16: Path, tmp_path: Path, level: str) -> None:
    """GGUF's level -> GGML -> GGUF -> GGML: the same blocks each time, and at last the same file."""
    execute(make_plan(read_gguf(f16), level, PlanOptions(recipe_set="ggml-v3")), tmp_path / "0.gguf")
    source = read_gguf(tmp_path / "0.gguf")
    write_ggml(tmp_path / "1.bin", source)
    first = read_ggml(tmp_path / "1.bin", GGMLSettings(context=512))
    assert blocks(first) == blocks(source)
    write_gguf(tmp_path / "2.gguf", first)
    second = read_gguf(tmp_path / "2.gguf")
    assert blocks(second) == blocks(source)
    for key, value in source.metadata.items():
        if key.startswith("llama.") and not key.endswith(("key_length", "value_length")):
            assert second.metadata[key] == value, key
    write_ggml(tmp_path / "3.bin", second)
    assert (tmp_path / "3.bin").read_bytes() == (tmp_path / "1.bin").read_bytes()


def test_the_vocabulary_survives(f16: Path, tmp_path: Path) -> None:
    source = read_gguf(f16)
    write_ggml(tmp_path / "m.bin", source)
    back = read_ggml(tmp_path / "m.bin")
    for key in ("tokens", "scores", "token_type"):
        assert np.array_equal(back.get(f"tokenizer.ggml.{key}"), source.get(f"tokenizer.ggml.{key}")), key
    for key in ("bos", "eos", "unknown"):
        assert back.get(f"tokenizer.ggml.{key}_token_id") == source.get(f"tokenizer.ggml.{key}_token_id")


def test_one_pass_is_quantize_then_rewrite(f16: Path, tmp_path: Path) -> None:
    execute(make_plan(read_gguf(f16), "Q3_K_M", PlanOptions(recipe_set="ggml-v3")), tmp_path / "m.gguf")
    write_ggml(tmp_path / "two.bin", read_gguf(tmp_path / "m.gguf"))
    one = quantized(f16, "Q3_K_M", tmp_path / "one.bin")
    assert one.read_bytes() == (tmp_path / "two.bin").read_bytes()


def test_every_level_of_the_recipe_set(f16: Path) -> None:
    """All offsets are multiples of 32, nothing overlaps, and the header carries the level's number."""
    source = untied(read_gguf(f16))
    assert len(RECIPE_SETS["ggml-v3"]) == 16
    for level in RECIPE_SETS["ggml-v3"]:
        plan = make_plan(source, level, PlanOptions(recipe_set="ggml-v3", layout=layout))
        ends = [offset + step.nbytes for offset, step in zip(plan.layout.offsets, plan.steps, strict=True)]
        starts = [*(at for at, _ in plan.layout.between), plan.size]
        assert ends == starts, level
        assert all(offset % 32 == 0 for offset in plan.layout.offsets)
        (ftype,) = struct.unpack_from("<I", plan.layout.header, 8 + 6 * 4)
        assert ftype == plan.metadata["general.file_type"].data, level


def test_tied_embeddings_are_written_twice(f16: Path, tmp_path: Path) -> None:
    model = read_gguf(f16)
    tied = replace(model, tensors=tuple(t for t in model if t.name != "output.weight"))
    write_ggml(tmp_path / "m.bin", tied)
    found = blocks(read_ggml(tmp_path / "m.bin"))
    assert found["output.weight"] == found["token_embd.weight"]
    with pytest.raises(PlanError, match=r"output\.weight: 1 tensors are missing"):
        make_plan(tied, "Q4_0", PlanOptions(recipe_set="ggml-v3", layout=layout))


def changed(model: Model, **keys: Any) -> Model:
    return replace(
        model, metadata={**model.metadata, **{f"llama.{k}": typed(f"llama.{k}", v) for k, v in keys.items()}}
    )


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"feed_forward_length": 681}, "less than 682"),
        ({"attention.head_count_kv": 3}, "do not divide evenly"),
        ({"attention.head_count_kv": [2, 1]}, "one positive number"),
        ({"attention.key_length": 64}, "256 / 8 wide"),
        ({"rope.dimension_count": 16}, "256 / 8 wide"),
        ({"rope.scaling.type": "yarn"}, "yarn"),
        ({"block_count": 1}, "beyond the model's 1 layers"),
        ({"block_count": 3}, "9 tensors are missing"),
        ({"feed_forward_length": 700}, "its shape is"),
    ],
)
def test_what_no_header_can_say(f16: Path, tmp_path: Path, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        write_ggml(tmp_path / "m.bin", changed(read_gguf(f16), **keys))
    assert not list(tmp_path.iterdir())


def test_70b_needs_more(f16: Path) -> None:
    """80 layers with 8 query heads a key/value head are Llama 2 70B to the client, which then multiplies by 1.3."""
    keys = {"block_count": 80, "attention.head_count_kv": 1, "feed_forward_length": 768}
    with pytest.raises(PlanError, match="768 is less than 886"):
        layout(changed(read_gguf(f16), **keys).metadata, [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: replace(t, qtype=BF16), "no type BF16"),
        (lambda t: replace(t, name="blk.0.attn_q.bias"), "cannot hold this tensor"),
        (lambda t: replace(t, name="rope_freqs.weight", shape=(16,)), "cannot hold this tensor"),
        (lambda t: replace(t, name="blk.0.attn_norm.weight", shape=(256,), qtype=F16), "vectors in F32"),
    ],
)
def test_tensors_without_a_place(f16: Path, tmp_path: Path, change: Callable[[Tensor], Tensor], words: str) -> None:
    model = read_gguf(f16)
    query = next(t for t in model if t.name == "blk.0.attn_q.weight")
    with pytest.raises(PlanError, match=words):
        write_ggml(tmp_path / "m.bin", replace(model, tensors=(change(query), *model.tensors)))


def test_levels_of_later_days(f16: Path) -> None:
    with pytest.raises(PlanError, match="no type IQ4_XS"):
        make_plan(untied(read_gguf(f16)), "IQ4_XS", PlanOptions(layout=layout))


def test_another_architecture_or_no_vocabulary(f16: Path) -> None:
    model = read_gguf(f16)
    with pytest.raises(PlanError, match="not qwen2"):
        layout({**model.metadata, "general.architecture": typed("general.architecture", "qwen2")}, [])
    bare = {key: value for key, value in model.metadata.items() if not key.startswith("tokenizer.")}
    with pytest.raises(PlanError, match="needs a vocabulary"):
        write_ggml(Path("never.bin"), replace(model, metadata=bare))


def test_byte_level_tokens_are_their_bytes() -> None:
    tok = Tokenizer("gpt2", "default", ("<s>", "Ġthe", "Ċ", "é"), np.array([3, 1, 1, 1], np.int32))
    raw = encode_vocabulary(tok, 4)
    words = (b"<s>", b" the", b"\n", b"\xe9")
    assert raw == b"".join(struct.pack("<I", len(word)) + word + bytes(4) for word in words)
    with pytest.raises(PlanError, match="4 tokens for 5 rows"):
        encode_vocabulary(tok, 5)


def test_client_options(f16: Path) -> None:
    model = changed(read_gguf(f16), **{"rope.freq_base": 1e6, "rope.scaling.type": "linear", "rope.scaling.factor": 4})
    assert client_options(model.metadata) == ("n_gqa=4, rms_norm_eps=1e-05, rope_freq_base=1e+06, rope_freq_scale=0.25")
