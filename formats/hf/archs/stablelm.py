"""StableLM 3B, StableLM 2 1.6B and 12B.

Sources: StableLmConfig of transformers 5.23; conversion/stablelm.py of llama.cpp.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import ALWAYS, HEAD_DIM, HEADS, KV_HEADS, Dim, Is
from ..tables.ops import Stack
from ..tables.rows import Key, Rope
from ..tables.rules import Arch, HFClass, Rule
from .shared import ATTN_NORM, EMBEDDING, FFN_NORM, FINAL_NORM, LAYER_PREFIX, OWN_HEAD, SIZE_KEYS, attention, gated_mlp


def _norms(hf: str, role: Role, heads: Dim) -> Rule:
    """Norms with a tensor for each head."""
    at, own = LAYER_PREFIX + f"self_attn.{hf}.norms.{{expert}}", Is("qk_layernorm")
    return Rule(at, role, (HEAD_DIM,), (Stack(),), when=own, each=heads)


STABLELM = Arch(
    name="stablelm",
    classes={
        "StableLmForCausalLM": HFClass(
            "stablelm",
            {
                "vocab_size": 50304, "hidden_size": 2560, "intermediate_size": 6912, "num_hidden_layers": 32,
                "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096,
                "hidden_act": "silu", "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25, "use_qkv_bias": False,
                "qk_layernorm": False, "use_parallel_residual": False, "hidden_dropout": 0.0,
                "bos_token_id": 0, "eos_token_id": 0,
            },
        )
    },
    config=(
        *SIZE_KEYS,
        Rope(dimension=True),
        Key("use_parallel_residual", "use_parallel_residual"),
        Key("layer_norm_eps", "attention.layer_norm_epsilon"),
    ),
    rules=(
        EMBEDDING,
        replace(ATTN_NORM, bias=ALWAYS),
        *attention(bias="use_qkv_bias"),
        _norms("q_layernorm", Role.ATTN_Q_NORM, HEADS),
        _norms("k_layernorm", Role.ATTN_K_NORM, KV_HEADS),
        replace(FFN_NORM, bias=ALWAYS, when=~Is("use_parallel_residual")),
        *gated_mlp(),
        replace(FINAL_NORM, bias=ALWAYS),
        OWN_HEAD,
    ),
    fixed={"hidden_act": "silu"},
)  # fmt: skip
