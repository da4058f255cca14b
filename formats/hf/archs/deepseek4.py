"""DeepSeek V4: one head of keys for a window, and of compressed keys, of which an indexer chooses; residual streams
that hyper-connections mix; first layers whose experts a table names for each token.

Sources: DeepseekV4Config of transformers 5.23; conversion/deepseek.py of llama.cpp. Published checkpoints have their
own names, of which those that transformers saves keep most.
"""

from __future__ import annotations

from ...ir import Role
from ..tables.compressed_rope import CompressedRope
from ..tables.dimensions import (
    EMBD,
    EXPERT_FF,
    EXPERTS,
    HEAD_DIM,
    HEADS,
    MLP_TYPES,
    VOCAB,
    Condition,
    Dim,
    Equal,
    Follows,
    Is,
    LeadingLayers,
    OrDefault,
    Share,
)
from ..tables.extras import LeftOut
from ..tables.layer_kinds import NoOther
from ..tables.layer_rows import LayerNumbers, Repeated
from ..tables.layer_words import WordsFrom
from ..tables.ops import Concat, On, Transpose
from ..tables.rows import Computed, Constant, Key, LeadingDense
from ..tables.rules import Arch, Further, HFClass, Rule
from .dsa import INDEXER_KEYS
from .hyper import HC_KEYS, STREAMS, hyper_connections, output_streams
from .shared import EMBEDDING, EPS_KEY, EXPERT_KEYS, FINAL_NORM, HEAD_DIM_KEYS, LAYER_PREFIX, SIZE_KEYS, experts

_ATTN, _FFN = LAYER_PREFIX + "attn.", LAYER_PREFIX + "ffn."
_SAVED = Is("norm_of_keys_is_norm")
_HASH = Is(MLP_TYPES, "hash_moe")
_SPARSE, _HEAVY = (Is("layer_types", f"{word}_attention") for word in ("compressed_sparse", "heavily_compressed"))
_RATES = {"sliding_attention": 0, "compressed_sparse_attention": 4, "heavily_compressed_attention": 128}
_KINDS = WordsFrom({"compress_ratios": {rate: word for word, rate in _RATES.items()}}, longer=True)
_Q_LATENT, _GROUPS, _OUT = Dim("q_lora_rank"), Dim("o_groups"), Dim("o_lora_rank")
_INDEX, _INDEX_DIM = Dim("index_n_heads"), Dim("index_head_dim")
_USED = Dim("num_experts_per_tok")


def _compressor(at: str, roles: tuple[Role, ...], rate: int, width: Dim, dim: Dim, when: Condition) -> tuple[Rule, ...]:
    """What makes one key of ``rate`` of them."""
    ape, kv, gate, norm = roles
    return (
        Rule(at + "ape", ape, (Dim(rate), width), when=when, tensor=True),
        Rule(at + "wkv", kv, (width, EMBD), when=when),
        Rule(at + "wgate", gate, (width, EMBD), when=when),
        Rule(at + "norm", norm, (dim,), when=when),
    )


_OF_KEYS = (Role.ATTN_COMPRESSOR_APE, Role.ATTN_COMPRESSOR_KV, Role.ATTN_COMPRESSOR_GATE, Role.ATTN_COMPRESSOR_NORM)
_OF_INDEX = (
    Role.INDEXER_COMPRESSOR_APE,
    Role.INDEXER_COMPRESSOR_KV,
    Role.INDEXER_COMPRESSOR_GATE,
    Role.INDEXER_COMPRESSOR_NORM,
)
_ATTENTION = (
    Rule(LAYER_PREFIX + "attn_norm", Role.ATTN_NORM, (EMBD,)),
    Rule(_ATTN + "attn_sink", Role.ATTN_SINKS, (HEADS,), tensor=True),
    Rule(_ATTN + "wq_a", Role.ATTN_Q_A, (_Q_LATENT, EMBD)),
    Rule(_ATTN + "q_norm", Role.ATTN_Q_A_NORM, (_Q_LATENT,)),
    Rule(_ATTN + "wq_b", Role.ATTN_Q_B, (HEADS * HEAD_DIM, _Q_LATENT)),
    Rule(_ATTN + "wkv", Role.ATTN_KV, (HEAD_DIM, EMBD)),
    Rule(_ATTN + "kv_norm", Role.ATTN_KV_A_NORM, (HEAD_DIM,), when=~_SAVED),
    Rule(_ATTN + "norm", Role.ATTN_KV_A_NORM, (HEAD_DIM,), when=_SAVED),
    Rule(_ATTN + "wo_a", Role.ATTN_OUTPUT_A, (_GROUPS * _OUT, HEADS * HEAD_DIM // _GROUPS)),
    Rule(_ATTN + "wo_b", Role.ATTN_OUTPUT_B, (EMBD, _GROUPS * _OUT)),
    *_compressor(_ATTN + "compressor.", _OF_KEYS, 4, 2 * HEAD_DIM, HEAD_DIM, _SPARSE),
    *_compressor(_ATTN + "compressor.", _OF_KEYS, 128, HEAD_DIM, HEAD_DIM, _HEAVY),
    Rule(_ATTN + "indexer.weights_proj", Role.INDEXER_PROJ, (_INDEX, EMBD), when=_SPARSE),
    Rule(_ATTN + "indexer.wq_b", Role.INDEXER_ATTN_Q_B, (_INDEX * _INDEX_DIM, _Q_LATENT), when=_SPARSE),
    *_compressor(_ATTN + "indexer.compressor.", _OF_INDEX, 4, 2 * _INDEX_DIM, _INDEX_DIM, _SPARSE),
)
_SHARED = EXPERT_FF * Dim("n_shared_experts")
# Its own layer for further tokens, which llama.cpp reads from a file of its own, with the layer's hyper-connection of
# the output in place of the model's.
_FURTHER = Further(
    "num_nextn_predict_layers",
    (
        Rule(LAYER_PREFIX + "enorm", Role.NEXTN_ENORM, (EMBD,)),
        Rule(LAYER_PREFIX + "hnorm", Role.NEXTN_HNORM, (EMBD,)),
        Rule(
            (LAYER_PREFIX + "e_proj", LAYER_PREFIX + "h_proj"),
            Role.NEXTN_EH_PROJ,
            (EMBD, EMBD),
            (On((0, 1), Transpose()), Concat((EMBD, EMBD)), Transpose()),
        ),
        Rule(LAYER_PREFIX + "norm", Role.NEXTN_SHARED_HEAD_NORM, (EMBD,)),
        *output_streams("mtp.0.hc_head_"),
    ),
    at="mtp.{number}.",
    sees={"layer_types": "sliding_attention", MLP_TYPES: "moe"},
    kept=False,
)

DEEPSEEK4 = Arch(
    name="deepseek4",
    classes={
        "DeepseekV4ForCausalLM": HFClass(
            "deepseek_v4",
            {"vocab_size": 129280, "hidden_size": 4096, "moe_intermediate_size": 2048, "num_hidden_layers": 43}
            | {"num_attention_heads": 64, "num_key_value_heads": 1, "head_dim": 512, "q_lora_rank": 1024}
            | {"num_experts_per_tok": 6, "num_local_experts": 256, "n_shared_experts": 1, "norm_topk_prob": True}
            | {"scoring_func": "sqrtsoftplus", "routed_scaling_factor": 1.5, "max_position_embeddings": 1048576}
            | {"rope_theta": 10000.0, "layer_types": None, "compress_rates": None, "compress_rope_theta": 160000.0}
            | {"hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6, "mlp_layer_types": None, "swiglu_limit": 10.0}
            | {"sliding_window": 128, "o_groups": 8, "o_lora_rank": 1024, "index_n_heads": 64, "index_head_dim": 128}
            | {"index_topk": 512, "num_nextn_predict_layers": 1, "output_router_logits": False, "mlp_bias": False}
            | {"router_aux_loss_coef": 0.001, "router_jitter_noise": 0.0, "hidden_act": "silu", "rms_norm_eps": 1e-6}
            | {"bos_token_id": 0, "eos_token_id": 1, "attention_bias": False},
            {"n_routed_experts": "num_local_experts"},
        )
    },
    config=(
        *(key for key in SIZE_KEYS if key.hf != "intermediate_size"),
        CompressedRope(partial=64 / 512),
        EPS_KEY,
        *EXPERT_KEYS,
        Constant("expert_gating_func", 4),
        *HEAD_DIM_KEYS,
        Key("q_lora_rank", "attention.q_lora_rank"),
        Key("sliding_window", "attention.sliding_window"),
        Key("moe_intermediate_size", "expert_feed_forward_length"),
        Key("n_shared_experts", "expert_shared_count"),
        Key("routed_scaling_factor", "expert_weights_scale"),
        Key("norm_topk_prob", "expert_weights_norm"),
        Repeated("swiglu_limit", "swiglu_clamp_exp"),
        Repeated("swiglu_limit", "swiglu_clamp_shexp"),
        *INDEXER_KEYS,
        Key("o_groups", "attention.output_group_count"),
        Key("o_lora_rank", "attention.output_lora_rank"),
        LayerNumbers("layer_types", "attention.compress_ratios", _RATES),
        *HC_KEYS,
        LeadingDense(gguf="hash_layer_count", first="hash_moe", rest="moe"),
        Computed("embedding_length_out", EMBD * STREAMS),
        _FURTHER,
    ),
    rules=(
        EMBEDDING,
        *_ATTENTION,
        *hyper_connections(),
        Rule(LAYER_PREFIX + "ffn_norm", Role.FFN_NORM, (EMBD,)),
        *experts(at=_FFN, names=("w1", "w3", "w2")),
        Rule(_FFN + "gate.tid2eid", Role.FFN_GATE_TID2EID, (VOCAB, _USED), when=_HASH, tensor=True, whole=True),
        Rule(_FFN + "gate.bias", Role.FFN_EXP_PROBS_B, (EXPERTS,), when=~_HASH, tensor=True, part="bias"),
        Rule(_FFN + "shared_experts.w1", Role.FFN_GATE_SHEXP, (_SHARED, EMBD)),
        Rule(_FFN + "shared_experts.w3", Role.FFN_UP_SHEXP, (_SHARED, EMBD)),
        Rule(_FFN + "shared_experts.w2", Role.FFN_DOWN_SHEXP, (EMBD, _SHARED)),
        *output_streams("model.hc_head.hc_"),
        FINAL_NORM,
        Rule("head", Role.OUTPUT, (VOCAB, EMBD)),
    ),
    fixed={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "scoring_func": "sqrtsoftplus"}
    | {"norm_topk_prob": True, "num_key_value_heads": 1, "n_shared_experts": 1}
    | {"compress_rates": ({word: rate for word, rate in _RATES.items() if rate}, None)},
    needs={
        "layer_types": Follows("layer_types", _KINDS),
        "o_groups": Equal(HEADS * HEAD_DIM % _GROUPS, Dim(0)),
        "compress_rate_csa": NoOther("compress_rate_csa", 4),
        "compress_rate_hca": NoOther("compress_rate_hca", 128),
    },
    implied={
        "layer_types": _KINDS,
        MLP_TYPES: LeadingLayers("hash_moe", "moe", OrDefault("num_hash_layers", 3)),
        "partial_rotary_factor": Share("qk_rope_head_dim", HEAD_DIM),
    },
    roots={"embed.": "model.embed_tokens.", "hc_head_": "model.hc_head.hc_", "lm_head.": "head."},
    layouts={"norm_of_keys_is_norm": "*.attn.norm.weight"},
    extras=(
        LeftOut("aligner.*", "vision tower"),
        LeftOut("vision.*", "vision tower"),
    ),
)
