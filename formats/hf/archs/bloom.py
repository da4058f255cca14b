"""BLOOM and BLOOMZ.

Sources: BloomConfig of transformers 5.23; conversion/bloom.py of llama.cpp.
"""

from __future__ import annotations

from ...ir import Role
from ..tables.dimensions import ALWAYS, EMBD, VOCAB, Dim, Is
from ..tables.rows import Computed, Key
from ..tables.rules import Arch, HFClass, Rule
from .gptneox import QKV_OF_EACH_HEAD

_LAYER = "transformer.h.{layer}."

BLOOM = Arch(
    name="bloom",
    classes={
        "BloomForCausalLM": HFClass(
            "bloom",
            {
                "vocab_size": 250880, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8,
                "layer_norm_epsilon": 1e-5, "apply_residual_connection_post_layernorm": False, "hidden_dropout": 0.0,
                "pretraining_tp": 1, "slow_but_exact": False, "bos_token_id": 1, "eos_token_id": 2,
                "tie_word_embeddings": True,
            },
            names={
                "n_layer": "num_hidden_layers", "n_head": "num_attention_heads",
                "n_embed": "hidden_size", "hidden_size": "hidden_size",  # the last one is written
            },
        )
    },
    config=(
        # ALiBi has no maximum position; configs seldom give the context of training.
        Computed("context_length", Dim("seq_length"), when=Is("seq_length")),
        Computed("context_length", EMBD, when=~Is("seq_length")),
        Key("hidden_size", "embedding_length"),
        Computed("feed_forward_length", 4 * EMBD),
        Key("num_hidden_layers", "block_count"),
        Key("num_attention_heads", "attention.head_count"),
        Key("num_key_value_heads", "attention.head_count_kv"),
        Key("layer_norm_epsilon", "attention.layer_norm_epsilon"),
    ),
    rules=(
        Rule("transformer.word_embeddings", Role.TOKEN_EMBD, (VOCAB, EMBD)),
        Rule("transformer.word_embeddings_layernorm", Role.TOKEN_EMBD_NORM, (EMBD,), bias=ALWAYS),
        Rule(_LAYER + "input_layernorm", Role.ATTN_NORM, (EMBD,), bias=ALWAYS),
        Rule(_LAYER + "self_attention.query_key_value", Role.ATTN_QKV, (3 * EMBD, EMBD), QKV_OF_EACH_HEAD, bias=ALWAYS),
        Rule(_LAYER + "self_attention.dense", Role.ATTN_OUTPUT, (EMBD, EMBD), bias=ALWAYS),
        Rule(_LAYER + "post_attention_layernorm", Role.FFN_NORM, (EMBD,), bias=ALWAYS),
        Rule(_LAYER + "mlp.dense_h_to_4h", Role.FFN_UP, (4 * EMBD, EMBD), bias=ALWAYS),
        Rule(_LAYER + "mlp.dense_4h_to_h", Role.FFN_DOWN, (EMBD, 4 * EMBD), bias=ALWAYS),
        Rule("transformer.ln_f", Role.OUTPUT_NORM, (EMBD,), bias=ALWAYS),
        Rule("lm_head", Role.OUTPUT, (VOCAB, EMBD), unless="tie_word_embeddings"),
    ),
    fixed={"apply_residual_connection_post_layernorm": False},
    base="transformer.",
)  # fmt: skip
