"""EXAONE."""

from oracles.proofs import Further, Proof

# llama.cpp has sliding windows in the model of 64 layers, and in no other.
_WINDOWS = {
    "num_hidden_layers": 64, "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4,
    "num_key_value_heads": 2, "sliding_window": 16, "sliding_window_pattern": 4,
}  # fmt: skip

_EXPERTS = {
    "num_hidden_layers": 5, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 48, "sliding_window": 24,
    "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "num_shared_experts": 2,
    "first_k_dense_replace": 2,
}  # fmt: skip

# As in LGAI-EXAONE/EXAONE-4.5-33B.
_MTP = Further(
    "mtp.layers.0.",
    "model.layers.63.",
    {
        "mtp.fc.weight": (64, 128),
        "mtp.norm.weight": (64,),
        "mtp.pre_fc_norm_embedding.weight": (64,),
        "mtp.pre_fc_norm_hidden.weight": (64,),
    },
    beside=True,
)
# As in LGAI-EXAONE/K-EXAONE-236B-A23B: its layer for further tokens is dense.
_DENSE_MTP = Further(
    "mtp.layers.0.",
    "model.layers.0.",
    {
        "mtp.fc.weight": (256, 512),
        "mtp.norm.weight": (256,),
        "mtp.pre_fc_norm_embedding.weight": (256,),
        "mtp.pre_fc_norm_hidden.weight": (256,),
    },
    beside=True,
)

PROOFS = (
    Proof(
        "exaone4",
        "Exaone4ForCausalLM",
        {"num_attention_heads": 8, "num_key_value_heads": 2, "layer_types": ["full_attention"] * 3},
        nulls=("sliding_window", "sliding_window_pattern"),
    ),
    Proof(
        "exaone4",
        "Exaone4ForCausalLM",
        _WINDOWS | {"num_nextn_predict_layers": 1},
        "windows",
        published={"architectures": ["Exaone4_5_ForConditionalGeneration"]},
        further=_MTP,
    ),
    Proof(
        "exaone-moe",
        "ExaoneMoeForCausalLM",
        _EXPERTS | {"num_nextn_predict_layers": 1},
        published={"scoring_func": "sigmoid"},
        further=_DENSE_MTP,
    ),
)
