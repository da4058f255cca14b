"""Single models that differ from Llama in one thing: Arcee (no gates in its MLP), SmolLM3 (layers without rope) and
Seed-OSS (a norm of another role).

Sources: ArceeConfig, SmolLM3Config and SeedOssConfig of transformers 5.23; conversion/llama.py, olmo.py of llama.cpp.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import EMBD, FF
from ..tables.rows import Key
from ..tables.rules import Arch, HFClass, Rule
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    FFN_NORM,
    FINAL_NORM,
    HEAD,
    HEAD_DIM_KEYS,
    KEYS,
    LAYER_PREFIX,
    attention,
    gated_mlp,
)

_SIZES = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
}  # fmt: skip
_ENDS = (*HEAD_DIM_KEYS, Key("vocab_size", "vocab_size"), Key("head_dim", "rope.dimension_count"))

ARCEE = Arch(
    name="arcee",
    classes={
        "ArceeForCausalLM": HFClass(
            "arcee",
            _SIZES
            | {"vocab_size": 32000, "hidden_size": 2560, "intermediate_size": 18432, "num_key_value_heads": None}
            | {"hidden_act": "relu2", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "mlp_bias": False}
            | {"attention_bias": False, "bos_token_id": 128000, "eos_token_id": 128001},
        )
    },
    config=(*KEYS, *_ENDS),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(permute=True, bias="attention_bias", out_bias="attention_bias"),
        FFN_NORM,
        Rule(LAYER_PREFIX + "mlp.up_proj", Role.FFN_UP, (FF, EMBD)),
        Rule(LAYER_PREFIX + "mlp.down_proj", Role.FFN_DOWN, (EMBD, FF)),
        FINAL_NORM,
        HEAD,
    ),
    fixed={"hidden_act": "relu2", "mlp_bias": False, "attention_bias": False},
    pools=True,
)

SMOLLM3 = Arch(
    name="smollm3",
    classes={
        "SmolLM3ForCausalLM": HFClass(
            "smollm3",
            _SIZES
            | {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36}
            | {"num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 32768, "mlp_bias": False}
            | {"attention_bias": False, "rope_theta": 2e6, "no_rope_layer_interval": 4}
            | {"use_sliding_window": False, "sliding_window": None}
            | {"tie_word_embeddings": True, "pad_token_id": 128004, "bos_token_id": 128000, "eos_token_id": 128001},
        )
    },
    config=(*KEYS, *_ENDS),
    rules=(EMBEDDING, ATTN_NORM, *attention(permute=True), FFN_NORM, *gated_mlp(), FINAL_NORM, HEAD),
    # llama.cpp leaves out rope in every fourth layer, whatever the config says.
    fixed={
        "hidden_act": "silu", "mlp_bias": False, "attention_bias": False, "use_sliding_window": False,
        "no_rope_layer_interval": 4,
    },
)  # fmt: skip

SEED_OSS = Arch(
    name="seed_oss",
    classes={
        "SeedOssForCausalLM": HFClass(
            "seed_oss",
            _SIZES
            | {"vocab_size": 155136, "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 80}
            | {"num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 524288, "attention_bias": True}
            | {"attention_out_bias": False, "residual_dropout": 0.1, "mlp_bias": False, "pretraining_tp": 1}
            | {"attention_dropout": 0.1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
        )
    },
    config=(*KEYS, *HEAD_DIM_KEYS),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(bias="attention_bias"),
        replace(FFN_NORM, role=Role.ATTN_POST_NORM),
        *gated_mlp(),
        FINAL_NORM,
        HEAD,
    ),
    fixed={"hidden_act": "silu", "mlp_bias": False, "attention_out_bias": False},
)
