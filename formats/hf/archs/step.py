"""Step 3.5 and 3.7: experts behind dense layers, a gate for each head, more heads in layers with a window.

Sources: Step3p7TextConfig of transformers 5.23; conversion/step3.py of llama.cpp, which turns half of each head in
layers without a window. Published configs say the layers' kinds in older words.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import (
    EMBD,
    EXPERT_FF,
    EXPERTS,
    HEAD_DIM,
    HEADS,
    KV_HEADS,
    MLP_TYPES,
    Dim,
    If,
    Is,
    LayerOverrides,
    LayerPattern,
)
from ..tables.extras import LeftOut
from ..tables.layer_kinds import HasWord, NoOther, RopeIs
from ..tables.layer_rows import Limits, Repeated
from ..tables.layer_words import Numbered
from ..tables.ops import Split
from ..tables.rows import Alternating, Constant, Key, LayerFlags, LeadingDense, Rope
from ..tables.rules import Arch, HFClass, Rule
from .qwen import ADD_ONE
from .shared import (
    EMBEDDING,
    EPS_KEY,
    EXPERT_KEYS,
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
    gated_mlp,
    qk_norm,
    shared_expert,
)

_FULL, _SLIDING = "full_attention", "sliding_attention"
_FIRST, _FUSED = Is(MLP_TYPES, "dense"), Is("experts_are_fused")
_MOE = LAYER_PREFIX + "moe."
_OTHER = "attention_other_setting."  # of layers with a window
_GATE_UP = (Role.FFN_GATE_EXPS, Role.FFN_UP_EXPS)
_SAME = {
    f"{_OTHER}num_attention_groups": KV_HEADS, f"{_OTHER}head_dim": HEAD_DIM, "query_pre_attn_scalar": HEAD_DIM,
    "moe_router_activation": "sigmoid", "use_head_wise_attn_gate": True, "norm_expert_weight": True,
}  # fmt: skip

_STEP = HFClass(
    "step3p5",
    {
        "vocab_size": 128815, "hidden_size": 4096, "intermediate_size": 11264, "num_hidden_layers": 45,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "hidden_act": "silu",
        "max_position_embeddings": 128000, "rms_norm_eps": 1e-5, "pad_token_id": 1, "num_experts_per_tok": 8,
        "output_router_logits": False, "mlp_layer_types": None, "layer_types": None, "moe_intermediate_size": 1280,
        "num_local_experts": 288, "share_expert_dim": 1280, "sliding_window": None, "attention_bias": False,
        "moe_router_scaling_factor": 1.0, "mlp_bias": False, "swiglu_limits": None, "swiglu_limits_shared": None,
        "mtp_layer_types": None, "mtp_mlp_layer_types": None,
    },
    {  # of several names for a key, the last is written
        "num_attention_groups": "num_key_value_heads", "num_key_value_heads": "num_key_value_heads",
        "moe_num_experts": "num_local_experts", "n_routed_experts": "num_local_experts",
        "moe_top_k": "num_experts_per_tok", "num_experts_per_tok": "num_experts_per_tok",
        "share_expert_dims": "share_expert_dim", "share_expert_dim": "share_expert_dim",
        "partial_rotary_factors": "partial_rotary_factor",
    },
    parts=("attention_other_setting",),
)  # fmt: skip


def _norm(name: str, role: Role) -> Rule:
    return Rule(LAYER_PREFIX + name, role, (EMBD,), ADD_ONE)


STEP35 = Arch(
    name="step35",
    classes={
        "Step3p7ForConditionalGeneration": replace(_STEP, wraps="step3p7"),
        "Step3p5ForCausalLM": _STEP,
    },
    config=(
        *SIZE_KEYS[:4],
        Alternating("num_attention_heads", "attention.head_count", "", "num_sliding_attention_heads", _SLIDING),
        Repeated("num_key_value_heads", "attention.head_count_kv"),
        Rope(sliding="rope_theta", parts=(0.5, 1.0)),
        EPS_KEY,
        *EXPERT_KEYS,
        Constant("expert_gating_func", 2),
        *HEAD_DIM_KEYS,
        Key("sliding_window", "attention.sliding_window"),
        LayerFlags("layer_types", "attention.sliding_window_pattern"),
        Key("moe_intermediate_size", "expert_feed_forward_length"),
        Key("share_expert_dim", "expert_shared_feed_forward_length"),
        Key("moe_router_scaling_factor", "expert_weights_scale"),
        Constant("expert_weights_norm", True),
        LeadingDense(),
        Constant("moe_every_n_layers", 1),
        Limits("swiglu_limits", "swiglu_clamp_exp"),
        Limits("swiglu_limits_shared", "swiglu_clamp_shexp"),
    ),
    rules=(
        EMBEDDING,
        _norm("input_layernorm", Role.ATTN_NORM),
        *attention(),
        *qk_norm(*ADD_ONE),
        Rule(LAYER_PREFIX + "self_attn.g_proj", Role.ATTN_GATE, (HEADS, EMBD)),
        _norm("post_attention_layernorm", Role.FFN_NORM),
        *gated_mlp(when=_FIRST),
        Rule(_MOE + "gate", Role.FFN_GATE_INP, (EXPERTS, EMBD), when=~_FIRST),
        correction(_MOE + "router_bias", ~_FIRST),
        Rule(_MOE + "gate_proj", Role.FFN_GATE_EXPS, (EXPERTS, EXPERT_FF, EMBD), when=~_FIRST & ~_FUSED),
        Rule(_MOE + "up_proj", Role.FFN_UP_EXPS, (EXPERTS, EXPERT_FF, EMBD), when=~_FIRST & ~_FUSED),
        Rule(
            LAYER_PREFIX + "mlp.experts.gate_up_proj", _GATE_UP, (EXPERTS, 2 * EXPERT_FF, EMBD),
            (Split((EXPERT_FF, EXPERT_FF), axis=1),), when=~_FIRST & _FUSED, tensor=True,
        ),
        Rule(_MOE + "down_proj", Role.FFN_DOWN_EXPS, (EXPERTS, EMBD, EXPERT_FF), when=~_FIRST),
        *shared_expert(at=LAYER_PREFIX + "share_expert.", width=Dim("share_expert_dim"), when=~_FIRST),
        Rule("model.norm", Role.OUTPUT_NORM, (EMBD,), ADD_ONE),
        OWN_HEAD,
    ),
    fixed={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
    needs={
        "layer_types": HasWord("layer_types", _SLIDING),
        "rope_parameters": (RopeIs(_FULL, "rope_type", "default") | RopeIs(_FULL, "rope_type", "llama3"))
        & RopeIs(_SLIDING, "rope_type", "default"),
        "partial_rotary_factors": RopeIs(_FULL, "partial_rotary_factor", 0.5)
        & (RopeIs(_SLIDING, "partial_rotary_factor", 1.0) | RopeIs(_SLIDING, "partial_rotary_factor", None)),
        **{key: NoOther(key, value) for key, value in _SAME.items()},
    },
    implied={
        "layer_types": LayerPattern(_FULL, _FULL, Dim(1)),
        MLP_TYPES: Numbered("moe_layers_enum", "sparse", "dense", 3),
        "num_sliding_attention_heads": If(
            Is(f"{_OTHER}num_attention_heads"), Dim(f"{_OTHER}num_attention_heads"), HEADS
        ),
        "query_pre_attn_scalar": HEAD_DIM,
        "per_layer_config": LayerOverrides(_SLIDING, {"num_attention_heads": "num_sliding_attention_heads"}),
    },
    roots=TEXT_ROOTS,
    spellings={
        "mlp.gate.e_score_correction_bias": "moe.router_bias", "mlp.gate.weight": "moe.gate.weight",
        "mlp.experts.down_proj": "moe.down_proj.weight", "mlp.shared_experts.": "share_expert.",
    },
    layouts=FUSED_EXPERTS,
    extras=(*VISION, LeftOut("vit_large_projector.*", "projector"), FURTHER_LAYERS),
)  # fmt: skip
