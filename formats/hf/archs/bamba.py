"""Bamba: layers of Mamba 2 and some of attention, each followed by an MLP; llama.cpp runs it as Granite 4.

Sources: BambaConfig of transformers 5.23; conversion/granite.py of llama.cpp. The rope turns half of each head, where
llama.cpp turns neighbouring pairs: the rows of that half alone are permuted (its own converter permutes all).
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import EMBD, HEAD_DIM, HEADS, KV_HEADS, Dim, Equal, Is, LayerIn
from ..tables.hybrid_rows import ListedAttention
from ..tables.ops import Concat, On, Op, PermuteRope, Split, Ungroup
from ..tables.rows import Computed, Constant, Key, Rope
from ..tables.rules import Arch, HFClass, Rule
from .mamba import NO_LIMIT, mamba2
from .shared import ATTN_NORM, EMBEDDING, EPS_KEY, HEAD, LAYER_PREFIX, SIZE_KEYS, attention, gated_mlp

_ROTARY = HEAD_DIM // 2
_ATTENTION = LayerIn("attn_layer_indices")
_N_HEADS, _GROUPS = Dim("mamba_n_heads"), Dim("mamba_n_groups")


def _permute(heads: Dim) -> tuple[Op, ...]:
    """``PermuteRope`` for the rows that turn, which come first in each head."""
    heads_apart = Ungroup(heads, (_ROTARY, HEAD_DIM - _ROTARY))
    parts = (heads * _ROTARY, heads * (HEAD_DIM - _ROTARY))
    return heads_apart, Split(parts), On((0,), PermuteRope(heads)), Concat(parts), heads_apart.inverse


_Q, _K, *_REST = attention(bias="attention_bias", out_bias="attention_bias", when=_ATTENTION)

BAMBA = Arch(
    name="bamba",
    gguf_name="granitehybrid",
    classes={
        "BambaForCausalLM": HFClass(
            "bamba",
            {
                "vocab_size": 128000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 262144,
                "hidden_act": "silu", "rms_norm_eps": 1e-5, "attn_layer_indices": None, "mamba_n_heads": 128,
                "mamba_d_head": "auto", "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_conv": 4,
                "mamba_expand": 2, "mamba_chunk_size": 256, "mamba_conv_bias": True, "mamba_proj_bias": False,
                "z_loss_coefficient": 0.0, "num_logits_to_keep": 1, "attention_bias": False, "mlp_bias": False,
                "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
            },
        )
    },
    config=(
        *(row for row in SIZE_KEYS if row.hf != "num_key_value_heads"),
        ListedAttention("attn_layer_indices"),
        Rope(partial=0.5, dimension=True),
        EPS_KEY,
        Key("vocab_size", "vocab_size"),
        Key("mamba_d_conv", "ssm.conv_kernel"),
        Key("mamba_d_state", "ssm.state_size"),
        Key("mamba_n_groups", "ssm.group_count"),
        Computed("ssm.inner_size", 2 * EMBD),
        Key("mamba_n_heads", "ssm.time_step_rank"),
        Constant("rope.scaling.finetuned", True),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        replace(_Q, ops=_permute(HEADS)),
        replace(_K, ops=_permute(KV_HEADS)),
        *_REST,
        *mamba2(
            LAYER_PREFIX + "mamba.",
            inner=2 * EMBD,
            heads=_N_HEADS,
            groups=_GROUPS,
            state=Dim("mamba_d_state"),
            kernel=Dim("mamba_d_conv"),
            when=~_ATTENTION,
            bias=Is("mamba_conv_bias"),
        ),
        Rule(LAYER_PREFIX + "pre_ff_layernorm", Role.FFN_NORM, (EMBD,)),
        *gated_mlp(at=LAYER_PREFIX + "feed_forward.", bias="mlp_bias"),
        Rule("model.final_layernorm", Role.OUTPUT_NORM, (EMBD,)),
        HEAD,
    ),
    fixed={"hidden_act": "silu", "mamba_expand": 2, "mamba_proj_bias": False, "time_step_limit": NO_LIMIT},
    needs={"attn_rotary_emb": ~Is("attn_rotary_emb") | Equal(Dim("attn_rotary_emb"), _ROTARY)},
)  # fmt: skip
