"""Phi-1, 1.5 and 2 (phi); Phi-3, 3.5 and 4 (phi3); Phi-3.5-MoE (phimoe).

Sources: PhiConfig, Phi3Config and PhimoeConfig of transformers 5.23; conversion/phi.py of llama.cpp. Of PhiMoE
llama.cpp computes another model: RMS norms for LayerNorms, the two experts with the highest scores for SparseMixer's,
and another factor of the rope's sines and cosines.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import ALWAYS, EMBD, FF, KV, VOCAB, Q
from ..tables.rows import Key, Rope
from ..tables.rules import Arch, HFClass, Rule
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    EPS_KEY,
    EXPERT_KEYS,
    FFN_NORM,
    FINAL_NORM,
    HEAD,
    LAYER_PREFIX,
    SIZE_KEYS,
    attention,
    experts,
)

_PHIMOE = {
    "vocab_size": 32064, "hidden_size": 4096, "intermediate_size": 6400, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_act": "silu", "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5, "rope_theta": 1e6, "sliding_window": None, "num_experts_per_tok": 2, "num_local_experts": 16,
    "output_router_logits": False, "router_aux_loss_coef": 0.001, "router_jitter_noise": 0.01,
    "input_jitter_noise": 0.0, "attention_bias": False, "lm_head_bias": False, "tie_word_embeddings": False,
    "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

PHI2 = Arch(
    name="phi2",
    classes={
        "PhiForCausalLM": HFClass(
            "phi",
            {
                "vocab_size": 51200, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
                "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 2048,
                "hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5, "qk_layernorm": False,
                "resid_pdrop": 0.0, "embd_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2,
            },
        )
    },
    config=(*SIZE_KEYS, Key("layer_norm_eps", "attention.layer_norm_epsilon"), Rope(dimension=True)),
    rules=(
        EMBEDDING,
        *attention(bias=ALWAYS, out_bias=ALWAYS, out="dense"),
        Rule(LAYER_PREFIX + "mlp.fc1", Role.FFN_UP, (FF, EMBD), bias=ALWAYS),
        Rule(LAYER_PREFIX + "mlp.fc2", Role.FFN_DOWN, (EMBD, FF), bias=ALWAYS),
        replace(ATTN_NORM, bias=ALWAYS),
        Rule("model.final_layernorm", Role.OUTPUT_NORM, (EMBD,), bias=ALWAYS),
        Rule("lm_head", Role.OUTPUT, (VOCAB, EMBD), bias=ALWAYS),
    ),
    fixed={
        "hidden_act": ("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), "qk_layernorm": False,
    },
)  # fmt: skip

PHI3 = Arch(
    name="phi3",
    classes={
        "Phi3ForCausalLM": HFClass(
            "phi3",
            {
                "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
                "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 4096,
                "original_max_position_embeddings": 4096, "hidden_act": "silu", "rms_norm_eps": 1e-5,
                "partial_rotary_factor": 1.0, "sliding_window": None, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
                "bos_token_id": 1, "eos_token_id": 32000, "pad_token_id": 32000,
            },
        )
    },
    config=(
        *SIZE_KEYS,
        Key("original_max_position_embeddings", "rope.scaling.original_context_length"),
        EPS_KEY,
        Rope(dimension=True),
        # llama.cpp does not use the window: its attention sees all earlier tokens.
        Key("sliding_window", "attention.sliding_window", optional=True, null=0),
    ),
    rules=(
        EMBEDDING,
        Rule(LAYER_PREFIX + "self_attn.o_proj", Role.ATTN_OUTPUT, (EMBD, Q)),
        Rule(LAYER_PREFIX + "self_attn.qkv_proj", Role.ATTN_QKV, (Q + 2 * KV, EMBD)),
        Rule(LAYER_PREFIX + "mlp.gate_up_proj", Role.FFN_UP, (2 * FF, EMBD)),
        Rule(LAYER_PREFIX + "mlp.down_proj", Role.FFN_DOWN, (EMBD, FF)),
        ATTN_NORM,
        FFN_NORM,
        FINAL_NORM,
        HEAD,
    ),
    fixed={"hidden_act": "silu"},
)  # fmt: skip

# The factors of the sines and cosines that all published models have.
_MSCALES = dict.fromkeys(("short_mscale", "long_mscale"), 1.243163121016122)

PHIMOE = Arch(
    name="phimoe",
    classes={
        "PhimoeForCausalLM": HFClass("phimoe", _PHIMOE),
        "PhiMoEForCausalLM": HFClass("phimoe", _PHIMOE),
    },
    config=(
        *SIZE_KEYS,
        EPS_KEY,
        Rope(dimension=True, longrope=_MSCALES),
        Key("sliding_window", "attention.sliding_window", optional=True, null=0),  # not used, as in Phi-3
        *EXPERT_KEYS,
    ),
    rules=(
        EMBEDDING,
        replace(ATTN_NORM, bias=ALWAYS),
        *attention(bias=ALWAYS, out_bias=ALWAYS),
        replace(FFN_NORM, bias=ALWAYS),
        *experts(at=LAYER_PREFIX + "block_sparse_moe.", names=("w1", "w3", "w2"), width=FF),
        replace(FINAL_NORM, bias=ALWAYS),
        Rule("lm_head", Role.OUTPUT, (VOCAB, EMBD), bias=ALWAYS),
    ),
    fixed={"hidden_act": "silu", "attention_bias": True, "lm_head_bias": True, "num_experts_per_tok": 2},
    by_converter="llama.cpp computes RMS norms for LayerNorms, and the two best experts for SparseMixer's",
)
