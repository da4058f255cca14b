"""Mistral's own format: params.json beside ``consolidated*.safetensors``, whose names and halves of heads are those of
the first Llama. Dense models, and experts behind latent attention (Mistral Large 3, Mistral Small 4).

Sources: conversion/mistral.py of llama.cpp, which these tables follow key for key; the args of mistral-common and vLLM.
The rope of these checkpoints turns neighbouring pairs, as llama.cpp's does, so that no row of q and k moves.

Nothing writes this format: a file that is made of it has no keys for a way back, and comes back as a Hugging Face
folder as any other of its architecture does. These architectures are therefore none of ``ARCHS``.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import ALWAYS, EMBD, EXPERT_FF, FF, HEADS, KV, VOCAB, Condition, Dim, Q
from ..tables.extras import LeftOut
from ..tables.ops import Stack
from ..tables.rows import Constant, Key, Rope
from ..tables.rules import Arch, HFClass, Rule
from .mla import DENSE, GROUPS_FIT, LATENT, MLA_KEYS, MLA_ROPE, MLA_SIZES, NOPE, Q_LATENT, ROPE, ROUTED, SPLIT_KEYS, V
from .mla import NAMES as MLA_NAMES
from .shared import EPS_KEY, HEAD_DIM_KEYS, SIZE_KEYS

_LAYER = "layers.{layer}."
_ATTN = _LAYER + "attention."

# params.json's names of config.json's keys.
_NAMES = {
    "dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads", "hidden_dim": "intermediate_size", "norm_eps": "rms_norm_eps",
    "tied_embeddings": "tie_word_embeddings", "activation": "hidden_act", "use_biases": "attention_bias",
    "causal": "is_causal",
}  # fmt: skip
_MOE_NAMES = {
    "moe.num_experts": "num_local_experts", "moe.num_experts_per_tok": "num_experts_per_tok",
    "moe.expert_hidden_dim": "moe_intermediate_size", "moe.first_k_dense_replace": "first_k_dense_replace",
    "moe.num_shared_experts": "n_shared_experts", "moe.routed_scale": "routed_scaling_factor",
    "moe.num_expert_groups": "n_group", "moe.num_expert_groups_per_tok": "topk_group",
    "moe.route_every_n": "moe_layer_freq",
}  # fmt: skip
_DENSE = HFClass(
    "transformer",
    {"hidden_act": "silu", "rms_norm_eps": None, "attention_bias": False, "is_causal": True, "head_dim": None},
    _NAMES,
)
_GROWTH = {"llama_4_scaling_beta": "attention.temperature_scale"}
_YARN = {"mscale_all_dim": "rope.scaling.yarn_log_multiplier"}
_FIXED = {"hidden_act": "silu", "attention_bias": False, "is_causal": True}
# The names of what Pixtral's tower and its projector consist of.
_VISION = (
    *(LeftOut(f"{name}.*", "vision tower") for name in ("vision_encoder", "pre_mm_projector_norm")),
    *(LeftOut(f"{name}.*", "projector") for name in ("vision_language_adapter", "patch_merger")),
)


def _feed_forward(at: str, roles: tuple[Role, Role, Role], width: Dim, when: Condition = ALWAYS) -> list[Rule]:
    """The rules of w1 (gate), w3 (up) and w2 (down), each a stack if they stand for experts."""
    ops = (Stack(),) if "{expert}" in at else ()
    shapes = ((width, EMBD), (width, EMBD), (EMBD, width))
    parts = zip(("w1", "w3", "w2"), roles, shapes, strict=True)
    return [Rule(at + name, role, shape, ops, when=when) for name, role, shape in parts]


_MLP = _LAYER + "feed_forward.", (Role.FFN_GATE, Role.FFN_UP, Role.FFN_DOWN), FF
_EXPERTS = _LAYER + "experts.{expert}.", (Role.FFN_GATE_EXPS, Role.FFN_UP_EXPS, Role.FFN_DOWN_EXPS), EXPERT_FF
_SHARED = (
    _LAYER + "shared_experts.",
    (Role.FFN_GATE_SHEXP, Role.FFN_UP_SHEXP, Role.FFN_DOWN_SHEXP),
    EXPERT_FF * Dim("n_shared_experts"),
)


def _around(*block: Rule) -> tuple[Rule, ...]:
    """A block's rules between what all of these models have."""
    return (
        Rule("tok_embeddings", Role.TOKEN_EMBD, (VOCAB, EMBD)),
        Rule(_LAYER + "attention_norm", Role.ATTN_NORM, (EMBD,)),
        Rule(_LAYER + "ffn_norm", Role.FFN_NORM, (EMBD,)),
        *block,
        Rule("norm", Role.OUTPUT_NORM, (EMBD,)),
        Rule("output", Role.OUTPUT, (VOCAB, EMBD), unless="tie_word_embeddings"),
    )


OWN_LLAMA = Arch(
    name="mistral-format-llama",
    gguf_name="llama",
    classes={"params.json": _DENSE},
    config=(
        *SIZE_KEYS,
        Rope(extra=_YARN),
        EPS_KEY,
        *HEAD_DIM_KEYS,
        Key("vocab_size", "vocab_size"),
        Key("head_dim", "rope.dimension_count"),
    ),
    rules=_around(
        Rule(_ATTN + "wq", Role.ATTN_Q, (Q, EMBD)),
        Rule(_ATTN + "wk", Role.ATTN_K, (KV, EMBD)),
        Rule(_ATTN + "wv", Role.ATTN_V, (KV, EMBD)),
        Rule(_ATTN + "wo", Role.ATTN_OUTPUT, (EMBD, Q)),
        *_feed_forward(*_MLP),
    ),
    fixed=_FIXED,
    extras=_VISION,
    base="",
)
# Models whose queries grow with the position; llama.cpp's converter calls all others llama, for older programs.
OWN_MISTRAL3 = replace(
    OWN_LLAMA,
    name="mistral-format-mistral3",
    gguf_name="mistral3",
    config=tuple(replace(row, extra=_YARN | _GROWTH) if isinstance(row, Rope) else row for row in OWN_LLAMA.config),
)
OWN_DEEPSEEK2 = Arch(
    name="mistral-format-deepseek2",
    gguf_name="deepseek2",
    classes={
        "params.json": replace(
            _DENSE,
            defaults={**_DENSE.defaults, "norm_topk_prob": True, "moe_layer_freq": 1, "n_group": None},
            names=_NAMES | MLA_NAMES | _MOE_NAMES,
            parts=("moe",),
        )
    },
    config=(
        *MLA_SIZES,
        replace(MLA_ROPE, extra=_GROWTH | {"original_max_position_embeddings": "attention.temperature_length"}),
        *MLA_KEYS,
        *ROUTED,
        Key("first_k_dense_replace", "leading_dense_block_count"),
        Constant("expert_gating_func", 1),
    ),
    rules=_around(
        Rule(_ATTN + "wq_a", Role.ATTN_Q_A, (Q_LATENT, EMBD)),
        Rule(_ATTN + "q_a_norm", Role.ATTN_Q_A_NORM, (Q_LATENT,)),
        Rule(_ATTN + "wq_b", Role.ATTN_Q_B, (HEADS * (NOPE + ROPE), Q_LATENT)),
        Rule(_ATTN + "wkv_a_with_mqa", Role.ATTN_KV_A_MQA, (LATENT + ROPE, EMBD)),
        Rule(_ATTN + "kv_a_norm", Role.ATTN_KV_A_NORM, (LATENT,)),
        Rule(_ATTN + "wkv_b", (Role.ATTN_K_B, Role.ATTN_V_B), (HEADS * (NOPE + V), LATENT), SPLIT_KEYS),
        Rule(_ATTN + "wo", Role.ATTN_OUTPUT, (EMBD, HEADS * V)),
        *_feed_forward(*_MLP, DENSE),
        Rule(_LAYER + "gate", Role.FFN_GATE_INP, (Dim("num_local_experts"), EMBD), when=~DENSE),
        *_feed_forward(*_EXPERTS, ~DENSE),
        *_feed_forward(*_SHARED, ~DENSE),
    ),
    fixed={**_FIXED, "moe_layer_freq": 1},
    needs=GROUPS_FIT,
    implied={"head_dim": NOPE + ROPE},
    extras=_VISION,
    base="",
)
