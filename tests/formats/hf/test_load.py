"""Reading checkpoints: metadata as llama.cpp's converter writes it, and one line for every bad folder."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch_file
from safetensors.torch import save_file as save_torch_file

from quantmill.formats.errors import FormatError, QuantmillError, UnknownArchitecture, UnmatchedTensor
from quantmill.formats.hf.files.card import name_parts, size_label
from quantmill.formats.hf.load import read_hf
from quantmill.formats.hf.save import write_hf
from quantmill.formats.ir import Role, ValueType

Make = Callable[[str], Path]


@pytest.fixture
def folder(checkpoint: Make, tmp_path: Path) -> Path:
    """A copy of the GQA checkpoint, to spoil."""
    return shutil.copytree(checkpoint("gqa"), tmp_path / "model")


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    weights = dict(load_file(folder / "model.safetensors"))
    change(weights)
    save_file(weights, folder / "model.safetensors")


def message(folder: Path, kind: type[QuantmillError] = FormatError) -> str:
    with pytest.raises(kind) as error:
        read_hf(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_metadata_is_the_converter_s(folder: Path) -> None:
    """Keys, order and types were compared with convert_hf_to_gguf.py of llama.cpp (llama-cpp-python 0.3.36)."""
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\nbase_model: meta-llama/Llama-3-8B\ndatasets:\n- a/b-set\nlanguage:\n- en\n- no\n"
        "pipeline_tag: text-generation\ntags:\n- x\n---\nText.\n"
    )
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "top_k": 20, "do_sample": True}))
    edit_config(folder, _name_or_path="org-x/Tiny-8K-Chat-v0.1")
    found = {key: value.data for key, value in read_hf(folder).metadata.items()}
    assert found == {
        "general.architecture": "llama",
        "general.type": "model",
        "general.sampling.top_k": 20,
        "general.sampling.temp": 0.6,
        "general.name": "Tiny 8K Chat v0.1",
        "general.version": "v0.1",
        "general.organization": "Org X",
        "general.finetune": "8k-Chat",
        "general.basename": "Tiny",
        "general.size_label": "74K",
        "general.license": "apache-2.0",
        "general.base_model.count": 1,
        "general.base_model.0.name": "Llama 3 8B",
        "general.base_model.0.organization": "Meta Llama",
        "general.base_model.0.repo_url": "https://huggingface.co/meta-llama/Llama-3-8B",
        "general.dataset.count": 1,
        "general.dataset.0.name": "B Set",
        "general.dataset.0.organization": "A",
        "general.dataset.0.repo_url": "https://huggingface.co/a/b-set",
        "general.tags": ("x", "text-generation"),
        "general.languages": ("en", "no"),
        "llama.block_count": 2,
        "llama.context_length": 256,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.rope.freq_base": 10000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.attention.key_length": 16,
        "llama.attention.value_length": 16,
        "llama.vocab_size": 96,
        "llama.rope.dimension_count": 16,
        "tokenizer.ggml.model": "no_vocab",
        "quantmill.hf.class": "LlamaForCausalLM",
        "quantmill.hf.dtype": "F32",
        "quantmill.hf.config": '{"initializer_range": 0.1}',
    }
    assert list(found)[:6] == [
        "general.architecture", "general.type", "general.sampling.top_k", "general.sampling.temp", "general.name",
        "general.version",
    ]  # fmt: skip
    assert read_hf(folder).metadata["llama.rope.freq_base"].type is ValueType.FLOAT32


def test_the_order_is_the_converter_s(checkpoint: Make) -> None:
    names = [tensor.name for tensor in read_hf(checkpoint("layers12"))]
    assert names[:2] == ["output.weight", "token_embd.weight"]
    assert [int(n.split(".")[1]) for n in names if n.endswith("attn_q.weight")] == [0, 1, 10, 11, *range(2, 10)]
    llama3 = read_hf(checkpoint("llama3")).tensors[0]
    assert (llama3.name, llama3.role, llama3.qtype.name, llama3.shape) == (
        "rope_freqs.weight",
        Role.ROPE_FREQS,
        "F32",
        (8,),
    )


def test_old_configs_and_old_class_names(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.pop("rope_parameters")
    config.pop("head_dim")
    config |= {
        "architectures": ["LLaMAForCausalLM"],
        "rope_theta": 5e5,
        "rope_scaling": {"type": "linear", "factor": 2},
    }
    (folder / "config.json").write_text(json.dumps(config))
    model = read_hf(folder)
    assert model.hparam("rope.scaling.type") == "linear"
    assert model.hparam("rope.scaling.factor") == 2.0
    assert model.hparam("rope.freq_base") == 5e5
    assert model.hparam("attention.key_length") == 16


def test_no_config(tmp_path: Path) -> None:
    hint = "(give the folder of a Hugging Face checkpoint)"
    assert message(tmp_path) == f"{tmp_path}/config.json: no such file {hint}"


def test_config_that_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    assert message(folder).startswith(f"{folder}/config.json: not JSON: ")


def test_unknown_architecture(folder: Path) -> None:
    edit_config(folder, architectures=["LlamaForCasualLM"])
    assert message(folder, UnknownArchitecture) == (
        f"{folder}/config.json: architectures: unknown model class 'LlamaForCasualLM' "
        "(its model_type llama is that of LlamaForCausalLM; see docs/adding-an-architecture.md)"
    )
    edit_config(folder, architectures=None, model_type=None)
    assert message(folder, UnknownArchitecture) == (
        f"{folder}/config.json: architectures: names no model class, nor a model_type"
    )


def test_an_activation_that_llama_cpp_does_not_compute(folder: Path) -> None:
    edit_config(folder, hidden_act="gelu")
    assert message(folder) == f"{folder}/config.json: hidden_act: is 'gelu'; llama.cpp's llama computes 'silu'"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"hidden_size": "64"}, "hidden_size: '64' is not a positive integer"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: 0 is not a positive integer"),
        ({"vocab_size": 1 << 40}, f"vocab_size: {1 << 40} is not a positive integer"),
        ({"num_attention_heads": True}, "num_attention_heads: True is not a positive integer"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: 4 heads cannot share 3 key/value heads"),
    ],
)
def test_impossible_sizes(folder: Path, changes: dict[str, Any], expected: str) -> None:
    edit_config(folder, **changes)
    assert message(folder) == f"{folder}/config.json: {expected}"


def test_unmatched_tensors(folder: Path) -> None:
    edit_weights(folder, lambda w: w.update({f"model.extra.{i:02d}": w["model.norm.weight"] for i in range(12)}))
    listed = ", ".join(f"model.extra.{i:02d}" for i in range(10))
    assert message(folder, UnmatchedTensor) == (
        f"{folder}: no rule of llama matches {listed} and 2 more (is config.json of the same model? Is it an adapter?)"
    )


def test_a_layer_too_many_is_unmatched(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=1)
    text = message(folder, UnmatchedTensor)
    assert text.startswith(f"{folder}: no rule of llama matches model.layers.1.input_layernorm.weight, ")


def test_missing_tensors(folder: Path) -> None:
    edit_weights(folder, lambda w: (w.pop("lm_head.weight"), w.pop("model.layers.1.mlp.up_proj.weight")))
    assert message(folder, UnmatchedTensor) == (
        f"{folder}: missing model.layers.1.mlp.up_proj.weight, lm_head.weight "
        "(is config.json of the same model? Is a shard missing?)"
    )
    edit_config(folder, attention_bias=True)
    assert "model.layers.0.self_attn.q_proj.bias" in message(folder, UnmatchedTensor)


def test_wrong_shape(folder: Path) -> None:
    name = "model.layers.0.self_attn.k_proj.weight"
    edit_weights(folder, lambda w: w.update({name: w[name][:16]}))
    assert message(folder) == (
        f"{folder}: {name}: its shape is [16, 64], the config makes it [32, 64] (is config.json of the same model?)"
    )


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize(
    ("dtype", "name"),
    [(torch.int8, "I8"), (torch.int64, "I64"), (torch.bool, "BOOL"), (torch.complex64, "C64")],
)
def test_wrong_dtype(folder: Path, kind: str, dtype: torch.dtype, name: str) -> None:
    path = to_dtype(folder, dtype, kind, only="model.norm.weight")
    assert message(folder) == (
        f"{path}: model.norm.weight: dtype {name} cannot be converted "
        "(weights must be F64, F32, F16 or BF16; dequantize or cast the checkpoint first)"
    )


def to_dtype(folder: Path, dtype: torch.dtype, kind: str = "safetensors", only: str = "") -> Path:
    """Store the checkpoint's weights, or one of them, in another type and perhaps another kind of file."""
    path = folder / "model.safetensors"
    state = load_torch_file(path)
    state = {name: tensor.to(dtype) if only in ("", name) else tensor for name, tensor in state.items()}
    if kind == "safetensors":
        save_torch_file(state, path)
        return path
    path.unlink()
    # The old kind of file, and tensors whose rows do not lie one after another.
    state = {name: tensor.t().contiguous().t() if tensor.dim() == 2 else tensor for name, tensor in state.items()}
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=kind == "bin")
    return folder / "pytorch_model.bin"


@pytest.mark.parametrize("kind", ["safetensors", "bin", "old bin"])
def test_f64_is_rounded_to_f32(folder: Path, kind: str, tmp_path: Path) -> None:
    """As transformers and torch round it; a line says so, and the way back gives F32."""
    from transformers import LlamaForCausalLM

    state = load_torch_file(folder / "model.safetensors")
    torch.manual_seed(0)
    save_torch_file(
        {n: t.double() + torch.rand(t.shape, dtype=torch.float64) * 1e-3 for n, t in state.items()},
        folder / "model.safetensors",
    )
    to_dtype(folder, torch.float64, kind)
    lines: list[str] = []
    write_hf(read_hf(folder, say=lines.append), tmp_path / "back")
    assert lines == [f"{folder}: 21 tensors of F64 are rounded to F32"]
    theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    back = load_torch_file(tmp_path / "back" / "model.safetensors")
    assert {tensor.dtype for tensor in back.values()} == {torch.float32}
    for name, tensor in theirs.items():
        assert torch.equal(back[name], tensor), name


def test_f64_beyond_f32(folder: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    to_dtype(folder, torch.float64)
    edit_weights(folder, lambda w: w[name].__setitem__((7, 3), 1e300))
    model = read_hf(folder)
    (tensor,) = (tensor for tensor in model.tensors if tensor.name == "blk.1.ffn_up.weight")
    with pytest.raises(FormatError) as error:
        tensor.rows(5, 9)
    assert str(error.value) == (
        f"{folder}/model.safetensors: {name}: weight [7, 3] is 1e+300, beyond the range of F32 "
        "(the checkpoint is damaged, or needs F64, which no program runs)"
    )


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_fp8_without_scales_is_what_its_codes_are(folder: Path, kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """As transformers takes it; its values are exact in every 16-bit type."""
    from transformers import LlamaForCausalLM

    to_dtype(folder, dtype, kind)
    lines: list[str] = []
    write_hf(read_hf(folder, say=lines.append), tmp_path / "back")
    assert lines == [f"{folder}: 21 weights of FP8 without scales are decoded as they are"]
    theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    back = load_torch_file(tmp_path / "back" / "model.safetensors")
    for name, tensor in theirs.items():
        assert torch.equal(back[name].float(), tensor), name


@pytest.mark.parametrize("method", ["fp8", "mxfp4", "something of tomorrow"])
def test_a_quantization_config_left_over_is_what_transformers_makes_of_it(folder: Path, method: str) -> None:
    """Those that it loads without another library: the floats as they are."""
    from transformers import LlamaForCausalLM

    edit_config(folder, quantization_config={"quant_method": method})
    theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    lines: list[str] = []
    model = read_hf(folder, say=lines.append)
    (tensor,) = (tensor for tensor in model.tensors if tensor.name == "blk.0.ffn_down.weight")
    assert np.array_equal(
        tensor.rows(0, tensor.n_rows).view(np.float32), theirs["model.layers.0.mlp.down_proj.weight"].numpy()
    )
    what = f"says that the weights are quantized by {method!r}, but all are plain floats"
    assert lines == [f"{folder}: quantization_config {what}: they are read as they are"]


def test_truncated_safetensors(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert message(folder) == (
        f"{path}: model.norm.weight: truncated: its data ends at byte {len(whole)}, the file has {len(whole) - 100} "
        "(download it again)"
    )


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    hint = "(model.safetensors, its shards, or pytorch_model.bin must be in the folder)"
    assert message(folder) == f"{folder}: no weights found {hint}"


def shard(folder: Path, *, index: bool = True) -> list[Path]:
    """The weights in three shards."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    paths = [folder / f"model-0000{i + 1}-of-00003.safetensors" for i in range(3)]
    parts = [dict(list(weights.items())[i::3]) for i in range(3)]
    for path, part in zip(paths, parts, strict=True):
        save_file(part, path)
    if index:
        names = {name: path.name for path, part in zip(paths, parts, strict=True) for name in part}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return paths


@pytest.mark.parametrize("index", [True, False])
def test_missing_shards(folder: Path, index: bool) -> None:
    paths = shard(folder, index=index)
    assert len(read_hf(folder).tensors) == 21
    paths[1].unlink()
    origin = "model.safetensors.index.json" if index else paths[0].name
    hint = "(download what is missing into this folder)"
    assert message(folder) == f"{folder}: missing shard {paths[1].name}, of the 3 that {origin} names {hint}"
    if index:
        paths[2].unlink()
        expected = f"{folder}: missing shard {paths[1].name} and 1 more, of the 3 that {origin} names {hint}"
        assert message(folder) == expected


def test_duplicate_tensor(folder: Path) -> None:
    paths = shard(folder)
    first = load_file(paths[0])
    name = next(iter(first))
    save_file({**load_file(paths[2]), name: first[name]}, paths[2])
    assert message(folder) == (
        f"{paths[2]}: {name}: duplicate tensor: it is in {paths[0].name} too (remove the stale shard)"
    )


def test_index_that_points_outside(folder: Path) -> None:
    shard(folder)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["lm_head.weight"] = "../secret.safetensors"
    index.write_text(json.dumps(content))
    assert message(folder) == f"{index}: lm_head.weight: '../secret.safetensors' is outside the folder"


def test_index_whose_shard_is_a_link(folder: Path, tmp_path: Path) -> None:
    """Out of the folder: refused. Into the blobs of the Hugging Face cache that the folder is of: as it must be."""
    first = shard(folder)[0]
    blobs, snapshot = tmp_path / "models--x" / "blobs", tmp_path / "models--x" / "snapshots" / "1234"
    blobs.mkdir(parents=True)
    shutil.copytree(folder, snapshot)
    elsewhere = first.rename(tmp_path / "elsewhere")
    first.symlink_to(elsewhere)
    assert f"{first.name!r} is a link to {elsewhere}, outside the folder" in message(folder)
    (snapshot / first.name).rename(blobs / "abcd")
    (snapshot / first.name).symlink_to("../../blobs/abcd")
    assert read_hf(snapshot).arch == "llama"


def test_index_that_is_wrong(folder: Path) -> None:
    paths = shard(folder)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.ghost.weight"] = paths[0].name
    index.write_text(json.dumps(content))
    assert message(folder) == (
        f"{folder}: model.ghost.weight: the index says it is in {paths[0].name}, which does not hold it "
        "(download the checkpoint again)"
    )
    index.write_text(json.dumps({"weight_map": []}))
    assert message(folder) == f"{index}: weight_map: is not a map from tensors to files"


class Bomb:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('the pickle ran')",))


def test_a_pickle_with_code_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    hint = "(only plain state dicts are read; ask for, or make, a safetensors copy)"
    torch.save({"model.norm.weight": Bomb()}, path)
    assert message(folder) == f"{path}: the pickle holds more than tensors, perhaps code {hint}"
    path.write_bytes(pickle.dumps(Bomb()))
    assert message(folder) == f"{path}: the pickle holds more than tensors, perhaps code {hint}"
    torch.save([1, 2], path)
    assert message(folder) == f"{path}: holds a list, not a state dict {hint}"


def test_a_truncated_bin(folder: Path) -> None:
    state = {name: torch.from_numpy(array) for name, array in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-2000])
    assert message(folder).startswith(f"{path}: damaged or truncated: ")


@pytest.mark.parametrize(
    ("model_id", "n", "expected"),
    [
        (
            "Mistral-7B-Instruct-v0.2",
            7_000_000_000,
            {"basename": "Mistral", "size_label": "7B", "finetune": "Instruct", "version": "v0.2"},
        ),
        (
            "TinyLlama-1.1B-Chat-v1.0",
            0,
            {"basename": "TinyLlama", "size_label": "1.1B", "finetune": "Chat", "version": "v1.0"},
        ),
        ("Yarn-Llama-2-7b-128k", 7e9, {"basename": "Yarn-Llama-2", "size_label": "7B", "finetune": "128k"}),
        ("bloom-7b1-petals", 0, {"basename": "bloom", "size_label": "7.1B", "finetune": "petals"}),
        ("gpt2", 0, {}),
    ],
)  # fmt: skip
def test_names_are_taken_apart_as_gguf_py_does(model_id: str, n: float, expected: dict[str, str]) -> None:
    import gguf

    found = name_parts(model_id, int(n))
    found.pop("name")
    assert found == expected
    _, _, *theirs = gguf.Metadata.get_model_id_components(model_id, int(n))
    keys = ("basename", "finetune", "version", "size_label")
    assert [found.get(key) for key in keys] == theirs


@pytest.mark.parametrize(
    "n", [1, 999, 74_304, 1_000_000, 8_390_912, 134_515_008, 1_100_048_384, 7_241_732_096, 7 * 10**12]
)
def test_size_labels_are_gguf_py_s(n: int) -> None:
    from gguf.utility import model_weight_count_rounded_notation

    assert size_label(n) == model_weight_count_rounded_notation(n)


@pytest.mark.parametrize("names", [("q",), ("q", "k", "v")])
def test_biases_that_config_json_denies(folder: Path, names: tuple[str, ...], tmp_path: Path) -> None:
    """Kept, as llama.cpp's converter keeps them; transformers takes none, so a line says so. The way back is exact."""
    config = json.loads((folder / "config.json").read_text())
    wide = config["num_attention_heads"] * config["head_dim"], config["num_key_value_heads"] * config["head_dim"]
    values = {
        f"model.layers.1.self_attn.{name}_proj.bias": np.arange(wide[name != "q"], dtype=np.float32) for name in names
    }
    edit_weights(folder, lambda weights: weights.update(values))
    lines: list[str] = []
    model = read_hf(folder, say=lines.append)
    kept = "1 bias is kept" if len(names) == 1 else "3 biases are kept"
    why = "although config.json makes attention_bias false, with which transformers takes none"
    assert lines == [f"{folder}: {kept}, {why}"]
    assert sum(tensor.name.endswith(".bias") for tensor in model.tensors) == len(names)
    write_hf(model, tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["attention_bias"] is False
    again = load_file(tmp_path / "back" / "model.safetensors")
    assert all(np.array_equal(again[name], value) for name, value in values.items())
