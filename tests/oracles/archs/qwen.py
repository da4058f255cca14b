"""Qwen."""

from oracles.proofs import Further, Proof

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
)
