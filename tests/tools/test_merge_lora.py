"""An adapter merged into its base: PEFT's merge_and_unload, from a folder and from a GGUF file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from oracles.tiny import save_tiny_llama
from quantmill import Model, ReadOptions, convert, read_gguf, read_model
from quantmill.quantize.merging import MERGED

Cli = Callable[..., Any]
Refused = Callable[..., str]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens"]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, adapter/ and merged/, which is PEFT's."""
    folder = tmp_path_factory.mktemp("lora")
    save_tiny_llama(folder / "base", layers=2)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "base")
    peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=12, target_modules=ALL))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in peft.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.1, generator=generator)
    peft.save_pretrained(folder / "adapter")
    peft.merge_and_unload().save_pretrained(folder / "merged")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "merged" / name).write_bytes((folder / "base" / name).read_bytes())
    return folder


def weights(model: Model) -> dict[str, np.ndarray]:
    return {t.name: t.rows(0, t.n_rows).view("<f4").copy() for t in model}


def check(ours: Model, peft: Model, base: Model) -> None:
    mine, theirs, before = weights(ours), weights(peft), weights(base)
    assert mine.keys() == theirs.keys()
    for name in mine:  # the sum is taken in another order
        np.testing.assert_allclose(mine[name], theirs[name], rtol=0, atol=2e-6, err_msg=name)
    changed = {name for name in mine if not np.array_equal(mine[name], before[name])}
    assert len(changed) == 15


def test_as_peft(cli: Cli, here: Path, tmp_path: Path) -> None:
    peft, base = read_model(here / "merged"), read_model(here / "base")
    assert cli("merge-lora", here / "base", here / "adapter", tmp_path / "m.gguf", "--outtype", "f32").code == 0
    check(read_gguf(tmp_path / "m.gguf"), peft, base)
    assert cli("merge-lora", here / "base", here / "adapter", tmp_path / "hf").code == 0
    check(read_model(tmp_path / "hf"), peft, base)


def test_from_gguf_to_gguf(cli: Cli, here: Path, tmp_path: Path) -> None:
    convert(here / "adapter", tmp_path / "a.gguf", read=ReadOptions(lora_base=here / "base"))
    convert(here / "base", tmp_path / "b.gguf", "f32")
    assert cli("merge-lora", tmp_path / "b.gguf", tmp_path / "a.gguf", tmp_path / "m.gguf").code == 0
    check(read_gguf(tmp_path / "m.gguf"), read_model(here / "merged"), read_model(here / "base"))
    assert cli("merge-lora", tmp_path / "b.gguf", tmp_path / "a.gguf", tmp_path / "z.gguf", "--scale", "0").code == 0
    same = weights(read_gguf(tmp_path / "z.gguf")), weights(read_gguf(tmp_path / "b.gguf"))
    assert all(np.array_equal(same[0][name], same[1][name]) for name in same[0])


def test_straight_to_a_level(cli: Cli, here: Path, tmp_path: Path) -> None:
    words = (here / "base", here / "adapter", tmp_path / "m.gguf", "--outtype", "Q8_0")
    assert cli("merge-lora", *words).code == 0
    made = read_gguf(tmp_path / "m.gguf")
    assert {t.qtype.name for t in made} == {"F32", "Q8_0"}
    assert str(made.get(MERGED)).endswith(" x 1")  # so that no interrupted run of another adapter is continued


def test_bad_merges(refused: Refused, here: Path, tmp_path: Path) -> None:
    quantized = convert(here / "base", tmp_path / "q.gguf", "Q8_0").paths[0]
    pairs = convert(here / "adapter", tmp_path / "a.gguf", read=ReadOptions(lora_base=here / "base")).paths[0]
    save_tiny_llama(tmp_path / "wide", layers=2, hidden=128)
    save_tiny_llama(tmp_path / "short", layers=1)
    out = tmp_path / "o.gguf"
    for words, line in (
        ((quantized, pairs), "Q8_0 is no float type"),
        ((quantized, here / "adapter"), "whose base must be a Hugging Face folder"),
        ((here / "base", quantized), "is no LoRA adapter"),
        ((here / "base", here / "merged"), "is no LoRA adapter"),
        ((tmp_path / "wide", pairs), "for a weight of"),
        ((tmp_path / "short", pairs), "which the base does not have"),
        ((here / "base", tmp_path / "none"), "no such file or folder"),
    ):
        assert line in refused("merge-lora", *words, out)
