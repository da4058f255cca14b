"""StarCoder (SantaCoder, gpt_bigcode) and StarCoder2.

Sources: GPTBigCodeConfig and Starcoder2Config of transformers 5.23; conversion/starcoder.py of llama.cpp.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import ALWAYS, CONTEXT, EMBD, FF, KV, VOCAB, Dim
from ..tables.extras import causal_masks
from ..tables.rows import Key, Rope
from ..tables.rules import Arch, HFClass, Rule
from .shared import ATTN_NORM, EMBEDDING, FFN_NORM, FINAL_NORM, HEAD, LAYER_PREFIX, SIZE_KEYS, attention

_GELU = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu")  # llama.cpp computes the tanh form
_LAYER = "transformer.h.{layer}."

STARCODER = Arch(
    name="starcoder",
    classes={
        "GPTBigCodeForCausalLM": HFClass(
            "gpt_bigcode",
            {
                "vocab_size": 50257, "max_position_embeddings": 1024, "hidden_size": 768, "num_hidden_layers": 12,
                "num_attention_heads": 12, "intermediate_size": None, "layer_norm_epsilon": 1e-5,
                "activation_function": "gelu_pytorch_tanh", "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1,
                "bos_token_id": 50256, "eos_token_id": 50256, "tie_word_embeddings": True, "multi_query": True,
                "scale_attn_weights": True, "attention_softmax_in_fp32": True,
                "scale_attention_softmax_in_fp32": True, "add_cross_attention": False,
            },
            names={
                "n_positions": "max_position_embeddings", "n_embd": "hidden_size", "n_layer": "num_hidden_layers",
                "n_head": "num_attention_heads", "n_inner": "intermediate_size",
            },
        )
    },
    config=(*SIZE_KEYS, Key("layer_norm_epsilon", "attention.layer_norm_epsilon")),
    rules=(
        Rule("transformer.wte", Role.TOKEN_EMBD, (VOCAB, EMBD)),
        Rule("transformer.wpe", Role.POS_EMBD, (CONTEXT, EMBD)),
        Rule(_LAYER + "ln_1", Role.ATTN_NORM, (EMBD,), bias=ALWAYS),
        Rule(_LAYER + "attn.c_attn", Role.ATTN_QKV, (EMBD + 2 * KV, EMBD), bias=ALWAYS),
        Rule(_LAYER + "attn.c_proj", Role.ATTN_OUTPUT, (EMBD, EMBD), bias=ALWAYS),
        Rule(_LAYER + "ln_2", Role.FFN_NORM, (EMBD,), bias=ALWAYS),
        Rule(_LAYER + "mlp.c_fc", Role.FFN_UP, (FF, EMBD), bias=ALWAYS),
        Rule(_LAYER + "mlp.c_proj", Role.FFN_DOWN, (EMBD, FF), bias=ALWAYS),
        Rule("transformer.ln_f", Role.OUTPUT_NORM, (EMBD,), bias=ALWAYS),
        HEAD,
    ),
    fixed={
        "activation_function": _GELU, "multi_query": True, "scale_attn_weights": True, "add_cross_attention": False,
    },
    implied={"intermediate_size": 4 * EMBD, "num_key_value_heads": Dim(1)},
    base="transformer.",
    extras=causal_masks("attn"),
)  # fmt: skip

STARCODER2 = Arch(
    name="starcoder2",
    classes={
        "Starcoder2ForCausalLM": HFClass(
            "starcoder2",
            {
                "vocab_size": 49152, "hidden_size": 3072, "intermediate_size": 12288, "num_hidden_layers": 30,
                "num_attention_heads": 24, "num_key_value_heads": 2, "hidden_act": "gelu_pytorch_tanh",
                "max_position_embeddings": 4096, "norm_epsilon": 1e-5, "use_bias": True, "sliding_window": None,
                "initializer_range": 0.018042, "residual_dropout": 0.0, "embedding_dropout": 0.0,
                "bos_token_id": 50256, "eos_token_id": 50256, "tie_word_embeddings": True,
            },
        )
    },
    # llama.cpp has no window here: its attention sees all earlier tokens.
    config=(*SIZE_KEYS, Rope(), Key("norm_epsilon", "attention.layer_norm_epsilon")),
    rules=(
        EMBEDDING,
        replace(ATTN_NORM, bias=ALWAYS),
        *attention(bias=ALWAYS, out_bias=ALWAYS),
        replace(FFN_NORM, bias=ALWAYS),
        Rule(LAYER_PREFIX + "mlp.c_fc", Role.FFN_UP, (FF, EMBD), bias=ALWAYS),
        Rule(LAYER_PREFIX + "mlp.c_proj", Role.FFN_DOWN, (EMBD, FF), bias=ALWAYS),
        replace(FINAL_NORM, bias=ALWAYS),
        HEAD,
    ),
    fixed={"hidden_act": _GELU, "use_bias": True},
)  # fmt: skip
