"""OLMo 1 to 3 and OLMoE.

Sources: OlmoConfig, Olmo2Config, Olmo3Config and OlmoeConfig of transformers 5.23; conversion/olmo.py of llama.cpp.
"""

from __future__ import annotations

from ...ir import Role
from ..tables.dimensions import EMBD, FF, HEADS, KV, KV_HEADS, Equal, Q
from ..tables.rows import Constant, Key, LayerFlags, Rope
from ..tables.rules import Arch, HFClass, Rule
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    EPS_KEY,
    EXPERT_KEYS,
    FFN_NORM,
    FINAL_NORM,
    HEAD,
    KEYS,
    LAYER_PREFIX,
    OWN_HEAD,
    SIZE_KEYS,
    attention,
    experts,
    gated_mlp,
)

_COMMON = {
    "vocab_size": 50304, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 2048, "hidden_act": "silu",
    "attention_bias": False, "pad_token_id": 1, "bos_token_id": None, "eos_token_id": 50279,
}  # fmt: skip
_FIXED = {"hidden_act": "silu", "attention_bias": False}
# Norms over all heads together.
_QK_NORM = (
    Rule(LAYER_PREFIX + "self_attn.q_norm", Role.ATTN_Q_NORM, (Q,)),
    Rule(LAYER_PREFIX + "self_attn.k_norm", Role.ATTN_K_NORM, (KV,)),
)

OLMO = Arch(
    name="olmo",
    classes={"OlmoForCausalLM": HFClass("olmo", _COMMON | {"clip_qkv": None})},
    config=(
        *SIZE_KEYS,
        Rope(),
        Constant("attention.layer_norm_epsilon", 1e-5),
        Key("clip_qkv", "attention.clamp_kqv", optional=True),
    ),
    rules=(EMBEDDING, *attention(permute=True), *gated_mlp(), HEAD),
    fixed=_FIXED,
)

_OLMO2_RULES = (
    EMBEDDING,
    *attention(),
    *_QK_NORM,
    Rule(LAYER_PREFIX + "post_attention_layernorm", Role.ATTN_POST_NORM, (EMBD,)),
    *gated_mlp(),
    Rule(LAYER_PREFIX + "post_feedforward_layernorm", Role.FFN_POST_NORM, (EMBD,)),
    FINAL_NORM,
    OWN_HEAD,
)

OLMO2 = Arch(
    name="olmo2",
    classes={"Olmo2ForCausalLM": HFClass("olmo2", _COMMON | {"rms_norm_eps": 1e-5})},
    config=KEYS,
    rules=_OLMO2_RULES,
    fixed=_FIXED,
)

OLMO3 = Arch(
    name="olmo3",
    gguf_name="olmo2",
    classes={
        "Olmo3ForCausalLM": HFClass(
            "olmo3", _COMMON | {"rms_norm_eps": 1e-5, "sliding_window": 4096, "rope_theta": 500000.0}
        )
    },
    config=(
        *SIZE_KEYS,
        Rope(sliding="rope_theta"),  # the same base in both kinds of layer, as in llama.cpp
        EPS_KEY,
        Key("sliding_window", "attention.sliding_window"),
        LayerFlags("layer_types", "attention.sliding_window_pattern"),
    ),
    rules=_OLMO2_RULES,
    fixed=_FIXED,
)

OLMOE = Arch(
    name="olmoe",
    classes={
        "OlmoeForCausalLM": HFClass(
            "olmoe",
            _COMMON
            | {"hidden_size": 2048, "intermediate_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 16}
            | {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "clip_qkv": None, "num_local_experts": 64}
            | {"num_experts_per_tok": 8, "norm_topk_prob": False, "router_aux_loss_coef": 0.01}
            | {"output_router_logits": False},
            {"num_experts": "num_local_experts"},
        )
    },
    config=(*KEYS, *EXPERT_KEYS),
    rules=(EMBEDDING, ATTN_NORM, *attention(), *_QK_NORM, FFN_NORM, *experts(width=FF), FINAL_NORM, OWN_HEAD),
    fixed=_FIXED | {"norm_topk_prob": False, "clip_qkv": None},
    needs={"num_key_value_heads": Equal(HEADS, KV_HEADS)},
)
