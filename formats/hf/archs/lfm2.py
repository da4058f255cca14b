"""LFM2, which alternates short convolutions and attention; dense, and with experts.

Sources: Lfm2Config and Lfm2MoeConfig of transformers 5.23; conversion/lfm2.py of llama.cpp.
"""

from __future__ import annotations

from ...ir import Role
from ..tables.dimensions import ALWAYS, EMBD, EXPERTS, FF, LAYER_INDEX, Condition, Dim, Is, OrDefault
from ..tables.hybrid_rows import AttentionLayers
from ..tables.ops import Reshape
from ..tables.rows import Computed, Constant, Key, ReadBack, Rope
from ..tables.rules import Arch, HFClass, Rule
from .shared import EMBEDDING, HEAD, LAYER_PREFIX, SIZE_KEYS, TEXT_ROOTS, VISION, around, attention, experts, qk_norm

_COMMON = {
    "vocab_size": 65536, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "max_position_embeddings": 128000, "norm_eps": 1e-5, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "tie_word_embeddings": True, "conv_bias": False, "conv_L_cache": 3, "rope_theta": 1e6,
}  # fmt: skip
_CONV, _ATTENTION = Is("layer_types", "conv"), Is("layer_types", "full_attention")
_KERNEL, _MULTIPLE = Dim("conv_L_cache"), Dim("block_multiple_of")
_SHAPE = (EMBD, Dim(1), _KERNEL)
_FORWARD = LAYER_PREFIX + "feed_forward."
_FIRST_KEYS = tuple(key for key in SIZE_KEYS if key.hf not in ("num_key_value_heads", "intermediate_size"))
_LAST_KEYS = (
    AttentionLayers("conv"),
    Rope(),
    Key("norm_eps", "attention.layer_norm_rms_epsilon"),
    Key("vocab_size", "vocab_size"),
    Key("conv_L_cache", "shortconv.l_cache"),
)
_MIXERS = (
    EMBEDDING,
    Rule(LAYER_PREFIX + "operator_norm", Role.ATTN_NORM, (EMBD,)),
    *attention(out="out_proj", when=_ATTENTION),
    *qk_norm(names=("q_layernorm", "k_layernorm"), when=_ATTENTION),
    Rule(LAYER_PREFIX + "conv.conv", Role.SHORTCONV_CONV, _SHAPE, (Reshape(_SHAPE, (EMBD, _KERNEL)),), when=_CONV),
    Rule(LAYER_PREFIX + "conv.in_proj", Role.SHORTCONV_INPROJ, (3 * EMBD, EMBD), when=_CONV),
    Rule(LAYER_PREFIX + "conv.out_proj", Role.SHORTCONV_OUTPROJ, (EMBD, EMBD), when=_CONV),
    Rule(LAYER_PREFIX + "ffn_norm", Role.FFN_NORM, (EMBD,)),
)
_ENDS = (Rule("model.embedding_norm", Role.TOKEN_EMBD_NORM, (EMBD,)), HEAD)


def _mlp(width: Dim, when: Condition = ALWAYS) -> tuple[Rule, ...]:
    return (
        Rule(_FORWARD + "w1", Role.FFN_GATE, (width, EMBD), when=when),
        Rule(_FORWARD + "w3", Role.FFN_UP, (width, EMBD), when=when),
        Rule(_FORWARD + "w2", Role.FFN_DOWN, (EMBD, width), when=when),
    )


# Two thirds of the config's value, rounded up to a multiple.
_ADJUSTED, _TWO_THIRDS = Is("block_auto_adjust_ff_dim"), (2 * FF // 3 + _MULTIPLE - 1) // _MULTIPLE * _MULTIPLE

_LFM2 = HFClass(
    "lfm2",
    _COMMON
    | {"hidden_size": 2560, "block_multiple_of": 256, "block_ffn_dim_multiplier": 1.0, "full_attn_idxs": None}
    | {"block_auto_adjust_ff_dim": True},
)

LFM2 = Arch(
    name="lfm2",
    classes={
        "Lfm2ForCausalLM": _LFM2,
        **around("Lfm2ForCausalLM", _LFM2, "Lfm2VlForConditionalGeneration", ties=True),
    },
    config=(
        *_FIRST_KEYS,
        Computed("feed_forward_length", _TWO_THIRDS, when=_ADJUSTED),
        Key("intermediate_size", "feed_forward_length", when=~_ADJUSTED),
        ReadBack("block_auto_adjust_ff_dim", False),
        *_LAST_KEYS,
    ),
    rules=(*_MIXERS, *_mlp(_TWO_THIRDS, _ADJUSTED), *_mlp(FF, ~_ADJUSTED), *_ENDS),
    fixed={"conv_bias": False, "block_ffn_dim_multiplier": (1.0, 1)},
    needs={"tie_embedding": ~Is("tie_embedding", False)},  # a key of old configs
    roots=TEXT_ROOTS,
    extras=VISION,
    implied={"intermediate_size": OrDefault("block_ff_dim", 12288)},  # an old key, and transformers' default
    pools=True,
)

_DENSE = Dim("num_dense_layers") > LAYER_INDEX

LFM2_MOE = Arch(
    name="lfm2moe",
    classes={
        "Lfm2MoeForCausalLM": HFClass(
            "lfm2_moe",
            _COMMON
            | {"hidden_size": 2048, "intermediate_size": 7168, "moe_intermediate_size": 1792, "num_dense_layers": 2}
            | {"num_experts_per_tok": 4, "output_router_logits": False, "num_local_experts": 32}
            | {"use_expert_bias": True, "routed_scaling_factor": 1.0, "norm_topk_prob": True},
            {"num_experts": "num_local_experts"},
        )
    },
    config=(
        *_FIRST_KEYS,
        Key("intermediate_size", "feed_forward_length"),
        *_LAST_KEYS,
        Key("num_local_experts", "expert_count"),
        Key("num_experts_per_tok", "expert_used_count"),
        Key("moe_intermediate_size", "expert_feed_forward_length"),
        Key("num_dense_layers", "leading_dense_block_count"),
        Constant("expert_gating_func", 2),
    ),
    rules=(
        *_MIXERS,
        *_mlp(FF, _DENSE),
        *experts(at=_FORWARD, names=("w1", "w3", "w2"), when=~_DENSE),
        Rule(_FORWARD + "expert_bias", Role.FFN_EXP_PROBS_B, (EXPERTS,), when=~_DENSE, tensor=True, part="bias"),
        *_ENDS,
    ),
    fixed={"conv_bias": False, "use_expert_bias": True, "routed_scaling_factor": (1.0, 1), "norm_topk_prob": True},
    needs={"tie_embedding": ~Is("tie_embedding", False)},
)
