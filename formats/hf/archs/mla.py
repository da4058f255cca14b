"""Attention through a latent vector (MLA), as DeepSeek V2 began it: rows and rules of all that have it.

llama.cpp's converter (conversion/deepseek.py) turns it into attention with one head of keys: the part of the keys that
does not turn is multiplied into the queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...ir import Role
from ..tables.dimensions import EMBD, EXPERT_FF, EXPERTS, HEADS, LAYER_INDEX, Condition, Config, Dim, Equal, Is
from ..tables.ops import On, Reshape, Split, Transpose
from ..tables.reads import OfParts
from ..tables.rows import Computed, ConfigRow, Constant, Getter, Key, Rope
from ..tables.rules import Rule
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    EPS_KEY,
    EXPERT_KEYS,
    FFN_NORM,
    FINAL_NORM,
    HEAD,
    LAYER_PREFIX,
    SIZE_KEYS,
    correction,
    experts,
    gated_mlp,
    shared_expert,
)


@dataclass(frozen=True)
class Difference(OfParts):
    """A config key that is what one hyper-parameter has more than another. It is only read back."""

    hf: str
    gguf: str
    less: str

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        return iter(())

    def to_hf(self, get: Getter) -> dict[str, Any]:
        whole, part = get(self.gguf), get(self.less)
        return {} if whole is None or part is None or whole < part else {self.hf: whole - part}


@dataclass(frozen=True)
class YarnScales(OfParts, Condition):
    """YaRN multiplies by the factors that llama.cpp assumes: ``mscale`` is ``mscale_all_dim``, and may have to be 1.

    Args:
        number: what both are, where llama.cpp knows no other number.
    """

    number: float | None = None

    def __call__(self, config: Config) -> bool:
        rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
        if rope.get("rope_type", rope.get("type")) != "yarn":
            return True
        all_dim = rope.get("mscale_all_dim")
        scaled = bool(all_dim) and rope.get("mscale") == all_dim and self.number in (None, all_dim)
        return scaled and rope.get("attention_factor") in (None, 1)


DEFAULTS = {
    "num_attention_heads": 32, "num_key_value_heads": None, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "attention_bias": False, "pretraining_tp": 1, "output_router_logits": False, "kv_lora_rank": 512,
    "q_lora_rank": 1536, "qk_rope_head_dim": 64, "v_head_dim": 128, "qk_nope_head_dim": 128,
}  # fmt: skip
NAMES = {"n_routed_experts": "num_local_experts"}

ROPE, NOPE, V = Dim("qk_rope_head_dim"), Dim("qk_nope_head_dim"), Dim("v_head_dim")
LATENT, Q_LATENT = Dim("kv_lora_rank"), Dim("q_lora_rank")
ATTN, MLP = LAYER_PREFIX + "self_attn.", LAYER_PREFIX + "mlp."
DENSE = Dim("first_k_dense_replace") > LAYER_INDEX

MLA_ROPE = Rope(scaled={"mscale_all_dim": ("rope.scaling.yarn_log_multiplier", 0.1)})
MLA_SIZES: tuple[ConfigRow, ...] = (
    *(key for key in SIZE_KEYS if key.hf != "num_key_value_heads"),
    Constant("attention.head_count_kv", 1),
)
MLA_KEYS: tuple[ConfigRow, ...] = (
    EPS_KEY,
    Key("vocab_size", "vocab_size"),
    Key("q_lora_rank", "attention.q_lora_rank", optional=True),
    Key("kv_lora_rank", "attention.kv_lora_rank"),
    Computed("attention.key_length", LATENT + ROPE),
    Computed("attention.value_length", LATENT),
    Computed("attention.key_length_mla", NOPE + ROPE),
    Key("v_head_dim", "attention.value_length_mla"),
    Key("qk_rope_head_dim", "rope.dimension_count"),
    Difference("qk_nope_head_dim", "attention.key_length_mla", "rope.dimension_count"),
)
MLA = (*MLA_SIZES, MLA_ROPE, *MLA_KEYS)
_GROUPS, _CHOSEN = Dim("n_group"), Dim("topk_group")
# llama.cpp's deepseek2 takes ``mscale`` to be ``mscale_all_dim``; the graphs that were made of it take it to be 1.
SCALED_ALIKE: dict[str, Condition] = {"rope_parameters": YarnScales()}
SCALED_BY_ONE: dict[str, Condition] = {"rope_parameters": YarnScales(1)}
GROUPS_FIT: dict[str, Condition] = {
    "n_group": ~Is("n_group") | Equal(EXPERTS % _GROUPS, Dim(0)),
    "topk_group": ~Is("n_group") | (_GROUPS >= _CHOSEN),
}
ROUTED: tuple[ConfigRow, ...] = (
    *EXPERT_KEYS,
    Key("n_group", "expert_group_count", optional=True),
    Key("topk_group", "expert_group_used_count", optional=True),
    Key("moe_intermediate_size", "expert_feed_forward_length"),
    Key("n_shared_experts", "expert_shared_count"),
    Key("routed_scaling_factor", "expert_weights_scale"),
    Key("norm_topk_prob", "expert_weights_norm"),
)


_HEADS, _BOTH = HEADS * (NOPE + ROPE), HEADS * (NOPE + V)
SPLIT_KEYS = (
    Reshape((_BOTH, LATENT), (HEADS, NOPE + V, LATENT)),
    Split((NOPE, V), axis=1),
    On((0,), Transpose()),
)
ATTENTION: tuple[Rule, ...] = (
    Rule(ATTN + "q_proj", Role.ATTN_Q, (_HEADS, EMBD), when=~Is("q_lora_rank")),
    Rule(ATTN + "q_a_proj", Role.ATTN_Q_A, (Q_LATENT, EMBD), when=Is("q_lora_rank")),
    Rule(ATTN + "q_a_layernorm", Role.ATTN_Q_A_NORM, (Q_LATENT,), when=Is("q_lora_rank")),
    Rule(ATTN + "q_b_proj", Role.ATTN_Q_B, (_HEADS, Q_LATENT), when=Is("q_lora_rank")),
    Rule(ATTN + "kv_a_proj_with_mqa", Role.ATTN_KV_A_MQA, (LATENT + ROPE, EMBD)),
    Rule(ATTN + "kv_a_layernorm", Role.ATTN_KV_A_NORM, (LATENT,)),
    Rule(ATTN + "kv_b_proj", (Role.ATTN_K_B, Role.ATTN_V_B), (_BOTH, LATENT), SPLIT_KEYS),
    Rule(ATTN + "o_proj", Role.ATTN_OUTPUT, (EMBD, HEADS * V)),
)


def model_rules(*mlp: Rule, attention: tuple[Rule, ...] = ATTENTION, head: Rule = HEAD) -> tuple[Rule, ...]:
    """The rules of a whole model with this MLP, and this attention if it has more than MLA's, or another head."""
    return (EMBEDDING, ATTN_NORM, *attention, FFN_NORM, *mlp, FINAL_NORM, head)


def routed_rules(dense: Condition, *, corrected: bool = True) -> tuple[Rule, ...]:
    """The MLP of the dense layers, and the experts of all others.

    Args:
        dense: the layers without experts.
        corrected: whether something is added to the experts' scores when they are chosen.
    """
    added = (correction(MLP + "gate.e_score_correction_bias", ~dense),) if corrected else ()
    return (
        *gated_mlp(when=dense),
        *experts(when=~dense),
        *added,
        *shared_expert(at=MLP + "shared_experts.", width=EXPERT_FF * Dim("n_shared_experts"), when=~dense),
    )
