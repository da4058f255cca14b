"""GPT-2 (and DistilGPT-2, DialoGPT).

Sources: GPT2Config of transformers 5.23; conversion/gpt2.py of llama.cpp.
"""

from __future__ import annotations

from ...ir import Role
from ..tables.dimensions import ALWAYS, CONTEXT, EMBD, FF, VOCAB, Dim
from ..tables.extras import causal_masks
from ..tables.ops import Transpose
from ..tables.rows import Key
from ..tables.rules import Arch, HFClass, Rule

_LAYER = "transformer.h.{layer}."
_CONV1D = (Transpose(),)


def _conv1d(hf: str, role: Role, wide_in: Dim, wide_out: Dim) -> Rule:
    return Rule(_LAYER + hf, role, (wide_in, wide_out), _CONV1D, bias=ALWAYS)


GPT2 = Arch(
    name="gpt2",
    classes={
        "GPT2LMHeadModel": HFClass(
            "gpt2",
            defaults={
                "vocab_size": 50257, "max_position_embeddings": 1024, "hidden_size": 768, "num_hidden_layers": 12,
                "num_attention_heads": 12, "intermediate_size": None, "layer_norm_epsilon": 1e-5,
                "activation_function": "gelu_new", "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1,
                "bos_token_id": 50256, "eos_token_id": 50256, "tie_word_embeddings": True,
                "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False,
                "add_cross_attention": False,
                "summary_type": "cls_index", "summary_use_proj": True, "summary_activation": None,
                "summary_proj_to_labels": True, "summary_first_dropout": 0.1,
            },
            names={
                "n_positions": "max_position_embeddings", "n_embd": "hidden_size", "n_layer": "num_hidden_layers",
                "n_head": "num_attention_heads", "n_inner": "intermediate_size",
            },
        )
    },
    config=(
        Key("num_hidden_layers", "block_count"),
        Key("max_position_embeddings", "context_length"),
        Key("hidden_size", "embedding_length"),
        Key("intermediate_size", "feed_forward_length"),
        Key("num_attention_heads", "attention.head_count"),
        Key("layer_norm_epsilon", "attention.layer_norm_epsilon"),
    ),
    rules=(
        Rule("transformer.wte", Role.TOKEN_EMBD, (VOCAB, EMBD)),
        Rule("transformer.wpe", Role.POS_EMBD, (CONTEXT, EMBD)),
        Rule(_LAYER + "ln_1", Role.ATTN_NORM, (EMBD,), bias=ALWAYS),
        _conv1d("attn.c_attn", Role.ATTN_QKV, EMBD, 3 * EMBD),
        _conv1d("attn.c_proj", Role.ATTN_OUTPUT, EMBD, EMBD),
        Rule(_LAYER + "ln_2", Role.FFN_NORM, (EMBD,), bias=ALWAYS),
        _conv1d("mlp.c_fc", Role.FFN_UP, EMBD, FF),
        _conv1d("mlp.c_proj", Role.FFN_DOWN, FF, EMBD),
        Rule("transformer.ln_f", Role.OUTPUT_NORM, (EMBD,), bias=ALWAYS),
        Rule("lm_head", Role.OUTPUT, (VOCAB, EMBD), unless="tie_word_embeddings"),
    ),
    fixed={
        "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"), "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False,
    },
    implied={"intermediate_size": 4 * EMBD},
    base="transformer.",
    extras=causal_masks("attn"),
)  # fmt: skip
