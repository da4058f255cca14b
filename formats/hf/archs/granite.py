"""Granite 3 and 3.x, dense and with experts.

Sources: GraniteConfig, GraniteMoeConfig and GraniteMoeSharedConfig of transformers 5.23; conversion/granite.py of
llama.cpp. llama.cpp turns neighbouring pairs, as in Llama.
"""

from __future__ import annotations

from ...ir import Role
from ..ops import Split
from ..rows import Key
from ..rules import Arch, HFClass, Rule
from ..sizes import EMBD, EXPERTS, FF, Is, Size
from .blocks import ATTN_NORM, EMBEDDING, EXPERT_KEYS, FFN_NORM, FINAL_NORM, HEAD, KEYS, LAYER, attention, gated_mlp

_COMMON = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 2048, "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "bos_token_id": 1, "eos_token_id": 2, "attention_bias": False,
    "embedding_multiplier": 1.0, "logits_scaling": 1.0, "residual_multiplier": 1.0, "attention_multiplier": 1.0,
}  # fmt: skip
_EXPERTS = {
    "num_local_experts": 8, "num_experts_per_tok": 2, "output_router_logits": False, "router_aux_loss_coef": 0.001,
}  # fmt: skip
_SCALES = (
    Key("vocab_size", "vocab_size"),
    Key("head_dim", "rope.dimension_count"),
    Key("attention_multiplier", "attention.scale"),
    Key("embedding_multiplier", "embedding_scale"),
    Key("residual_multiplier", "residual_scale"),
    Key("logits_scaling", "logit_scale"),
)
_FIXED = {"hidden_act": "silu"}
_ATTENTION = attention(permute=True, bias="attention_bias", out_bias="attention_bias")
_SHARED_FF = Size("shared_intermediate_size")
_SHARED = Is("shared_intermediate_size")

GRANITE = Arch(
    name="granite",
    classes={"GraniteForCausalLM": HFClass("granite", _COMMON | {"mlp_bias": False})},
    config=(*KEYS, *_SCALES),
    rules=(EMBEDDING, ATTN_NORM, *_ATTENTION, FFN_NORM, *gated_mlp(bias="mlp_bias"), FINAL_NORM, HEAD),
    fixed=_FIXED,
)

_MOE = LAYER + "block_sparse_moe."

GRANITE_MOE = Arch(
    name="granitemoe",
    classes={
        "GraniteMoeForCausalLM": HFClass("granitemoe", _COMMON | _EXPERTS),
        "GraniteMoeSharedForCausalLM": HFClass(
            "granitemoeshared", _COMMON | _EXPERTS | {"shared_intermediate_size": 0}
        ),
    },
    config=(
        *KEYS,
        *EXPERT_KEYS,
        *_SCALES,
        Key("shared_intermediate_size", "expert_shared_feed_forward_length", optional=True),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *_ATTENTION,
        FFN_NORM,
        Rule(_MOE + "router.layer", Role.FFN_GATE_INP, (EXPERTS, EMBD)),
        Rule(
            _MOE + "input_linear",
            (Role.FFN_GATE_EXPS, Role.FFN_UP_EXPS),
            (EXPERTS, 2 * FF, EMBD),
            (Split((FF, FF), axis=1),),
        ),
        Rule(_MOE + "output_linear", Role.FFN_DOWN_EXPS, (EXPERTS, EMBD, FF)),
        Rule(
            LAYER + "shared_mlp.input_linear",
            (Role.FFN_GATE_SHEXP, Role.FFN_UP_SHEXP),
            (2 * _SHARED_FF, EMBD),
            (Split((_SHARED_FF, _SHARED_FF)),),
            when=_SHARED,
        ),
        Rule(LAYER + "shared_mlp.output_linear", Role.FFN_DOWN_SHEXP, (EMBD, _SHARED_FF), when=_SHARED),
        FINAL_NORM,
        HEAD,
    ),
    fixed=_FIXED,
)
