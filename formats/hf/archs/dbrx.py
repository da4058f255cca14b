"""DBRX.

Sources: DbrxConfig, DbrxAttentionConfig and DbrxFFNConfig of transformers 5.23; conversion/dbrx.py of llama.cpp.
"""

from __future__ import annotations

from ...ir import Role
from ..tables.dimensions import EMBD, EXPERTS, FF, KV, VOCAB
from ..tables.ops import Op, Reshape, Transpose
from ..tables.rows import Constant, Key
from ..tables.rules import Arch, HFClass, Rule
from .shared import EXPERT_KEYS, OWN_HEAD, SIZE_KEYS

_LAYER = "transformer.blocks.{layer}."
_ATTN = _LAYER + "norm_attn_norm."


def _experts(hf: str, role: Role, *ops: Op) -> Rule:
    """A matrix with the rows of all experts."""
    each = Reshape((EXPERTS * FF, EMBD), (EXPERTS, FF, EMBD))
    return Rule(_LAYER + "ffn.experts.mlp." + hf, role, (EXPERTS * FF, EMBD), (each, *ops), tensor=True)


DBRX = Arch(
    name="dbrx",
    classes={
        "DbrxForCausalLM": HFClass(
            "dbrx",
            {
                "vocab_size": 32000, "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16,
                "max_position_embeddings": 2048, "resid_pdrop": 0.0, "emb_pdrop": 0.0, "output_router_logits": False,
                "bos_token_id": None, "eos_token_id": None,
                "num_key_value_heads": 1, "attn_config.attn_pdrop": 0.0, "attn_config.clip_qkv": None,
                "intermediate_size": 3584, "num_local_experts": 4, "num_experts_per_tok": 1,
                "ffn_config.ffn_act_fn": None, "ffn_config.moe_jitter_eps": None, "ffn_config.moe_loss_weight": 0.01,
                "ffn_config.moe_normalize_expert_weights": 1.0,
            },
            names={
                "d_model": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
                "max_seq_len": "max_position_embeddings", "attn_config.kv_n_heads": "num_key_value_heads",
                "ffn_config.ffn_hidden_size": "intermediate_size", "ffn_config.moe_num_experts": "num_local_experts",
                "ffn_config.moe_top_k": "num_experts_per_tok",
            },
            parts=("attn_config", "ffn_config"),
        )
    },
    config=(
        *SIZE_KEYS,
        # transformers 5.23 reads rope_parameters instead, which published checkpoints do not have.
        Key("attn_config.rope_theta", "rope.freq_base"),
        Key("attn_config.clip_qkv", "attention.clamp_kqv", optional=True, null=0.0),
        *EXPERT_KEYS,
        Constant("attention.layer_norm_epsilon", 1e-5),
    ),
    rules=(
        Rule("transformer.wte", Role.TOKEN_EMBD, (VOCAB, EMBD)),
        Rule(_ATTN + "norm_1", Role.ATTN_NORM, (EMBD,)),
        Rule(_ATTN + "attn.Wqkv", Role.ATTN_QKV, (EMBD + 2 * KV, EMBD)),
        Rule(_ATTN + "attn.out_proj", Role.ATTN_OUTPUT, (EMBD, EMBD)),
        Rule(_ATTN + "norm_2", Role.ATTN_OUTPUT_NORM, (EMBD,)),
        Rule(_LAYER + "ffn.router.layer", Role.FFN_GATE_INP, (EXPERTS, EMBD)),
        _experts("w1", Role.FFN_GATE_EXPS),
        _experts("v1", Role.FFN_UP_EXPS),
        _experts("w2", Role.FFN_DOWN_EXPS, Transpose()),
        Rule("transformer.norm_f", Role.OUTPUT_NORM, (EMBD,)),
        OWN_HEAD,
    ),
    fixed={
        "tie_word_embeddings": False, "ffn_config.moe_normalize_expert_weights": 1.0,
        "ffn_config.ffn_act_fn": ({"name": "silu"}, None),
    },
    base="transformer.",
)  # fmt: skip
