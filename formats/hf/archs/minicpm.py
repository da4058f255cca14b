"""MiniCPM 3: attention through a latent vector, whose parts llama.cpp keeps whole here.

Sources: MiniCPM3Config of transformers 5.23; conversion/minicpm.py of llama.cpp, where ``scale_emb``, ``scale_depth``
and ``dim_model_base`` are constants.
"""

from __future__ import annotations

from ...ir import Role
from ..tables.dimensions import EMBD, HEADS, Dim, Equal
from ..tables.rows import Computed, Key, Rope
from ..tables.rules import Arch, HFClass, Rule
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    EPS_KEY,
    FFN_NORM,
    FINAL_NORM,
    HEAD,
    LAYER_PREFIX,
    SIZE_KEYS,
    TIED_HEAD,
    gated_mlp,
)

_ROPE, _NOPE, _V = Dim("qk_rope_head_dim"), Dim("qk_nope_head_dim"), Dim("v_head_dim")
_LATENT, _Q_LATENT = Dim("kv_lora_rank"), Dim("q_lora_rank")
_ATTN = LAYER_PREFIX + "self_attn."

MINICPM3 = Arch(
    name="minicpm3",
    classes={
        "MiniCPM3ForCausalLM": HFClass(
            "minicpm3",
            {
                "vocab_size": 73448, "hidden_size": 2560, "intermediate_size": 6400, "num_hidden_layers": 62,
                "num_attention_heads": 40, "num_key_value_heads": 40, "hidden_act": "silu", "pretraining_tp": 1,
                "max_position_embeddings": 32768, "initializer_range": 0.1, "rms_norm_eps": 1e-5,
                "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False, "kv_lora_rank": 256,
                "q_lora_rank": 768, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": None,
                "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256, "bos_token_id": 1, "eos_token_id": 2,
            },
        )
    },
    config=(
        *SIZE_KEYS,
        Rope(),
        EPS_KEY,
        Key("vocab_size", "vocab_size"),
        Key("q_lora_rank", "attention.q_lora_rank"),
        Key("kv_lora_rank", "attention.kv_lora_rank"),
        Computed("attention.key_length", _NOPE + _ROPE),
        Key("qk_rope_head_dim", "rope.dimension_count"),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        Rule(_ATTN + "q_a_proj", Role.ATTN_Q_A, (_Q_LATENT, EMBD)),
        Rule(_ATTN + "q_a_layernorm", Role.ATTN_Q_A_NORM, (_Q_LATENT,)),
        Rule(_ATTN + "q_b_proj", Role.ATTN_Q_B, (HEADS * (_NOPE + _ROPE), _Q_LATENT)),
        Rule(_ATTN + "kv_a_proj_with_mqa", Role.ATTN_KV_A_MQA, (_LATENT + _ROPE, EMBD)),
        Rule(_ATTN + "kv_a_layernorm", Role.ATTN_KV_A_NORM, (_LATENT,)),
        Rule(_ATTN + "kv_b_proj", Role.ATTN_KV_B, (HEADS * (_NOPE + _V), _LATENT)),
        Rule(_ATTN + "o_proj", Role.ATTN_OUTPUT, (EMBD, HEADS * _V)),
        FFN_NORM,
        *gated_mlp(),
        FINAL_NORM,
        HEAD,
    ),
    fixed={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "scale_emb": 12, "scale_depth": 1.4}
    | {"dim_model_base": 256},
    needs={"v_head_dim": Equal(HEADS * _V, EMBD)},  # llama.cpp reads no width of values
    implied={"v_head_dim": EMBD // HEADS},
    extras=(TIED_HEAD,),
)  # fmt: skip
