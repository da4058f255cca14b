"""Muse Glimmer, text: a gate of attention's output, a fixed scale of queries, layers without positions.

Sources: MuseGlimmerTextConfig of transformers 5.23; conversion/muse_glimmer.py of llama.cpp, which writes the scale as
the weights of norms that no checkpoint has.
"""

from __future__ import annotations

from ...ir import Role
from ..tables.constants import Before, Filled
from ..tables.dimensions import EMBD, HEAD_DIM, HEADS, Dim, LayerPattern, Q
from ..tables.extras import LeftOut
from ..tables.layer_kinds import TurnsInOneKind
from ..tables.ops import PermuteRope
from ..tables.rows import Key, LayerFlags, Rope
from ..tables.rules import LANGUAGE_MODEL, Arch, HFClass, Rule
from ..tables.values import Add
from .shared import (
    EMBEDDING,
    EPS_KEY,
    FINAL_NORM,
    HEAD_DIM_KEYS,
    LAYER_PREFIX,
    OWN_HEAD,
    SIZE_KEYS,
    TEXT_ROOTS,
    VISION,
    attention,
    gated_mlp,
)

_SCALES = Before((Filled("qk_scale_factor", HEAD_DIM), Filled(1.0, HEAD_DIM)))
_ROLES = (Role.ATTN_Q_NORM, Role.ATTN_K_NORM, Role.ATTN_Q)


def _norm(hf: str, role: Role) -> Rule:
    return Rule(LAYER_PREFIX + hf, role, (EMBD,), (Add(1.0),))


MUSE_GLIMMER = Arch(
    name="muse-glimmer",
    classes={
        "MuseGlimmerForConditionalGeneration": HFClass(
            "muse_glimmer_text",
            {
                "vocab_size": 202048, "hidden_size": 6656, "intermediate_size": 19968, "num_hidden_layers": 52,
                "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "hidden_activation": "silu",
                "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "eos_token_id": 200001, "bos_token_id": 200000,
                "attention_bias": False, "sliding_window": 2048, "layer_types": None, "final_logit_softcapping": 20.0,
                "qk_scale_factor": 3.87, "output_multiplier": 0.19611613513818404, "post_norm_eps": 1e-8,
                "layer_rope_theta": None, "tie_word_embeddings": False,
            },
            wraps="muse_glimmer",
            root=LANGUAGE_MODEL,
        )
    },
    config=(
        *SIZE_KEYS,
        Rope(),
        EPS_KEY,
        *HEAD_DIM_KEYS,
        Key("final_logit_softcapping", "final_logit_softcapping"),
        Key("output_multiplier", "logit_scale"),
        Key("sliding_window", "attention.sliding_window"),
        LayerFlags("layer_types", "attention.sliding_window_pattern"),
    ),
    rules=(
        EMBEDDING,
        _norm("input_layernorm", Role.ATTN_NORM),
        Rule(LAYER_PREFIX + "self_attn.q_proj", _ROLES, (Q, EMBD), (PermuteRope(HEADS), _SCALES)),
        *attention(permute=True)[1:],
        Rule(LAYER_PREFIX + "self_attn.gate_proj", Role.ATTN_GATE, (Q, EMBD)),
        _norm("post_attention_layernorm", Role.ATTN_POST_NORM),
        _norm("pre_feedforward_layernorm", Role.FFN_NORM),
        *gated_mlp(),
        _norm("post_feedforward_layernorm", Role.FFN_POST_NORM),
        FINAL_NORM,
        OWN_HEAD,
    ),
    fixed={"hidden_activation": "silu", "attention_bias": False, "post_norm_eps": 1e-8},
    needs={"layer_rope_theta": TurnsInOneKind("layer_rope_theta", "sliding_attention")},
    implied={
        "layer_types": LayerPattern("sliding_attention", "full_attention", Dim(4), last=True),
    },
    roots=TEXT_ROOTS,
    extras=(*VISION, LeftOut("*vision_adapter.*", "vision tower"), LeftOut("*vision_projection.*", "vision tower")),
)  # fmt: skip
