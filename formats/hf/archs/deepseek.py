"""DeepSeek V2 and V3, Kimi K2 and K2.5, GLM-4.7-Flash and Youtu-LLM: latent attention (MLA), mostly with experts.

Sources: DeepseekV2Config, DeepseekV3Config, Glm4MoeLiteConfig and YoutuConfig of transformers 5.23;
conversion/deepseek.py and glm.py of llama.cpp.
"""

from __future__ import annotations

from dataclasses import replace

from ..tables.dimensions import FF, LAYERS, MLP_TYPES, Is, LeadingLayers, OrDefault
from ..tables.extras import LeftOut
from ..tables.rows import Computed, Constant, Key, LeadingDense
from ..tables.rules import Arch, HFClass
from .mla import DEFAULTS, DENSE, GROUPS_FIT, MLA, NAMES, ROUTED, SCALED_ALIKE, model_rules, routed_rules
from .shared import FURTHER_LAYERS, NEXTN_LAYERS, TEXT_ROOTS, TIED_HEAD, VISION, gated_mlp

_PROJECTOR = tuple(LeftOut(f"{root}mm_projector.*", "projector") for root in ("", "model."))
_CONFIG = (*MLA, *ROUTED, Key("first_k_dense_replace", "leading_dense_block_count"))

DEEPSEEK2 = Arch(
    name="deepseek2",
    classes={
        "DeepseekV2ForCausalLM": HFClass(
            "deepseek_v2",
            DEFAULTS
            | {"vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
            | {"max_position_embeddings": 2048, "mlp_bias": False, "first_k_dense_replace": 0, "n_group": None}
            | {"num_local_experts": 64, "n_shared_experts": 2, "routed_scaling_factor": 1.0, "topk_group": None}
            | {"topk_method": "greedy", "norm_topk_prob": False, "moe_intermediate_size": 1407}
            | {"num_experts_per_tok": None, "bos_token_id": 1, "eos_token_id": 2},
            NAMES,
        )
    },
    config=(*_CONFIG, Constant("expert_gating_func", 1)),
    rules=model_rules(*routed_rules(DENSE, corrected=False)),
    # llama.cpp scores a group by its two best experts, as V3 does; V2 takes only the best.
    fixed={"hidden_act": "silu", "attention_bias": False, "topk_method": "greedy", "norm_topk_prob": False},
    needs=GROUPS_FIT | SCALED_ALIKE,
    extras=(TIED_HEAD, FURTHER_LAYERS),
)

_V3 = HFClass(
    "deepseek_v3",
    DEFAULTS
    | {"vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048}
    | {"num_hidden_layers": 61, "num_attention_heads": 128, "num_local_experts": 256, "n_shared_experts": 1}
    | {"routed_scaling_factor": 2.5, "n_group": 8, "topk_group": 4, "num_experts_per_tok": 8}
    | {"first_k_dense_replace": 3, "norm_topk_prob": True, "max_position_embeddings": 4096}
    | {"rope_interleave": True, "bos_token_id": 0, "eos_token_id": 1, "num_key_value_heads": 128},
    NAMES,
)

DEEPSEEK3 = Arch(
    name="deepseek3",
    gguf_name="deepseek2",
    classes={
        "DeepseekV3ForCausalLM": _V3,
        # Kimi K2.5, under the name of its own code and under that of transformers
        "KimiK25ForConditionalGeneration": replace(_V3, text_of="DeepseekV3ForCausalLM"),
        "Kimi_K25ForConditionalGeneration": replace(_V3, text_of="DeepseekV3ForCausalLM"),
    },
    config=(*_CONFIG, Constant("expert_gating_func", 2)),
    rules=model_rules(*routed_rules(DENSE)),
    fixed={"hidden_act": "silu", "attention_bias": False, "rope_interleave": True},
    needs=GROUPS_FIT | SCALED_ALIKE,
    # Kimi K2.5 as transformers saves it
    roots={**TEXT_ROOTS, "language_model.model.blocks.": "model.layers."},
    extras=(TIED_HEAD, FURTHER_LAYERS, *VISION, *_PROJECTOR),
)

GLM4_MOE_LITE = Arch(
    name="glm4moelite",
    gguf_name="deepseek2",
    classes={
        "Glm4MoeLiteForCausalLM": HFClass(
            "glm4_moe_lite",
            DEFAULTS
            | {"vocab_size": 154880, "hidden_size": 2048, "intermediate_size": 10240, "moe_intermediate_size": 1536}
            | {"num_hidden_layers": 47, "num_attention_heads": 20, "num_local_experts": 64, "n_shared_experts": 1}
            | {"routed_scaling_factor": 1.8, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 4}
            | {"norm_topk_prob": True, "max_position_embeddings": 202752, "rms_norm_eps": 1e-5, "v_head_dim": 256}
            | {"q_lora_rank": 768, "qk_nope_head_dim": 192, "rope_interleave": True, "mlp_layer_types": None}
            | {"bos_token_id": 0, "eos_token_id": 1, "num_key_value_heads": 20},
            NAMES,
        )
    },
    config=(
        *MLA,
        *ROUTED,
        LeadingDense(),
        Constant("expert_gating_func", 2),
        replace(NEXTN_LAYERS, sees={MLP_TYPES: "sparse"}),
    ),
    rules=model_rules(*routed_rules(Is(MLP_TYPES, "dense"))),
    fixed={"hidden_act": "silu", "attention_bias": False, "rope_interleave": True},
    needs=GROUPS_FIT | SCALED_ALIKE,
    implied={MLP_TYPES: LeadingLayers("dense", "sparse", OrDefault("first_k_dense_replace", 1))},
    extras=(TIED_HEAD,),
)

YOUTU = Arch(
    name="youtu",
    gguf_name="deepseek2",
    classes={
        "YoutuForCausalLM": HFClass(
            "youtu",
            {key: value for key, value in DEFAULTS.items() if key not in ("pretraining_tp", "output_router_logits")}
            | {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 6144, "num_attention_heads": 16}
            | {"num_key_value_heads": 16, "max_position_embeddings": 131072, "rope_interleave": True}
            | {"bos_token_id": 128000, "eos_token_id": 128001, "tie_word_embeddings": True},
        )
    },
    # llama.cpp asks for the sizes of experts even where no layer has any.
    config=(
        *MLA,
        Computed("leading_dense_block_count", LAYERS),
        Computed("expert_feed_forward_length", FF),
        Constant("expert_shared_count", 0),
    ),
    rules=model_rules(*gated_mlp()),
    fixed={"hidden_act": "silu", "attention_bias": False, "rope_interleave": True},
    needs=SCALED_ALIKE | {"q_lora_rank": Is("q_lora_rank")},
    extras=(TIED_HEAD,),
)
