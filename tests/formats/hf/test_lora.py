"""LoRA adapters: llama.cpp with the GGUF adapter computes what PEFT computes with the folder it came from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from oracles.kills import run
from oracles.llama import Llama
from oracles.proofs import Proof, all_proofs, save_proof, tokens_of
from quantmill.formats.errors import FormatError
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.hf.adapters.read import read_lora
from quantmill.formats.hf.load import read_hf
from quantmill.formats.qtypes import BF16

_HEADS = {"num_attention_heads": 8, "num_key_value_heads": 2}
_LLAMA = Proof("llama", "LlamaForCausalLM", _HEADS)
_ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def save_adapter(proof: Proof, folder: Path, **settings: Any) -> tuple[Path, Path, torch.nn.Module]:
    """Base folder, adapter folder and PEFT's model, with random weights in both halves of each pair."""
    base, adapter = folder / "base", folder / "adapter"
    base.mkdir(parents=True)
    save_proof(proof, base)
    model = getattr(transformers, proof.model).from_pretrained(base)
    peft = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 12} | settings))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in peft.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.1, generator=generator)
    peft.eval()
    peft.save_pretrained(adapter)
    return base, adapter, peft


def expected(model: torch.nn.Module, tokens: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].float().numpy()


_QWEN35 = next(proof for proof in all_proofs() if proof.id == "qwen35")

CASES = {
    # rows and columns of linear attention, which llama.cpp has in another order
    "qwen35": (_QWEN35, {"target_modules": ["in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj", *_ALL]}),
    "llama": (_LLAMA, {"target_modules": _ALL}),
    "one module": (_LLAMA, {"target_modules": ["v_proj"], "r": 8, "lora_alpha": 4}),
    "rslora": (_LLAMA, {"target_modules": _ALL, "use_rslora": True}),
    "patterns": (
        _LLAMA,
        {"target_modules": _ALL, "rank_pattern": {"q_proj": 6}, "alpha_pattern": {"layers.1.mlp.down_proj": 5}},
    ),
    "embeddings": (_LLAMA, {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
    "gpt2": (Proof("gpt2", "GPT2LMHeadModel", {"num_attention_heads": 4}), {"target_modules": ["c_attn", "c_fc"]}),
    "qwen2": (Proof("qwen2", "Qwen2ForCausalLM", _HEADS), {"target_modules": _ALL}),
}


@pytest.mark.parametrize("case", CASES)
def test_llama_cpp_adds_what_peft_adds(case: str, tmp_path: Path) -> None:
    proof, settings = CASES[case]
    base, adapter, peft = save_adapter(proof, tmp_path, **settings)
    write_gguf(tmp_path / "base.gguf", read_hf(base))
    write_gguf(tmp_path / "adapter.gguf", read_lora(adapter, base))
    tokens = tokens_of(proof)
    want = expected(peft, tokens)
    with Llama(tmp_path / "base.gguf") as llama:
        before = llama.logits(tokens)
        llama.adapt(tmp_path / "adapter.gguf")
        got = llama.logits(tokens)
    spread = want.max() - want.min()
    assert np.abs(got - want).max() / spread < 2e-3
    assert np.abs(before - want).max() / spread > 0.05  # it does something


def test_the_file(tmp_path: Path) -> None:
    base, adapter, _ = save_adapter(_LLAMA, tmp_path, target_modules=["q_proj"])
    model = read_lora(adapter, base, BF16)
    write_gguf(tmp_path / "a.gguf", model)
    back = read_gguf(tmp_path / "a.gguf")
    assert {key: back.get(key) for key in ("general.type", "adapter.type", "adapter.lora.alpha")} == {
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 12.0,
    }
    assert [(t.name, t.shape, t.qtype.name) for t in back][:2] == [
        ("blk.0.attn_q.weight.lora_a", (4, 256), "BF16"),
        ("blk.0.attn_q.weight.lora_b", (256, 4), "BF16"),
    ]
    # One head's rows of B, from halves to neighbours: 0, 16, 1, 17, ...
    b = load_file(adapter / "adapter_model.safetensors")[
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    ]
    rows = read_lora(adapter, base).tensors[1].rows(0, 32).view("<f4")
    order = np.arange(32).reshape(2, 16).T.reshape(-1)
    assert np.array_equal(rows, b.numpy()[:32][order])


def _config(adapter: Path, **changes: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _weights(adapter: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = adapter / "adapter_model.safetensors"
    found = load_file(path)
    change(found)
    save_file(found, path)


_A = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "dora": (lambda a: _config(a, use_dora=True), r"adapter_config.json: use_dora: a GGUF adapter cannot hold DoRA"),
    "kind": (lambda a: _config(a, peft_type="IA3"), r"peft_type: is 'IA3'; llama.cpp adds LoRA adapters only"),
    "modules": (
        lambda a: _config(a, modules_to_save=["lm_head"]),
        r"modules_to_save: a GGUF adapter cannot hold whole modules",
    ),
    "half": (lambda a: _weights(a, lambda w: w.pop(_A)), r"layers.1.self_attn.q_proj.weight: one half of a pair is"),
    "rank": (lambda a: _weights(a, lambda w: w.update({_A: w[_A][:3]})), r"\[3, 256\] and \[256, 4\] are not a pair"),
    "bias": (
        lambda a: _weights(a, lambda w: w.update({"x.bias": w[_A][0].clone()})),
        r"x.bias: neither lora_A nor lora_B",
    ),
    "strange": (
        lambda a: _weights(
            a, lambda w: w.update({k.replace("q_proj", "z_proj"): v.clone() for k, v in list(w.items())})
        ),
        r"the base has no model.layers.0.self_attn.z_proj.weight",
    ),
    "missing": (lambda a: (a / "adapter_model.safetensors").unlink(), r"holds no weights"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_adapters(case: str, tmp_path: Path) -> None:
    base, adapter, _ = save_adapter(_LLAMA, tmp_path, target_modules=["q_proj"])
    damage, message = BAD[case]
    damage(adapter)
    with pytest.raises(FormatError, match=message):
        read_lora(adapter, base)


_TIED = replace(_LLAMA, config=_HEADS | {"tie_word_embeddings": True})


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_an_embedding_that_is_the_head_cannot_change_alone(module: str, tmp_path: Path) -> None:
    """llama.cpp aborts on a pair of such an embedding, and does not load one of such a head."""
    base, adapter, _ = save_adapter(_TIED, tmp_path, target_modules=[module])
    with pytest.raises(FormatError, match=rf"{module}.weight: lm_head.weight and model.embed_tokens.weight are one"):
        read_lora(adapter, base)
    weights = load_file(base / "model.safetensors")
    save_file(weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}, base / "model.safetensors")
    assert len(read_lora(adapter, base).tensors) == 2  # in a file of this base they are two


def test_weights_of_the_base_in_an_adapter(tmp_path: Path) -> None:
    """PEFT saves an embedding along with its pair, and puts it in the place of the base's."""
    base, adapter, _ = save_adapter(_LLAMA, tmp_path, target_modules=["embed_tokens"])
    said: list[str] = []
    assert len(read_lora(adapter, base, say=said.append).tensors) == 2
    assert said == []
    path, name = adapter / "adapter_model.safetensors", "base_model.model.model.embed_tokens.base_layer.weight"
    weights = load_file(path)
    save_file(weights | {name: weights[name] + 1}, path)
    with pytest.raises(
        FormatError, match=r"model.embed_tokens.weight: the adapter holds it, too, and not with the base"
    ):
        read_lora(adapter, base)
    (base / "model.safetensors").unlink()
    read_lora(adapter, base, say=said.append)
    line = f"{adapter}: holds the base's model.embed_tokens.weight, too: not compared, as {base} does not hold it"
    assert said == [line]


def test_another_base(tmp_path: Path) -> None:
    base, adapter, _ = save_adapter(_LLAMA, tmp_path, target_modules=["q_proj"])
    other = replace(_LLAMA, config=_HEADS | {"hidden_size": 512})
    (tmp_path / "other").mkdir()
    save_proof(other, tmp_path / "other")
    with pytest.raises(FormatError, match=r"changes a weight of shape \[256, 256\]; the base has \[512, 512\]"):
        read_lora(adapter, tmp_path / "other")
    _config(adapter, base_model_name_or_path="meta-llama/Llama-9")
    with pytest.raises(FormatError, match=re.escape("'meta-llama/Llama-9' is not a local folder (--base FOLDER")):
        read_lora(adapter)
    _config(adapter, base_model_name_or_path=str(base))
    assert len(read_lora(adapter).tensors) == 2 * 3


def test_the_command(tmp_path: Path) -> None:
    base, adapter, _ = save_adapter(_LLAMA, tmp_path, target_modules=["q_proj"])
    done = run(["convert", str(adapter), "a.gguf", "--base", str(base), "--outtype", "f16"], tmp_path)
    assert (done.returncode, done.stdout) == (0, "a.gguf: an adapter of 3 weights of a llama\n")
    assert {tensor.qtype.name for tensor in read_gguf(tmp_path / "a.gguf")} == {"F16"}
    for words, message in (
        (
            ["convert", str(adapter), "b.gguf", "--base", str(base), "--outtype", "Q4_K_M"],
            "an adapter cannot be Q4_K_M",
        ),
        (
            ["convert", str(base), "b.gguf", "--base", str(base)],
            "--base: is for LoRA adapters, and the source is not",
        ),
        (["evaluate", str(adapter)], "is a LoRA adapter, not a model"),
    ):
        done = run(words, tmp_path)
        assert done.returncode == 2
        assert message in done.stderr
    assert not (tmp_path / "b.gguf").exists()


def test_a_pair_for_a_bare_model(tmp_path: Path) -> None:
    """PEFT's names of a model without a head lack model., whether the base's config names that class or not."""
    proof = replace(_LLAMA, model="LlamaModel")
    base, adapter, _ = save_adapter(proof, tmp_path, target_modules=["q_proj", "down_proj"])
    state = load_file(adapter / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.layers.") for name in state)
    pairs = read_lora(adapter, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"architectures": None}))
    said: list[str] = []
    read_lora(adapter, base, say=said.append)
    assert said[0] == f"{base}/config.json: names no model class: taken for LlamaForCausalLM, by its model_type llama"
    save_proof(_LLAMA, tmp_path / "whole")
    assert {t.name for t in read_lora(adapter, tmp_path / "whole")} == {t.name for t in pairs}
    assert len(pairs.tensors) == len(state)
    name = "base_model.model.layers.0.self_attn.q_proj.lora_A.weight"
    other = name.replace("model.layers", "model.model.layers")
    more = {other: state[name] + 1, other.replace("_A", "_B"): state[name.replace("_A", "_B")] + 1}
    save_file({**state, **more}, adapter / "adapter_model.safetensors")
    with pytest.raises(FormatError, match=r"changes the same weight as layers\.0\.self_attn\.q_proj\.weight"):
        read_lora(adapter, base)


def test_links_out_of_the_folders(tmp_path: Path) -> None:
    """One rule for the adapter's files and the base's, whose head is seen to differ from the embedding."""
    base, adapter, _ = save_adapter(_LLAMA, tmp_path, target_modules=["embed_tokens"])
    for folder in (base, adapter):
        away = tmp_path / f"{folder.name} away"
        away.mkdir()
        for path in folder.iterdir():
            path.rename(away / path.name)
            path.symlink_to(away / path.name)
    with pytest.raises(FormatError, match=r"is a link to .* --follow-links"):
        read_lora(adapter, base)
    assert len(read_lora(adapter, base, follow_links=True).tensors) == 2


def test_two_files_of_weights(tmp_path: Path) -> None:
    """PEFT loads the safetensors file, whatever lies beside it; a line says so, and what the base was taken for."""
    base, adapter, _ = save_adapter(_LLAMA, tmp_path, target_modules=["v_proj"])
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "architectures": None}))
    state = load_file(adapter / "adapter_model.safetensors")
    torch.save({name: tensor + 1 for name, tensor in state.items()}, adapter / "adapter_model.bin")
    said: list[str] = []
    model = read_lora(adapter, base, say=said.append)
    assert said == [
        f"{base}/config.json: names no model class: taken for LlamaForCausalLM, by its model_type llama",
        f"{adapter}: reads adapter_model.safetensors, as PEFT does; left aside: adapter_model.bin",
    ]
    halves = {tensor.name: tensor.rows(0, tensor.n_rows).view("<f4") for tensor in model.tensors}
    first = state["base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight"].numpy()
    assert np.array_equal(halves["blk.0.attn_v.weight.lora_a"].reshape(first.shape), first)
