"""DeepSeek V3.2, and GLM-5 to 5.2: latent attention (MLA) to the keys that an indexer chooses (DSA).

Sources: DeepseekV32Config and GlmMoeDsaConfig of transformers 5.23; conversion/deepseek.py and glm.py of llama.cpp.
llama.cpp turns the indexer's queries and keys by a Hadamard matrix, which changes no score.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import (
    ALWAYS,
    EMBD,
    MLP_TYPES,
    Condition,
    Dim,
    Equal,
    Follows,
    Implied,
    Is,
    LayerPattern,
    LeadingLayers,
    OrDefault,
)
from ..tables.layer_kinds import BeginsWith
from ..tables.layer_words import Lettered
from ..tables.rows import ConfigRow, Constant, Key, LayerFlags, LeadingDense
from ..tables.rules import Arch, HFClass, Rule
from .mla import (
    ATTENTION,
    ATTN,
    DEFAULTS,
    GROUPS_FIT,
    MLA,
    NAMES,
    Q_LATENT,
    ROPE,
    ROUTED,
    SCALED_BY_ONE,
    model_rules,
    routed_rules,
)
from .shared import NEXTN_LAYERS, TIED_HEAD

_INDEX, _INDEX_DIM = Dim("index_n_heads"), Dim("index_head_dim")
INDEXER_KEYS: tuple[ConfigRow, ...] = (
    Key("index_n_heads", "attention.indexer.head_count"),
    Key("index_head_dim", "attention.indexer.key_length"),
    Key("index_topk", "attention.indexer.top_k"),
)
# In llama.cpp the part that turns comes first, and the Hadamard matrix is of 64 or more.
INDEXER_NEEDS = {
    "index_head_dim": (_INDEX_DIM >= ROPE) & Equal(_INDEX_DIM % 64, Dim(0)),
    "q_lora_rank": Is("q_lora_rank"),
}


def indexer_rules(when: Condition = ALWAYS) -> tuple[Rule, ...]:
    """The rules of the indexer, in the layers that have one."""
    at = ATTN + "indexer."
    return (
        Rule(at + "wq_b", Role.INDEXER_ATTN_Q_B, (_INDEX * _INDEX_DIM, Q_LATENT), when=when),
        Rule(at + "wk", Role.INDEXER_ATTN_K, (_INDEX_DIM, EMBD), when=when),
        Rule(at + "k_norm", Role.INDEXER_K_NORM, (_INDEX_DIM,), bias=ALWAYS, when=when),
        Rule(at + "weights_proj", Role.INDEXER_PROJ, (_INDEX, EMBD), when=when),
    )


_COMMON = {key: value for key, value in DEFAULTS.items() if key != "pretraining_tp"} | {
    "num_local_experts": 256, "n_shared_experts": 1, "routed_scaling_factor": 2.5, "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048, "norm_topk_prob": True, "first_k_dense_replace": 3, "mlp_layer_types": None,
    "index_topk": 2048, "index_head_dim": 128, "mlp_bias": False, "layer_types": None, "bos_token_id": 0,
    "eos_token_id": 1,
}  # fmt: skip
_ALL_INDEXED = LayerPattern("indexed_attention", "indexed_attention", Dim(1))
_FIXED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
_NEEDS = INDEXER_NEEDS | GROUPS_FIT | SCALED_BY_ONE | {"layer_types": Follows("layer_types", _ALL_INDEXED)}
_IMPLIED: dict[str, Implied] = {
    MLP_TYPES: LeadingLayers("dense", "sparse", OrDefault("first_k_dense_replace", 3)),
    "layer_types": _ALL_INDEXED,
    "head_dim": ROPE,  # what turns; transformers computes it whatever the config says
}
_CONFIG = (*MLA, *ROUTED, LeadingDense(), Constant("expert_gating_func", 2), *INDEXER_KEYS)
_FURTHER = replace(NEXTN_LAYERS, sees={MLP_TYPES: "sparse", "layer_types": "indexed_attention"})
_MLP = routed_rules(Is(MLP_TYPES, "dense"))

DEEPSEEK32 = Arch(
    name="deepseek32",
    classes={
        "DeepseekV32ForCausalLM": HFClass(
            "deepseek_v32",
            _COMMON
            | {"vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61}
            | {"num_attention_heads": 128, "num_key_value_heads": 128, "n_group": 8, "topk_group": 4}
            | {"max_position_embeddings": 163840, "index_n_heads": 64},
            NAMES,
        )
    },
    config=(*_CONFIG, _FURTHER),
    rules=model_rules(*_MLP, attention=(*ATTENTION, *indexer_rules())),
    fixed=_FIXED,
    needs=_NEEDS,
    implied=_IMPLIED,
    extras=(TIED_HEAD,),
)

GLM_DSA = Arch(
    name="glm-dsa",
    classes={
        "GlmMoeDsaForCausalLM": HFClass(
            "glm_moe_dsa",
            _COMMON
            | {"vocab_size": 154880, "hidden_size": 6144, "intermediate_size": 12288, "num_hidden_layers": 78}
            | {"num_attention_heads": 64, "num_key_value_heads": 64, "n_group": 1, "topk_group": 1}
            | {"max_position_embeddings": 202752, "rms_norm_eps": 1e-5, "q_lora_rank": 2048, "v_head_dim": 256}
            | {"qk_nope_head_dim": 192, "index_n_heads": 32, "indexer_types": None},
            NAMES,
        )
    },
    config=(
        *_CONFIG,
        LayerFlags("indexer_types", "attention.indexer.types", true="full", false="shared", own=True),
        replace(_FURTHER, sees={**_FURTHER.sees, "indexer_types": "full"}),
    ),
    rules=model_rules(*_MLP, attention=(*ATTENTION, *indexer_rules(Is("indexer_types", "full")))),
    fixed=_FIXED,
    # A layer without an indexer takes the choice of the last one that has one.
    needs=_NEEDS | {"indexer_types": BeginsWith("indexer_types", "full")},
    implied=_IMPLIED
    | {
        "indexer_types": Lettered(
            "index_topk_pattern",
            {"F": "full", "S": "shared"},
            LayerPattern(
                "shared", "full", OrDefault("index_topk_freq", 1), skip=OrDefault("index_skip_topk_offset", 2)
            ),
        )
    },
    extras=(TIED_HEAD,),
)
