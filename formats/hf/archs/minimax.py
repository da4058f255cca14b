"""MiniMax M2 to M2.7: experts in every layer, norms of q and k over all heads at once. M3: layers with experts
attend to chosen blocks of keys.

Sources: MiniMaxM2Config and MiniMaxM3VLTextConfig of transformers 5.23; conversion/minimax.py of llama.cpp, which
attends to all keys where flash attention is off. Of M3, transformers turns whole heads unless a config says
``partial_rotary_factor``; ``rotary_dim`` is what all others read, and stands for it here.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import (
    EMBD,
    EXPERTS,
    FF,
    HEAD_DIM,
    KV,
    KV_HEADS,
    MLP_TYPES,
    NEVER,
    Condition,
    Dim,
    Equal,
    Is,
    Q,
    Share,
)
from ..tables.extras import LeftOut
from ..tables.layer_kinds import Paired
from ..tables.layer_words import WordsFrom
from ..tables.ops import Op, Split
from ..tables.rows import Constant, Key, LeadingDense, Rope
from ..tables.rules import Arch, HFClass, Rule
from ..tables.values import Add
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    EPS_KEY,
    EXPERT_KEYS,
    FFN_NORM,
    FINAL_NORM,
    FURTHER_LAYERS,
    FUSED_EXPERTS,
    HEAD_DIM_KEYS,
    LAYER_PREFIX,
    OWN_HEAD,
    SIZE_KEYS,
    TEXT_ROOTS,
    VISION,
    attention,
    correction,
    experts,
    gated_mlp,
    qk_norm,
    shared_expert,
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

_FUSED = Is(next(iter(FUSED_EXPERTS)))
_ONE: tuple[Op, ...] = (Add(1.0),)
_ATTN, _MLP = LAYER_PREFIX + "self_attn.", LAYER_PREFIX + "mlp."
_KINDS = {"full_attention": "dense", "minimax_m3_sparse": "sparse"}
_DENSE, _CHOOSES = Is(MLP_TYPES, "dense"), Is("layer_types", "minimax_m3_sparse")
_DENSE_FF, _SHARED_FF = Dim("dense_intermediate_size"), Dim("shared_intermediate_size")
_INDEX_HEADS, _INDEX = Dim("index_n_heads"), Dim("index_head_dim")
_GATE_UP, _GATE_UP_SHEXP, _GATE_UP_EXPS = (
    (Role.FFN_GATE, Role.FFN_UP),
    (Role.FFN_GATE_SHEXP, Role.FFN_UP_SHEXP),
    (Role.FFN_GATE_EXPS, Role.FFN_UP_EXPS),
)


def _indexer(at: str, when: Condition) -> tuple[Rule, ...]:
    return (
        Rule(at + "q_proj", Role.INDEXER_Q_PROJ, (_INDEX_HEADS * _INDEX, EMBD), when=when),
        Rule(at + "k_proj", Role.INDEXER_K_PROJ, (_INDEX, EMBD), when=when),
        Rule(at + "q_norm", Role.INDEXER_Q_NORM, (_INDEX,), _ONE, when=when),
        Rule(at + "k_norm", Role.INDEXER_K_NORM, (_INDEX,), _ONE, when=when),
    )


def _fused(at: str, roles: tuple[Role, Role], down: Role, width: Dim, when: Condition) -> tuple[Rule, ...]:
    return (
        Rule(at + "gate_up_proj", roles, (2 * width, EMBD), (Split((width, width)),), when=when),
        Rule(at + "down_proj", down, (EMBD, width), when=when),
    )


# As transformers 5 saves it, and as it is published.
_SAVED = (
    *_indexer(_ATTN + "indexer.", _CHOOSES & _FUSED),
    *_fused(_MLP, _GATE_UP, Role.FFN_DOWN, _DENSE_FF, _DENSE & _FUSED),
    Rule(_MLP + "gate", Role.FFN_GATE_INP, (EXPERTS, EMBD), when=~_DENSE & _FUSED),
    correction(_MLP + "gate.e_score_correction_bias", ~_DENSE & _FUSED),
    Rule(
        _MLP + "experts.gate_up_proj", _GATE_UP_EXPS, (EXPERTS, 2 * FF, EMBD), (Split((FF, FF), axis=1),),
        when=~_DENSE & _FUSED, tensor=True,
    ),
    Rule(_MLP + "experts.down_proj", Role.FFN_DOWN_EXPS, (EXPERTS, EMBD, FF), when=~_DENSE & _FUSED, tensor=True),
    *_fused(_MLP + "shared_experts.", _GATE_UP_SHEXP, Role.FFN_DOWN_SHEXP, _SHARED_FF, ~_DENSE & _FUSED),
)  # fmt: skip
_PUBLISHED = (
    *_indexer(_ATTN + "index_", _CHOOSES & ~_FUSED),
    *gated_mlp(width=_DENSE_FF, when=_DENSE & ~_FUSED),
    *experts(at=_MOE, names=("w1", "w3", "w2"), width=FF, when=~_DENSE & ~_FUSED),
    correction(_MOE + "e_score_correction_bias", ~_DENSE & ~_FUSED),
    *shared_expert(at=_MOE + "shared_experts.", width=_SHARED_FF, when=~_DENSE & ~_FUSED),
)
_M3 = HFClass(
    "minimax_m3_vl_text",
    {
        "vocab_size": 200064, "hidden_size": 6144, "intermediate_size": 3072, "num_hidden_layers": 60,
        "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 128, "hidden_act": "silu",
        "max_position_embeddings": 524288, "rms_norm_eps": 1e-6, "rope_theta": 5e6, "num_experts_per_tok": 4,
        "num_local_experts": 128, "output_router_logits": False, "router_aux_loss_coef": 0.001,
        "router_jitter_noise": 0.0, "bos_token_id": 200034, "eos_token_id": 200020, "rotary_dim": 64,
        "dense_intermediate_size": 12288, "shared_intermediate_size": 3072, "routed_scaling_factor": 2.0,
        "swiglu_alpha": 1.702, "swiglu_limit": 7.0, "mlp_layer_types": None, "layer_types": None,
    },
    names={
        f"sparse_attention_config.sparse_{theirs}": f"index_{ours}"
        for theirs, ours in {
            "num_index_heads": "n_heads", "index_dim": "head_dim", "block_size": "block_size",
            "topk_blocks": "topk_blocks", "local_block": "local_blocks",
        }.items()
    },
    parts=("sparse_attention_config",),
)  # fmt: skip

MINIMAX_M3 = Arch(
    name="minimax-m3",
    classes={
        "MiniMaxM3VLForCausalLM": _M3,
        "MiniMaxM3SparseForCausalLM": _M3,
        "MiniMaxM3VLTextModel": replace(_M3, bare=True),
        "MiniMaxM3VLModel": replace(_M3, text_of="MiniMaxM3VLTextModel", bare=True),
        "MiniMaxM3SparseForConditionalGeneration": replace(_M3, text_of="MiniMaxM3VLForCausalLM"),
    },
    config=(
        *(row for row in SIZE_KEYS if row.hf != "intermediate_size"),
        Key("dense_intermediate_size", "feed_forward_length"),
        Rope(dimension=True),
        Key("rotary_dim", "rope.dimension_count", when=NEVER),
        EPS_KEY,
        *EXPERT_KEYS,
        Constant("expert_gating_func", 2),
        *HEAD_DIM_KEYS,
        Key("intermediate_size", "expert_feed_forward_length"),
        Key("n_shared_experts", "expert_shared_count"),
        Key("routed_scaling_factor", "expert_weights_scale"),
        Constant("expert_weights_norm", True),
        Key("index_n_heads", "attention.indexer.head_count"),
        Key("index_head_dim", "attention.indexer.key_length"),
        Key("index_topk_blocks", "attention.indexer.top_k"),
        Key("index_block_size", "attention.indexer.block_size"),
        Key("index_local_blocks", "attention.indexer.local_blocks"),
        LeadingDense(),
    ),
    rules=(
        EMBEDDING,
        replace(ATTN_NORM, ops=_ONE),
        *attention(),
        *qk_norm(*_ONE),
        replace(FFN_NORM, ops=_ONE),
        *_SAVED,
        *_PUBLISHED,
        replace(FINAL_NORM, ops=_ONE),
        OWN_HEAD,
    ),
    fixed={"hidden_act": ("silu", "swigluoai"), "swiglu_alpha": 1.702, "swiglu_limit": 7.0},
    needs={
        "scoring_func": ~Is("scoring_func", "softmax"),
        "layer_types": Paired("layer_types", MLP_TYPES, _KINDS),
        "index_n_heads": Equal(_INDEX_HEADS, KV_HEADS),
        "shared_intermediate_size": Equal(_SHARED_FF, FF * Dim("n_shared_experts")),
    },
    implied={
        "partial_rotary_factor": Share("rotary_dim", HEAD_DIM),
        "shared_intermediate_size": FF * Dim("n_shared_experts"),
        "n_shared_experts": _SHARED_FF // FF,
        MLP_TYPES: WordsFrom({"moe_layer_freq": {0: "dense", 1: "sparse"}}, "sparse"),
        "layer_types": WordsFrom(
            {
                "sparse_attention_config.sparse_attention_freq": dict(enumerate(_KINDS)),
                MLP_TYPES: {mlp: attention for attention, mlp in _KINDS.items()},
            },
            "full_attention",
        ),
    },
    roots=TEXT_ROOTS,
    layouts=FUSED_EXPERTS,
    extras=(
        LeftOut("*mtp.*", "layers that predict further tokens"),
        *VISION,
        LeftOut("patch_merge_mlp.*", "vision tower"),
    ),
)
