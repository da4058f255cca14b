"""Tiny checkpoints for ``compress``, the same wherever they are made: weights of numpy, no other library's chance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

HIDDEN, FFN, HEADS, KV, EXPERTS, VOCAB = 256, 384, 4, 2, 3, 96
HEAD = HIDDEN // HEADS
_COMMON: dict[str, Any] = {
    "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": 2, "num_attention_heads": HEADS,
    "num_key_value_heads": KV, "head_dim": HEAD, "vocab_size": VOCAB, "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **_COMMON},
    "qwen3_moe": {
        "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], **_COMMON, "num_experts": EXPERTS,
        "num_experts_per_tok": 2, "moe_intermediate_size": 128, "norm_topk_prob": True, "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
    "mixtral": {
        "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], **_COMMON, "num_local_experts": EXPERTS,
        "num_experts_per_tok": 2,
    },
}  # fmt: skip


def shapes(kind: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint's tensors."""
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCAB, HIDDEN),
    }  # fmt: skip
    for layer in range(2):
        at = f"model.layers.{layer}"
        attention = {"q": (HIDDEN, HIDDEN), "k": (KV * HEAD, HIDDEN), "v": (KV * HEAD, HIDDEN), "o": (HIDDEN, HIDDEN)}
        found |= {f"{at}.self_attn.{name}_proj.weight": shape for name, shape in attention.items()}
        found |= {f"{at}.{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
        if kind == "llama":
            found |= {f"{at}.mlp.{name}_proj.weight": (FFN, HIDDEN) for name in ("gate", "up")}
            found[f"{at}.mlp.down_proj.weight"] = (HIDDEN, FFN)
            continue
        if kind == "qwen3_moe":
            found |= {f"{at}.self_attn.{name}_norm.weight": (HEAD,) for name in ("q", "k")}
        place, width, names = {
            "qwen3_moe": (f"{at}.mlp", 128, ("gate_proj", "up_proj", "down_proj")),
            "mixtral": (f"{at}.block_sparse_moe", FFN, ("w1", "w3", "w2")),
        }[kind]
        found[f"{place}.gate.weight"] = (EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            sizes = ((width, HIDDEN), (width, HIDDEN), (HIDDEN, width))
            found |= {
                f"{place}.experts.{expert}.{name}.weight": size for name, size in zip(names, sizes, strict=True)
            }  # fmt: skip
    return found


def arrays(kind: str) -> dict[str, NDArray[np.float32]]:
    """A checkpoint's tensors in float32."""
    made = {}
    for number, (name, shape) in enumerate(shapes(kind).items()):
        random = np.random.default_rng(number)
        values = random.standard_normal(shape, np.float32) * np.float32(0.05)
        if len(shape) == 1:
            values = values + np.float32(1)
        if name.endswith("o_proj.weight"):  # what rounding finds hard: rows of zeros, tiny ones and one large weight
            values[3] = 0
            values[5] *= np.float32(1e-6)
            values[7, :32] = 0
            values[9, 11] = 3
        made[name] = np.ascontiguousarray(values, np.float32)
    return made


def write(folder: Path, kind: str, dtype: str) -> None:
    """Write a checkpoint.

    Args:
        folder: to make.
        kind: one of ``CONFIGS``.
        dtype: ``float32``, ``float16`` or ``bfloat16``.
    """
    folder.mkdir(parents=True)
    config = {**CONFIGS[kind], "dtype": dtype}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = arrays(kind)
    if dtype == "bfloat16":
        import torch
        from safetensors.torch import save_file as save_torch

        rounded = {name: torch.from_numpy(values).to(torch.bfloat16) for name, values in tensors.items()}
        save_torch(rounded, folder / "model.safetensors", metadata={"format": "pt"})
        return
    save_file(
        {name: values.astype(dtype) for name, values in tensors.items()}, folder / "model.safetensors",
        metadata={"format": "pt"},
    )  # fmt: skip
