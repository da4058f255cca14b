"""Tiny random checkpoints of every kind the Llama family comes in, saved by transformers itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BASE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # transformers' 0.02 makes attention so flat that a wrong rope would hardly show
    "initializer_range": 0.1,
}


def _rope(kind: str, theta: float = 10000.0, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **more}}


_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
VARIANTS: dict[str, dict[str, Any]] = {
    "mha": {"rms_norm_eps": 1e-6},
    "gqa": {"num_key_value_heads": 2},
    "tied": {"tie_word_embeddings": True, "num_key_value_heads": 2},
    "attention_bias": {"attention_bias": True},
    "mlp_bias": {"mlp_bias": True},
    "head_dim": {"head_dim": 32, "num_key_value_heads": 1},
    "linear": _rope("linear", factor=2.5),
    "dynamic": _rope("dynamic", factor=2.0),
    "yarn": _rope("yarn", factor=4.0, original_max_position_embeddings=64, beta_fast=32.0, beta_slow=1.0),
    "llama3": {**_rope("llama3", 500000.0, **_LLAMA3), "num_key_value_heads": 2},
    "tinyllama": {"hidden_size": 128, "num_attention_heads": 8, "num_key_value_heads": 2, "num_hidden_layers": 3},
    "mistral": {"model": "Mistral", "sliding_window": 128, "num_key_value_heads": 2, **_rope("default", 1000000.0)},
    "bf16": {"dtype": "bfloat16"},
    "f16": {"dtype": "float16", "eos_token_id": [2, 5], "attention_dropout": 0.1},
    "layers12": {"num_hidden_layers": 12, "dtype": "float16"},  # "layers.10" sorts before "layers.2"
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``checkpoint("gqa")``: the folder of a variant, made once."""
    made: dict[str, Path] = {}

    def make(variant: str) -> Path:
        if variant not in made:
            made[variant] = tmp_path_factory.mktemp("hf") / variant
            save_variant(variant, made[variant])
        return made[variant]

    return make


def save_variant(variant: str, folder: Path, **save: Any) -> None:
    import torch
    import transformers

    settings = {**BASE, **VARIANTS[variant]}
    kind, dtype = settings.pop("model", "Llama"), settings.pop("dtype", "float32")
    torch.manual_seed(sorted(VARIANTS).index(variant))
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**settings))
    for name, weight in model.named_parameters():
        if weight.dim() == 1:  # norms of one and biases of zero would hide mistakes
            torch.nn.init.normal_(weight, float("norm" in name), 0.2)
    model.to(getattr(torch, dtype)).save_pretrained(folder, **save)
