"""ERNIE 4.5 and Hunyuan (A13B) with experts.

Sources: Ernie4_5_MoeConfig and HunYuanMoEV1Config of transformers 5.23; conversion/ernie.py and hunyuan.py of
llama.cpp.
"""

from __future__ import annotations

from ...ir import Role
from ..dimensions import EXPERT_FF, EXPERTS, FF, LAYER_INDEX, LAYERS, Dim, Equal, Is
from ..ops import Reshape
from ..rows import Computed, Key
from ..rules import Arch, HFClass, Rule
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    EXPERT_KEYS,
    FFN_NORM,
    FINAL_NORM,
    HEAD,
    HEAD_DIM_KEYS,
    KEYS,
    LAYER_PREFIX,
    attention,
    experts,
    gated_mlp,
    qk_norm,
    shared_expert,
)

_DENSE = Dim("moe_layer_start_index") > LAYER_INDEX
_SHARED = Dim("moe_num_shared_experts")
_MLP = LAYER_PREFIX + "mlp."
_LAST = "moe_layer_end_index"

ERNIE4_5_MOE = Arch(
    name="ernie4_5-moe",
    classes={
        "Ernie4_5_MoeForCausalLM": HFClass(
            "ernie4_5_moe",
            {
                "vocab_size": 103424, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "hidden_size": 2560,
                "intermediate_size": 12288, "num_hidden_layers": 28, "num_attention_heads": 20,
                "num_key_value_heads": 4, "hidden_act": "silu", "max_position_embeddings": 131072,
                "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "rope_theta": 500000.0, "use_bias": False,
                "moe_intermediate_size": 1536, "num_experts_per_tok": 6, "num_local_experts": 64,
                "moe_num_shared_experts": 2, "moe_layer_start_index": 1, "moe_layer_end_index": -1,
                "moe_layer_interval": 1, "moe_norm_min": 1e-12, "output_router_logits": False,
                "router_aux_loss_coef": 0.001,
            },
            {"moe_num_experts": "num_local_experts", "moe_k": "num_experts_per_tok"},
        )
    },
    config=(
        *KEYS,
        *HEAD_DIM_KEYS,
        *EXPERT_KEYS,
        Key("moe_layer_interval", "interleave_moe_layer_step"),
        Key("moe_layer_start_index", "leading_dense_block_count"),
        Key("moe_intermediate_size", "expert_feed_forward_length"),
        Key("moe_num_shared_experts", "expert_shared_count"),
        Computed("expert_shared_feed_forward_length", EXPERT_FF * _SHARED),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(),
        FFN_NORM,
        *gated_mlp(when=_DENSE),
        *experts(when=~_DENSE),
        Rule(
            _MLP + "moe_statics.e_score_correction_bias", Role.FFN_EXP_PROBS_B, (Dim(1), EXPERTS),
            (Reshape((Dim(1), EXPERTS), (EXPERTS,)),), when=~_DENSE, tensor=True, part="bias",
        ),
        *shared_expert(
            at=_MLP + "shared_experts.", width=EXPERT_FF * _SHARED, when=~_DENSE & Is("moe_num_shared_experts")
        ),
        FINAL_NORM,
        HEAD,
    ),
    fixed={"hidden_act": "silu", "use_bias": False, "moe_layer_interval": 1},
    needs={_LAST: Is(_LAST, -1) | Equal(Dim(_LAST) + 1, LAYERS)},
    roots={"ernie.": "model."},
    ignored=("model.mtp_*",),
)  # fmt: skip

HUNYUAN_MOE = Arch(
    name="hunyuan-moe",
    classes={
        "HunYuanMoEV1ForCausalLM": HFClass(
            "hunyuan_v1_moe",
            {
                "vocab_size": 290943, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
                "num_attention_heads": 32, "num_key_value_heads": None, "hidden_act": "silu",
                "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "pad_token_id": 0, "bos_token_id": 1,
                "eos_token_id": 2, "eod_token_id": 3, "sep_token_id": 4, "pretraining_tp": 1, "attention_bias": False,
                "num_local_experts": 1, "output_router_logits": False, "num_experts_per_tok": 1, "head_dim": None,
            },
            {"num_experts": "num_local_experts", "moe_topk": "num_experts_per_tok"},
        )
    },
    config=(
        *KEYS,
        *HEAD_DIM_KEYS,
        *EXPERT_KEYS,
        Key("intermediate_size", "expert_shared_feed_forward_length"),
        Key("intermediate_size", "expert_feed_forward_length"),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(),
        *qk_norm(names=("query_layernorm", "key_layernorm")),
        FFN_NORM,
        *experts(router="gate.wg", width=FF),
        *shared_expert(at=_MLP + "shared_mlp.", width=FF),
        FINAL_NORM,
        HEAD,
    ),
    fixed={"hidden_act": "silu", "attention_bias": False},
    needs={"use_qk_norm": ~Is("use_qk_norm", False)},
)  # fmt: skip
