"""The Llama family: Llama 1 to 3, Mistral, and all that share their layout (TinyLlama, LLaMA-Pro, SmolLM2...).

Sources: LlamaConfig and MistralConfig of transformers 5.23; conversion/llama.py of llama.cpp.
"""

from __future__ import annotations

from ...ir import Role
from ..config import Key, Rope
from ..ops import PermuteRope
from ..rules import Arch, Dim, HFClass, Rule

_COMMON = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "use_cache": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "tie_word_embeddings": False,
    "attention_dropout": 0.0,
    "head_dim": None,
}
_LLAMA = HFClass(
    "llama",
    _COMMON
    | {
        "intermediate_size": 11008,
        "max_position_embeddings": 2048,
        "num_key_value_heads": None,
        "attention_bias": False,
        "mlp_bias": False,
        "pretraining_tp": 1,
    },
)
_MISTRAL = HFClass(
    "mistral",
    _COMMON
    | {
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
    },
)

_LAYER = "model.layers.{layer}."

LLAMA = Arch(
    name="llama",
    classes={"LlamaForCausalLM": _LLAMA, "LLaMAForCausalLM": _LLAMA, "MistralForCausalLM": _MISTRAL},
    config=(
        Key("num_hidden_layers", "block_count"),
        Key("max_position_embeddings", "context_length"),
        Key("hidden_size", "embedding_length"),
        Key("intermediate_size", "feed_forward_length"),
        Key("num_attention_heads", "attention.head_count"),
        Key("num_key_value_heads", "attention.head_count_kv"),
        Rope(),
        Key("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
        Key("head_dim", "attention.key_length"),
        Key("head_dim", "attention.value_length"),
        Key("vocab_size", "vocab_size"),
        Key("head_dim", "rope.dimension_count"),
    ),
    rules=(
        Rule("model.embed_tokens", Role.TOKEN_EMBD, (Dim.VOCAB, Dim.EMBD)),
        Rule(_LAYER + "input_layernorm", Role.ATTN_NORM, (Dim.EMBD,)),
        Rule(
            _LAYER + "self_attn.q_proj",
            Role.ATTN_Q,
            (Dim.Q, Dim.EMBD),
            (PermuteRope("num_attention_heads"),),
            bias="attention_bias",
        ),
        Rule(
            _LAYER + "self_attn.k_proj",
            Role.ATTN_K,
            (Dim.KV, Dim.EMBD),
            (PermuteRope("num_key_value_heads"),),
            bias="attention_bias",
        ),
        Rule(_LAYER + "self_attn.v_proj", Role.ATTN_V, (Dim.KV, Dim.EMBD), bias="attention_bias"),
        Rule(_LAYER + "self_attn.o_proj", Role.ATTN_OUTPUT, (Dim.EMBD, Dim.Q), bias="attention_bias"),
        Rule(_LAYER + "post_attention_layernorm", Role.FFN_NORM, (Dim.EMBD,)),
        Rule(_LAYER + "mlp.gate_proj", Role.FFN_GATE, (Dim.FF, Dim.EMBD), bias="mlp_bias"),
        Rule(_LAYER + "mlp.up_proj", Role.FFN_UP, (Dim.FF, Dim.EMBD), bias="mlp_bias"),
        Rule(_LAYER + "mlp.down_proj", Role.FFN_DOWN, (Dim.EMBD, Dim.FF), bias="mlp_bias"),
        Rule("model.norm", Role.OUTPUT_NORM, (Dim.EMBD,)),
        Rule("lm_head", Role.OUTPUT, (Dim.VOCAB, Dim.EMBD), unless="tie_word_embeddings"),
    ),
    fixed={"hidden_act": "silu"},
    ignored=(".rotary_emb.inv_freq",),
)
