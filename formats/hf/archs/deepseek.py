"""DeepSeek V2 and V3, GLM-4.7-Flash and Youtu-LLM: attention through a latent vector (MLA), mostly with experts.

Sources: DeepseekV2Config, DeepseekV3Config, Glm4MoeLiteConfig and YoutuConfig of transformers 5.23;
conversion/deepseek.py and glm.py of llama.cpp, which turn MLA into attention with one head of keys: their part that
does not turn is multiplied into the queries.
"""

from __future__ import annotations

from ...ir import Role
from ..dimensions import (
    EMBD,
    EXPERT_FF,
    FF,
    HEADS,
    LAYER_INDEX,
    LAYERS,
    MLP_TYPES,
    Condition,
    Dim,
    Is,
    LeadingLayers,
    OrDefault,
)
from ..ops import On, Reshape, Split, Transpose
from ..rows import Computed, ConfigRow, Constant, Key, LeadingDense, Rope
from ..rules import Arch, HFClass, Rule
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    EPS_KEY,
    EXPERT_KEYS,
    FFN_NORM,
    FINAL_NORM,
    FURTHER_LAYERS,
    HEAD,
    LAYER_PREFIX,
    SIZE_KEYS,
    TIED_HEAD,
    correction,
    experts,
    gated_mlp,
    shared_expert,
)

_COMMON = {
    "num_attention_heads": 32, "num_key_value_heads": None, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "attention_bias": False, "pretraining_tp": 1, "output_router_logits": False, "kv_lora_rank": 512,
    "q_lora_rank": 1536, "qk_rope_head_dim": 64, "v_head_dim": 128, "qk_nope_head_dim": 128,
}  # fmt: skip
_NAMES = {"n_routed_experts": "num_local_experts"}

_ROPE, _NOPE, _V = Dim("qk_rope_head_dim"), Dim("qk_nope_head_dim"), Dim("v_head_dim")
_LATENT, _Q_LATENT = Dim("kv_lora_rank"), Dim("q_lora_rank")
_ATTN, _MLP = LAYER_PREFIX + "self_attn.", LAYER_PREFIX + "mlp."
_CORRECTION = _MLP + "gate.e_score_correction_bias"
_DENSE = Dim("first_k_dense_replace") > LAYER_INDEX

_MLA: tuple[ConfigRow, ...] = (
    *(key for key in SIZE_KEYS if key.hf != "num_key_value_heads"),
    Constant("attention.head_count_kv", 1),
    Rope(scaled={"mscale_all_dim": ("rope.scaling.yarn_log_multiplier", 0.1)}),
    EPS_KEY,
    Key("vocab_size", "vocab_size"),
    Key("q_lora_rank", "attention.q_lora_rank", optional=True),
    Key("kv_lora_rank", "attention.kv_lora_rank"),
    Computed("attention.key_length", _LATENT + _ROPE),
    Computed("attention.value_length", _LATENT),
    Computed("attention.key_length_mla", _NOPE + _ROPE),
    Key("v_head_dim", "attention.value_length_mla"),
    Key("qk_rope_head_dim", "rope.dimension_count"),
)
_ROUTED: tuple[ConfigRow, ...] = (
    *EXPERT_KEYS,
    Key("n_group", "expert_group_count", optional=True),
    Key("topk_group", "expert_group_used_count", optional=True),
    Key("moe_intermediate_size", "expert_feed_forward_length"),
    Key("n_shared_experts", "expert_shared_count"),
    Key("routed_scaling_factor", "expert_weights_scale"),
    Key("norm_topk_prob", "expert_weights_norm"),
)
_CONFIG = (*_MLA, *_ROUTED, Key("first_k_dense_replace", "leading_dense_block_count"))


def _rules(*mlp: Rule) -> tuple[Rule, ...]:
    return (
        EMBEDDING,
        ATTN_NORM,
        Rule(_ATTN + "q_proj", Role.ATTN_Q, (HEADS * (_NOPE + _ROPE), EMBD), when=~Is("q_lora_rank")),
        Rule(_ATTN + "q_a_proj", Role.ATTN_Q_A, (_Q_LATENT, EMBD), when=Is("q_lora_rank")),
        Rule(_ATTN + "q_a_layernorm", Role.ATTN_Q_A_NORM, (_Q_LATENT,), when=Is("q_lora_rank")),
        Rule(_ATTN + "q_b_proj", Role.ATTN_Q_B, (HEADS * (_NOPE + _ROPE), _Q_LATENT), when=Is("q_lora_rank")),
        Rule(_ATTN + "kv_a_proj_with_mqa", Role.ATTN_KV_A_MQA, (_LATENT + _ROPE, EMBD)),
        Rule(_ATTN + "kv_a_layernorm", Role.ATTN_KV_A_NORM, (_LATENT,)),
        Rule(
            _ATTN + "kv_b_proj",
            (Role.ATTN_K_B, Role.ATTN_V_B),
            (HEADS * (_NOPE + _V), _LATENT),
            (
                Reshape((HEADS * (_NOPE + _V), _LATENT), (HEADS, _NOPE + _V, _LATENT)),
                Split((_NOPE, _V), axis=1),
                On((0,), Transpose()),
            ),
        ),
        Rule(_ATTN + "o_proj", Role.ATTN_OUTPUT, (EMBD, HEADS * _V)),
        FFN_NORM,
        *mlp,
        FINAL_NORM,
        HEAD,
    )


def _experts(dense: Condition, *correction: Rule) -> tuple[Rule, ...]:
    """The MLP of the first layers, and the experts of all others."""
    return (
        *gated_mlp(when=dense),
        *experts(when=~dense),
        *correction,
        *shared_expert(at=_MLP + "shared_experts.", width=EXPERT_FF * Dim("n_shared_experts"), when=~dense),
    )


DEEPSEEK2 = Arch(
    name="deepseek2",
    classes={
        "DeepseekV2ForCausalLM": HFClass(
            "deepseek_v2",
            _COMMON
            | {"vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
            | {"max_position_embeddings": 2048, "mlp_bias": False, "first_k_dense_replace": 0, "n_group": None}
            | {"num_local_experts": 64, "n_shared_experts": 2, "routed_scaling_factor": 1.0, "topk_group": None}
            | {"topk_method": "greedy", "norm_topk_prob": False, "moe_intermediate_size": 1407}
            | {"num_experts_per_tok": None, "bos_token_id": 1, "eos_token_id": 2},
            _NAMES,
        )
    },
    config=(*_CONFIG, Constant("expert_gating_func", 1)),
    rules=_rules(*_experts(_DENSE)),
    # llama.cpp scores a group by its two best experts, as V3 does; V2 takes only the best.
    fixed={"hidden_act": "silu", "attention_bias": False, "topk_method": "greedy", "norm_topk_prob": False},
    extras=(TIED_HEAD, FURTHER_LAYERS),
)

DEEPSEEK3 = Arch(
    name="deepseek3",
    gguf_name="deepseek2",
    classes={
        "DeepseekV3ForCausalLM": HFClass(
            "deepseek_v3",
            _COMMON
            | {"vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048}
            | {"num_hidden_layers": 61, "num_attention_heads": 128, "num_local_experts": 256, "n_shared_experts": 1}
            | {"routed_scaling_factor": 2.5, "n_group": 8, "topk_group": 4, "num_experts_per_tok": 8}
            | {"first_k_dense_replace": 3, "norm_topk_prob": True, "max_position_embeddings": 4096}
            | {"rope_interleave": True, "bos_token_id": 0, "eos_token_id": 1, "num_key_value_heads": 128},
            _NAMES,
        )
    },
    config=(*_CONFIG, Constant("expert_gating_func", 2)),
    rules=_rules(*_experts(_DENSE, correction(_CORRECTION, ~_DENSE))),
    fixed={"hidden_act": "silu", "attention_bias": False, "rope_interleave": True},
    extras=(TIED_HEAD, FURTHER_LAYERS),
)

_FIRST = Is(MLP_TYPES, "dense")

GLM4_MOE_LITE = Arch(
    name="glm4moelite",
    gguf_name="deepseek2",
    classes={
        "Glm4MoeLiteForCausalLM": HFClass(
            "glm4_moe_lite",
            _COMMON
            | {"vocab_size": 154880, "hidden_size": 2048, "intermediate_size": 10240, "moe_intermediate_size": 1536}
            | {"num_hidden_layers": 47, "num_attention_heads": 20, "num_local_experts": 64, "n_shared_experts": 1}
            | {"routed_scaling_factor": 1.8, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 4}
            | {"norm_topk_prob": True, "max_position_embeddings": 202752, "rms_norm_eps": 1e-5, "v_head_dim": 256}
            | {"q_lora_rank": 768, "qk_nope_head_dim": 192, "rope_interleave": True, "mlp_layer_types": None}
            | {"bos_token_id": 0, "eos_token_id": 1, "num_key_value_heads": 20},
            _NAMES,
        )
    },
    config=(*_MLA, *_ROUTED, LeadingDense(), Constant("expert_gating_func", 2)),
    rules=_rules(*_experts(_FIRST, correction(_CORRECTION, ~_FIRST))),
    fixed={"hidden_act": "silu", "attention_bias": False, "rope_interleave": True},
    implied={MLP_TYPES: LeadingLayers("dense", "sparse", OrDefault("first_k_dense_replace", 1))},
    extras=(TIED_HEAD, FURTHER_LAYERS),
)

YOUTU = Arch(
    name="youtu",
    gguf_name="deepseek2",
    classes={
        "YoutuForCausalLM": HFClass(
            "youtu",
            {key: value for key, value in _COMMON.items() if key not in ("pretraining_tp", "output_router_logits")}
            | {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 6144, "num_attention_heads": 16}
            | {"num_key_value_heads": 16, "max_position_embeddings": 131072, "rope_interleave": True}
            | {"bos_token_id": 128000, "eos_token_id": 128001, "tie_word_embeddings": True},
        )
    },
    # llama.cpp asks for the sizes of experts even where no layer has any.
    config=(
        *_MLA,
        Computed("leading_dense_block_count", LAYERS),
        Computed("expert_feed_forward_length", FF),
        Constant("expert_shared_count", 0),
    ),
    rules=_rules(*gated_mlp()),
    fixed={"hidden_act": "silu", "attention_bias": False, "rope_interleave": True},
    needs={"q_lora_rank": Is("q_lora_rank")},
    extras=(TIED_HEAD,),
)
