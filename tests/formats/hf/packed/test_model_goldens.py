"""Whole checkpoints that the tools wrote, through llama.cpp: the logits of the weights that each tool decodes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from oracles.checkpoint_logits import TOKENS, cosine
from oracles.llama import Llama
from oracles.tiny import save_tiny_llama
from quantmill.formats.hf.load import read_hf
from quantmill.quantize.execute import execute
from quantmill.quantize.plan import make_plan

GOLDENS = Path(__file__).parent / "goldens" / "models"
# What is said of the layers, and the types of the file without a level.
MODELS = {
    "bitsandbytes-nf4": ("bitsandbytes: 7 weights read decoded (levels that no GGUF type has)", {"BF16"}),
    "bitsandbytes-fp4": ("bitsandbytes: 7 weights read decoded (levels that no GGUF type has)", {"BF16"}),
    "bitsandbytes-int8": ("bitsandbytes: 7 weights read decoded (scales / 127 that are not halves)", {"BF16"}),
    "modelopt-fp8": ("modelopt: 7 weights read decoded", {"BF16"}),
    "modelopt-nvfp4": ("modelopt, groups of 16: 7 weights read exactly as NVFP4", {"NVFP4"}),
    "modelopt-nvfp4-awq": ("modelopt, groups of 16: 6 weights read exactly as NVFP4, 1", {"NVFP4", "BF16"}),
    "auto-round": ("auto-round, 4 bits, groups of 32: ", {"Q5_0", "Q8_0", "F16"}),
}
EXACT = {"bitsandbytes-int8": 0.9999}  # the tool's logits are of weights that it rounded to BF16


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str], tuple[Path, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]]:
    """``folder(name)``: a golden as the tool's folder, and its logits."""

    def write(name: str) -> tuple[Path, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        out = save_tiny_llama(tmp_path / name, layers=1, tied=True)  # for the tokenizer
        with safe_open(GOLDENS / f"{name}.safetensors", "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.offset_keys()}
            files = json.loads(file.metadata()["files"])
        logits = tensors.pop("logits").numpy()
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        for file_name, text in files.items():
            (out / file_name).write_text(text)
        return out, logits

    return write


@pytest.mark.parametrize("name", MODELS)
def test_logits_in_llama_cpp(name: str, folder: Callable[..., tuple[Path, np.ndarray]], tmp_path: Path) -> None:  # type: ignore[type-arg]
    place, wanted = folder(name)
    lines: list[str] = []
    model = read_hf(place, say=lines.append)
    said, types = MODELS[name]
    assert any(said in line for line in lines), lines
    steps = make_plan(model, "auto").steps
    assert types <= {step.type.name for step in steps if any(part in step.tensor.name for part in (".attn_", ".ffn_"))}
    for level in ("F32", "auto"):
        execute(make_plan(model, level), tmp_path / f"{level}.gguf", threads=1)
    with Llama(tmp_path / "F32.gguf") as llama:
        assert cosine(llama.logits(TOKENS), wanted) > EXACT.get(name, 0.999999)
        llama.open(tmp_path / "auto.gguf")
        assert (
            cosine(llama.logits(TOKENS), wanted) > 0.995
        )  # it rounds what it multiplies packed weights with to 8 bits
        print(name, cosine(llama.logits(TOKENS), wanted))
