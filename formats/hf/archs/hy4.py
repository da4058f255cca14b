"""Hy4: latent attention (MLA) with a gate and sinks, to the keys that an indexer chooses (DSA); experts; residual
streams that hyper-connections mix.

Sources: HYV4Config of transformers 5.23; conversion/hy_v4.py of llama.cpp. transformers turns the halves of a head,
llama.cpp neighbouring pairs of the same rows: one of the two takes published weights for what they are not. The file is
that of llama.cpp's converter. transformers 5.23 saves some tensors under other names than published checkpoints have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import (
    EMBD,
    EXPERT_FF,
    EXPERTS,
    HEADS,
    MLP_TYPES,
    Dim,
    Follows,
    Is,
    LayerPattern,
    LeadingLayers,
    OrDefault,
)
from ..tables.extras import LeftOut
from ..tables.layer_kinds import BeginsWith
from ..tables.layer_rows import Repeated
from ..tables.ops import Split
from ..tables.rows import Constant, Key, LayerFlags, LeadingDense
from ..tables.rules import Arch, HFClass, Rule
from .dsa import INDEXER_KEYS, INDEXER_NEEDS, indexer_rules
from .hyper import HC_KEYS, STREAMS, output_streams
from .mla import ATTENTION, ATTN, DEFAULTS, MLA, MLP, NAMES, ROPE, ROUTED, SCALED_BY_ONE, V, model_rules
from .shared import LAYER_PREFIX, OWN_HEAD, correction, gated_mlp, shared_expert

_DENSE, _SAVED = Is(MLP_TYPES, "dense"), Is("saved_by_transformers")
_ALL_INDEXED = LayerPattern("indexed_attention", "indexed_attention", Dim(1))


def _either(*rules: Rule, published: str, saved: str) -> Iterator[Rule]:
    """Rules under the names of both layouts."""
    for rule in rules:
        name = rule.modules[0]
        if published not in name:
            yield rule
            continue
        yield replace(rule, when=rule.when & ~_SAVED)
        yield replace(rule, hf=name.replace(published, saved), when=rule.when & _SAVED)


def _streams() -> Iterator[Rule]:
    """The mixes around attention and MLP, which keep each stream apart."""
    sizes = {"fn": (2 * STREAMS, STREAMS * EMBD), "base": (2 * STREAMS,), "scale": (Dim(2),)}
    parts = {
        "attn": (Role.HC_ATTN_FN, Role.HC_ATTN_BASE, Role.HC_ATTN_SCALE),
        "mlp": (Role.HC_FFN_FN, Role.HC_FFN_BASE, Role.HC_FFN_SCALE),
    }
    for part, roles in parts.items():
        layer = f"hc_{part}_layer"
        rules = (
            Rule(f"{LAYER_PREFIX}{layer}.hc_pre.hc_{name}", role, size, tensor=True)
            for (name, size), role in zip(sizes.items(), roles, strict=True)
        )
        yield from _either(*rules, published=f"{layer}.hc_pre.", saved=f"hc_pre.{layer}.")


_EXPERTS = (
    Rule(MLP + "gate", Role.FFN_GATE_INP, (EXPERTS, EMBD), when=~_DENSE),
    Rule(
        MLP + "experts.gate_up_proj",
        (Role.FFN_GATE_EXPS, Role.FFN_UP_EXPS),
        (EXPERTS, 2 * EXPERT_FF, EMBD),
        (Split((EXPERT_FF, EXPERT_FF), axis=1),),
        when=~_DENSE,
        tensor=True,
    ),
    Rule(MLP + "experts.down_proj", Role.FFN_DOWN_EXPS, (EXPERTS, EMBD, EXPERT_FF), when=~_DENSE, tensor=True),
    correction(MLP + "gate.e_score_correction_bias", ~_DENSE),
)

HY_V4 = Arch(
    name="hy_v4",
    classes={
        "HYV4ForCausalLM": HFClass(
            "hy_v4",
            {key: value for key, value in DEFAULTS.items() if key != "pretraining_tp"}
            | {"vocab_size": 120832, "hidden_size": 2816, "intermediate_size": 6912, "moe_intermediate_size": 768}
            | {"num_hidden_layers": 34, "num_key_value_heads": 32, "max_position_embeddings": 262144}
            | {"rms_norm_eps": 1e-5, "num_local_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8}
            | {"routed_scaling_factor": 2.827, "norm_topk_prob": True, "n_group": 1, "topk_group": 1}
            | {"qk_nope_head_dim": 192, "v_head_dim": 256, "mlp_layer_types": None, "layer_types": None}
            | {"index_topk": 2048, "index_head_dim": 128, "index_n_heads": 16, "indexer_types": None, "hc_mult": 4}
            | {"hc_magnitude": 2.0, "hc_eps": 1e-6, "learnable_sink_init": 0.0, "swiglu_limit": 10.0}
            | {"bos_token_id": 120000, "eos_token_id": 120025, "pad_token_id": 120002},
            NAMES,
        )
    },
    config=(
        *MLA,
        *(row for row in ROUTED if getattr(row, "hf", "") not in ("n_group", "topk_group")),
        LeadingDense(),
        Constant("expert_gating_func", 2),
        Repeated("swiglu_limit", "swiglu_clamp_exp"),
        *(row for row in HC_KEYS if row.hf != "hc_sinkhorn_iters"),
        Key("hc_magnitude", "hyper_connection.magnitude"),
        *INDEXER_KEYS,
        LayerFlags("indexer_types", "attention.indexer.types", true="full", false="shared"),
    ),
    rules=model_rules(
        *_streams(),
        *_either(*gated_mlp(when=_DENSE), published="gate_proj", saved="linear_gate"),
        *_EXPERTS,
        *_either(
            *shared_expert(at=MLP + "shared_experts.", width=EXPERT_FF * Dim("n_shared_experts"), when=~_DENSE),
            published="gate_proj",
            saved="linear_gate",
        ),
        *_either(*output_streams("model.hc_head.hc_head_"), published="hc_head.", saved="hc_pre.hc_head."),
        attention=(
            *ATTENTION,
            Rule(ATTN + "linear_gate", Role.ATTN_GATE, (HEADS * V, EMBD)),
            Rule(ATTN + "learnable_sink_param", Role.ATTN_SINKS, (HEADS,), tensor=True),
            *indexer_rules(Is("indexer_types", "full")),
        ),
        head=OWN_HEAD,
    ),
    fixed={"hidden_act": "silu", "attention_bias": False, "n_group": 1, "topk_group": 1},
    needs=INDEXER_NEEDS
    | SCALED_BY_ONE
    | {
        "layer_types": Follows("layer_types", _ALL_INDEXED),
        "indexer_types": BeginsWith("indexer_types", "full"),
        "swiglu_limit": Is("swiglu_limit"),
    },
    implied={
        MLP_TYPES: LeadingLayers("dense", "sparse", OrDefault("first_k_dense_replace", 1)),
        "layer_types": _ALL_INDEXED,
        "indexer_types": LayerPattern("shared", "full", Dim(4), skip=Dim(2)),
        "head_dim": ROPE,  # what turns; transformers computes it whatever the config says
    },
    synonyms={"layer_types": {"deepseek_sparse_attention": "indexed_attention"}},
    roots={"hc_head.hc_pre.": "model.hc_pre.hc_head."},  # as transformers saves the bare class
    layouts={"saved_by_transformers": "*.hc_pre.hc_attn_layer.hc_fn"},
    extras=(LeftOut("model.mtp_layers.*", "layers that predict further tokens"),),
    by_converter="transformers turns the halves of a head, llama.cpp neighbouring pairs of the same rows",
)
