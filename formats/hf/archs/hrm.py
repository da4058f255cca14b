"""HRM-Text: two stacks of blocks that run in turn, several times over.

Sources: HrmTextConfig of transformers 5.23; conversion/hrm_text.py of llama.cpp, whose ``block_count`` is the number of
times that a block is run. A prefix that attends in both directions, ``prefix_lm``, is what a caller asks for.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import EMBD, FF, HEADS, KV_HEADS, LAYERS, NEVER, Dim, Equal, Is, Q, Reciprocal
from ..tables.ops import Split
from ..tables.rows import Computed, Key, Rope
from ..tables.rules import Arch, HFClass, Rule
from .shared import EMBEDDING, EPS_KEY, HEAD, HEAD_DIM_KEYS, SIZE_KEYS, attention, gated_mlp

_STACK, _H, _L = Dim("num_layers_per_stack"), Dim("H_cycles"), Dim("L_cycles")
_RUNS = _STACK * _H * (_L + 1)
_FUSED = Is("projections_are_fused")  # as published, and as transformers saves them in the published layout
_GATE_QKV = (Role.ATTN_GATE, Role.ATTN_Q, Role.ATTN_K, Role.ATTN_V)


def _stack(name: str, after: Dim | None) -> tuple[Rule, ...]:
    at = f"model.{name}.layers.{{layer}}."
    *qkv, _ = attention(at=at + "self_attn.", when=~_FUSED)
    *gate_up, _ = gated_mlp(at=at + "mlp.", when=~_FUSED)
    rules = (
        Rule(at + "attn.gqkv_proj", _GATE_QKV, (4 * Q, EMBD), (Split((Q, Q, Q, Q)),), when=_FUSED),
        Rule(at + "attn.o_proj", Role.ATTN_OUTPUT, (EMBD, Q), when=_FUSED),
        Rule(at + "self_attn.gate_proj", Role.ATTN_GATE, (Q, EMBD), when=~_FUSED),
        *qkv,
        Rule(at + "self_attn.o_proj", Role.ATTN_OUTPUT, (EMBD, Q), when=~_FUSED),
        Rule(at + "mlp.gate_up_proj", (Role.FFN_GATE, Role.FFN_UP), (2 * FF, EMBD), (Split((FF, FF)),), when=_FUSED),
        *gate_up,
        Rule(at + "mlp.down_proj", Role.FFN_DOWN, (EMBD, FF)),
    )
    return tuple(replace(rule, layers="num_layers_per_stack", after=after) for rule in rules)


HRM_TEXT = Arch(
    name="hrm_text",
    classes={
        "HrmTextForCausalLM": HFClass(
            "hrm_text",
            {
                "vocab_size": 151808, "hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 16,
                "num_attention_heads": 12, "hidden_act": "silu", "max_position_embeddings": 2048, "head_dim": 128,
                "rms_norm_eps": 1e-6, "attention_bias": False, "mlp_bias": False, "H_cycles": 2, "L_cycles": 3,
                "L_bp_cycles": None, "embedding_scale": None, "prefix_lm": True, "num_layers_per_stack": None,
            },
        )
    },
    config=(
        Computed("block_count", _RUNS),
        Key("num_hidden_layers", "block_count", when=NEVER),
        *(row for row in SIZE_KEYS if row.hf not in ("num_hidden_layers", "num_key_value_heads")),
        Rope(),
        EPS_KEY,
        *HEAD_DIM_KEYS,
        Key("head_dim", "rope.dimension_count"),
        Key("embedding_scale", "embedding_scale"),
        Key("num_layers_per_stack", "hrm.layers_per_stack"),
        Key("H_cycles", "hrm.h_cycles"),
        Key("L_cycles", "hrm.l_cycles"),
        Key("prefix_lm", "hrm.prefix_lm"),
    ),
    rules=(
        EMBEDDING,
        Rule("model.z_L_init", Role.HRM_Z_L_INIT, (EMBD,), tensor=True, part=""),
        *_stack("L_module", None),
        *_stack("H_module", _STACK),
        HEAD,
    ),
    fixed={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
    needs={
        "num_layers_per_stack": Equal(LAYERS, _RUNS) | Equal(LAYERS, _STACK),
        "num_key_value_heads": Equal(KV_HEADS, HEADS),
    },
    implied={"num_layers_per_stack": LAYERS, "embedding_scale": Reciprocal("initializer_range")},
    layouts={_FUSED.key: "*.attn.gqkv_proj*"},
)  # fmt: skip
