"""ERNIE 4.5, dense and with experts; the text model of PaddleOCR-VL.

Sources: Ernie4_5Config and Ernie4_5_MoeConfig of transformers 5.23; conversion/ernie.py of llama.cpp. Its rope turns
neighbouring pairs in transformers too, so nothing is permuted.
"""

from __future__ import annotations

from ...ir import Role
from ..tables.dimensions import EXPERT_FF, EXPERTS, LAYER_INDEX, LAYERS, Dim, Equal, Is
from ..tables.extras import LeftOut
from ..tables.rows import Computed, Key
from ..tables.rules import Arch, HFClass, Rule
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
    TEXT_ROOTS,
    VISUAL,
    attention,
    beside,
    experts,
    gated_mlp,
    shared_expert,
    with_sections,
)

_COMMON = {
    "vocab_size": 103424, "max_position_embeddings": 131072, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "rope_theta": 5e5, "use_bias": False, "tie_word_embeddings": True, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
_FIXED = {"hidden_act": "silu", "use_bias": False}

ERNIE4_5 = Arch(
    name="ernie4_5",
    classes={
        "Ernie4_5ForCausalLM": HFClass(
            "ernie4_5",
            _COMMON
            | {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 18, "num_attention_heads": 16}
            | {"num_key_value_heads": 2, "head_dim": 128},
        )
    },
    config=(*KEYS, *HEAD_DIM_KEYS),
    rules=(EMBEDDING, ATTN_NORM, *attention(), FFN_NORM, *gated_mlp(), FINAL_NORM, HEAD),
    fixed=_FIXED,
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
            _COMMON
            | {"hidden_size": 2560, "intermediate_size": 12288, "num_hidden_layers": 28, "num_attention_heads": 20}
            | {"num_key_value_heads": 4, "moe_intermediate_size": 1536, "num_experts_per_tok": 6}
            | {"num_local_experts": 64, "moe_num_shared_experts": 2, "moe_layer_start_index": 1}
            | {"moe_layer_end_index": -1, "moe_layer_interval": 1, "moe_norm_min": 1e-12}
            | {"output_router_logits": False, "router_aux_loss_coef": 0.001},
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
            _MLP + "moe_statics.e_score_correction_bias",
            Role.FFN_EXP_PROBS_B,
            (Dim(1), EXPERTS),
            when=~_DENSE,
            tensor=True,
            part="bias",
        ),
        *shared_expert(
            at=_MLP + "shared_experts.", width=EXPERT_FF * _SHARED, when=~_DENSE & Is("moe_num_shared_experts")
        ),
        FINAL_NORM,
        HEAD,
    ),
    fixed=_FIXED | {"moe_layer_interval": 1},
    needs={_LAST: Is(_LAST, -1) | Equal(Dim(_LAST) + 1, LAYERS)},
    roots={"ernie.": "model."},
    extras=(LeftOut("model.mtp_*", "layers that predict further tokens"),),
)

PADDLEOCR = Arch(
    name="paddleocr",
    classes={
        "PaddleOCRVLForConditionalGeneration": HFClass(
            "paddleocr_vl_text",
            {**ERNIE4_5.classes["Ernie4_5ForCausalLM"].defaults, "rms_norm_eps": 1e-5},
            wraps="paddleocr_vl",
            ties=True,
        )
    },
    config=with_sections(ERNIE4_5.config, (16, 24, 24)),
    rules=ERNIE4_5.rules,
    fixed=_FIXED,
    roots=TEXT_ROOTS,
    extras=(*VISUAL, LeftOut("mlp_AR.*", "projector"), *beside("projector.*", "projector")),
)
