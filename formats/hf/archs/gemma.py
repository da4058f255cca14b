"""Gemma 1 to 3, text, and EmbeddingGemma.

Sources: GemmaConfig, Gemma2Config and Gemma3TextConfig of transformers 5.23; conversion/gemma.py of llama.cpp.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import DENSE, DENSE_SIZES, EMBD, HEAD_DIM, HEADS, LAYERS, Condition, Dim, Equal, If, Is
from ..tables.rows import Key, LayerFlags, Rope
from ..tables.rules import Arch, HFClass, Rule
from ..tables.values import Add
from .shared import (
    EMBEDDING,
    EPS_KEY,
    HEAD,
    HEAD_DIM_KEYS,
    LAYER_PREFIX,
    SIZE_KEYS,
    TEXT_ROOTS,
    TIED_HEAD,
    VISION,
    attention,
    gated_mlp,
    qk_norm,
)

_COMMON = {
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "head_dim": 256, "attention_bias": False,
    "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "tie_word_embeddings": True,
}  # fmt: skip
_GELU = (
    "gelu_pytorch_tanh",
    "gelu",
)  # llama.cpp computes the tanh form, which is what the first checkpoints mean by gelu
_FIXED = {"attention_bias": False, "use_bidirectional_attention": (None, False)}
_NO_HEAD = _FIXED | {"tie_word_embeddings": (True, False)}  # untied only if the head is equal all the same
_SCALAR = Dim("query_pre_attn_scalar")


def _scalar(layers_of_27b: int) -> If:
    """llama.cpp scales by the head's size; for 27B, recognized by its layers, by the width per head."""
    return If(Equal(LAYERS, Dim(layers_of_27b)), EMBD // HEADS, HEAD_DIM)


def _norm(hf: str, role: Role) -> Rule:
    """A norm whose weight the checkpoint stores minus one."""
    return Rule(hf, role, (EMBD,), (Add(1.0),))


_ATTN_NORM = _norm(LAYER_PREFIX + "input_layernorm", Role.ATTN_NORM)
_FINAL_NORM = _norm("model.norm", Role.OUTPUT_NORM)
_BLOCK_NORMS = (
    _norm(LAYER_PREFIX + "post_attention_layernorm", Role.ATTN_POST_NORM),
    _norm(LAYER_PREFIX + "pre_feedforward_layernorm", Role.FFN_NORM),
    _norm(LAYER_PREFIX + "post_feedforward_layernorm", Role.FFN_POST_NORM),
)

GEMMA = Arch(
    name="gemma",
    classes={
        "GemmaForCausalLM": HFClass(
            "gemma",
            _COMMON
            | {"vocab_size": 256000, "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28}
            | {"num_attention_heads": 16, "num_key_value_heads": 16, "hidden_act": "gelu_pytorch_tanh"},
        )
    },
    config=(*SIZE_KEYS, Rope(), EPS_KEY, *HEAD_DIM_KEYS),
    rules=(
        EMBEDDING,
        _ATTN_NORM,
        *attention(),
        _norm(LAYER_PREFIX + "post_attention_layernorm", Role.FFN_NORM),
        *gated_mlp(),
        _FINAL_NORM,
    ),
    fixed=_NO_HEAD | {"hidden_act": _GELU},
    extras=(TIED_HEAD,),
)

GEMMA2 = Arch(
    name="gemma2",
    classes={
        "Gemma2ForCausalLM": HFClass(
            "gemma2",
            _COMMON
            | {"vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26}
            | {"num_attention_heads": 8, "num_key_value_heads": 4, "hidden_activation": "gelu_pytorch_tanh"}
            | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window": 4096}
            | {"query_pre_attn_scalar": 256},
        )
    },
    config=(
        *SIZE_KEYS,
        Rope(),
        EPS_KEY,
        *HEAD_DIM_KEYS,
        Key("attn_logit_softcapping", "attn_logit_softcapping", optional=True),
        Key("final_logit_softcapping", "final_logit_softcapping", optional=True),
        Key("sliding_window", "attention.sliding_window"),
    ),
    rules=(EMBEDDING, _ATTN_NORM, *attention(), *_BLOCK_NORMS, *gated_mlp(), _FINAL_NORM),
    fixed=_NO_HEAD | {"hidden_activation": _GELU},
    needs={"query_pre_attn_scalar": Equal(_SCALAR, _scalar(46))},
    implied={"query_pre_attn_scalar": _scalar(46)},
    extras=(TIED_HEAD,),
)

_GEMMA3 = HFClass(
    "gemma3_text",
    _COMMON
    | {"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26}
    | {"num_attention_heads": 8, "num_key_value_heads": 4, "hidden_activation": "gelu_pytorch_tanh"}
    | {"max_position_embeddings": 131072, "sliding_window": 4096, "query_pre_attn_scalar": 256, "rope_theta": 1e6}
    | {"attn_logit_softcapping": None, "final_logit_softcapping": None, "use_bidirectional_attention": False},
)
GEMMA3 = Arch(
    name="gemma3",
    classes={
        "Gemma3ForCausalLM": _GEMMA3,
        "Gemma3ForConditionalGeneration": replace(_GEMMA3, text_of="Gemma3ForCausalLM"),
    },
    config=(
        *SIZE_KEYS,
        Rope(sliding="rope_local_base_freq"),
        EPS_KEY,
        *HEAD_DIM_KEYS,
        Key("final_logit_softcapping", "final_logit_softcapping", optional=True),
        Key("sliding_window", "attention.sliding_window"),
        LayerFlags("layer_types", "attention.sliding_window_pattern", every="sliding_window_pattern"),
    ),
    rules=(EMBEDDING, _ATTN_NORM, *attention(), *qk_norm(Add(1.0)), *_BLOCK_NORMS, *gated_mlp(), _FINAL_NORM, HEAD),
    fixed=_FIXED | {"hidden_activation": _GELU, "attn_logit_softcapping": None},
    needs={"query_pre_attn_scalar": Equal(_SCALAR, _scalar(62))},
    implied={"query_pre_attn_scalar": _scalar(62)},
    roots=TEXT_ROOTS,
    extras=(TIED_HEAD, *VISION),
)

# The modules that follow the pooling, where sentence-transformers has some: there and back to the model's own width.
_OUT, _IN = (Dim(f"{name}.{end}_features") for name, end in zip(DENSE, ("out", "in"), strict=True))
_DENSE = Is(DENSE_SIZES[0])


def _fits(*sizes: tuple[str, Dim]) -> dict[str, Condition]:
    """What llama.cpp asserts: sizes of dense modules, by their keys."""
    return {key: ~_DENSE | Equal(Dim(key), size) for key, size in sizes}


GEMMA_EMBEDDING = Arch(
    name="gemma-embedding",
    classes={
        "Gemma3TextModel/bidirectional": replace(
            _GEMMA3,
            bare=True,
            defaults={**_GEMMA3.defaults, "use_bidirectional_attention": True},
            when=Is("use_bidirectional_attention"),
        )
    },
    config=(
        *(row for row in GEMMA3.config if getattr(row, "gguf", "") != "final_logit_softcapping"),
        *(
            Key(f"{name}.{end}_features", f"{name}_feat_{end}", optional=True)
            for name in DENSE
            for end in ("in", "out")
        ),
    ),
    rules=(
        *(rule for rule in GEMMA3.rules if rule is not HEAD),
        Rule("dense_2.linear", Role.DENSE_2, (_OUT, EMBD), when=_DENSE),
        Rule("dense_3.linear", Role.DENSE_3, (EMBD, _IN), when=_DENSE),
    ),
    fixed={
        "attention_bias": False, "use_bidirectional_attention": True, "hidden_activation": _GELU,
        "attn_logit_softcapping": None,
    },
    needs={"query_pre_attn_scalar": Equal(_SCALAR, HEAD_DIM)}
    | _fits((DENSE_SIZES[0], EMBD), (DENSE_SIZES[2], _OUT), (DENSE_SIZES[3], EMBD)),
    implied={"query_pre_attn_scalar": HEAD_DIM},
    pools=True,
)  # fmt: skip
