"""Qwen."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from oracles.proofs import Further, Proof, Tensors

_HEADS = {"num_attention_heads": 8, "num_key_value_heads": 2}
_EXPERTS = _HEADS | {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 256}
_DELTA = {
    "head_dim": 64, "num_hidden_layers": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
    "linear_num_key_heads": 4, "linear_num_value_heads": 8,
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
}  # fmt: skip
_SECTIONS = {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25, "mrope_section": [3, 3, 2]}
_HYBRID_EXPERTS = _EXPERTS | _DELTA | {"shared_expert_intermediate_size": 512}
_PUBLISHED = {"full_attention_interval": 2}
# As in Qwen/Qwen3.5-9B and Qwen3-Next: the second layer is one of full attention, as this one is.
_MTP = Further(
    "mtp.layers.0.",
    "model.layers.1.",
    {
        "mtp.fc.weight": (256, 512),
        "mtp.norm.weight": (256,),
        "mtp.pre_fc_norm_embedding.weight": (256,),
        "mtp.pre_fc_norm_hidden.weight": (256,),
    },
)
_SAYS_ONE = {"mtp_num_hidden_layers": 1}

# As in Qwen/Qwen3.8-Flash-Next: one layer whose n-grams are looked up, the first of the linear ones but one.
_QWEN4 = _HYBRID_EXPERTS | {
    "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
    "rope_parameters": _SECTIONS, "hc_count": 4, "hc_lowrank": 32, "output_gate_type": "sigmoid",
    "indexer_n_heads": 32, "indexer_kv_heads": 1, "indexer_head_dim": 64, "indexer_budget": 16,
    "indexer_compress_ratio": 4, "ple_layer_ids": [2], "heads_per_ngram": 2, "ngram_vocab_size_base": 480,
    "split_ngram_parts": 4,
}  # fmt: skip


def _table_in_parts(weights: Tensors) -> dict[str, NDArray[Any]]:
    """A checkpoint as it is published, of what the model has in memory."""
    (name,) = (name for name in weights if name.endswith(".ngram_embedding.weight"))
    parts = enumerate(np.split(weights[name], 4))
    rest = {other: weight for other, weight in weights.items() if other != name}
    return rest | {name.replace(".weight", f".shard_{i}.weight"): part.copy() for i, part in parts}


_QWEN4_PUBLISHED = {"layer_types": _QWEN4["layer_types"]}

PROOFS = (
    Proof("qwen2", "Qwen2ForCausalLM", _HEADS | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    Proof(
        "qwen2",
        "Qwen2ForCausalLM",
        {"num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": True},
        "tied",
    ),
    Proof("qwen3", "Qwen3ForCausalLM", _HEADS | {"head_dim": 48}),
    Proof(
        "qwen3",
        "Qwen3ForSequenceClassification",
        _HEADS | {"head_dim": 48, "id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}},
        "classifier",
        pooling="rank",
        softmax=True,
    ),
    Proof("qwen2moe", "Qwen2MoeForCausalLM", _EXPERTS | {"shared_expert_intermediate_size": 512}),
    Proof("qwen3moe", "Qwen3MoeForCausalLM", _EXPERTS | {"head_dim": 48, "norm_topk_prob": True}),
    Proof(
        "qwen3next",
        "Qwen3NextForCausalLM",
        _HYBRID_EXPERTS,
        published=_PUBLISHED,
        further=_MTP,
    ),
    # three value heads for each key head, and the vision tower's sections
    Proof(
        "qwen35",
        "Qwen3_5ForCausalLM",
        _HEADS | _DELTA | {"linear_num_value_heads": 12, "rope_parameters": _SECTIONS} | _SAYS_ONE,
        published=_PUBLISHED,
        further=_MTP,
    ),
    Proof(
        "qwen35",
        "Qwen3_5ForCausalLM",
        _HEADS | _DELTA | {"linear_num_value_heads": 4, "tie_word_embeddings": True},
        "tied",
        published=_PUBLISHED,
        options=("--no-mtp",),
    ),
    Proof(
        "qwen35moe",
        "Qwen3_5MoeForCausalLM",
        _HYBRID_EXPERTS | _SAYS_ONE,
        published=_PUBLISHED,
        further=_MTP,
    ),
    Proof(
        "qwen35moe",
        "Qwen3_5MoeForCausalLM",
        _HYBRID_EXPERTS | _SAYS_ONE,
        "fused",
        as_loaded=True,
        published=_PUBLISHED,
        further=_MTP,
    ),
    Proof("qwen4exp", "Qwen4ExpForCausalLM", _QWEN4, published=_QWEN4_PUBLISHED),
    Proof(
        "qwen4exp",
        "Qwen4ExpForCausalLM",
        _QWEN4 | {"ngram_size": 5, "ple_conv_kernel_size": 3, "hc_count": 2, "tie_word_embeddings": True},
        "loaded",
        as_loaded=True,
        published=_QWEN4_PUBLISHED,
        layout=_table_in_parts,
    ),
)
