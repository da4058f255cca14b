"""The Llama family: Llama 1 to 3, Mistral, and all that share their layout (TinyLlama, LLaMA-Pro, SmolLM2...); Mixtral,
Ministral 3, Llama 4.

Sources: their config classes in transformers 5.23; conversion/llama.py and mistral3.py of llama.cpp.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import EMBD, EXPERT_FF, EXPERTS, FF, LAYER_INDEX, Dim, Equal
from ..tables.ops import Split, Transpose
from ..tables.rows import Key, Rope
from ..tables.rules import Arch, HFClass, Rule
from .shared import (
    ATTN_NORM,
    AUDIO,
    EMBEDDING,
    EPS_KEY,
    EXPERT_KEYS,
    FFN_NORM,
    FINAL_NORM,
    HEAD,
    HEAD_DIM_KEYS,
    IDEFICS_ROOTS,
    KEYS,
    LAYER_PREFIX,
    SIZE_KEYS,
    TEXT_ROOTS,
    VISION,
    around,
    attention,
    beside,
    experts,
    gated_mlp,
    shared_expert,
)

_COMMON = {
    "vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "rms_norm_eps": 1e-6,
    "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2, "head_dim": None,
}  # fmt: skip
_LLAMA = HFClass(
    "llama",
    _COMMON
    | {"intermediate_size": 11008, "max_position_embeddings": 2048, "num_key_value_heads": None, "pretraining_tp": 1}
    | {"attention_bias": False, "mlp_bias": False},
)
# A class of code that comes with checkpoints; transformers 5 reads them as Llama.
_INTERNLM3 = HFClass(
    "internlm3",
    _COMMON
    | {"vocab_size": 128512, "intermediate_size": 10240, "num_hidden_layers": 48, "num_key_value_heads": 2}
    | {"max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "head_dim": 128, "pad_token_id": 2}
    | {"attention_bias": False, "mlp_bias": False},
    names={"qkv_bias": "attention_bias", "bias": "mlp_bias"},
)
_MISTRAL_SIZES = {"intermediate_size": 14336, "max_position_embeddings": 131072, "num_key_value_heads": 8}
_MISTRAL = HFClass("mistral", _COMMON | _MISTRAL_SIZES | {"sliding_window": 4096})
_MIXTRAL = HFClass(
    "mixtral",
    _COMMON
    | _MISTRAL_SIZES
    | {"rms_norm_eps": 1e-5, "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None}
    | {"rope_theta": 1e6, "output_router_logits": False, "router_aux_loss_coef": 0.001, "router_jitter_noise": 0.0},
)

# Text models of classes with other towers, as those complete what their configs leave out.
_IDEFICS = replace(_LLAMA, defaults={**_LLAMA.defaults, "rms_norm_eps": 1e-5})
_VOXTRAL = replace(
    _IDEFICS,
    defaults={**_IDEFICS.defaults, "vocab_size": 131072, "hidden_size": 3072, "intermediate_size": 8192}
    | {"num_hidden_layers": 30, "num_key_value_heads": 8, "max_position_embeddings": 131072, "head_dim": 128}
    | {"rope_theta": 1e8},
)
_GLM_ASR = replace(
    _IDEFICS,
    defaults={**_IDEFICS.defaults, "vocab_size": 59264, "hidden_size": 2048, "intermediate_size": 6144}
    | {"num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 4}
    | {"max_position_embeddings": 8192},
)
_LLAVA = ("LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration", "VipLlavaForConditionalGeneration")

_LAST_KEYS = (*HEAD_DIM_KEYS, Key("vocab_size", "vocab_size"), Key("head_dim", "rope.dimension_count"))

LLAMA = Arch(
    name="llama",
    classes={
        "LlamaForCausalLM": _LLAMA,
        "LLaMAForCausalLM": _LLAMA,
        "InternLM3ForCausalLM": _INTERNLM3,
        "MistralForCausalLM": _MISTRAL,
        # Mistral Small 3: the same arithmetic as llama.cpp's mistral3
        **around("MistralForCausalLM", _MISTRAL, "Mistral3ForConditionalGeneration/mistral", ties=True),
        **around("MistralForCausalLM", _MISTRAL, *(f"{name}/mistral" for name in _LLAVA)),
        **around("LlamaForCausalLM", _LLAMA, *(f"{name}/llama" for name in _LLAVA)),
        **around("LlamaForCausalLM", _LLAMA, "JanusForConditionalGeneration", ties=True),
        **around("LlamaForCausalLM", _LLAMA, "InternVLForConditionalGeneration/llama", ties=True),
        **around("LlamaForCausalLM", _IDEFICS, "Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration"),
        **around("LlamaForCausalLM", _VOXTRAL, "VoxtralForConditionalGeneration"),
        **around("LlamaForCausalLM", _GLM_ASR, "GlmAsrForConditionalGeneration", ties=True),
    },
    config=(*KEYS, *_LAST_KEYS),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(permute=True, bias="attention_bias", out_bias="attention_bias"),
        FFN_NORM,
        *gated_mlp(bias="mlp_bias"),
        FINAL_NORM,
        HEAD,
    ),
    fixed={"hidden_act": "silu"},
    roots=TEXT_ROOTS | IDEFICS_ROOTS,
    refused={"LlamaForSequenceClassification": "llama.cpp's llama loads no classifier"},
    extras=(
        *VISION,
        *AUDIO,
        *beside("connector.*", "projector"),
        *beside("aligner.*", "projector"),
        *beside("image_newline", "vision tower"),
        *beside("generation_*", "what draws images"),
        *beside("vqmodel.*", "what draws images"),
    ),
)

MIXTRAL = Arch(
    name="mixtral",
    gguf_name="llama",
    classes={"MixtralForCausalLM": _MIXTRAL},
    config=(*KEYS, *EXPERT_KEYS, *_LAST_KEYS),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(permute=True),
        FFN_NORM,
        *experts(at=LAYER_PREFIX + "block_sparse_moe.", names=("w1", "w3", "w2"), width=FF),
        FINAL_NORM,
        HEAD,
    ),
    fixed={"hidden_act": "silu"},
    # as transformers 5 has it in memory, and GPTQModel 7 in its files
    spellings={"mlp.": "block_sparse_moe.", "gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"},
)

_MINISTRAL3 = HFClass(
    "ministral3",
    _COMMON
    | _MISTRAL_SIZES
    | {"vocab_size": 131072, "num_hidden_layers": 34, "max_position_embeddings": 262144, "rms_norm_eps": 1e-5}
    | {"head_dim": 128, "pad_token_id": 11, "sliding_window": None},
)
_YARN_KEYS = {
    "mscale": "rope.scaling.yarn_log_multiplier",  # equal to the next entry in every model of the family
    "mscale_all_dim": "rope.scaling.yarn_log_multiplier",
    "llama_4_scaling_beta": "attention.temperature_scale",
}

MISTRAL3 = Arch(
    name="mistral3",
    classes={
        "Ministral3ForCausalLM": _MINISTRAL3,
        **around("Ministral3ForCausalLM", _MINISTRAL3, "Mistral3ForConditionalGeneration", ties=True),
    },
    config=(*SIZE_KEYS, Rope(extra=_YARN_KEYS), EPS_KEY, *_LAST_KEYS),
    rules=(EMBEDDING, ATTN_NORM, *attention(permute=True), FFN_NORM, *gated_mlp(), FINAL_NORM, HEAD),
    fixed={"hidden_act": "silu", "sliding_window": None},
    roots=TEXT_ROOTS,
    extras=VISION,
)

_LLAMA4 = HFClass(
    "llama4_text",
    _COMMON
    | {"vocab_size": 202048, "hidden_size": 5120, "num_hidden_layers": 48, "num_attention_heads": 40}
    | {"num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5}
    | {"intermediate_size": 16384, "moe_intermediate_size": 8192, "num_local_experts": 16, "num_experts_per_tok": 1}
    | {"interleave_moe_layer_step": 1, "no_rope_layer_interval": 4, "attention_chunk_size": 8192, "use_qk_norm": True}
    | {"attn_temperature_tuning": True, "floor_scale": 8192, "attn_scale": 0.1, "attention_bias": False}
    | {"output_router_logits": False, "router_aux_loss_coef": 0.001, "router_jitter_noise": 0.0},
    names={"intermediate_size": "moe_intermediate_size", "intermediate_size_mlp": "intermediate_size"},
)
_SPARSE = Equal((LAYER_INDEX + 1) % Dim("interleave_moe_layer_step"), Dim(0))
_MLP = LAYER_PREFIX + "feed_forward."

LLAMA4 = Arch(
    name="llama4",
    classes={
        "Llama4ForCausalLM": _LLAMA4,
        "Llama4ForConditionalGeneration": replace(_LLAMA4, text_of="Llama4ForCausalLM"),
    },
    config=(
        *KEYS,
        *EXPERT_KEYS,
        *_LAST_KEYS,
        Key("interleave_moe_layer_step", "interleave_moe_layer_step"),
        Key("moe_intermediate_size", "expert_feed_forward_length"),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(),
        FFN_NORM,
        *gated_mlp(at=_MLP, when=~_SPARSE),
        Rule(_MLP + "router", Role.FFN_GATE_INP, (EXPERTS, EMBD), when=_SPARSE),
        Rule(
            _MLP + "experts.gate_up_proj",
            (Role.FFN_GATE_EXPS, Role.FFN_UP_EXPS),
            (EXPERTS, EMBD, 2 * EXPERT_FF),
            (Transpose(), Split((EXPERT_FF, EXPERT_FF), axis=1)),
            when=_SPARSE,
            tensor=True,
        ),
        Rule(
            _MLP + "experts.down_proj",
            Role.FFN_DOWN_EXPS,
            (EXPERTS, EXPERT_FF, EMBD),
            (Transpose(),),
            when=_SPARSE,
            tensor=True,
        ),
        *shared_expert(at=_MLP + "shared_expert.", width=EXPERT_FF, when=_SPARSE),
        FINAL_NORM,
        HEAD,
    ),
    # constants in llama.cpp
    fixed={"hidden_act": "silu", "attention_bias": False, "attention_chunk_size": 8192, "no_rope_layer_interval": 4}
    | {"attn_temperature_tuning": (True, 4), "floor_scale": 8192, "attn_scale": 0.1},
    roots=TEXT_ROOTS,
    extras=VISION,
)
