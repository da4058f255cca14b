"""DeepSeek, GLM-4.7-Flash, GLM-5, Mistral 4 and Youtu-LLM."""

from oracles.archs.glm import FURTHER
from oracles.proofs import Proof

_MLA = {
    "num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 64, "q_lora_rank": 96, "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 48, "v_head_dim": 64, "moe_intermediate_size": 128, "n_routed_experts": 8,
    "num_experts_per_tok": 3, "first_k_dense_replace": 1, "routed_scaling_factor": 1.5,
}  # fmt: skip
_ONE_GROUP = _MLA | {"n_group": 1, "topk_group": 1}
_YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32,
    "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
}  # fmt: skip
_FLASH = _ONE_GROUP | {
    "first_k_dense_replace": None,
    "n_shared_experts": 2,
    "mlp_layer_types": ["dense", "sparse", "sparse"],
}
_YOUTU = {
    key: value
    for key, value in _MLA.items()
    if "expert" not in key and "moe" not in key and "rout" not in key and "first" not in key
}
_SIGMOID = {"scoring_func": "sigmoid"}
# With few heads many scores are 0: then ties decide what is chosen, which each program breaks in its own way.
_INDEXER = {"index_n_heads": 32, "index_head_dim": 64, "index_topk": 16}

_SAYS_ONE = {"num_nextn_predict_layers": 1}

PROOFS = (
    Proof(
        "deepseek2",
        "DeepseekV2ForCausalLM",
        _MLA | {"n_shared_experts": 2},
        published={"scoring_func": "softmax", "norm_topk_prob": False},
    ),
    Proof("deepseek3", "DeepseekV3ForCausalLM", _MLA | {"n_group": 4, "topk_group": 2}, published=_SIGMOID),
    Proof("deepseek3", "DeepseekV3ForCausalLM", _ONE_GROUP | {"rope_parameters": _YARN}, "yarn", published=_SIGMOID),
    Proof(
        "glm4moelite",
        "Glm4MoeLiteForCausalLM",
        _FLASH | _SAYS_ONE,
        published={"first_k_dense_replace": 1},
        further=FURTHER,
    ),
    Proof(
        "deepseek32",
        "DeepseekV32ForCausalLM",
        _MLA | _INDEXER | {"n_group": 4, "topk_group": 2, "rope_parameters": _YARN} | _SAYS_ONE,
        published=_SIGMOID,
        further=FURTHER,
    ),
    Proof(
        "glm-dsa",
        "GlmMoeDsaForCausalLM",
        _ONE_GROUP | _INDEXER | {"indexer_types": ["full", "shared", "full"]} | _SAYS_ONE,
        published=_SIGMOID,
        further=FURTHER,
    ),
    Proof(
        "mistral4",
        "Mistral4ForCausalLM",
        _ONE_GROUP | {"n_shared_experts": 2, "rope_parameters": _YARN | {"llama_4_scaling_beta": 0.1}},
        published={"architectures": ["Mistral3ForConditionalGeneration"]},  # that alone is registered there
    ),
    Proof("youtu", "YoutuForCausalLM", _YOUTU),
)
