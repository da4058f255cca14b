"""Apertus: an MLP without a gate, whose activation, xIELU, has parameters of its own in each layer.

Sources: ApertusConfig and XIELUActivation of transformers 5.23; conversion/llama.py of llama.cpp, which keeps the
activation's parameters in the metadata.
"""

from __future__ import annotations

from ...ir import Role
from ..tables.dimensions import EMBD, FF, Dim
from ..tables.rows import Key
from ..tables.rules import Arch, HFClass, Rule
from .shared import EMBEDDING, FINAL_NORM, KEYS, LAYER_PREFIX, OWN_HEAD, attention, qk_norm

_XIELU = tuple(
    Rule(LAYER_PREFIX + f"mlp.act_fn.{name}", (), shape, tensor=True, key=f"xielu.{name}")
    for name, shape in (("alpha_n", (Dim(1),)), ("alpha_p", (Dim(1),)), ("beta", ()), ("eps", ()))
)

APERTUS = Arch(
    name="apertus",
    classes={
        "ApertusForCausalLM": HFClass(
            "apertus",
            {
                "vocab_size": 131072, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                "num_attention_heads": 32, "num_key_value_heads": None, "hidden_act": "xielu",
                "max_position_embeddings": 65536, "rms_norm_eps": 1e-5, "pad_token_id": 3, "bos_token_id": 1,
                "eos_token_id": 2, "attention_bias": False,
                "rope_parameters": {
                    "rope_type": "llama3", "rope_theta": 12000000.0, "factor": 8.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
                },
            },
        )
    },
    config=(*KEYS, Key("vocab_size", "vocab_size"), Key("head_dim", "rope.dimension_count")),
    rules=(
        EMBEDDING,
        Rule(LAYER_PREFIX + "attention_layernorm", Role.ATTN_NORM, (EMBD,)),
        *attention(),
        *qk_norm(),
        Rule(LAYER_PREFIX + "feedforward_layernorm", Role.FFN_NORM, (EMBD,)),
        Rule(LAYER_PREFIX + "mlp.up_proj", Role.FFN_UP, (FF, EMBD)),
        Rule(LAYER_PREFIX + "mlp.down_proj", Role.FFN_DOWN, (EMBD, FF)),
        *_XIELU,
        FINAL_NORM,
        OWN_HEAD,
    ),
    fixed={"hidden_act": "xielu", "attention_bias": False},
)  # fmt: skip
