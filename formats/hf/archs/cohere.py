"""Cohere's Command-R, Command-R+, Aya (cohere) and Command-R7B, Command-A (cohere2).

Sources: CohereConfig and Cohere2Config of transformers 5.23; conversion/command_r.py of llama.cpp.
"""

from __future__ import annotations

from ...ir import Role
from ..dimensions import HEAD_DIM, HEADS, KV_HEADS, LAYERS, Dim, Is
from ..rows import Computed, Key, LayerFlags, Rope
from ..rules import Arch, HFClass, Rule
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    FINAL_NORM,
    HEAD_DIM_KEYS,
    LAYER_PREFIX,
    SIZE_KEYS,
    TIED_HEAD,
    attention,
    gated_mlp,
)

_COMMON = {
    "vocab_size": 256000, "hidden_size": 8192, "intermediate_size": 22528, "num_hidden_layers": 40,
    "num_attention_heads": 64, "num_key_value_heads": None, "max_position_embeddings": 8192, "hidden_act": "silu",
    "logit_scale": 0.0625, "layer_norm_eps": 1e-5, "attention_bias": False, "tie_word_embeddings": True,
    "pad_token_id": 0, "bos_token_id": 5, "eos_token_id": 255001,
}  # fmt: skip
# Untied only if the head is equal all the same.
_FIXED = {"hidden_act": "silu", "attention_bias": False, "tie_word_embeddings": (True, False)}
_NORM_AND_LOGITS = (
    Key("layer_norm_eps", "attention.layer_norm_epsilon"),
    Key("logit_scale", "logit_scale"),
)
_NORMED = Is("use_qk_norm")
_DEEP = LAYERS >= 64

COMMAND_R = Arch(
    name="command-r",
    classes={
        "CohereForCausalLM": HFClass("cohere", _COMMON | {"use_qk_norm": False, "rope_theta": 500000.0}),
    },
    # max_position_embeddings is the context at the beginning of training
    config=(
        *SIZE_KEYS,
        Rope(says_none=True),
        *_NORM_AND_LOGITS,
        Computed("context_length", Dim("model_max_length"), when=Is("model_max_length")),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(),
        Rule(LAYER_PREFIX + "self_attn.q_norm", Role.ATTN_Q_NORM, (HEADS, HEAD_DIM), when=_NORMED),
        Rule(LAYER_PREFIX + "self_attn.k_norm", Role.ATTN_K_NORM, (KV_HEADS, HEAD_DIM), when=_NORMED),
        *gated_mlp(),
        FINAL_NORM,
    ),
    fixed=_FIXED,
    # llama.cpp recognizes the models with norms of q and k by their number of layers.
    needs={"use_qk_norm": _NORMED & _DEEP | ~_NORMED & ~_DEEP},
    extras=(TIED_HEAD,),
)

COHERE2 = Arch(
    name="cohere2",
    classes={"Cohere2ForCausalLM": HFClass("cohere2", _COMMON | {"sliding_window": 4096})},
    config=(
        *SIZE_KEYS,
        Rope(dimension=True, says_none=True),
        *_NORM_AND_LOGITS,
        *HEAD_DIM_KEYS,
        Key("vocab_size", "vocab_size"),
        Key("sliding_window", "attention.sliding_window"),
        LayerFlags("layer_types", "attention.sliding_window_pattern"),
    ),
    rules=(EMBEDDING, ATTN_NORM, *attention(), *gated_mlp(), FINAL_NORM),
    fixed=_FIXED,
    extras=(TIED_HEAD,),
)
