"""Qwen 2, 2.5 and 3, dense and with experts; Qwen3-Next.

Sources: their config classes in transformers 5.23; conversion/qwen.py of llama.cpp.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import ALWAYS, CLASSIFIES, EMBD, LABELS, CountOf, Dim, Equal, Implied, Is, LayerPattern, Q
from ..tables.ops import Reshape, Split, Ungroup
from ..tables.rows import Computed, Constant, Key, Labels, LayerFlags, Rope
from ..tables.rules import Arch, Further, HFClass, Rule
from ..tables.values import Add, NegExp
from .shared import (
    ATTN_NORM,
    AUDIO,
    EMBEDDING,
    EPS_KEY,
    EXPERT_KEYS,
    FFN_NORM,
    FINAL_NORM,
    HEAD,
    HEAD_DIM_KEYS,
    KEYS,
    LAYER_PREFIX,
    OWN_HEAD,
    SIZE_KEYS,
    TEXT_ROOTS,
    VISION,
    around,
    attention,
    beside,
    experts,
    gated_mlp,
    qk_norm,
    shared_expert,
)

_DENSE = {
    "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
}  # fmt: skip
_EXPERTS = {
    "hidden_size": 2048, "num_hidden_layers": 24, "num_local_experts": 60, "num_experts_per_tok": 4,
    "decoder_sparse_step": 1, "router_aux_loss_coef": 0.001, "output_router_logits": False,
}  # fmt: skip
NAMES = {"num_experts": "num_local_experts"}
_FIXED = {"hidden_act": "silu", "use_sliding_window": (False, None)}
# In llama.cpp every layer has experts.
_ALL_SPARSE = {"decoder_sparse_step": 1, "mlp_only_layers": ([], None)}

_QWEN2 = HFClass("qwen2", _DENSE)
_QWEN3 = HFClass("qwen3", _DENSE | {"head_dim": 128, "attention_bias": False})

QWEN2 = Arch(
    name="qwen2",
    classes={
        "Qwen2ForCausalLM": _QWEN2,
        **around("Qwen2ForCausalLM", _QWEN2, "Qwen2AudioForConditionalGeneration"),
        **around("Qwen2ForCausalLM", _QWEN2, "AudioFlamingo3ForConditionalGeneration"),
        **around("Qwen2ForCausalLM", _QWEN2, "MusicFlamingoForConditionalGeneration"),
        **around("Qwen2ForCausalLM", _QWEN2, "LlavaForConditionalGeneration/qwen2"),
        **around("Qwen2ForCausalLM", _QWEN2, "LlavaOnevisionForConditionalGeneration"),
        **around("Qwen2ForCausalLM", _QWEN2, "InternVLForConditionalGeneration/qwen2", ties=True),
    },
    config=KEYS,
    rules=(EMBEDDING, ATTN_NORM, *attention(bias=ALWAYS), FFN_NORM, *gated_mlp(), FINAL_NORM, HEAD),
    fixed=_FIXED,
    pools=True,
    roots=TEXT_ROOTS,
    extras=(*VISION, *AUDIO, *beside("image_newline", "vision tower")),
    refused={"Qwen2ForSequenceClassification": "llama.cpp's qwen2 loads no classifier"},
)

QWEN3 = Arch(
    name="qwen3",
    classes={
        "Qwen3ForCausalLM": _QWEN3,
        "Qwen3ForSequenceClassification": replace(_QWEN3, head="classifier"),
        **around("Qwen3ForCausalLM", _QWEN3, "InternVLForConditionalGeneration/qwen3", ties=True),
        **around("Qwen3ForCausalLM", _QWEN3, "LightOnOcrForConditionalGeneration", ties=True),
        **around("Qwen3ForCausalLM", _QWEN3, "LightOnOCRForConditionalGeneration", ties=True),  # as it was published
    },
    # a reranker, whose results llama.cpp makes probabilities
    config=(*KEYS, *HEAD_DIM_KEYS, Labels(), Constant("pooling_type", 4, when=CLASSIFIES)),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(),
        *qk_norm(),
        FFN_NORM,
        *gated_mlp(),
        FINAL_NORM,
        replace(HEAD, when=~CLASSIFIES),
        Rule("score", Role.CLS_OUT, (LABELS, EMBD), when=CLASSIFIES),
    ),
    fixed=_FIXED | {"attention_bias": False},
    needs={"num_labels": ~CLASSIFIES | Equal(LABELS, Dim(2))},
    implied={"num_labels": CountOf("id2label", 2)},
    pools=True,
    roots=TEXT_ROOTS,
    extras=VISION,
)

QWEN2_MOE = Arch(
    name="qwen2moe",
    classes={
        "Qwen2MoeForCausalLM": HFClass(
            "qwen2_moe",
            _DENSE
            | _EXPERTS
            | {"intermediate_size": 5632, "num_attention_heads": 16, "num_key_value_heads": 16, "qkv_bias": True}
            | {"moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632, "norm_topk_prob": False},
            NAMES,
        )
    },
    config=(
        *KEYS,
        *EXPERT_KEYS,
        Key("moe_intermediate_size", "expert_feed_forward_length"),
        Key("shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(bias="qkv_bias"),
        FFN_NORM,
        *experts(),
        Rule(LAYER_PREFIX + "mlp.shared_expert_gate", Role.FFN_GATE_INP_SHEXP, (Dim(1), EMBD)),
        *shared_expert(at=LAYER_PREFIX + "mlp.shared_expert.", width=Dim("shared_expert_intermediate_size")),
        FINAL_NORM,
        OWN_HEAD,
    ),
    fixed=_FIXED | _ALL_SPARSE | {"norm_topk_prob": False},
)

QWEN3_MOE = Arch(
    name="qwen3moe",
    classes={
        "Qwen3MoeForCausalLM": HFClass(
            "qwen3_moe",
            _DENSE
            | _EXPERTS
            | {"intermediate_size": 6144, "num_key_value_heads": 4, "num_local_experts": 128, "num_experts_per_tok": 8}
            | {"moe_intermediate_size": 768, "norm_topk_prob": False, "attention_bias": False},
            NAMES,
        )
    },
    config=(*KEYS, *EXPERT_KEYS, *HEAD_DIM_KEYS, Key("moe_intermediate_size", "expert_feed_forward_length")),
    rules=(EMBEDDING, ATTN_NORM, *attention(), *qk_norm(), FFN_NORM, *experts(), FINAL_NORM, HEAD),
    fixed=_FIXED | _ALL_SPARSE | {"norm_topk_prob": True, "attention_bias": False},
)

K_HEADS, V_HEADS = Dim("linear_num_key_heads"), Dim("linear_num_value_heads")
K_DIM, V_DIM = Dim("linear_key_head_dim"), Dim("linear_value_head_dim")
LINEAR_KEYS, VALUES = K_HEADS * K_DIM, V_HEADS * V_DIM
_GROUP = V_HEADS // K_HEADS * V_DIM  # values for each key head
LINEAR, KERNEL = Is("layer_types", "linear_attention"), Dim("linear_conv_kernel_dim")
DELTA = LAYER_PREFIX + "linear_attn."
ADD_ONE = (Add(1.0),)
DELTA_DEFAULTS = {
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16,
    "linear_num_value_heads": 32, "layer_types": None,
}  # fmt: skip
DELTA_ROWS = (
    Key("linear_conv_kernel_dim", "ssm.conv_kernel"),
    Key("linear_key_head_dim", "ssm.state_size"),
    Key("linear_value_head_dim", "ssm.state_size"),
    Key("linear_num_key_heads", "ssm.group_count"),
    Key("linear_num_value_heads", "ssm.time_step_rank"),
    Computed("ssm.inner_size", VALUES),
    Key("full_attention_interval", "full_attention_interval", optional=True),
    LayerFlags("layer_types", "attention.recurrent_layers", true="linear_attention"),
)
DELTA_IMPLIED: dict[str, Implied] = {
    "full_attention_interval": Dim(4),
    "layer_types": LayerPattern("linear_attention", "full_attention", Dim("full_attention_interval")),
}
DELTA_NEEDS = {"linear_value_head_dim": Equal(K_DIM, V_DIM)}
MTP = Further(
    "mtp_num_hidden_layers",
    (
        Rule("mtp.pre_fc_norm_embedding", Role.NEXTN_ENORM, (EMBD,), ADD_ONE),
        Rule("mtp.pre_fc_norm_hidden", Role.NEXTN_HNORM, (EMBD,), ADD_ONE),
        Rule("mtp.fc", Role.NEXTN_EH_PROJ, (EMBD, 2 * EMBD)),
        Rule("mtp.norm", Role.NEXTN_SHARED_HEAD_NORM, (EMBD,), ADD_ONE),
    ),
    at="mtp.layers.{number}.",
    sees={"layer_types": "full_attention"},
)
MTP_ROOTS = {"model.mtp.": "mtp."}

QWEN3_NEXT = Arch(
    name="qwen3next",
    classes={
        "Qwen3NextForCausalLM": HFClass(
            "qwen3_next",
            _DENSE
            | _EXPERTS
            | {"intermediate_size": 5632, "num_hidden_layers": 48, "num_attention_heads": 16, "num_key_value_heads": 2}
            | {"head_dim": 256, "num_local_experts": 512, "num_experts_per_tok": 10, "moe_intermediate_size": 512}
            | {"shared_expert_intermediate_size": 512, "norm_topk_prob": True, "attention_bias": False}
            | DELTA_DEFAULTS,
            NAMES,
        )
    },
    config=(
        *SIZE_KEYS,
        Rope(partial=0.25, dimension=True),
        EPS_KEY,
        *EXPERT_KEYS,
        *HEAD_DIM_KEYS,
        Key("moe_intermediate_size", "expert_feed_forward_length"),
        Key("shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
        *DELTA_ROWS,
        replace(MTP, hf=""),  # its config has no key for their number
    ),
    rules=(
        EMBEDDING,
        Rule(LAYER_PREFIX + "input_layernorm", Role.ATTN_NORM, (EMBD,), ADD_ONE),
        # For each head its queries, then its gate.
        Rule(LAYER_PREFIX + "self_attn.q_proj", Role.ATTN_Q, (2 * Q, EMBD), when=~LINEAR),
        *attention(when=~LINEAR)[1:],
        *qk_norm(*ADD_ONE, when=~LINEAR),
        Rule(
            DELTA + "in_proj_qkvz",
            (Role.ATTN_QKV, Role.ATTN_GATE),
            (2 * LINEAR_KEYS + 2 * VALUES, EMBD),
            (Ungroup(K_HEADS, (K_DIM, K_DIM, _GROUP, _GROUP)), Split((2 * LINEAR_KEYS + VALUES, VALUES))),
            when=LINEAR,
        ),
        Rule(DELTA + "in_proj_ba", Role.SSM_BETA_ALPHA, (2 * V_HEADS, EMBD), when=LINEAR),
        Rule(
            DELTA + "conv1d",
            Role.SSM_CONV1D,
            (2 * LINEAR_KEYS + VALUES, Dim(1), KERNEL),
            (Reshape((-1, 1, KERNEL), (-1, KERNEL)),),
            when=LINEAR,
        ),
        Rule(DELTA + "dt_bias", Role.SSM_DT, (V_HEADS,), when=LINEAR, tensor=True, part="bias"),
        Rule(DELTA + "A_log", Role.SSM_A, (V_HEADS,), (NegExp(),), when=LINEAR, tensor=True, part=""),
        Rule(DELTA + "norm", Role.SSM_NORM, (V_DIM,), when=LINEAR),
        Rule(DELTA + "out_proj", Role.SSM_OUT, (EMBD, VALUES), when=LINEAR),
        Rule(LAYER_PREFIX + "post_attention_layernorm", Role.ATTN_POST_NORM, (EMBD,), ADD_ONE),
        *experts(),
        Rule(LAYER_PREFIX + "mlp.shared_expert_gate", Role.FFN_GATE_INP_SHEXP, (Dim(1), EMBD)),
        *shared_expert(at=LAYER_PREFIX + "mlp.shared_expert.", width=Dim("shared_expert_intermediate_size")),
        Rule("model.norm", Role.OUTPUT_NORM, (EMBD,), ADD_ONE),
        HEAD,
    ),
    fixed={"hidden_act": "silu", "norm_topk_prob": True, "attention_bias": False} | _ALL_SPARSE,
    needs=DELTA_NEEDS,
    implied=DELTA_IMPLIED,
    roots=MTP_ROOTS,
)
