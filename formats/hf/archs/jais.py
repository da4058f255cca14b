"""Jais 2: LayerNorms and biases everywhere, no gate in the MLP.

Sources: Jais2Config of transformers 5.23; conversion/jais.py of llama.cpp.
"""

from __future__ import annotations

from ...ir import Role
from ..tables.dimensions import ALWAYS, EMBD, FF
from ..tables.rows import Key, Rope
from ..tables.rules import Arch, HFClass, Rule
from .shared import EMBEDDING, HEAD, HEAD_DIM_KEYS, LAYER_PREFIX, SIZE_KEYS, attention

JAIS2 = Arch(
    name="jais2",
    classes={
        "Jais2ForCausalLM": HFClass(
            "jais2",
            {
                "vocab_size": 150272, "hidden_size": 3328, "intermediate_size": 26624, "num_hidden_layers": 32,
                "num_attention_heads": 26, "num_key_value_heads": None, "max_position_embeddings": 8192,
                "hidden_act": "relu2", "layer_norm_eps": 1e-5, "attention_bias": True, "mlp_bias": True,
                "bos_token_id": 0, "eos_token_id": 150024,
            },
        )
    },
    config=(
        *SIZE_KEYS,
        Rope(dimension=True),
        Key("layer_norm_eps", "attention.layer_norm_epsilon"),
        *HEAD_DIM_KEYS,
    ),
    rules=(
        EMBEDDING,
        Rule(LAYER_PREFIX + "input_layernorm", Role.ATTN_NORM, (EMBD,), bias=ALWAYS),
        *attention(bias="attention_bias", out_bias="attention_bias"),
        Rule(LAYER_PREFIX + "post_attention_layernorm", Role.FFN_NORM, (EMBD,), bias=ALWAYS),
        Rule(LAYER_PREFIX + "mlp.up_proj", Role.FFN_UP, (FF, EMBD), bias="mlp_bias"),
        Rule(LAYER_PREFIX + "mlp.down_proj", Role.FFN_DOWN, (EMBD, FF), bias="mlp_bias"),
        Rule("model.norm", Role.OUTPUT_NORM, (EMBD,), bias=ALWAYS),
        HEAD,
    ),
    fixed={"hidden_act": "relu2", "attention_bias": True, "mlp_bias": True},
)  # fmt: skip
