"""EXAONE 4.

Sources: Exaone4Config of transformers 5.23; conversion/exaone.py of llama.cpp.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..dimensions import EMBD
from ..rows import Key, LayerFlags
from ..rules import Arch, HFClass, Rule
from .shared import (
    EMBEDDING,
    FFN_NORM,
    FINAL_NORM,
    HEAD,
    HEAD_DIM_KEYS,
    KEYS,
    LAYER_PREFIX,
    attention,
    gated_mlp,
    qk_norm,
)

EXAONE4 = Arch(
    name="exaone4",
    classes={
        "Exaone4ForCausalLM": HFClass(
            "exaone4",
            {
                "vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 32,
                "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 2048,
                "hidden_act": "silu", "rms_norm_eps": 1e-5, "sliding_window": 4096, "sliding_window_pattern": 4,
                "bos_token_id": 0, "eos_token_id": 2,
            },
        )
    },
    config=(
        *KEYS,
        *HEAD_DIM_KEYS,
        Key("vocab_size", "vocab_size"),
        Key("sliding_window", "attention.sliding_window", optional=True),
        LayerFlags("layer_types", "attention.sliding_window_pattern"),
    ),
    rules=(
        EMBEDDING,
        *attention(),
        *qk_norm(),
        replace(FFN_NORM, role=Role.ATTN_POST_NORM),
        *gated_mlp(),
        Rule(LAYER_PREFIX + "post_feedforward_layernorm", Role.FFN_POST_NORM, (EMBD,)),
        FINAL_NORM,
        HEAD,
    ),
    fixed={"hidden_act": "silu"},
)  # fmt: skip
