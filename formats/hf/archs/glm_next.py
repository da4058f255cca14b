"""GLM-5-Next (GLM-5.3-Flash): layers of KDA, and in each four one of latent attention (MLA) without positions, to the
pools of keys that an indexer chooses; residual streams that hyper-connections mix; experts. The text model.

Sources: Glm5NextTextConfig of transformers 5.23; conversion/glm.py of llama.cpp. transformers has no class of the text
model with a head: the way back writes the class around it, without its tower.
"""

from __future__ import annotations

from ...ir import Role
from ..tables.dimensions import EMBD, HEADS, MLP_TYPES, Dim, Equal, Is, LayerPattern, LeadingLayers, OrDefault
from ..tables.hybrid_rows import AttentionLayers
from ..tables.layer_kinds import NoOther
from ..tables.layer_rows import Repeated
from ..tables.layer_words import Lettered
from ..tables.rows import Constant, Key, LayerFlags, LeadingDense
from ..tables.rules import LANGUAGE_MODEL, Arch, HFClass, Rule
from ..tables.values import NegExp
from .dsa import INDEXER_KEYS, indexer_rules
from .hyper import HC_KEYS, hyper_connections
from .kda import KDA_HEADS, LINEAR, kda_rules, only
from .mla import ATTENTION, ATTN, GROUPS_FIT, MLA_KEYS, ROUTED, routed_rules
from .shared import ATTN_NORM, EMBEDDING, FFN_NORM, FINAL_NORM, FURTHER_LAYERS, OWN_HEAD, SIZE_KEYS, TEXT_ROOTS, VISUAL

_PART = "linear_attn_config"
_KDA = ("linear_head_dim", "linear_num_heads", "linear_conv_kernel_dim", "linear_lower_bound")
_PUBLISHED = ("head_dim", "num_heads", "short_conv_kernel_size", "gate_lower_bound")
_POOL, _INDEX_DIM = Dim("index_kpool"), Dim("index_head_dim")
_INDEXED = ~LINEAR & Is("indexer_types", "full")

GLM5_NEXT = Arch(
    name="glm5-next",
    classes={
        "Glm5NextForConditionalGeneration": HFClass(
            "glm5_next_text",
            {"vocab_size": 154880, "hidden_size": 4096, "intermediate_size": 12288, "moe_intermediate_size": 2048}
            | {"num_hidden_layers": 45, "num_attention_heads": 64, "num_key_value_heads": 64, "n_shared_experts": 1}
            | {"num_local_experts": 288, "output_router_logits": False, "routed_scaling_factor": 2.5, "n_group": 1}
            | {"kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 0, "v_head_dim": 256, "topk_group": 1}
            | {"qk_nope_head_dim": 256, "num_experts_per_tok": 8, "norm_topk_prob": True, "hidden_act": "silu"}
            | {"max_position_embeddings": 1048576, "rms_norm_eps": 1e-5, "pad_token_id": 154820}
            | {"mlp_layer_types": None, "attention_bias": False, "index_topk": 2048, "index_head_dim": 128}
            | {"index_n_heads": 32, "rope_head_dim": 0, "layer_types": None, "indexer_types": None}
            | {"swiglu_limit": 10.0, "linear_head_dim": 128, "linear_num_heads": 64, "linear_conv_kernel_dim": 4}
            | {"linear_lower_bound": -5.0, "hc_mult": 4, "hc_eps": 1e-6, "hc_sinkhorn_iters": 20}
            | {"router_aux_loss_coef": 0.001, "index_kpool": 16, "index_kpool_always_select_tail": True},
            {"n_routed_experts": "num_local_experts", "head_dim": "rope_head_dim"}
            | {f"{_PART}.{theirs}": ours for theirs, ours in zip(_PUBLISHED, _KDA, strict=True)}
            | {name: name for name in _KDA},  # what transformers 5 calls them, and so what is written
            parts=(_PART,),
            wraps="glm5_next",
            root=LANGUAGE_MODEL,
        )
    },
    config=(
        *(key for key in SIZE_KEYS if key.hf != "num_key_value_heads"),
        AttentionLayers("linear_attention", heads=Dim(1), word="indexed_attention"),
        Constant("attention.layer_norm_epsilon", 1e-6),  # of the indexer's keys
        Key("linear_conv_kernel_dim", "ssm.conv_kernel"),
        Key("linear_head_dim", "kda.head_dim"),
        Key("linear_lower_bound", "kda.gate_lower_bound"),
        *MLA_KEYS,
        *INDEXER_KEYS,
        Key("index_kpool", "attention.indexer.kpool"),
        Key("index_kpool_always_select_tail", "attention.indexer.kpool_select_tail"),
        LayerFlags("indexer_types", "attention.indexer.types", true="full", false="shared"),
        *HC_KEYS,
        *ROUTED,
        Constant("expert_gating_func", 2),
        LeadingDense(),
        Repeated("swiglu_limit", "swiglu_clamp_exp"),
        Repeated("swiglu_limit", "swiglu_clamp_shexp"),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *kda_rules(NegExp(), shape=(KDA_HEADS,)),
        *only(~LINEAR, ATTENTION),
        *indexer_rules(_INDEXED),
        Rule(
            ATTN + "indexer.index_kpool_compress_ape",
            Role.INDEXER_COMPRESSOR_APE,
            (_POOL, _INDEX_DIM),
            when=_INDEXED,
            tensor=True,
        ),
        Rule(
            ATTN + "indexer.index_kpool_compress_gate",
            Role.INDEXER_COMPRESSOR_GATE,
            (_INDEX_DIM, EMBD),
            when=_INDEXED,
            tensor=True,
        ),
        *hyper_connections(),
        FFN_NORM,
        *routed_rules(Is(MLP_TYPES, "dense")),
        FINAL_NORM,
        OWN_HEAD,
    ),
    fixed={"hidden_act": "silu", "attention_bias": False, "qk_rope_head_dim": 0, "hc_mult": 4},
    needs={
        **GROUPS_FIT,
        "linear_num_heads": Equal(KDA_HEADS, HEADS),
        "linear_lower_bound": Is("linear_lower_bound"),
        "q_lora_rank": Is("q_lora_rank"),
        "index_kpool": (_POOL >= 2) & Equal(Dim("index_topk") % _POOL, Dim(0)),
        # keys of published configs
        "mla_use_nope": NoOther("mla_use_nope", True),
        "mhc": NoOther("mhc", True),
        "scoring_func": NoOther("scoring_func", "sigmoid"),
    },
    implied={
        "layer_types": LayerPattern("linear_attention", "indexed_attention", Dim(4)),
        MLP_TYPES: LeadingLayers("dense", "sparse", OrDefault("first_k_dense_replace", 3)),
        "indexer_types": Lettered(
            "index_topk_pattern",
            {"F": "full", "S": "shared"},
            LayerPattern(
                "shared", "full", OrDefault("index_topk_freq", 1), skip=OrDefault("index_skip_topk_offset", 2)
            ),
        ),
    },
    roots=TEXT_ROOTS,
    extras=(*VISUAL, FURTHER_LAYERS),
)
