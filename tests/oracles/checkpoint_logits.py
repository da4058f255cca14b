"""Logits of a tiny checkpoint with other weights in transformers, and of a file in llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from oracles.llama import Llama

TOKENS = [3, 71, 200, 15, 9, 120, 44]


def transformers_logits(source: Path, weights: dict[str, torch.Tensor]) -> np.ndarray[Any, Any]:
    """Of the checkpoint ``source`` with these weights in place of its own."""
    from transformers import AutoModelForCausalLM

    dense = source.with_name(f"{source.name}-decoded")
    dense.mkdir(exist_ok=True)
    (dense / "config.json").write_bytes((source / "config.json").read_bytes())
    floats = {name: weight.float() for name, weight in weights.items()}
    save_file(floats, dense / "model.safetensors", metadata={"format": "pt"})
    model = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32)
    with torch.inference_mode():
        logits: np.ndarray[Any, Any] = model(torch.tensor([TOKENS])).logits[0].numpy()
    return logits


def llama_cpp_logits(path: Path) -> np.ndarray[Any, Any]:
    with Llama(path) as model:
        return model.logits(TOKENS)


def cosine(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
