"""Mistral's own format: our files beside those of llama.cpp's converter for the same folders, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracles.converter import Difference, differences, summary
from oracles.mistral_folders import CASES, DENSE, EXPERTS, GOLDENS, Own, dense, digest, experts, save
from quantmill import PlanOptions, ReadOptions, convert, read_gguf, read_hf, tiny_llama, write_hf
from quantmill.formats.errors import FormatError
from quantmill.formats.floats import to_f32
from quantmill.formats.ir import Tensor

BY_ID = {case.id: case for case in CASES}
_TEKKEN = tuple(case.id for case in CASES if not case.sentencepiece)
_SPM = tuple(case.id for case in CASES if case.sentencepiece)
_YARN = "the architecture that computes YaRN as params.json says; llama.cpp's llama reads neither apply_scale nor beta"
# Where ours are not theirs, by cases; all else is equal.
DIFFERENCES = (
    Difference("tokenizer.ggml.merges", "the merge that makes a token; there, any two parts of its bytes", _TEKKEN),
    Difference("tokenizer.ggml.scores", "zeros, which no model of merges reads", _TEKKEN),
    Difference("tokenizer.ggml.pre", "as in every other file; a SentencePiece model is split by nothing", _SPM),
    Difference("order", "an expert's w2 comes after its w1, as in the checkpoint", ("experts", "experts-large")),
    Difference("general.architecture", _YARN, ("yarn",)),
    Difference("llama.*", _YARN, ("yarn",)),
    Difference("mistral3.*", _YARN, ("yarn",)),
)


def array_of(tensor: Tensor) -> np.ndarray:
    return to_f32(tensor.rows(0, tensor.n_rows), tensor.qtype)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_files_equal_those_of_llama_cpps_converter(case: Own, tmp_path: Path) -> None:
    folder = save(case, tmp_path / f"mistral-{case.id}")
    golden = json.loads((GOLDENS / f"{case.id}.json").read_text(encoding="utf-8"))
    assert digest(folder, case) == golden["folder"]
    read = ReadOptions(mistral_templates="--disable-mistral-community-chat-template" not in case.options)
    for outtype in ("F32", "F16"):
        options = PlanOptions(fp8_as_q8="--fp8-as-q8" in case.options)
        convert(folder, tmp_path / f"{outtype}.gguf", outtype, read=read, options=options)
    found = differences(summary(tmp_path / "F32.gguf", tmp_path / "F16.gguf"), golden)
    stated = [one for one in DIFFERENCES if case.id in one.archs]
    assert not [key for key in found if not any(one.covers(case.id, key) for one in stated)]
    assert not [one.key for one in stated if not any(one.covers(case.id, key) for key in found)]


def test_yarn_has_the_numbers_of_llama_cpps_converter(tmp_path: Path) -> None:
    """The keys that stand under another architecture are those that are written there."""
    folder = save(BY_ID["yarn"], tmp_path / "m")
    convert(folder, tmp_path / "m.gguf", "F16")
    theirs = json.loads((GOLDENS / "yarn.json").read_text(encoding="utf-8"))["metadata"]
    ours = read_gguf(tmp_path / "m.gguf")
    wanted = {key.partition(".")[2]: value for key, (*_, value) in theirs.items() if key.startswith("llama.")}
    assert {key: ours.get(f"mistral3.{key}") for key in wanted} == pytest.approx(wanted)


def test_fp8_experts(tmp_path: Path) -> None:
    """llama.cpp's converter stops at these: what they decode to is what it makes of the same numbers in floats."""
    case = replace(BY_ID["experts"], fp8=True, params={**EXPERTS, **BY_ID["fp8"].params, **EXPERTS, "quantization": {
        "qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR",
    }})  # fmt: skip
    del case.params["llama_4_scaling"], case.params["tied_embeddings"]
    model = read_hf(save(case, tmp_path / "m"))
    plain = read_hf(save(BY_ID["experts"], tmp_path / "plain"))
    assert [tensor.name for tensor in model] == [tensor.name for tensor in plain]
    for ours, floats in zip(model, plain, strict=True):
        exact, decoded = array_of(floats), array_of(ours)
        assert abs(exact - decoded).max() <= abs(exact).max() / 16, ours.name


def test_both_formats_in_one_folder(tmp_path: Path) -> None:
    folder = save(BY_ID["dense"], tmp_path / "m")
    write_hf(tiny_llama(), folder)
    said: list[str] = []
    assert read_hf(folder, say=said.append).get("llama.embedding_length") != DENSE["dim"]
    assert any("config.json is read, not params.json, which --mistral-format reads" in line for line in said)
    said.clear()
    own = read_hf(folder, mistral_format=True, say=said.append)
    assert own.get("llama.embedding_length") == DENSE["dim"]
    assert own.get("tokenizer.ggml.pre") == "tekken"
    assert any("left aside: model.safetensors" in line for line in said)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FormatError, match="--mistral-format reads the weights in Mistral's own format"):
        read_hf(folder)


def test_the_way_back_is_a_hugging_face_folder(tmp_path: Path) -> None:
    convert(save(BY_ID["ministral3"], tmp_path / "m"), tmp_path / "m.gguf", "BF16")
    convert(tmp_path / "m.gguf", tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["Ministral3ForCausalLM"]
    ours, again = read_gguf(tmp_path / "m.gguf"), read_hf(tmp_path / "hf")
    names = {tensor.name: tensor for tensor in again}
    for tensor in ours:
        assert (array_of(names[tensor.name]) == array_of(tensor)).all(), tensor.name


def _params(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "params.json"
        params = {**json.loads(path.read_text(encoding="utf-8")), **changes}
        path.write_text(json.dumps({key: value for key, value in params.items() if value is not None}))

    return change


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        ("dense", _params(model_type="mamba"), "model_type: is 'mamba', not a transformer"),
        ("dense", _params(qk_norm=True), "params.json: qk_norm: nothing reads qk_norm"),
        ("dense", _params(multimodal={"whisper_model_args": {}}), "multimodal: nothing reads multimodal"),
        ("dense", _params(rope_theta=None), "rope_theta: missing: Mistral's program then takes 1000000"),
        ("dense", _params(dim=0), "params.json: dim: 0 is not a positive integer"),
        ("dense", _params(dim="64"), "params.json: dim: "),
        ("dense", _params(n_heads=3), "n_kv_heads: 3 heads cannot share 2"),
        ("dense", _params(use_biases=True), "use_biases: is True"),
        ("dense", _params(activation="gelu"), "activation: is 'gelu'"),
        ("dense", _params(n_layers=3), "missing layers.2.attention_norm.weight"),
        ("dense", _params(head_dim=16), r"layers.0.attention.wk.weight: its shape is \[64, 64\]"),
        ("dense", _params(moe={"num_experts": 8, "num_experts_per_tok": 2}), "moe: experts without q_lora_rank"),
        ("yarn", _params(yarn={"factor": 4.0}), "yarn.original_max_position_embeddings: missing"),
        ("yarn", _params(yarn=[1]), "yarn: is .*not an object|yarn: .* an object"),
        ("yarn-scaled", _params(llama_4_scaling={"beta": 0.1, "original_max_position_embeddings": 65}), "is 65; llama"),
        ("dense", _params(llama_4_scaling={"beta": 0.1, "original_max_position_embeddings": 64}), "takes yarn's, None"),
        ("experts", _params(yarn={**EXPERTS["yarn"], "apply_scale": True}), "yarn.apply_scale: true: llama.cpp"),
        ("experts", _params(moe={**EXPERTS["moe"], "route_every_n": 2}), "moe.route_every_n: is 2"),
        ("experts", _params(moe={**EXPERTS["moe"], "num_shared_experts": "1"}), "moe.num_shared_experts"),
        ("experts", _params(moe={**EXPERTS["moe"], "bias": 1}), "nothing reads moe.bias"),
        ("fp8", _params(quantization={"qformat_weight": "nvfp4"}), "quantization.qformat_weight: is 'nvfp4'"),
        ("fp8", _params(quantization=None), "is packed, and no quantization_config says how"),
        ("dense-v3", lambda at: (at / "consolidated-00002-of-00002.safetensors").unlink(), "missing shard"),
        ("dense", lambda at: (at / "params.json").write_text("{"), "params.json"),
    ],
)  # fmt: skip
def test_what_is_refused(case: str, change: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    folder = save(BY_ID[case], tmp_path / "m")
    change(folder)
    with pytest.raises(FormatError, match=message) as error:
        read_hf(folder)
    assert len(str(error.value).splitlines()) == 1


def test_what_is_assumed_is_said(tmp_path: Path) -> None:
    params = {key: value for key, value in DENSE.items() if key not in ("max_position_embeddings", "rope_theta")}
    said: list[str] = []
    model = read_hf(save(Own("m", {**params, "sliding_window": 64}, dense, "v11"), tmp_path / "m"), say=said.append)
    assert (model.get("llama.context_length"), model.get("llama.rope.freq_base")) == (128_000, 10_000)
    text = "\n".join(said)
    for line in (
        "no max_position_embeddings: 128000 is assumed", "no rope_theta: 10000", "sliding_window is left out",
        "no chat template: no chat_template.jinja, and its tokenizer is of version v11",
    ):  # fmt: skip
        assert line in text
    assert model.get("tokenizer.chat_template") is None


def test_asked_for_where_it_is_not(tmp_path: Path) -> None:
    write_hf(tiny_llama(), tmp_path / "hf")
    with pytest.raises(FormatError, match="holds nothing in Mistral's own format"):
        read_hf(tmp_path / "hf", mistral_format=True)
    assert experts(EXPERTS)  # the shapes that the cases above rely on
