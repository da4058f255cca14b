"""Nemotron 3 and 4, Minitron.

Sources: NemotronConfig of transformers 5.23; conversion/nemotron.py of llama.cpp.
"""

from __future__ import annotations

from ...ir import Role
from ..tables.dimensions import EMBD, FF, Equal, Q
from ..tables.rows import Key, Rope
from ..tables.rules import Arch, HFClass, Rule
from ..tables.values import Add
from .shared import EMBEDDING, HEAD_DIM_KEYS, LAYER_PREFIX, OWN_HEAD, SIZE_KEYS, attention


def _norm(hf: str, role: Role) -> tuple[Rule, Rule]:
    """A norm whose weight the checkpoint stores minus one, and its bias."""
    return (
        Rule(hf, role, (EMBD,), (Add(1.0),)),
        Rule(hf + ".bias", role, (EMBD,), tensor=True, part="bias"),
    )


NEMOTRON = Arch(
    name="nemotron",
    classes={
        "NemotronForCausalLM": HFClass(
            "nemotron",
            {
                "vocab_size": 256000, "hidden_size": 6144, "intermediate_size": 24576, "num_hidden_layers": 32,
                "num_attention_heads": 48, "num_key_value_heads": None, "max_position_embeddings": 4096,
                "hidden_act": "relu2", "norm_eps": 1e-5, "partial_rotary_factor": 0.5, "attention_bias": False,
                "mlp_bias": False, "initializer_range": 0.0134, "bos_token_id": 2, "eos_token_id": 3,
            },
        )
    },
    config=(
        *SIZE_KEYS,
        Rope(dimension=True, says_none=True),
        *HEAD_DIM_KEYS,
        Key("vocab_size", "vocab_size"),
        Key("norm_eps", "attention.layer_norm_rms_epsilon"),  # as llama.cpp's converter: it is no RMS norm's
        Key("norm_eps", "attention.layer_norm_epsilon"),
    ),
    rules=(
        EMBEDDING,
        *attention(bias="attention_bias", out_bias="attention_bias"),
        Rule(LAYER_PREFIX + "mlp.up_proj", Role.FFN_UP, (FF, EMBD), bias="mlp_bias"),
        Rule(LAYER_PREFIX + "mlp.down_proj", Role.FFN_DOWN, (EMBD, FF), bias="mlp_bias"),
        *_norm(LAYER_PREFIX + "input_layernorm", Role.ATTN_NORM),
        *_norm(LAYER_PREFIX + "post_attention_layernorm", Role.FFN_NORM),
        *_norm("model.norm", Role.OUTPUT_NORM),
        OWN_HEAD,
    ),
    fixed={"hidden_act": "relu2"},
    needs={"head_dim": Equal(Q, EMBD)},
)  # fmt: skip
