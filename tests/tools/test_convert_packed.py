"""Whole packed checkpoints -> GGUF -> llama.cpp, against transformers on the decoded weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from oracles import packed
from oracles.archs.deepseek import PROOFS as DEEPSEEK
from oracles.checkpoint_logits import cosine, llama_cpp_logits, transformers_logits
from oracles.proofs import save_proof
from oracles.tiny import save_tiny_llama
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.hf.load import read_hf
from quantmill.formats.hf.tables.packed_tensors import unpack_blocks


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tiny") / "llama", layers=2, hidden=128)


def gptq_of(bits: int, size: int, **options: Any) -> tuple[dict[str, Any], Callable[..., Any]]:
    layout = {"quant_method": "gptq", "bits": bits, "group_size": size, "desc_act": bool(options.get("act_order"))}

    def pack(name: str, weight: torch.Tensor) -> Any:
        order = None
        if options.get("act_order"):
            order = torch.randperm(weight.shape[1], generator=torch.Generator().manual_seed(len(name)))
        group = packed.groups(weight.shape[1], size, order)
        turned = weight if order is None else weight[:, order]
        codes, zeros, scales = packed.round_to_grid(turned, size, bits, symmetric=not options.get("asymmetric"))
        if order is not None:
            codes = codes[:, torch.argsort(order)]
        parts = packed.gptq(codes, zeros, scales, group, bits)
        if options.get("biases"):
            parts["bias"] = torch.zeros(len(weight), dtype=torch.float16)
        return parts, packed.dense(codes, zeros, scales, group)

    return {**layout, "sym": not options.get("asymmetric"), "checkpoint_format": "gptq"}, pack


def awq(size: int) -> tuple[dict[str, Any], Callable[..., Any]]:
    def pack(name: str, weight: torch.Tensor) -> Any:
        codes, zeros, scales = packed.round_to_grid(weight, size, 4, symmetric=False)
        group = packed.groups(weight.shape[1], size)
        return packed.awq_gemm(codes, zeros, scales), packed.dense(codes, zeros, scales, group)

    return {"quant_method": "awq", "bits": 4, "group_size": size, "zero_point": True, "version": "gemm"}, pack


def fp8() -> tuple[dict[str, Any], Callable[..., Any]]:
    def pack(name: str, weight: torch.Tensor) -> Any:
        rows, columns = (-(-n // 64) for n in weight.shape)
        scale = torch.rand(rows, columns) * 0.01 + 0.004
        wide = scale.repeat_interleave(64, 0).repeat_interleave(64, 1)[: weight.shape[0], : weight.shape[1]]
        codes = (weight / wide).to(torch.float8_e4m3fn)
        return {"weight": codes, "weight_scale_inv": scale}, codes.float() * wide

    return {"quant_method": "fp8", "weight_block_size": [64, 64], "activation_scheme": "dynamic"}, pack


def compressed() -> tuple[dict[str, Any], Callable[..., Any]]:
    def pack(name: str, weight: torch.Tensor) -> Any:
        codes, zeros, scales = packed.round_to_grid(weight, 32, 4)
        shape = torch.tensor(weight.shape)
        parts = {"weight_packed": packed.stream(codes, 4), "weight_scale": scales, "weight_shape": shape}
        return parts, packed.dense(codes, zeros, scales, packed.groups(weight.shape[1], 32))

    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    groups = {"group_0": {"weights": weights, "targets": ["Linear"]}}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}, pack


MAKERS: dict[str, tuple[Callable[[], Any], str, str]] = {
    "gptq-4-32": (lambda: gptq_of(4, 32), "Q4_0", "14 weights read exactly as Q4_0"),
    "gptq-4-64-zero-biases": (lambda: gptq_of(4, 64, biases=True), "Q4_0", "14 weights read exactly as Q4_0"),
    "gptq-8-64": (lambda: gptq_of(8, 64), "Q8_0", "14 weights read exactly as Q8_0"),
    "gptq-3-whole-rows": (lambda: gptq_of(3, -1), "Q4_0", "14 weights read exactly as Q4_0"),
    "gptq-4-act-order": (lambda: gptq_of(4, 32, act_order=True), "F16", "14 weights read decoded (act-order)"),
    "gptq-4-asymmetric": (lambda: gptq_of(4, 32, asymmetric=True), "Q5_0", "14 weights read exactly as Q5_0"),
    "awq-4-64": (lambda: awq(64), "Q5_0", "14 weights read exactly as Q5_0"),
    "fp8-blocks": (fp8, "F16", "14 weights read decoded"),
    "compressed-4-32": (compressed, "Q4_0", "14 weights read exactly as Q4_0"),
}


SLOW = ("gptq-8-64", "gptq-3-whole-rows", "gptq-4-asymmetric", "gptq-4-64-zero-biases")  # the layouts' tests cover them


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in MAKERS]
)
def test_through_llama_cpp(name: str, llama: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    make, expected, said = MAKERS[name]
    quantization, pack = make()
    meant = packed.save_packed(llama, tmp_path / "m", quantization, pack, beside=name.startswith("gptq"))
    out = tmp_path / "out.gguf"
    result = cli("convert", tmp_path / "m", out)
    assert result.code == 0, result
    assert said in result.err
    assert ("14 quantized tensors kept as they are" in result.out) == (expected != "F16")
    model = read_gguf(out)
    types = {tensor.qtype.name for tensor in model if ".attn_q." in tensor.name or ".ffn_" in tensor.name}
    assert types - {"F32"} == {expected}  # norms are F32
    assert not [tensor.name for tensor in model if tensor.name.endswith(".bias")]

    # Every weight of the file is the decoded one, bit for bit, or its nearest half.
    for tensor in read_hf(tmp_path / "m"):
        if tensor.qtype.is_quantized:
            stored = next(one for one in model if one.name == tensor.name)
            assert np.array_equal(stored.rows(0, stored.n_rows), tensor.rows(0, tensor.n_rows))
    want = meant["model.layers.1.mlp.down_proj.weight"]
    got = next(tensor for tensor in read_hf(tmp_path / "m") if tensor.name == "blk.1.ffn_down.weight")
    decoded = unpack_blocks(got)
    assert np.array_equal(decoded.rows(0, decoded.n_rows).view(np.float32), want.numpy())

    # llama.cpp rounds activations to 8 bits beside quantized weights: the file of floats is the closer comparison.
    f32 = tmp_path / "f32.gguf"
    assert cli("convert", tmp_path / "m", f32, "--outtype", "f32").code == 0
    theirs = transformers_logits(llama, meant)
    assert cosine(llama_cpp_logits(f32), theirs) > 0.99999
    assert cosine(llama_cpp_logits(out), theirs) > 0.995


def test_a_level_quantizes_again(llama: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    quantization, pack = gptq_of(4, 32)
    packed.save_packed(llama, tmp_path / "m", quantization, pack, beside=True)
    result = cli("convert", tmp_path / "m", tmp_path / "out.gguf", "--outtype", "Q8_0")
    assert "14 quantized tensors decoded and quantized again" in result.out
    types = {tensor.qtype.name for tensor in read_gguf(tmp_path / "out.gguf") if len(tensor.shape) > 1}
    assert types == {"Q8_0"}


def test_fp8_as_q8(llama: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    """What was FP8 is what the level Q8_0 makes of it; all else, and the file type, is what the floats are."""
    quantization, pack = fp8()
    packed.save_packed(llama, tmp_path / "m", quantization, pack)
    for name, words in {"mixed": ("auto", "--fp8-as-q8"), "floats": ("auto",), "q8": ("Q8_0",)}.items():
        assert cli("convert", tmp_path / "m", tmp_path / f"{name}.gguf", "--outtype", *words).code == 0
    mixed, floats, q8 = (read_gguf(tmp_path / f"{name}.gguf") for name in ("mixed", "floats", "q8"))
    assert {key: str(value) for key, value in mixed.metadata.items()} == {
        key: str(value) for key, value in floats.metadata.items()
    }
    of_name = {name: {tensor.name: tensor for tensor in model} for name, model in (("f", floats), ("q", q8))}
    for tensor in mixed:
        was_fp8 = any(part in tensor.name for part in (".attn_q.", ".attn_k.", ".attn_v.", ".attn_output.", ".ffn_"))
        other = of_name["q" if was_fp8 and "norm" not in tensor.name else "f"][tensor.name]
        assert tensor.qtype is other.qtype, tensor.name
        assert np.array_equal(tensor.rows(0, tensor.n_rows), other.rows(0, other.n_rows)), tensor.name
    assert [tensor.name for tensor in mixed] == [tensor.name for tensor in floats]


@pytest.mark.parametrize(
    ("source", "words", "problem"),
    [
        ("m", ("--outtype", "Q4_K_M"), "--fp8-as-q8: has no effect: Q4_K_M quantizes all matrices"),
        ("plain", ("--outtype", "F16"), "--fp8-as-q8: has no effect: the source holds no FP8 weights with scales"),
        ("m", ("--outtype", "F16", "--prune-layers", "1"), "--fp8-as-q8: has no effect: blocks are left out"),
        ("plain", ("--to", "hf"), "--fp8-as-q8: has no effect: a Hugging Face folder holds floats"),
    ],
)
def test_fp8_as_q8_in_vain(
    source: str, words: tuple[str, ...], problem: str, llama: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    quantization, pack = fp8()
    packed.save_packed(llama, tmp_path / "m", quantization, pack)
    result = cli("convert", llama if source == "plain" else tmp_path / "m", tmp_path / "o.gguf", "--fp8-as-q8", *words)
    assert result.code == 2
    assert problem in result.err.splitlines()[-1]
    assert not (tmp_path / "o.gguf").exists()


def test_back_to_a_plain_checkpoint(llama: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    """GPTQ -> GGUF -> Hugging Face: a float checkpoint that says nothing of quantization and holds the same weights."""
    quantization, pack = gptq_of(4, 32)
    meant = packed.save_packed(llama, tmp_path / "m", quantization, pack, beside=True)
    cli("convert", tmp_path / "m", tmp_path / "out.gguf")
    cli("convert", tmp_path / "out.gguf", tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["torch_dtype"] == "float16"
    found = load_file(tmp_path / "hf" / "model.safetensors")
    assert set(found) == set(meant)
    for name, weight in meant.items():
        assert torch.equal(found[name].float(), weight.float()), name


def test_experts_of_unlike_types_decode(tmp_path: Path) -> None:
    """A stack is one tensor: one expert that has no exact blocks takes the others along to floats."""
    from quantmill.formats.hf.files.weights import read_weights
    from quantmill.formats.hf.packed import decode_packed
    from quantmill.formats.hf.tables.ops import Stack
    from quantmill.formats.hf.tables.packed_tensors import apply_op

    parts, meant = {}, []
    for expert in range(2):
        codes, zeros, scales = packed.random_grid(32, 64, 32, 4, expert, symmetric=expert == 0)
        group = packed.groups(64, 32)
        meant.append(packed.dense(codes, zeros, scales, group))
        parts |= {f"e{expert}.{k}": v for k, v in packed.gptq(codes, zeros, scales, group, 4).items()}
    save_file(parts, tmp_path / "model.safetensors")
    raw = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32}}
    tensors = tuple(decode_packed(read_weights(tmp_path), raw, tmp_path).values())
    assert [tensor.qtype.name for tensor in tensors] == ["Q4_0", "Q5_0"]
    (stacked,) = apply_op(Stack(), tensors, {})
    assert stacked.qtype.name == "F32"
    rows = stacked.rows(0, 64).view(np.float32).reshape(2, 32, 64)
    assert np.array_equal(rows, torch.stack(meant).numpy())


def moe(folder: Path) -> Path:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=3, num_experts_per_tok=2, max_position_embeddings=128,
        initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(5)
    MixtralForCausalLM(config).save_pretrained(folder)
    return folder


def biased(folder: Path) -> Path:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(6)
    model = Qwen2ForCausalLM(config)
    for name, weight in model.named_parameters():
        if name.endswith(("q_proj.bias", "v_proj.bias")):  # k's stay zero, and must stay
            torch.nn.init.normal_(weight, 0, 0.3)
    model.save_pretrained(folder)
    return folder


def conv1d(folder: Path) -> Path:
    """Layers that are stored [in, out]; packed they are as everywhere."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=320, n_embd=64, n_layer=2, n_head=4, n_positions=128, initializer_range=0.2)
    torch.manual_seed(7)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("make", "packs"), [(moe, 26), (biased, 14), (conv1d, 8)])
def test_other_architectures(make: Callable[..., Path], packs: int, tmp_path: Path, cli: Callable[..., Any]) -> None:
    """Stacked experts, layers with biases of their own beside AutoGPTQ's zeros, and GPT-2's turned layers."""
    source = make(tmp_path / "dense")
    quantization, pack = gptq_of(4, 32, biases=True)
    turned = make is conv1d

    def of_layer(name: str, weight: torch.Tensor) -> Any:
        parts, dense = pack(name, weight.T.contiguous() if turned else weight)
        if turned or (name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")) and make is biased):
            del parts["bias"]  # the layer has one
        return parts, dense.T.contiguous() if turned else dense

    meant = packed.save_packed(source, tmp_path / "m", quantization, of_layer)
    out = tmp_path / "out.gguf"
    result = cli("convert", tmp_path / "m", out)
    assert result.code == 0, result
    assert f": {packs} weights read exactly as Q4_0" in result.err
    assert {t.qtype.name for t in read_gguf(out) if ".ffn_up" in t.name and t.name.endswith("weight")} == {"Q4_0"}
    assert cli("convert", tmp_path / "m", out, "--outtype", "f32", "--force").code == 0
    assert cosine(llama_cpp_logits(out), transformers_logits(source, meant)) > 0.99999


@pytest.mark.slow
def test_deepseek_in_fp8(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """As DeepSeek publishes its models: blocks of FP8 that decode, are stacked by expert, taken apart and turned."""
    source = tmp_path / "dense"
    save_proof(next(proof for proof in DEEPSEEK if proof.model == "DeepseekV3ForCausalLM"), source)
    quantization, pack = fp8()
    meant = packed.save_packed(source, tmp_path / "m", quantization, pack)
    out = tmp_path / "out.gguf"
    result = cli("convert", tmp_path / "m", out, "--outtype", "f32")
    assert result.code == 0, result
    assert "fp8: 72 weights read decoded" in result.err
    assert cosine(llama_cpp_logits(out), transformers_logits(source, meant)) > 0.99999
