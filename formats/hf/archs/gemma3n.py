"""Gemma 3n, text: several predictions of each layer's result (AltUp), a low-rank residual (LAuReL), an input of its own
for each layer, and layers that take the keys of earlier ones.

Sources: Gemma3nTextConfig of transformers 5.23; conversion/gemma.py of llama.cpp, whose
logits differ.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import (
    EMBD,
    FF,
    HEAD_DIM,
    KV,
    LAYERS,
    VOCAB,
    Dim,
    Is,
    LayerPattern,
    Q,
)
from ..tables.extras import LeftOut
from ..tables.layer_rows import PerLayer
from ..tables.ops import Stack
from ..tables.padding import PadRows
from ..tables.rows import Key, LayerFlags, Rope
from ..tables.rules import Arch, HFClass, Rule
from ..tables.sparsity import Sparsity
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    EPS_KEY,
    FINAL_NORM,
    HEAD,
    HEAD_DIM_KEYS,
    LAYER_PREFIX,
    SIZE_KEYS,
    TEXT_ROOTS,
    TIED_HEAD,
    VISION,
    gated_mlp,
)

_INPUT, _INPUTS, _RANK = Dim("hidden_size_per_layer_input"), Dim("altup_num_inputs"), Dim("laurel_rank")
_OWN_VOCAB = Dim("vocab_size_per_layer_input")
_ATTN, _ALTUP, _LAUREL = (LAYER_PREFIX + part for part in ("self_attn.", "altup.", "laurel."))
# llama.cpp loads them of all layers, also of those that take the keys of earlier ones; published checkpoints have them.
_OWN = (
    Rule(_ATTN + "k_proj", Role.ATTN_K, (KV, EMBD)),
    Rule(_ATTN + "v_proj", Role.ATTN_V, (KV, EMBD)),
    Rule(_ATTN + "k_norm", Role.ATTN_K_NORM, (HEAD_DIM,)),
)
_TEXT = HFClass(
    "gemma3n_text",
    {
        "vocab_size": 262400, "hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 35,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "pad_token_id": 0, "eos_token_id": 1,
        "bos_token_id": 2, "tie_word_embeddings": True, "attention_bias": False, "sliding_window": 512,
        "layer_types": None, "final_logit_softcapping": 30.0, "vocab_size_per_layer_input": 262144,
        "hidden_size_per_layer_input": 256, "altup_active_idx": 0, "altup_coef_clip": 120.0,
        "altup_correct_scale": True, "altup_num_inputs": 4, "num_kv_shared_layers": 15, "laurel_rank": 64,
        "activation_sparsity_pattern": None, "rope_theta": 1e6,
    },
)  # fmt: skip


def _norm(hf: str, role: Role) -> Rule:
    return Rule(LAYER_PREFIX + hf, role, (EMBD,))


GEMMA3N = Arch(
    name="gemma3n",
    classes={
        "Gemma3nForCausalLM": _TEXT,
        "Gemma3nForConditionalGeneration": replace(_TEXT, text_of="Gemma3nForCausalLM"),
    },
    config=(
        *(PerLayer(row.hf, row.gguf) if row.hf == "intermediate_size" else row for row in SIZE_KEYS),
        Rope(sliding="rope_local_base_freq"),
        EPS_KEY,
        *HEAD_DIM_KEYS,
        Key("final_logit_softcapping", "final_logit_softcapping", optional=True),
        Key("sliding_window", "attention.sliding_window"),
        Key("altup_active_idx", "altup.active_idx"),
        Key("altup_num_inputs", "altup.num_inputs"),
        Key("hidden_size_per_layer_input", "embedding_length_per_layer_input"),
        Key("num_kv_shared_layers", "attention.shared_kv_layers"),
        Sparsity("activation_sparsity_pattern", "activation_sparsity_scale"),
        LayerFlags("layer_types", "attention.sliding_window_pattern"),
    ),
    rules=(
        EMBEDDING,
        Rule(
            "model.embed_tokens_per_layer", Role.PER_LAYER_TOKEN_EMBD, (_OWN_VOCAB, LAYERS * _INPUT),
            (PadRows(_OWN_VOCAB, VOCAB),),
        ),
        Rule("model.per_layer_model_projection", Role.PER_LAYER_MODEL_PROJ, (LAYERS * _INPUT, EMBD)),
        Rule("model.per_layer_projection_norm", Role.PER_LAYER_PROJ_NORM, (_INPUT,)),
        Rule("model.altup_projections.{expert}", Role.ALTUP_PROJ, (EMBD, EMBD), (Stack(),), each=_INPUTS - Dim(1)),
        Rule(
            "model.altup_unembed_projections.{expert}", Role.ALTUP_UNEMBD_PROJ, (EMBD, EMBD), (Stack(),),
            each=_INPUTS - Dim(1),
        ),
        ATTN_NORM,
        Rule(_ATTN + "q_proj", Role.ATTN_Q, (Q, EMBD)),
        *_OWN,
        Rule(_ATTN + "o_proj", Role.ATTN_OUTPUT, (EMBD, Q)),
        Rule(_ATTN + "q_norm", Role.ATTN_Q_NORM, (HEAD_DIM,)),
        _norm("post_attention_layernorm", Role.ATTN_POST_NORM),
        _norm("pre_feedforward_layernorm", Role.FFN_NORM),
        *gated_mlp(width=FF),
        _norm("post_feedforward_layernorm", Role.FFN_POST_NORM),
        Rule(_ALTUP + "correct_output_scale", Role.ALTUP_CORRECT_SCALE, (EMBD,), tensor=True),
        Rule(_ALTUP + "correction_coefs", Role.ALTUP_CORRECT_COEF, (_INPUTS, _INPUTS)),
        Rule(_ALTUP + "prediction_coefs", Role.ALTUP_PREDICT_COEF, (_INPUTS * _INPUTS, _INPUTS)),
        Rule(_ALTUP + "modality_router", Role.ALTUP_ROUTER, (_INPUTS, EMBD)),
        Rule(_ALTUP + "router_norm", Role.ALTUP_ROUTER_NORM, (EMBD,)),
        Rule(_LAUREL + "linear_left", Role.LAUREL_L, (_RANK, EMBD)),
        Rule(_LAUREL + "linear_right", Role.LAUREL_R, (EMBD, _RANK)),
        Rule(_LAUREL + "post_laurel_norm", Role.LAUREL_POST_NORM, (EMBD,)),
        Rule(LAYER_PREFIX + "per_layer_input_gate", Role.PER_LAYER_INP_GATE, (_INPUT, EMBD)),
        Rule(LAYER_PREFIX + "per_layer_projection", Role.PER_LAYER_PROJ, (EMBD, _INPUT)),
        _norm("post_per_layer_input_norm", Role.PER_LAYER_POST_NORM),
        FINAL_NORM,
        HEAD,
    ),
    fixed={
        "hidden_activation": "gelu_pytorch_tanh", "attention_bias": False, "altup_num_inputs": 4,
        "altup_correct_scale": True, "laurel_rank": 64,
    },
    needs={"activation_sparsity_pattern": Is("activation_sparsity_pattern")},
    implied={"layer_types": LayerPattern("sliding_attention", "full_attention", Dim(5))},
    roots=TEXT_ROOTS,
    extras=(TIED_HEAD, *VISION, LeftOut("*embed_vision.*", "vision tower"), LeftOut("*audio*", "audio tower")),
    by_converter="llama.cpp's logits differ, by a percent and more of their range",
)  # fmt: skip
