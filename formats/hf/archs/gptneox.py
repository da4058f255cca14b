"""GPT-NeoX: Pythia, Dolly, RedPajama.

Sources: GPTNeoXConfig of transformers 5.23; conversion/gptneox.py of llama.cpp.
"""

from __future__ import annotations

from ...ir import Role
from ..tables.dimensions import ALWAYS, EMBD, FF, HEAD_DIM, HEADS, VOCAB
from ..tables.extras import causal_masks
from ..tables.ops import Regroup
from ..tables.rows import Key, Rope
from ..tables.rules import Arch, HFClass, Rule

_LAYER = "gpt_neox.layers.{layer}."
QKV_OF_EACH_HEAD = (Regroup((HEADS, 3, HEAD_DIM), (1, 0, 2)),)

GPTNEOX = Arch(
    name="gptneox",
    classes={
        "GPTNeoXForCausalLM": HFClass(
            "gpt_neox",
            {
                "vocab_size": 50432, "hidden_size": 6144, "num_hidden_layers": 44, "num_attention_heads": 64,
                "intermediate_size": 24576, "hidden_act": "gelu", "max_position_embeddings": 2048,
                "layer_norm_eps": 1e-5, "use_parallel_residual": True, "attention_bias": True, "is_decoder": False,
                "partial_rotary_factor": 0.25, "hidden_dropout": 0.0, "classifier_dropout": 0.1,
                "bos_token_id": 0, "eos_token_id": 2,
            },
            names={"rotary_pct": "partial_rotary_factor", "rotary_emb_base": "rope_theta"},
        )
    },
    config=(
        Key("max_position_embeddings", "context_length"),
        Key("hidden_size", "embedding_length"),
        Key("num_hidden_layers", "block_count"),
        Key("intermediate_size", "feed_forward_length"),
        Rope(dimension=True),
        Key("num_attention_heads", "attention.head_count"),
        Key("use_parallel_residual", "use_parallel_residual"),
        Key("layer_norm_eps", "attention.layer_norm_epsilon"),
    ),
    rules=(
        Rule("gpt_neox.embed_in", Role.TOKEN_EMBD, (VOCAB, EMBD)),
        Rule(_LAYER + "input_layernorm", Role.ATTN_NORM, (EMBD,), bias=ALWAYS),
        Rule(_LAYER + "post_attention_layernorm", Role.FFN_NORM, (EMBD,), bias=ALWAYS),
        Rule(_LAYER + "attention.query_key_value", Role.ATTN_QKV, (3 * EMBD, EMBD), QKV_OF_EACH_HEAD, bias=ALWAYS),
        Rule(_LAYER + "attention.dense", Role.ATTN_OUTPUT, (EMBD, EMBD), bias=ALWAYS),
        Rule(_LAYER + "mlp.dense_h_to_4h", Role.FFN_UP, (FF, EMBD), bias=ALWAYS),
        Rule(_LAYER + "mlp.dense_4h_to_h", Role.FFN_DOWN, (EMBD, FF), bias=ALWAYS),
        Rule("gpt_neox.final_layer_norm", Role.OUTPUT_NORM, (EMBD,), bias=ALWAYS),
        Rule("embed_out", Role.OUTPUT, (VOCAB, EMBD)),
    ),
    # llama.cpp computes the tanh form of gelu
    fixed={
        "hidden_act": ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"), "attention_bias": True,
    },
    base="gpt_neox.",
    roots={"lm_head.": "embed_out."},  # as transformers calls it since version 5
    extras=causal_masks("attention"),
)  # fmt: skip
