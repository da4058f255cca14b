"""Encoders that return an embedding for each token, and classifiers on top of them: BERT, RoBERTa and XLM-RoBERTa,
DistilBERT, Jina's third embedder, EuroBERT, Nomic BERT, ModernBERT.

Sources: their config classes in transformers 5.23; conversion/bert.py of llama.cpp. BERT's pooler is what llama.cpp
calls the classifier's first layer. Heads that predict masked tokens have no place there: their models are written back
without one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import (
    ALWAYS,
    CLASSIFIES,
    CONTEXT,
    EMBD,
    FF,
    HEAD_DIM,
    HEADS,
    LABELS,
    LAYER_INDEX,
    VOCAB,
    Condition,
    CountOf,
    Dim,
    Equal,
    Implied,
    Is,
    LayerPattern,
    Q,
)
from ..tables.extras import POSITIONS, LeftOut
from ..tables.ops import Concat, DropRows, Op
from ..tables.rows import AfterPadding, ConfigRow, Constant, Key, Labels, LayerFlags, Mapped, Rope
from ..tables.rules import Arch, HFClass, Rule
from .shared import ATTN_NORM, EMBEDDING, EPS_KEY, FFN_NORM, FINAL_NORM, HEAD_DIM_KEYS, SIZE_KEYS, attention, gated_mlp

_SIZES = tuple(key for key in SIZE_KEYS if key.hf != "num_key_value_heads")
_ENCODES = Constant("attention.causal", False)
_CONFIG: tuple[ConfigRow, ...] = (
    *_SIZES,
    Key("layer_norm_eps", "attention.layer_norm_epsilon"),
    _ENCODES,
    Key("type_vocab_size", "tokenizer.ggml.token_type_count"),
    Labels(),
)
_LABELS: dict[str, Implied] = {"num_labels": CountOf("id2label", 2)}
# llama.cpp computes the tanh form of all of them
_GELU = ("gelu", "gelu_new", "gelu_pytorch_tanh")
_POSITIONS = "position_embedding_type"
_ABSOLUTE: dict[str, Condition] = {_POSITIONS: ~Is(_POSITIONS) | Is(_POSITIONS, "absolute")}
_MASKED = "head that predicts masked tokens"


def _classes(base: str, cls: HFClass) -> dict[str, HFClass]:
    """The classes of a model: bare, with a classifier, and with the head of its training, which is left out."""
    return {
        f"{base}Model": replace(cls, bare=True),
        f"{base}ForSequenceClassification": replace(cls, head="classifier"),
        f"{base}ForMaskedLM": replace(cls, without_head=f"{base}Model"),
    }


def _bert(base: str, *positions: Op) -> tuple[Rule, ...]:
    """The rules of BERT's layout: the embeddings, with what becomes of the positions, and the blocks."""
    at, layer = base + "embeddings.", base + "encoder.layer.{layer}."

    def dense(hf: str, role: Role, high: Dim = EMBD, wide: Dim = EMBD) -> Rule:
        return Rule(layer + hf, role, (high, wide), bias=ALWAYS)

    return (
        Rule(at + "word_embeddings", Role.TOKEN_EMBD, (VOCAB, EMBD)),
        Rule(at + "position_embeddings", Role.POS_EMBD, (CONTEXT, EMBD), positions),
        Rule(at + "token_type_embeddings", Role.TOKEN_TYPES, (Dim("type_vocab_size"), EMBD)),
        Rule(at + "LayerNorm", Role.TOKEN_EMBD_NORM, (EMBD,), bias=ALWAYS),
        dense("attention.self.query", Role.ATTN_Q),
        dense("attention.self.key", Role.ATTN_K),
        dense("attention.self.value", Role.ATTN_V),
        dense("attention.output.dense", Role.ATTN_OUTPUT),
        Rule(layer + "attention.output.LayerNorm", Role.ATTN_OUTPUT_NORM, (EMBD,), bias=ALWAYS),
        dense("intermediate.dense", Role.FFN_UP, FF),
        dense("output.dense", Role.FFN_DOWN, EMBD, FF),
        Rule(layer + "output.LayerNorm", Role.LAYER_OUT_NORM, (EMBD,), bias=ALWAYS),
        Rule(base + "pooler.dense", Role.CLS, (EMBD, EMBD), bias=ALWAYS, when=~CLASSIFIES, optional=True),
    )


_BERT = HFClass(
    "bert",
    {
        "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1, "max_position_embeddings": 512, "type_vocab_size": 2,
        "layer_norm_eps": 1e-12, "pad_token_id": 0, "classifier_dropout": None, "is_decoder": False,
        "add_cross_attention": False, "tie_word_embeddings": True,
    },
)  # fmt: skip
_BERT_FIXED = {"hidden_act": _GELU, "is_decoder": False, "add_cross_attention": False}

BERT = Arch(
    name="bert",
    classes={**_classes("Bert", _BERT), "BertForPreTraining": replace(_BERT, without_head="BertModel")},
    config=_CONFIG,
    rules=(
        *_bert("bert."),
        Rule("bert.pooler.dense", Role.CLS, (EMBD, EMBD), bias=ALWAYS, when=CLASSIFIES),
        Rule("classifier", Role.CLS_OUT, (LABELS, EMBD), bias=ALWAYS, when=CLASSIFIES),
    ),
    fixed=_BERT_FIXED,
    needs=_ABSOLUTE,
    implied=_LABELS,
    base="bert.",
    extras=(POSITIONS, LeftOut("cls.*", "heads of pretraining")),
    pools=True,
)

_ROBERTA = replace(_BERT, model_type="roberta", defaults={**_BERT.defaults, "vocab_size": 50265, "pad_token_id": 1})
_XLM_ROBERTA = replace(_ROBERTA, model_type="xlm-roberta", defaults={**_BERT.defaults, "pad_token_id": 1})

# Positions are counted from the one behind the padding's: those before it are not in the file.
ROBERTA = Arch(
    name="roberta",
    gguf_name="bert",
    classes={
        **_classes("XLMRoberta", _XLM_ROBERTA),
        **_classes("Roberta", _ROBERTA),
        **_classes("Camembert", replace(_XLM_ROBERTA, model_type="camembert")),
    },
    config=(AfterPadding(), *(row for row in _CONFIG if getattr(row, "gguf", "") != "context_length")),
    rules=(
        *_bert("roberta.", DropRows(Dim("pad_token_id") + 1)),
        Rule("classifier.dense", Role.CLS, (EMBD, EMBD), bias=ALWAYS, when=CLASSIFIES),
        Rule("classifier.out_proj", Role.CLS_OUT, (LABELS, EMBD), bias=ALWAYS, when=CLASSIFIES),
    ),
    fixed=_BERT_FIXED,
    needs=_ABSOLUTE,
    implied=_LABELS,
    base="roberta.",
    extras=(POSITIONS, LeftOut("lm_head.*", _MASKED)),
    pools=True,
)

_DISTIL = "distilbert.transformer.layer.{layer}."

DISTILBERT = Arch(
    name="distilbert",
    gguf_name="bert",
    classes={
        name: cls
        for name, cls in _classes(
            "DistilBert",
            HFClass(
                "distilbert",
                {
                    "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 6, "num_attention_heads": 12,
                    "intermediate_size": 3072, "hidden_act": "gelu", "dropout": 0.1, "attention_dropout": 0.1,
                    "qa_dropout": 0.1, "seq_classif_dropout": 0.2, "max_position_embeddings": 512, "pad_token_id": 0,
                    "sinusoidal_pos_embds": False, "tie_word_embeddings": True,
                },
                {
                    "dim": "hidden_size", "hidden_dim": "intermediate_size", "n_layers": "num_hidden_layers",
                    "n_heads": "num_attention_heads", "activation": "hidden_act",
                },
            ),
        ).items()
        if not cls.head
    },
    config=(
        *_SIZES,
        Constant("attention.layer_norm_epsilon", 1e-12),
        _ENCODES,
        Constant("tokenizer.ggml.token_type_count", 1),
    ),
    rules=(
        Rule("distilbert.embeddings.word_embeddings", Role.TOKEN_EMBD, (VOCAB, EMBD)),
        Rule("distilbert.embeddings.position_embeddings", Role.POS_EMBD, (CONTEXT, EMBD)),
        Rule("distilbert.embeddings.LayerNorm", Role.TOKEN_EMBD_NORM, (EMBD,), bias=ALWAYS),
        Rule(_DISTIL + "attention.q_lin", Role.ATTN_Q, (EMBD, EMBD), bias=ALWAYS),
        Rule(_DISTIL + "attention.k_lin", Role.ATTN_K, (EMBD, EMBD), bias=ALWAYS),
        Rule(_DISTIL + "attention.v_lin", Role.ATTN_V, (EMBD, EMBD), bias=ALWAYS),
        Rule(_DISTIL + "attention.out_lin", Role.ATTN_OUTPUT, (EMBD, EMBD), bias=ALWAYS),
        Rule(_DISTIL + "sa_layer_norm", Role.ATTN_OUTPUT_NORM, (EMBD,), bias=ALWAYS),
        Rule(_DISTIL + "ffn.lin1", Role.FFN_UP, (FF, EMBD), bias=ALWAYS),
        Rule(_DISTIL + "ffn.lin2", Role.FFN_DOWN, (EMBD, FF), bias=ALWAYS),
        Rule(_DISTIL + "output_layer_norm", Role.LAYER_OUT_NORM, (EMBD,), bias=ALWAYS),
    ),
    fixed={"hidden_act": "gelu"},
    base="distilbert.",
    refused={"DistilBertForSequenceClassification": "its head has a ReLU where llama.cpp computes a tanh"},
    extras=(POSITIONS, LeftOut("vocab_*", _MASKED)),
    pools=True,
)  # fmt: skip

_JINA = HFClass(
    "jina_embeddings_v3",
    {
        "vocab_size": 250002, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
        "intermediate_size": 4096, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1, "max_position_embeddings": 8194, "type_vocab_size": 1,
        "layer_norm_eps": 1e-5, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "classifier_dropout": None,
        "rope_theta": 20000.0, "tie_word_embeddings": True,
    },
)  # fmt: skip
# The tensors that the model has in memory: q, k and v are three, where llama.cpp and most checkpoints have one.
_IN_THREE = "q_k_and_v_are_three"


def _jina() -> Iterator[Rule]:
    """The rules of both layouts."""
    at, new, old, three = "roberta.", "roberta.layers.{layer}.", "roberta.encoder.layers.{layer}.", Is(_IN_THREE)
    qkv = tuple(f"{new}self_attn.{name}_proj" for name in "qkv")
    weights = (
        ("self_attn.o_proj", "mixer.out_proj", Role.ATTN_OUTPUT, (EMBD, EMBD)),
        ("post_attention_layernorm", "norm1", Role.ATTN_OUTPUT_NORM, (EMBD,)),
        ("mlp.fc1", "mlp.fc1", Role.FFN_UP, (FF, EMBD)),
        ("mlp.fc2", "mlp.fc2", Role.FFN_DOWN, (EMBD, FF)),
        ("post_mlp_layernorm", "norm2", Role.LAYER_OUT_NORM, (EMBD,)),
    )
    yield Rule(at + "embeddings.word_embeddings", Role.TOKEN_EMBD, (VOCAB, EMBD))
    yield Rule(at + "embeddings.token_type_embeddings", Role.TOKEN_TYPES, (Dim("type_vocab_size"), EMBD))
    yield Rule(at + "embeddings.LayerNorm", Role.TOKEN_EMBD_NORM, (EMBD,), bias=ALWAYS, when=three)
    yield Rule(at + "emb_ln", Role.TOKEN_EMBD_NORM, (EMBD,), bias=ALWAYS, when=~three)
    yield Rule(qkv, Role.ATTN_QKV, (EMBD, EMBD), (Concat((EMBD, EMBD, EMBD)),), bias=ALWAYS, when=three)
    yield Rule(old + "mixer.Wqkv", Role.ATTN_QKV, (3 * EMBD, EMBD), bias=ALWAYS, when=~three)
    for theirs, older, role, shape in weights:
        yield Rule(new + theirs, role, shape, bias=ALWAYS, when=three)
        yield Rule(old + older, role, shape, bias=ALWAYS, when=~three)


JINA_BERT_V3 = Arch(
    name="jina-bert-v3",
    classes={
        "JinaEmbeddingsV3Model": replace(_JINA, bare=True),
        "JinaEmbeddingsV3ForMaskedLM": replace(_JINA, without_head="JinaEmbeddingsV3Model"),
        "XLMRobertaModel/adapted": replace(
            _JINA,
            model_type="xlm-roberta",
            bare=True,
            names={"rotary_emb_base": "rope_theta"},
            without_head="JinaEmbeddingsV3Model",  # and without adapters
            when=Is("lora_adaptations"),
        ),
    },
    config=(*ROBERTA.config[:-1], Rope()),
    rules=tuple(_jina()),
    fixed={"hidden_act": "gelu"},
    base="roberta.",
    layouts={_IN_THREE: "*layers.0.self_attn.q_proj.weight"},
    refused={"JinaEmbeddingsV3ForSequenceClassification": "llama.cpp's jina-bert-v3 loads no classifier"},
    extras=(
        LeftOut("*pooler.dense.*", "pooler"),
        LeftOut("*.lora_A", "adapters of its tasks"),
        LeftOut("*.lora_B", "adapters of its tasks"),
        LeftOut("lm_head.*", _MASKED),
    ),
    pools=True,
)

EUROBERT = Arch(
    name="eurobert",
    classes={
        name: cls
        for name, cls in _classes(
            "EuroBert",
            HFClass(
                "eurobert",
                {
                    "vocab_size": 128256, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
                    "num_attention_heads": 12, "num_key_value_heads": None, "hidden_act": "silu",
                    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "pad_token_id": 128001,
                    "bos_token_id": 128000, "eos_token_id": 128001, "pretraining_tp": 1, "tie_word_embeddings": False,
                    "attention_bias": False, "mlp_bias": False, "head_dim": None, "mask_token_id": 128002,
                    "classifier_pooling": "late",
                },
            ),
        ).items()
        if not cls.head
    },
    config=(*SIZE_KEYS, Rope(says_none=True), EPS_KEY, *HEAD_DIM_KEYS, _ENCODES),
    rules=(EMBEDDING, ATTN_NORM, *attention(), FFN_NORM, *gated_mlp(), FINAL_NORM),
    fixed={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
    needs={"head_dim": Equal(HEAD_DIM * HEADS, EMBD)},
    refused={"EuroBertForSequenceClassification": "llama.cpp's eurobert loads no classifier"},
    extras=(LeftOut("lm_head.*", _MASKED),),
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
            bare=True,
        )
    },
    config=(*_SIZES, Rope(), *_CONFIG[len(_SIZES) : -1], *HEAD_DIM_KEYS),
    rules=(
        Rule("embeddings.word_embeddings", Role.TOKEN_EMBD, (VOCAB, EMBD)),
        Rule("embeddings.token_type_embeddings", Role.TOKEN_TYPES, (Dim("type_vocab_size"), EMBD)),
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

_MODERN = "model.layers.{layer}."
_EVERY = "global_attn_every_n_layers"  # a key of old configs

MODERN_BERT = Arch(
    name="modern-bert",
    classes=_classes(
        "ModernBert",
        HFClass(
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
        ),
    ),
    config=(
        *_SIZES,
        Rope(sliding="local_rope_theta", says_none=True),
        Key("norm_eps", "attention.layer_norm_rms_epsilon"),  # as llama.cpp's converter: it is no RMS norm's
        Key("norm_eps", "attention.layer_norm_epsilon"),
        _ENCODES,
        Mapped("classifier_pooling", "classifier.pooling_type", {"mean": 1, "cls": 2}),
        Key("local_attention", "attention.sliding_window"),
        LayerFlags("layer_types", "attention.sliding_window_pattern"),
        Key("vocab_size", "vocab_size"),
        Key("hidden_activation", "hidden_activation"),
        Labels(),
    ),
    rules=(
        Rule("model.embeddings.tok_embeddings", Role.TOKEN_EMBD, (VOCAB, EMBD)),
        Rule("model.embeddings.norm", Role.TOKEN_EMBD_NORM, (EMBD,)),
        Rule(_MODERN + "attn_norm", Role.ATTN_NORM, (EMBD,), when=LAYER_INDEX >= 1),
        Rule(_MODERN + "attn.Wqkv", Role.ATTN_QKV, (3 * EMBD, EMBD)),
        Rule(_MODERN + "attn.Wo", Role.ATTN_OUTPUT, (EMBD, EMBD)),
        Rule(_MODERN + "mlp_norm", Role.FFN_NORM, (EMBD,)),
        Rule(_MODERN + "mlp.Wi", Role.FFN_UP, (2 * FF, EMBD)),
        Rule(_MODERN + "mlp.Wo", Role.FFN_DOWN, (EMBD, FF)),
        Rule("model.final_norm", Role.OUTPUT_NORM, (EMBD,)),
        Rule("head.dense", Role.CLS, (EMBD, EMBD), when=CLASSIFIES),
        Rule("head.norm", Role.CLS_NORM, (EMBD,), when=CLASSIFIES),
        Rule("classifier", Role.CLS_OUT, (LABELS, EMBD), bias=ALWAYS, when=CLASSIFIES),
    ),
    fixed={
        "hidden_activation": ("gelu", "silu"), "norm_bias": False, "attention_bias": False, "mlp_bias": False,
    },
    needs={
        _EVERY: ~Is(_EVERY) | Is(_EVERY, 3),
        "classifier_bias": ~CLASSIFIES | ~Is("classifier_bias"),
        "classifier_activation": ~CLASSIFIES | Is("classifier_activation", "gelu"),
    },
    implied=_LABELS
    | {"layer_types": LayerPattern("sliding_attention", "full_attention", Dim(3), first=True)},
    extras=(LeftOut("head.*", _MASKED, when=~CLASSIFIES), LeftOut("decoder.*", _MASKED)),
    pools=True,
)  # fmt: skip
