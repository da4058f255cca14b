"""MPT.

Sources: MptConfig and MptAttentionConfig of transformers 5.23; conversion/mpt.py of llama.cpp.
"""

from __future__ import annotations

from ...ir import Role
from ..tables.dimensions import EMBD, VOCAB
from ..tables.rows import Computed, Constant, Key
from ..tables.rules import Arch, HFClass, Rule
from .shared import HEAD

_LAYER = "transformer.blocks.{layer}."
_MPT = HFClass(
    "mpt",
    {
        "vocab_size": 50368, "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16,
        "max_position_embeddings": 2048, "layer_norm_epsilon": 1e-5, "expansion_ratio": 4, "no_bias": True,
        "learned_pos_emb": True, "logit_scale": None, "embedding_fraction": 1.0, "resid_pdrop": 0.0, "emb_pdrop": 0.0,
        "init_device": "cpu", "norm_type": "low_precision_layernorm", "use_cache": False, "tie_word_embeddings": True,
        "bos_token_id": None, "eos_token_id": None,
        "attn_config.attn_type": "multihead_attention", "attn_config.attn_pdrop": 0, "attn_config.attn_impl": "torch",
        "attn_config.clip_qkv": None, "attn_config.softmax_scale": None, "attn_config.prefix_lm": False,
        "attn_config.qk_ln": False, "attn_config.attn_uses_sequence_id": False, "attn_config.alibi": True,
        "attn_config.alibi_bias_max": 8,
    },
    names={
        "d_model": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
        "max_seq_len": "max_position_embeddings",
    },
    parts=("attn_config",),
)  # fmt: skip

MPT = Arch(
    name="mpt",
    classes={"MptForCausalLM": _MPT, "MPTForCausalLM": _MPT},
    config=(
        Key("max_position_embeddings", "context_length"),
        Key("hidden_size", "embedding_length"),
        Key("num_hidden_layers", "block_count"),
        Computed("feed_forward_length", 4 * EMBD),
        Key("num_attention_heads", "attention.head_count"),
        Key("layer_norm_epsilon", "attention.layer_norm_epsilon"),
        Key("attn_config.clip_qkv", "attention.clamp_kqv", optional=True),
        Constant("attention.max_alibi_bias", 8.0),
    ),
    rules=(
        Rule("transformer.wte", Role.TOKEN_EMBD, (VOCAB, EMBD)),
        Rule(_LAYER + "norm_1", Role.ATTN_NORM, (EMBD,)),
        Rule(_LAYER + "attn.Wqkv", Role.ATTN_QKV, (3 * EMBD, EMBD)),
        Rule(_LAYER + "attn.out_proj", Role.ATTN_OUTPUT, (EMBD, EMBD)),
        Rule(_LAYER + "norm_2", Role.FFN_NORM, (EMBD,)),
        Rule(_LAYER + "ffn.up_proj", Role.FFN_UP, (4 * EMBD, EMBD)),
        Rule(_LAYER + "ffn.down_proj", Role.FFN_DOWN, (EMBD, 4 * EMBD)),
        Rule("transformer.norm_f", Role.OUTPUT_NORM, (EMBD,)),
        HEAD,
    ),
    # transformers' MPT ignores these keys, too, and computes this.
    fixed={
        "expansion_ratio": 4, "no_bias": True, "logit_scale": None, "attn_config.alibi": True,
        "attn_config.alibi_bias_max": 8, "attn_config.attn_type": "multihead_attention", "attn_config.qk_ln": False,
        "attn_config.softmax_scale": None, "attn_config.prefix_lm": False,
    },
    base="transformer.",
)  # fmt: skip
