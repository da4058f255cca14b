"""GLM-4 (0414), dense.

Sources: Glm4Config of transformers 5.23; conversion/glm.py of llama.cpp. The rope of both turns neighbouring pairs of
half of each head.
"""

from __future__ import annotations

from ...ir import Role
from ..rows import Key, Rope
from ..rules import Arch, HFClass, Rule
from ..sizes import EMBD, FF
from .blocks import ATTN_NORM, EMBEDDING, FFN_NORM, FINAL_NORM, HEAD, HEAD_DIM_KEYS, LAYER, SIZE_KEYS, attention

GLM4 = Arch(
    name="glm4",
    classes={
        "Glm4ForCausalLM": HFClass(
            "glm4",
            {
                "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40,
                "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "hidden_act": "silu",
                "max_position_embeddings": 131072, "rms_norm_eps": 1.5625e-07, "attention_bias": True,
                "partial_rotary_factor": 0.5, "pad_token_id": 151329,
            },
        )
    },
    config=(
        *SIZE_KEYS,
        Rope(dimension=True),
        Key("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
        *HEAD_DIM_KEYS,
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(bias="attention_bias"),
        Rule(LAYER + "post_self_attn_layernorm", Role.ATTN_POST_NORM, (EMBD,)),
        FFN_NORM,
        Rule(LAYER + "mlp.gate_up_proj", Role.FFN_UP, (2 * FF, EMBD)),
        Rule(LAYER + "mlp.down_proj", Role.FFN_DOWN, (EMBD, FF)),
        Rule(LAYER + "post_mlp_layernorm", Role.FFN_POST_NORM, (EMBD,)),
        FINAL_NORM,
        HEAD,
    ),
    fixed={"hidden_act": "silu"},
)  # fmt: skip
