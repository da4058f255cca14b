"""Qwen 2, 2.5 and 3, dense and with experts.

Sources: Qwen2Config, Qwen3Config, Qwen2MoeConfig and Qwen3MoeConfig of transformers 5.23; conversion/qwen.py of
llama.cpp.
"""

from __future__ import annotations

from ...ir import Role
from ..rows import Key
from ..rules import Arch, HFClass, Rule
from ..sizes import ALWAYS, EMBD, Size
from .blocks import (
    ATTN_NORM,
    EMBEDDING,
    EXPERT_KEYS,
    FFN_NORM,
    FINAL_NORM,
    HEAD,
    HEAD_DIM_KEYS,
    KEYS,
    LAYER,
    attention,
    experts,
    gated_mlp,
    qk_norm,
    shared_expert,
)

_DENSE = {
    "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
    "hidden_act": "silu", "use_sliding_window": False,
}  # fmt: skip
_EXPERTS = {
    "hidden_size": 2048, "num_hidden_layers": 24, "num_local_experts": 60, "num_experts_per_tok": 4,
    "decoder_sparse_step": 1, "router_aux_loss_coef": 0.001, "output_router_logits": False,
}  # fmt: skip
_NAMES = {"num_experts": "num_local_experts"}
_FIXED = {"hidden_act": "silu", "use_sliding_window": False}
# llama.cpp has experts in every layer.
_ALL_SPARSE = {"decoder_sparse_step": 1, "mlp_only_layers": ([], None)}

QWEN2 = Arch(
    name="qwen2",
    classes={"Qwen2ForCausalLM": HFClass("qwen2", _DENSE)},
    config=KEYS,
    rules=(EMBEDDING, ATTN_NORM, *attention(bias=ALWAYS), FFN_NORM, *gated_mlp(), FINAL_NORM, HEAD),
    fixed=_FIXED,
)

QWEN3 = Arch(
    name="qwen3",
    classes={"Qwen3ForCausalLM": HFClass("qwen3", _DENSE | {"head_dim": 128, "attention_bias": False})},
    config=(*KEYS, *HEAD_DIM_KEYS),
    rules=(EMBEDDING, ATTN_NORM, *attention(), *qk_norm(), FFN_NORM, *gated_mlp(), FINAL_NORM, HEAD),
    fixed=_FIXED | {"attention_bias": False},
)

QWEN2_MOE = Arch(
    name="qwen2moe",
    classes={
        "Qwen2MoeForCausalLM": HFClass(
            "qwen2_moe",
            _DENSE
            | _EXPERTS
            | {"intermediate_size": 5632, "num_attention_heads": 16, "num_key_value_heads": 16, "qkv_bias": True}
            | {"moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632, "norm_topk_prob": False},
            _NAMES,
        )
    },
    config=(
        *KEYS,
        *EXPERT_KEYS,
        Key("moe_intermediate_size", "expert_feed_forward_length"),
        Key("shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(bias="qkv_bias"),
        FFN_NORM,
        *experts(),
        Rule(LAYER + "mlp.shared_expert_gate", Role.FFN_GATE_INP_SHEXP, (Size(1), EMBD)),
        *shared_expert(at=LAYER + "mlp.shared_expert.", width=Size("shared_expert_intermediate_size")),
        FINAL_NORM,
        HEAD,
    ),
    fixed=_FIXED | _ALL_SPARSE | {"norm_topk_prob": False},
)

QWEN3_MOE = Arch(
    name="qwen3moe",
    classes={
        "Qwen3MoeForCausalLM": HFClass(
            "qwen3_moe",
            _DENSE
            | _EXPERTS
            | {"intermediate_size": 6144, "num_key_value_heads": 4, "num_local_experts": 128, "num_experts_per_tok": 8}
            | {"moe_intermediate_size": 768, "norm_topk_prob": False, "attention_bias": False},
            _NAMES,
        )
    },
    config=(*KEYS, *EXPERT_KEYS, *HEAD_DIM_KEYS, Key("moe_intermediate_size", "expert_feed_forward_length")),
    rules=(EMBEDDING, ATTN_NORM, *attention(), *qk_norm(), FFN_NORM, *experts(), FINAL_NORM, HEAD),
    fixed=_FIXED | _ALL_SPARSE | {"norm_topk_prob": True, "attention_bias": False},
)
