"""Falcon-H1: each layer runs Mamba 2 and attention side by side.

Sources: FalconH1Config of transformers 5.23; conversion/falcon_h1.py of llama.cpp, whose order of multiplications this
follows. The model's multipliers are in the weights there.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import EMBD, FF, CountOf, Dim, Equal, Is, Number
from ..tables.layer_words import Ones
from ..tables.ops import Concat, On, Split
from ..tables.rows import Key, Rope
from ..tables.rules import Arch, HFClass, Rule
from ..tables.values import Multiply
from .mamba import NO_LIMIT, mamba2
from .shared import ATTN_NORM, EMBEDDING, EPS_KEY, HEAD, HEAD_DIM_KEYS, LAYER_PREFIX, SIZE_KEYS, attention, gated_mlp

_INNER, _HEADS, _GROUPS, _STATE = (Dim(f"mamba_{name}") for name in ("d_ssm", "n_heads", "n_groups", "d_state"))
_SHARED = _GROUPS * _STATE  # rows of B, and of C

_ATTENTION_IN = Multiply(Number("attention_in_multiplier"))
_Q, _K, _V, _O = attention()
_GATE, _UP, _DOWN = gated_mlp(at=LAYER_PREFIX + "feed_forward.", width=FF)
_SSM_IN, *_SSM, _SSM_OUT = mamba2(
    LAYER_PREFIX + "mamba.",
    inner=_INNER,
    heads=_HEADS,
    groups=_GROUPS,
    state=_STATE,
    kernel=Dim("mamba_d_conv"),
    bias=Is("mamba_conv_bias"),
    norm=Is("mamba_rms_norm"),
)
_PARTS = (_INNER, _INNER, _SHARED, _SHARED, _HEADS)  # of what enters the mixer: z, x, B, C, time steps
_SSM_MULTIPLIERS = tuple(On((part,), Multiply(Number("ssm_multipliers", part))) for part in range(len(_PARTS)))

FALCON_H1 = Arch(
    name="falcon-h1",
    classes={
        "FalconH1ForCausalLM": HFClass(
            "falcon_h1",
            {
                "vocab_size": 128000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
                "hidden_act": "silu", "rms_norm_eps": 1e-5, "mamba_d_ssm": 1024, "mamba_n_heads": 128,
                "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_conv": 4, 
                "mamba_conv_bias": True, "mamba_proj_bias": False, "mamba_norm_before_gate": True,
                "mamba_rms_norm": False, "projectors_bias": False, "attention_bias": False, "mlp_bias": False,
                "lm_head_multiplier": 1.0, "embedding_multiplier": 1.0, "key_multiplier": 1.0,
                "attention_out_multiplier": 1.0, "attention_in_multiplier": 1.0, "ssm_in_multiplier": 1.0,
                "ssm_out_multiplier": 1.0, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
            },
        )
    },
    config=(
        *SIZE_KEYS,
        Rope(),
        EPS_KEY,
        *HEAD_DIM_KEYS,
        Key("vocab_size", "vocab_size"),
        Key("mamba_d_conv", "ssm.conv_kernel"),
        Key("mamba_d_state", "ssm.state_size"),
        Key("mamba_n_groups", "ssm.group_count"),
        Key("mamba_d_ssm", "ssm.inner_size"),
        Key("mamba_n_heads", "ssm.time_step_rank"),
    ),
    rules=(
        replace(EMBEDDING, ops=(Multiply(Number("embedding_multiplier")),)),
        ATTN_NORM,
        replace(_SSM_IN, ops=(Multiply(Number("ssm_in_multiplier")), Split(_PARTS), *_SSM_MULTIPLIERS, Concat(_PARTS))),
        *_SSM,
        replace(_SSM_OUT, ops=(Multiply(Number("ssm_out_multiplier")),)),
        replace(_Q, ops=(_ATTENTION_IN,)),
        replace(_K, ops=(Multiply(Number("key_multiplier")), _ATTENTION_IN)),
        replace(_V, ops=(_ATTENTION_IN,)),
        replace(_O, ops=(Multiply(Number("attention_out_multiplier")),)),
        Rule(LAYER_PREFIX + "pre_ff_layernorm", Role.FFN_NORM, (EMBD,), part=""),
        replace(_GATE, ops=(Multiply(Number("mlp_multipliers", 0)),)),
        _UP,
        replace(_DOWN, ops=(Multiply(Number("mlp_multipliers", 1)),)),
        Rule("model.final_layernorm", Role.OUTPUT_NORM, (EMBD,)),
        replace(HEAD, ops=(Multiply(Number("lm_head_multiplier")),)),
    ),
    fixed={
        "hidden_act": "silu", "mamba_proj_bias": False, "projectors_bias": False, "attention_bias": False,
        "mlp_bias": False, "tie_word_embeddings": False, "time_step_limit": NO_LIMIT,
    },
    needs={
        "mamba_norm_before_gate": ~Is("mamba_rms_norm") | ~Is("mamba_norm_before_gate"),
        "mlp_multipliers": Equal(CountOf("mlp_multipliers", 0), Dim(2)),
        "ssm_multipliers": Equal(CountOf("ssm_multipliers", 0), Dim(len(_PARTS))),
    },
    implied={"mlp_multipliers": Ones(2), "ssm_multipliers": Ones(len(_PARTS))},
    by_converter="the model's multipliers are in the weights",
    one_way="the model's multipliers are in the weights, and dividing by them does not give back the same",
)  # fmt: skip
