"""The text models of GLM-4.1V, GLM-4.5V and GLM-OCR.

Sources: their config classes in transformers 5.23; conversion/glm.py of llama.cpp. The rope of the dense ones turns
neighbouring pairs; llama.cpp's, where it has sections, turns halves: the rows of q and k move.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import ALWAYS, EMBD, HEAD_DIM, HEADS, KV_HEADS, Equal, Rotary
from ..tables.ops import PermuteRope
from ..tables.rules import LANGUAGE_MODEL, Arch, HFClass, Rule
from .glm import GLM4, GLM4_MOE
from .shared import FURTHER_LAYERS, HEAD_DIM_KEYS, TEXT_ROOTS, VISUAL, with_sections

_SECTIONS = (8, 12, 12)
_DENSE_KEYS = with_sections(GLM4.config, _SECTIONS)
_HALVES = {
    Role.ATTN_Q: (PermuteRope(HEADS, undo=True, turning=Rotary()),),
    Role.ATTN_K: (PermuteRope(KV_HEADS, undo=True, turning=Rotary()),),
}


def _dense(*, bias: bool) -> tuple[Rule, ...]:
    rules = (replace(rule, ops=_HALVES.get(rule.roles[0], rule.ops)) for rule in GLM4.rules)
    return tuple(replace(rule, bias=ALWAYS if bias and rule.bias else None) for rule in rules)


_GLM4V = HFClass(
    "glm4v_text",
    {
        "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40,
        "num_attention_heads": 32, "num_key_value_heads": 2, "hidden_act": "silu", "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5,
    },
    wraps="glm4v",
    root=LANGUAGE_MODEL,
)  # fmt: skip

GLM4V = Arch(
    name="glm4v",
    gguf_name="glm4",
    classes={"Glm4vForConditionalGeneration": _GLM4V},
    config=tuple(row for row in _DENSE_KEYS if row not in HEAD_DIM_KEYS),
    rules=_dense(bias=True),
    fixed=GLM4.fixed,
    needs={"head_dim": Equal(HEADS * HEAD_DIM, EMBD)},  # transformers reads no other
    roots=TEXT_ROOTS,
    extras=(*GLM4.extras, *VISUAL),
)

GLM_OCR = replace(
    GLM4V,
    name="glm-ocr",
    classes={
        "GlmOcrForConditionalGeneration": replace(
            _GLM4V,
            model_type="glm_ocr_text",
            defaults={**_GLM4V.defaults, "vocab_size": 59392, "hidden_size": 1024, "intermediate_size": 4096}
            | {"num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 8}
            | {"max_position_embeddings": 131072},
            wraps="glm_ocr",
        )
    },
    config=_DENSE_KEYS,
    rules=_dense(bias=False),
    needs={},
    extras=(FURTHER_LAYERS, replace(FURTHER_LAYERS, pattern="model.language_model.layers.{beyond}.*"), *VISUAL),
)

GLM4V_MOE = replace(
    GLM4_MOE,
    name="glm4v_moe",
    gguf_name="glm4moe",
    classes={
        "Glm4vMoeForConditionalGeneration": replace(
            GLM4_MOE.classes["Glm4MoeForCausalLM"],
            model_type="glm4v_moe_text",
            defaults={
                key: value for key, value in GLM4_MOE.classes["Glm4MoeForCausalLM"].defaults.items() if "qk" not in key
            }
            | {"vocab_size": 151424, "max_position_embeddings": 65536, "attention_bias": True}
            | {"tie_word_embeddings": False},
            wraps="glm4v_moe",
            root=LANGUAGE_MODEL,
        )
    },
    config=with_sections(GLM4_MOE.config, _SECTIONS),
    roots=TEXT_ROOTS,
    extras=(*GLM4_MOE.extras, *VISUAL),
)
