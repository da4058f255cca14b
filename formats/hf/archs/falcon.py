"""Falcon: 7B, 40B, 180B and Falcon 2.

Sources: FalconConfig of transformers 5.23; conversion/falcon.py of llama.cpp.
"""

from __future__ import annotations

from ...ir import Role
from ..tables.dimensions import ALWAYS, EMBD, FF, HEAD_DIM, HEADS, VOCAB, Condition, Dim, Is
from ..tables.ops import Concat, On, Reshape, Split
from ..tables.rows import Computed, Constant, GreaterThan, Key, Rope
from ..tables.rules import Arch, HFClass, Rule
from .shared import HEAD

_LAYER = "transformer.h.{layer}."
_NEW = Is("new_decoder_architecture")  # of 40B and larger: grouped key/value heads
_TWO_NORMS = _NEW & ~Is("num_ln_in_parallel_attn", 1)
_KV_HEADS = Dim("num_kv_heads")
_QUERIES = HEADS // _KV_HEADS
_KV = _KV_HEADS * HEAD_DIM


def _part(each: Dim | int) -> Reshape:
    """The given number of heads of each group as the rows of a matrix."""
    return Reshape((_KV_HEADS, each, HEAD_DIM, EMBD), (_KV_HEADS * each * HEAD_DIM, EMBD))


def _norm(hf: str, role: Role, when: Condition = ALWAYS) -> Rule:
    return Rule(hf, role, (EMBD,), bias=ALWAYS, when=when)


FALCON = Arch(
    name="falcon",
    classes={
        "FalconForCausalLM": HFClass(
            "falcon",
            {
                "vocab_size": 65024, "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71,
                "max_position_embeddings": 2048, "layer_norm_epsilon": 1e-5, "num_kv_heads": None,
                "num_ln_in_parallel_attn": None, "new_decoder_architecture": False, "multi_query": True,
                "parallel_attn": True, "alibi": False, "bias": False, "activation": "gelu", "intermediate_size": None,
                "hidden_dropout": 0.0, "bos_token_id": 11, "eos_token_id": 11, "tie_word_embeddings": True,
            },
            names={"ffn_hidden_size": "intermediate_size"},
        )
    },
    config=(
        Key("max_position_embeddings", "context_length"),
        Constant("tensor_data_layout", "jploski"),
        Key("hidden_size", "embedding_length"),
        Key("intermediate_size", "feed_forward_length"),
        Key("num_hidden_layers", "block_count"),
        Key("num_attention_heads", "attention.head_count"),
        Key("num_kv_heads", "attention.head_count_kv", when=_NEW),
        Computed("attention.head_count_kv", Dim(1), when=~_NEW),
        GreaterThan("new_decoder_architecture", "attention.head_count_kv", 1),
        Key("layer_norm_epsilon", "attention.layer_norm_epsilon"),
        Rope(),
    ),
    rules=(
        Rule("transformer.word_embeddings", Role.TOKEN_EMBD, (VOCAB, EMBD)),
        Rule(
            _LAYER + "self_attention.query_key_value",
            Role.ATTN_QKV,
            (EMBD + 2 * _KV, EMBD),
            (
                Reshape((EMBD + 2 * _KV, EMBD), (_KV_HEADS, _QUERIES + 2, HEAD_DIM, EMBD)),
                Split((_QUERIES, 1, 1), axis=1),
                On((0,), _part(_QUERIES)),
                On((1, 2), _part(1)),
                Concat((EMBD, _KV, _KV)),
            ),
            when=_NEW,
        ),
        Rule(_LAYER + "self_attention.query_key_value", Role.ATTN_QKV, (EMBD + 2 * HEAD_DIM, EMBD), when=~_NEW),
        Rule(_LAYER + "self_attention.dense", Role.ATTN_OUTPUT, (EMBD, EMBD)),
        Rule(_LAYER + "mlp.dense_h_to_4h", Role.FFN_UP, (FF, EMBD)),
        Rule(_LAYER + "mlp.dense_4h_to_h", Role.FFN_DOWN, (EMBD, FF)),
        _norm(_LAYER + "input_layernorm", Role.ATTN_NORM, ~_TWO_NORMS),
        _norm(_LAYER + "ln_attn", Role.ATTN_NORM_2, _TWO_NORMS),
        _norm(_LAYER + "ln_mlp", Role.ATTN_NORM, _TWO_NORMS),
        _norm("transformer.ln_f", Role.OUTPUT_NORM),
        HEAD,
    ),
    # llama.cpp computes the tanh form of gelu
    fixed={"activation": ("gelu", "gelu_new", "gelu_pytorch_tanh"), "alibi": False, "bias": False},
    needs={"multi_query": _NEW | Is("multi_query"), "parallel_attn": Is("parallel_attn")},
    implied={"intermediate_size": 4 * EMBD, "num_kv_heads": HEADS},
    base="transformer.",
)  # fmt: skip
