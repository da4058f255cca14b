"""Nemotron-H and Nemotron 3 (Nano, Super): layers of Mamba 2, of attention without a rope, and of feed-forward.

Sources: NemotronHConfig of transformers 5.23; conversion/nemotron.py of llama.cpp, which has a name for models with
experts and another for models without. Published configs give each layer a letter, transformers 5 a word.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import EMBD, EXPERT_FF, EXPERTS, FF, HEADS, VOCAB, Dim, Follows, If, Is
from ..tables.extras import LeftOut
from ..tables.hybrid_rows import MixerLayers
from ..tables.layer_kinds import Alike, Contains
from ..tables.layer_words import Length, Letters
from ..tables.ops import Stack
from ..tables.rows import Computed, ConfigRow, Constant, Key
from ..tables.rules import Arch, HFClass, Rule
from .mamba import NO_LIMIT, mamba2
from .shared import EXPERT_KEYS, HEAD, HEAD_DIM_KEYS, SIZE_KEYS, attention, correction

_DENSE = HFClass(
    "nemotron_h",
    {
        "vocab_size": 131072, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
        "max_position_embeddings": 4096, "intermediate_size": 21504, "mlp_hidden_act": "relu2", "mlp_bias": False,
        "ssm_state_size": 128, "mamba_num_heads": 128, "mamba_head_dim": 64, "mamba_hidden_act": "silu", "n_groups": 8,
        "conv_kernel": 4, "use_conv_bias": True, "use_bias": False, "mamba_proj_bias": False, "attention_bias": False,
        "layer_norm_epsilon": 1e-5, "num_local_experts": 8, "n_shared_experts": 1, "moe_intermediate_size": 7688,
        "moe_shared_expert_intermediate_size": 7688, "moe_latent_size": None, "num_experts_per_tok": 2,
        "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1, "norm_topk_prob": True, "sliding_window": None,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    },
    {"layers_block_type": "layer_types", "n_routed_experts": "num_local_experts"},
)  # fmt: skip
_MOE = replace(_DENSE, when=Contains("layers_block_type", "moe") | Contains("hybrid_override_pattern", "E"))

_LAYER, _MIXER = "backbone.layers.{layer}.", "backbone.layers.{layer}.mixer."
_ATTENTION = Is("layer_types", "full_attention") | Is("layer_types", "attention")
_STATE = Is("layer_types", "linear_attention") | Is("layer_types", "mamba")
_MLP, _EXPERTS = Is("layer_types", "mlp"), Is("layer_types", "moe")
_LATENTS = Is("moe_latent_size")
_LETTERS = {"M": "linear_attention", "*": "full_attention"}
_PATTERN = "hybrid_override_pattern"
_MLP_LETTERS = Letters(_PATTERN, _LETTERS | {"-": "mlp"})
_EXPERTS_LETTERS = Letters(_PATTERN, _LETTERS | {"E": "moe"})
_HEADS = Dim("mamba_num_heads")
_INNER = _HEADS * Dim("mamba_head_dim")
_SHARED_FF, _LATENT = Dim("moe_shared_expert_intermediate_size"), Dim("moe_latent_size")
_EXPERT_EMBD = If(_LATENTS, _LATENT, EMBD)

_KEYS: tuple[ConfigRow, ...] = (
    *(row for row in SIZE_KEYS if row.hf not in ("intermediate_size", "num_key_value_heads")),
    *HEAD_DIM_KEYS,
    Key("vocab_size", "vocab_size"),
    Computed("rope.dimension_count", EMBD // HEADS),
    Constant("rope.scaling.finetuned", False),
    Key("layer_norm_epsilon", "attention.layer_norm_epsilon"),
    Key("rms_norm_eps", "attention.layer_norm_rms_epsilon", optional=True),
    Key("conv_kernel", "ssm.conv_kernel"),
    Key("ssm_state_size", "ssm.state_size"),
    Key("n_groups", "ssm.group_count"),
    Computed("ssm.inner_size", _INNER),
    Key("mamba_num_heads", "ssm.time_step_rank"),
)
_BEGIN = (
    Rule("backbone.embeddings", Role.TOKEN_EMBD, (VOCAB, EMBD)),
    Rule(_LAYER + "norm", Role.ATTN_NORM, (EMBD,)),
    *mamba2(
        _MIXER,
        inner=_INNER,
        heads=_HEADS,
        groups=Dim("n_groups"),
        state=Dim("ssm_state_size"),
        kernel=Dim("conv_kernel"),
        when=_STATE,
        bias=Is("use_conv_bias"),
    ),
    *attention(at=_MIXER, permute=True, when=_ATTENTION),  # as llama.cpp's converter does, although there is no rope
)
_ENDS = (
    Rule("backbone.norm_f", Role.OUTPUT_NORM, (EMBD,)),
    HEAD,
)
_FIXED = {
    "mlp_hidden_act": "relu2", "mamba_hidden_act": "silu", "use_bias": False, "mamba_proj_bias": False,
    "attention_bias": False, "sliding_window": None, "time_step_limit": NO_LIMIT, "tie_word_embeddings": False,
}  # fmt: skip
# llama.cpp prefers the one, transformers reads the other.
_NEEDS = {
    "layer_types": Is("layer_types"),
    "rms_norm_eps": ~Is("rms_norm_eps") | Alike("rms_norm_eps", "layer_norm_epsilon"),
}
_EACH = _MIXER + "experts.{expert}."
_MTP = (LeftOut("mtp.*", "layers that predict further tokens"),)

NEMOTRON_H = Arch(
    name="nemotron_h",
    classes={"NemotronHForCausalLM": _DENSE},
    config=(*_KEYS, MixerLayers("mlp", "intermediate_size")),
    rules=(
        *_BEGIN,
        Rule(_MIXER + "up_proj", Role.FFN_UP, (FF, EMBD), bias="mlp_bias", when=_MLP),
        Rule(_MIXER + "down_proj", Role.FFN_DOWN, (EMBD, FF), bias="mlp_bias", when=_MLP),
        *_ENDS,
    ),
    fixed=_FIXED,
    needs=_NEEDS | {_PATTERN: ~Is(_PATTERN) | Follows("layer_types", _MLP_LETTERS)},
    implied={"layer_types": _MLP_LETTERS, "num_hidden_layers": Length("layer_types")},
    base="backbone.",
    module="model.",
    roots={"model.": "backbone."},
    extras=_MTP,
)

NEMOTRON_H_MOE = Arch(
    name="nemotron_h_moe",
    classes={"NemotronHForCausalLM/experts": _MOE},
    config=(
        *_KEYS,
        MixerLayers("moe", "moe_intermediate_size"),
        *EXPERT_KEYS,
        Key("moe_intermediate_size", "expert_feed_forward_length"),
        Key("moe_shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
        Key("n_shared_experts", "expert_shared_count"),
        Key("norm_topk_prob", "expert_weights_norm"),
        Key("routed_scaling_factor", "expert_weights_scale"),
        Key("n_group", "expert_group_count"),
        Key("topk_group", "expert_group_used_count"),
        Key("moe_latent_size", "moe_latent_size", optional=True),
    ),
    rules=(
        *_BEGIN,
        Rule(_MIXER + "gate", Role.FFN_GATE_INP, (EXPERTS, EMBD), when=_EXPERTS),
        correction(_MIXER + "gate.e_score_correction_bias", when=_EXPERTS),
        Rule(_EACH + "up_proj", Role.FFN_UP_EXPS, (EXPERT_FF, _EXPERT_EMBD), (Stack(),), when=_EXPERTS),
        Rule(_EACH + "down_proj", Role.FFN_DOWN_EXPS, (_EXPERT_EMBD, EXPERT_FF), (Stack(),), when=_EXPERTS),
        Rule(_MIXER + "shared_experts.up_proj", Role.FFN_UP_SHEXP, (_SHARED_FF, EMBD), when=_EXPERTS),
        Rule(_MIXER + "shared_experts.down_proj", Role.FFN_DOWN_SHEXP, (EMBD, _SHARED_FF), when=_EXPERTS),
        Rule(_MIXER + "fc1_latent_proj", Role.FFN_LATENT_DOWN, (_LATENT, EMBD), when=_EXPERTS & _LATENTS),
        Rule(_MIXER + "fc2_latent_proj", Role.FFN_LATENT_UP, (EMBD, _LATENT), when=_EXPERTS & _LATENTS),
        *_ENDS,
    ),
    fixed=_FIXED | {"mlp_bias": False},
    needs=_NEEDS | {_PATTERN: ~Is(_PATTERN) | Follows("layer_types", _EXPERTS_LETTERS)},
    implied={"layer_types": _EXPERTS_LETTERS, "num_hidden_layers": Length("layer_types")},
    base="backbone.",
    module="model.",
    roots={"model.": "backbone."},
    extras=_MTP,
)
