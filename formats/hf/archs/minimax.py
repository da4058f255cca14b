"""MiniMax M2 to M2.7: experts in every layer, norms of q and k over all heads at once.

Sources: MiniMaxM2Config of transformers 5.23; conversion/minimax.py of llama.cpp.
"""

from __future__ import annotations

from ...ir import Role
from ..dimensions import FF, HEAD_DIM, KV, Is, Q, Share
from ..rows import Constant, Key, Rope
from ..rules import Arch, HFClass, Rule
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    EPS_KEY,
    EXPERT_KEYS,
    FFN_NORM,
    FINAL_NORM,
    FURTHER_LAYERS,
    HEAD_DIM_KEYS,
    LAYER_PREFIX,
    OWN_HEAD,
    SIZE_KEYS,
    attention,
    correction,
    experts,
)

_MOE = LAYER_PREFIX + "block_sparse_moe."

MINIMAX_M2 = Arch(
    name="minimax-m2",
    classes={
        "MiniMaxM2ForCausalLM": HFClass(
            "minimax_m2",
            {
                "vocab_size": 200064, "hidden_size": 3072, "intermediate_size": 1536, "num_hidden_layers": 62,
                "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128, "hidden_act": "silu",
                "max_position_embeddings": 196608, "rms_norm_eps": 1e-6, "rope_theta": 5e6, "num_experts_per_tok": 8,
                "num_local_experts": 256, "output_router_logits": False, "router_aux_loss_coef": 0.001,
                "router_jitter_noise": 0.0, "bos_token_id": 200034, "eos_token_id": 200020,
            },
        )
    },
    config=(
        *SIZE_KEYS,
        Rope(dimension=True),
        EPS_KEY,
        *EXPERT_KEYS,
        Constant("expert_gating_func", 2),
        *HEAD_DIM_KEYS,
        Key("intermediate_size", "expert_feed_forward_length"),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(),
        Rule(LAYER_PREFIX + "self_attn.q_norm", Role.ATTN_Q_NORM, (Q,)),
        Rule(LAYER_PREFIX + "self_attn.k_norm", Role.ATTN_K_NORM, (KV,)),
        FFN_NORM,
        *experts(at=_MOE, names=("w1", "w3", "w2"), width=FF),
        correction(_MOE + "e_score_correction_bias"),
        FINAL_NORM,
        OWN_HEAD,
    ),
    fixed={"hidden_act": "silu"},
    needs={"scoring_func": ~Is("scoring_func", "softmax"), "use_qk_norm": ~Is("use_qk_norm", False)},
    implied={"partial_rotary_factor": Share("rotary_dim", HEAD_DIM)},
    extras=(FURTHER_LAYERS,),
)  # fmt: skip
