"""Tiny random checkpoints in Mistral's own format: what the goldens of ``make_mistral_goldens.py`` are made from.

Sizes are far below the published ones; keys, names and types are theirs (Mistral 7B, Ministral 3, Mistral Large 3).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from oracles.small_tokenizers import train_sentencepiece, training_text, write_folder
from quantmill.formats.hf.tokenizer.splitting.pre_tokenizers import BY_NAME

GOLDENS = Path(__file__).parent.parent / "formats" / "hf" / "goldens" / "mistral"

Json = dict[str, Any]
Weights = dict[str, np.ndarray]

_SPECIAL = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]",
)  # fmt: skip
_N_SPECIAL, _N_TOKENS = 28, 400  # as in published files, some special tokens have no name of their own
_VOCAB = _N_SPECIAL + _N_TOKENS
_YARN = {"original_max_position_embeddings": 64, "factor": 4.0, "beta": 32.0, "alpha": 1.0}
_TEMPLATE = "{% for message in messages %}{{ message['content'] + eos_token }}{% endfor %}"


@dataclass(frozen=True)
class Own:
    """A checkpoint.

    Args:
        id: of the case.
        params: params.json, beside what ``dense`` or ``experts`` gives.
        weights: makes the weights of a completed params.json.
        shards: of the weights.
        files: further files, by their names.
        options: of llama.cpp's converter.
        peer_files: what only its folder has: it asks for a config.json where there are experts.
    """

    id: str
    params: Json
    weights: Callable[[Json], Weights]
    version: str = "v7"
    sentencepiece: str = ""
    shards: int = 1
    fp8: bool = False
    files: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    peer_files: Mapping[str, Any] = field(default_factory=dict)


DENSE: Json = {
    "dim": 64, "n_layers": 2, "head_dim": 32, "hidden_dim": 96, "n_heads": 4, "n_kv_heads": 2, "norm_eps": 1e-05,
    "vocab_size": _VOCAB, "rope_theta": 1000000.0, "max_position_embeddings": 256,
}  # fmt: skip
EXPERTS: Json = {
    **DENSE, "q_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "kv_lora_rank": 32, "v_head_dim": 16,
    "n_kv_heads": 4, "yarn": {**_YARN, "apply_scale": False},
    "moe": {
        "expert_parallel": 1, "expert_model_parallel": 1, "route_every_n": 1, "first_k_dense_replace": 1,
        "num_experts": 4, "num_experts_per_tok": 2, "num_expert_groups": 1, "num_expert_groups_per_tok": 1,
        "routed_scale": 1.0, "expert_hidden_dim": 32, "num_shared_experts": 1,
    },
}  # fmt: skip


def _random(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Weights:
    rng = np.random.default_rng(seed)
    return {
        name: (rng.standard_normal(shape) * 0.1 + (len(shape) == 1)).astype(np.float32)
        for name, shape in shapes.items()
    }


def _feed_forward(at: str, dim: int, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{at}.w1.weight": (width, dim), f"{at}.w2.weight": (dim, width), f"{at}.w3.weight": (width, dim)}


def _whole(params: Json, layers: Mapping[str, tuple[int, ...]]) -> Weights:
    dim, vocab = params["dim"], params["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (vocab, dim), "norm.weight": (dim,), **layers}
    for layer in range(params["n_layers"]):
        shapes |= {f"layers.{layer}.{name}.weight": (dim,) for name in ("attention_norm", "ffn_norm")}
    if not params.get("tied_embeddings"):
        shapes["output.weight"] = (vocab, dim)
    return _random(shapes, seed=5)


def dense(params: Json) -> Weights:
    dim, head = params["dim"], params["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(params["n_layers"]):
        q, kv = params["n_heads"] * head, params["n_kv_heads"] * head
        at = f"layers.{layer}.attention."
        shapes |= {at + "wq.weight": (q, dim), at + "wk.weight": (kv, dim), at + "wv.weight": (kv, dim)}
        shapes |= {
            at + "wo.weight": (dim, q),
            **_feed_forward(f"layers.{layer}.feed_forward", dim, params["hidden_dim"]),
        }
    return _whole(params, shapes)


def experts(params: Json) -> Weights:
    dim, heads, moe = params["dim"], params["n_heads"], params["moe"]
    rope, nope, v = params["qk_rope_head_dim"], params["qk_nope_head_dim"], params["v_head_dim"]
    q, kv, width = params["q_lora_rank"], params["kv_lora_rank"], moe["expert_hidden_dim"]
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(params["n_layers"]):
        at = f"layers.{layer}.attention."
        shapes |= {
            at + "wq_a.weight": (q, dim), at + "q_a_norm.weight": (q,), at + "wq_b.weight": (heads * (rope + nope), q),
            at + "wkv_a_with_mqa.weight": (kv + rope, dim), at + "kv_a_norm.weight": (kv,),
            at + "wkv_b.weight": (heads * (nope + v), kv), at + "wo.weight": (dim, heads * v),
        }  # fmt: skip
        if layer < moe["first_k_dense_replace"]:
            shapes |= _feed_forward(f"layers.{layer}.feed_forward", dim, params["hidden_dim"])
            continue
        shapes[f"layers.{layer}.gate.weight"] = (moe["num_experts"], dim)
        for expert in range(moe["num_experts"]):
            shapes |= _feed_forward(f"layers.{layer}.experts.{expert}", dim, width)
        shapes |= _feed_forward(f"layers.{layer}.shared_experts", dim, width * moe["num_shared_experts"])
    return _whole(params, shapes)


def digest(folder: Path, case: Own) -> str:
    """The hash of a case's folder, without what only llama.cpp's converter asks for."""
    whole = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name not in case.peer_files:
            whole.update(path.name.encode() + path.read_bytes())
    return whole.hexdigest()[:16]


def with_vision(make: Callable[[Json], Weights]) -> Callable[[Json], Weights]:
    """The weights with those of Pixtral's encoder and projector, whose patches are merged."""

    def weights(params: Json) -> Weights:
        tower = params["vision_encoder"]
        width, inner, patch, dim = tower["hidden_size"], tower["intermediate_size"], tower["patch_size"], params["dim"]
        merged = width * tower.get("spatial_merge_size", 1) ** 2
        at = "vision_encoder."
        shapes: dict[str, tuple[int, ...]] = {
            at + "patch_conv.weight": (width, 3, patch, patch), at + "ln_pre.weight": (width,),
            "vision_language_adapter.w_in.weight": (dim, width), "vision_language_adapter.w_out.weight": (dim, dim),
        }  # fmt: skip
        for layer in range(tower["num_hidden_layers"]):
            block = f"{at}transformer.layers.{layer}."
            shapes |= {f"{block}attention.{name}.weight": (width, width) for name in ("wq", "wk", "wv", "wo")}
            shapes |= {f"{block}{name}.weight": (width,) for name in ("attention_norm", "ffn_norm")}
            shapes |= _feed_forward(f"{block}feed_forward", width, inner)
        if tower.get("mm_projector_id") == "patch_merge":
            shapes |= {"patch_merger.merging_layer.weight": (width, merged), "pre_mm_projector_norm.weight": (width,)}
        return {**make(params), **_random(shapes, seed=6)}

    return weights


VISION: Json = {
    "hidden_size": 32, "num_channels": 3, "image_size": 112, "patch_size": 14, "rope_theta": 10000.0,
    "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "adapter_bias": False,
    "max_image_size": 112, "spatial_merge_size": 2, "mm_projector_id": "patch_merge",
    "add_pre_mm_projector_layer_norm": True, "image_token_id": 10, "image_break_token_id": 12, "image_end_token_id": 13,
}  # fmt: skip
_GROWTH = {"llama_4_scaling": {"original_max_position_embeddings": 64, "beta": 0.1}}
_MINISTRAL = {"tied_embeddings": True, "yarn": {**_YARN, "apply_scale": False}, **_GROWTH}
_HF = {"config.json": {"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3"}}
_FP8 = {"quantization": {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}}

CASES = (
    Own("dense", DENSE, dense, "v3"),
    Own(
        "dense-v1",
        {**DENSE, "sliding_window": 64},
        dense,
        sentencepiece="tokenizer.model",
        options=("--disable-mistral-community-chat-template",),
    ),
    Own("dense-v3", {**DENSE, "vocab_size": 420}, dense, sentencepiece="tokenizer.model.v3", shards=2),
    Own("yarn-scaled", {**DENSE, "yarn": {**_YARN, "apply_scale": True}}, dense),
    Own("yarn", {**DENSE, "yarn": {**_YARN, "apply_scale": False}}, dense, files={"chat_template.jinja": _TEMPLATE}),
    Own("ministral3", {**DENSE, **_MINISTRAL}, dense, "v13", files={"chat_template.jinja": _TEMPLATE}),
    Own("fp8", {**DENSE, **_MINISTRAL, **_FP8}, dense, fp8=True),
    Own(
        "fp8-as-q8",
        {**DENSE, **_FP8, "hidden_dim": 80},
        dense,
        fp8=True,
        options=("--fp8-as-q8",),
    ),
    Own("vision", {**DENSE, **_MINISTRAL, "vision_encoder": VISION}, with_vision(dense)),
    Own("experts", EXPERTS, experts, peer_files=_HF),
    Own("experts-large", {**EXPERTS, **_GROWTH}, experts, shards=2, peer_files=_HF),
)


def save(case: Own, folder: Path, *, peer: bool = False) -> Path:
    """Write a case's folder, for llama.cpp's converter with what only that asks for."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    weights = case.weights(case.params)
    tensors: dict[str, Any] = {name: torch.from_numpy(values).to(torch.bfloat16) for name, values in weights.items()}
    if case.fp8:
        tensors = _quantized(tensors)
    names = sorted(tensors)
    cuts = [names[i * len(names) // case.shards : (i + 1) * len(names) // case.shards] for i in range(case.shards)]
    files = ["consolidated.safetensors"]
    if case.shards > 1:
        files = [f"consolidated-{i + 1:05d}-of-{case.shards:05d}.safetensors" for i in range(case.shards)]
        weight_map = {name: file for file, cut in zip(files, cuts, strict=True) for name in cut}
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "consolidated.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    from safetensors.torch import save_file as save_torch

    for file, cut in zip(files, cuts, strict=True):
        save_torch({name: tensors[name].contiguous() for name in cut}, folder / file)
    write_folder(folder, {"params.json": case.params, **tokenizer_files(case), **case.files})
    return write_folder(folder, case.peer_files) if peer else folder


def _quantized(tensors: Json) -> Json:
    """The matrices of the blocks in FP8 with a scale for each, and the scales of what enters them."""
    import torch

    found: Json = {}
    for name, weight in tensors.items():
        if not name.startswith("layers.") or weight.ndim < 2:
            found[name] = weight
            continue
        scale = weight.float().abs().max() / 448
        stem = name.removesuffix("weight")
        found[name] = (weight.float() / scale).to(torch.float8_e4m3fn)
        found |= {stem + "qscale_weight": scale.to(torch.bfloat16), stem + "qscale_act": torch.tensor(0.5).bfloat16()}
    return found


def tokenizer_files(case: Own) -> Json:
    """tekken.json, or a SentencePiece model under the case's name of it."""
    if case.sentencepiece:
        return {case.sentencepiece: train_sentencepiece(case.params["vocab_size"], control_symbols=_SPECIAL[3:10])}
    tokens = [
        {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
        for rank, token in enumerate(_ranked())
    ]
    pattern = BY_NAME["tekken"].steps[0]["pattern"]["Regex"]  # type: ignore[index]
    config = {
        "pattern": pattern, "num_vocab_tokens": len(tokens), "default_vocab_size": _VOCAB,
        "default_num_special_tokens": _N_SPECIAL, "version": case.version,
    }  # fmt: skip
    special = [{"rank": i, "token_str": text, "is_control": True} for i, text in enumerate(_SPECIAL)]
    return {"tekken.json": {"config": config, "vocab": tokens, "special_tokens": special}}


def _ranked() -> list[bytes]:
    """The bytes, and the beginnings of words: each is made of the one before it, or of other parts."""
    found = dict.fromkeys(bytes([value]) for value in range(256))
    for word in training_text().split():
        found |= dict.fromkeys(f" {word}".encode()[:n] for n in range(2, len(word) + 2))
    parts = [part for part in (b"he", b"er", b"in") if part not in found]
    return [*found][: _N_TOKENS - len(parts)] + parts
