"""Mistral 4: latent attention (MLA), experts in two stacked tensors, and queries that grow with the position.

Sources: Mistral4Config of transformers 5.23; conversion/mistral3.py of llama.cpp, which leaves out the growth of the
queries. Its deepseek2.cpp reads it, from the keys that conversion/mistral.py writes for Mistral's own format.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...ir import Role
from ..tables.dimensions import EMBD, EXPERT_FF, EXPERTS, Config, Dim
from ..tables.rows import Key
from ..tables.rules import Arch, HFClass, Rule
from .mla import (
    DEFAULTS,
    DENSE,
    GROUPS_FIT,
    MLA_KEYS,
    MLA_ROPE,
    MLA_SIZES,
    MLP,
    NAMES,
    NOPE,
    ROPE,
    ROUTED,
    SCALED_BY_ONE,
    model_rules,
)
from .shared import TEXT_ROOTS, TIED_HEAD, VISION, gated_mlp, shared_expert

_MISTRAL4 = HFClass(
    "mistral4",
    DEFAULTS
    | {"vocab_size": 131072, "hidden_size": 4096, "intermediate_size": 12288, "moe_intermediate_size": 2048}
    | {"num_hidden_layers": 36, "num_key_value_heads": 32, "n_shared_experts": 1, "num_local_experts": 128}
    | {"routed_scaling_factor": 1.0, "kv_lora_rank": 256, "q_lora_rank": 1024, "qk_nope_head_dim": 64, "n_group": 1}
    | {"topk_group": 1, "num_experts_per_tok": 4, "first_k_dense_replace": 0, "norm_topk_prob": True}
    | {"max_position_embeddings": 1048576, "pad_token_id": 11, "bos_token_id": 1, "eos_token_id": 2}
    | {"rope_interleave": True},
    NAMES,
)


def _usual_rope(config: Config) -> dict[str, Any] | None:
    """What transformers takes where a config has no ``rope_parameters``: YaRN, unlike everywhere else."""
    if config.get("rope_scaling") is not None:
        return None
    return {
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 128.0, "original_max_position_embeddings": 8192,
        "max_position_embeddings": config["max_position_embeddings"], "beta_fast": 32.0, "beta_slow": 1.0,
        "mscale_all_dim": 1.0, "mscale": 1.0, "llama_4_scaling_beta": 0.1,
        "partial_rotary_factor": ROPE(config) / ((NOPE + ROPE)(config) or 1),
    }  # fmt: skip


_GROWTH = {
    "llama_4_scaling_beta": "attention.temperature_scale",
    "original_max_position_embeddings": "attention.temperature_length",
}

MISTRAL4 = Arch(
    name="mistral4",
    classes={
        "Mistral4ForCausalLM": _MISTRAL4,
        "Mistral3ForConditionalGeneration/mistral4": replace(_MISTRAL4, text_of="Mistral4ForCausalLM"),
    },
    config=(
        *MLA_SIZES,
        replace(MLA_ROPE, extra=_GROWTH),
        *MLA_KEYS,
        *ROUTED,
        Key("first_k_dense_replace", "leading_dense_block_count"),
    ),
    rules=model_rules(
        *gated_mlp(when=DENSE),
        Rule(MLP + "gate", Role.FFN_GATE_INP, (EXPERTS, EMBD), when=~DENSE),
        Rule(
            MLP + "experts.gate_up_proj",
            Role.FFN_GATE_UP_EXPS,
            (EXPERTS, 2 * EXPERT_FF, EMBD),
            when=~DENSE,
            tensor=True,
        ),
        Rule(MLP + "experts.down_proj", Role.FFN_DOWN_EXPS, (EXPERTS, EMBD, EXPERT_FF), when=~DENSE, tensor=True),
        *shared_expert(at=MLP + "shared_experts.", width=EXPERT_FF * Dim("n_shared_experts"), when=~DENSE),
    ),
    fixed={"hidden_act": "silu", "attention_bias": False, "rope_interleave": True},
    needs=GROUPS_FIT | SCALED_BY_ONE,
    # The first transformers computes whatever the config says.
    implied={"head_dim": NOPE + ROPE, "rope_parameters": _usual_rope},
    roots=TEXT_ROOTS,
    extras=(TIED_HEAD, *VISION),
)
