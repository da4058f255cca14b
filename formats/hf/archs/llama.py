"""The Llama family: Llama 1 to 3, Mistral, and all that share their layout (TinyLlama, LLaMA-Pro, SmolLM2...); Mixtral.

Sources: LlamaConfig, MistralConfig and MixtralConfig of transformers 5.23; conversion/llama.py of llama.cpp.
"""

from __future__ import annotations

from ..rows import Key
from ..rules import Arch, HFClass
from ..sizes import FF
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
)

_COMMON = {
    "vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "rms_norm_eps": 1e-6,
    "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2, "head_dim": None,
}  # fmt: skip
_LLAMA = HFClass(
    "llama",
    _COMMON
    | {"intermediate_size": 11008, "max_position_embeddings": 2048, "num_key_value_heads": None, "pretraining_tp": 1}
    | {"attention_bias": False, "mlp_bias": False},
)
_MISTRAL_SIZES = {"intermediate_size": 14336, "max_position_embeddings": 131072, "num_key_value_heads": 8}
_MISTRAL = HFClass("mistral", _COMMON | _MISTRAL_SIZES | {"sliding_window": 4096})
_MIXTRAL = HFClass(
    "mixtral",
    _COMMON
    | _MISTRAL_SIZES
    | {"rms_norm_eps": 1e-5, "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None}
    | {"rope_theta": 1e6, "output_router_logits": False, "router_aux_loss_coef": 0.001, "router_jitter_noise": 0.0},
)

_LAST_KEYS = (*HEAD_DIM_KEYS, Key("vocab_size", "vocab_size"), Key("head_dim", "rope.dimension_count"))

LLAMA = Arch(
    name="llama",
    classes={"LlamaForCausalLM": _LLAMA, "LLaMAForCausalLM": _LLAMA, "MistralForCausalLM": _MISTRAL},
    config=(*KEYS, *_LAST_KEYS),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(permute=True, bias="attention_bias", out_bias="attention_bias"),
        FFN_NORM,
        *gated_mlp(bias="mlp_bias"),
        FINAL_NORM,
        HEAD,
    ),
    fixed={"hidden_act": "silu"},
    ignored=("*.rotary_emb.inv_freq",),
)

MIXTRAL = Arch(
    name="mixtral",
    gguf="llama",
    classes={"MixtralForCausalLM": _MIXTRAL},
    config=(*KEYS, *EXPERT_KEYS, *_LAST_KEYS),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(permute=True),
        FFN_NORM,
        *experts(at=LAYER + "block_sparse_moe.", names=("w1", "w3", "w2"), width=FF),
        FINAL_NORM,
        HEAD,
    ),
    fixed={"hidden_act": "silu"},
    ignored=("*.rotary_emb.inv_freq",),
)
