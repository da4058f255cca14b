"""Encoders that return an embedding for each token: BERT, Nomic BERT, ModernBERT.

Sources: BertConfig, NomicBertConfig and ModernBertConfig of transformers 5.23; conversion/bert.py of llama.cpp. BERT's
pooler is what llama.cpp calls the classifier's first layer.
"""

from __future__ import annotations

from ...ir import Role
from ..dimensions import ALWAYS, CONTEXT, EMBD, FF, LAYER_INDEX, VOCAB, Dim, Is, LayerPattern, Q
from ..extras import POSITIONS, LeftOut
from ..rows import ConfigRow, Constant, Key, LayerFlags, Mapped, Rope
from ..rules import Arch, HFClass, Rule
from .shared import HEAD_DIM_KEYS, SIZE_KEYS

_TYPES = Rule("embeddings.token_type_embeddings", Role.TOKEN_TYPES, (Dim("type_vocab_size"), EMBD))
_WORDS = Rule("embeddings.word_embeddings", Role.TOKEN_EMBD, (VOCAB, EMBD))
_SIZES = tuple(key for key in SIZE_KEYS if key.hf != "num_key_value_heads")
_CONFIG: tuple[ConfigRow, ...] = (
    *_SIZES,
    Key("layer_norm_eps", "attention.layer_norm_epsilon"),
    Constant("attention.causal", False),
    Key("type_vocab_size", "tokenizer.ggml.token_type_count"),
)
_BERT = "encoder.layer.{layer}."


def _dense(hf: str, role: Role, high: Dim = EMBD, wide: Dim = EMBD) -> Rule:
    return Rule(_BERT + hf, role, (high, wide), bias=ALWAYS)


BERT = Arch(
    name="bert",
    classes={
        "BertModel": HFClass(
            "bert",
            {
                "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
                "intermediate_size": 3072, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
                "attention_probs_dropout_prob": 0.1, "max_position_embeddings": 512, "type_vocab_size": 2,
                "layer_norm_eps": 1e-12, "pad_token_id": 0, "classifier_dropout": None, "is_decoder": False,
                "add_cross_attention": False, "tie_word_embeddings": True,
            },
        )
    },
    config=_CONFIG,
    rules=(
        _WORDS,
        Rule("embeddings.position_embeddings", Role.POS_EMBD, (CONTEXT, EMBD)),
        _TYPES,
        Rule("embeddings.LayerNorm", Role.TOKEN_EMBD_NORM, (EMBD,), bias=ALWAYS),
        _dense("attention.self.query", Role.ATTN_Q),
        _dense("attention.self.key", Role.ATTN_K),
        _dense("attention.self.value", Role.ATTN_V),
        _dense("attention.output.dense", Role.ATTN_OUTPUT),
        Rule(_BERT + "attention.output.LayerNorm", Role.ATTN_OUTPUT_NORM, (EMBD,), bias=ALWAYS),
        _dense("intermediate.dense", Role.FFN_UP, FF),
        _dense("output.dense", Role.FFN_DOWN, EMBD, FF),
        Rule(_BERT + "output.LayerNorm", Role.LAYER_OUT_NORM, (EMBD,), bias=ALWAYS),
        Rule("pooler.dense", Role.CLS, (EMBD, EMBD), bias=ALWAYS, optional=True),
    ),
    fixed={"hidden_act": ("gelu", "gelu_new", "gelu_pytorch_tanh"), "is_decoder": False, "add_cross_attention": False},
    base="bert.",
    extras=(POSITIONS, LeftOut("cls.*", "heads of pretraining")),
    pools=True,
)  # fmt: skip

_NOMIC = "encoder.layers.{layer}."

NOMIC_BERT = Arch(
    name="nomic-bert",
    classes={
        "NomicBertModel": HFClass(
            "nomic_bert",
            {
                "vocab_size": 30528, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
                "intermediate_size": 3072, "hidden_act": "silu", "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 2048, "type_vocab_size": 2,
                "layer_norm_eps": 1e-12, "pad_token_id": 0, "classifier_dropout": None, "rope_theta": 1000.0,
                "tie_word_embeddings": True,
            },
        )
    },
    config=(*_SIZES, Rope(), *_CONFIG[len(_SIZES) :], *HEAD_DIM_KEYS),
    rules=(
        _WORDS,
        _TYPES,
        Rule("emb_ln", Role.TOKEN_EMBD_NORM, (EMBD,), bias=ALWAYS),
        Rule(_NOMIC + "attn.Wqkv", Role.ATTN_QKV, (3 * Q, EMBD)),
        Rule(_NOMIC + "attn.out_proj", Role.ATTN_OUTPUT, (EMBD, Q)),
        Rule(_NOMIC + "norm1", Role.ATTN_OUTPUT_NORM, (EMBD,), bias=ALWAYS),
        Rule(_NOMIC + "mlp.fc11", Role.FFN_UP, (FF, EMBD)),
        Rule(_NOMIC + "mlp.fc12", Role.FFN_GATE, (FF, EMBD)),
        Rule(_NOMIC + "mlp.fc2", Role.FFN_DOWN, (EMBD, FF)),
        Rule(_NOMIC + "norm2", Role.LAYER_OUT_NORM, (EMBD,), bias=ALWAYS),
    ),
    fixed={"hidden_act": "silu"},
    base="nomic_bert.",
    pools=True,
)  # fmt: skip

_MODERN = "layers.{layer}."
_EVERY = "global_attn_every_n_layers"  # a key of old configs

MODERN_BERT = Arch(
    name="modern-bert",
    classes={
        "ModernBertModel": HFClass(
            "modernbert",
            {
                "vocab_size": 50368, "hidden_size": 768, "intermediate_size": 1152, "num_hidden_layers": 22,
                "num_attention_heads": 12, "hidden_activation": "gelu", "max_position_embeddings": 8192,
                "initializer_cutoff_factor": 2.0, "norm_eps": 1e-5, "norm_bias": False, "pad_token_id": 50283,
                "eos_token_id": 50282, "bos_token_id": 50281, "cls_token_id": 50281, "sep_token_id": 50282,
                "attention_bias": False, "local_attention": 128, "embedding_dropout": 0.0, "mlp_bias": False,
                "mlp_dropout": 0.0, "decoder_bias": True, "classifier_pooling": "cls", "classifier_dropout": 0.0,
                "classifier_bias": False, "classifier_activation": "gelu", "deterministic_flash_attn": False,
                "sparse_prediction": False, "sparse_pred_ignore_index": -100, "rope_theta": 160000.0,
                "tie_word_embeddings": True,
            },
            {"global_rope_theta": "rope_theta"},
        )
    },
    config=(
        *_SIZES,
        Rope(sliding="local_rope_theta", says_none=True),
        Key("norm_eps", "attention.layer_norm_rms_epsilon"),  # as llama.cpp's converter: it is no RMS norm's
        Key("norm_eps", "attention.layer_norm_epsilon"),
        Constant("attention.causal", False),
        Mapped("classifier_pooling", "classifier.pooling_type", {"mean": 1, "cls": 2}),
        Key("local_attention", "attention.sliding_window"),
        LayerFlags("layer_types", "attention.sliding_window_pattern"),
        Key("vocab_size", "vocab_size"),
        Key("hidden_activation", "hidden_activation"),
    ),
    rules=(
        Rule("embeddings.tok_embeddings", Role.TOKEN_EMBD, (VOCAB, EMBD)),
        Rule("embeddings.norm", Role.TOKEN_EMBD_NORM, (EMBD,)),
        Rule(_MODERN + "attn_norm", Role.ATTN_NORM, (EMBD,), when=LAYER_INDEX >= 1),
        Rule(_MODERN + "attn.Wqkv", Role.ATTN_QKV, (3 * EMBD, EMBD)),
        Rule(_MODERN + "attn.Wo", Role.ATTN_OUTPUT, (EMBD, EMBD)),
        Rule(_MODERN + "mlp_norm", Role.FFN_NORM, (EMBD,)),
        Rule(_MODERN + "mlp.Wi", Role.FFN_UP, (2 * FF, EMBD)),
        Rule(_MODERN + "mlp.Wo", Role.FFN_DOWN, (EMBD, FF)),
        Rule("final_norm", Role.OUTPUT_NORM, (EMBD,)),
    ),
    fixed={
        "hidden_activation": ("gelu", "silu"), "norm_bias": False, "attention_bias": False, "mlp_bias": False,
    },
    needs={_EVERY: ~Is(_EVERY) | Is(_EVERY, 3)},
    implied={"layer_types": LayerPattern("sliding_attention", "full_attention", Dim(3), first=True)},
    extras=tuple(LeftOut(f"{module}.*", "head that predicts masked tokens") for module in ("head", "decoder")),
    pools=True,
)  # fmt: skip
