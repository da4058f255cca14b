"""BERT and its kin."""

from oracles.proofs import Proof

_HEADS = {"num_attention_heads": 4}
_MODERN = _HEADS | {
    "num_hidden_layers": 4, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 20,
}  # fmt: skip
_NOMIC = {
    "n_positions": 8192, "activation_function": "swiglu", "causal": False, "qkv_proj_bias": False,
    "mlp_fc1_bias": False, "mlp_fc2_bias": False, "prenorm": False, "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False, "rotary_emb_scale_base": None,
}  # fmt: skip

# positions behind the padding's, as many as others have; the first numbers of a vocabulary as RoBERTa's
_ROBERTA = _HEADS | {"max_position_embeddings": 130, "pad_token_id": 1, "bos_token_id": 0, "type_vocab_size": 1}
_DISTIL = {"dim": 256, "hidden_dim": 512, "n_layers": 3, "n_heads": 4, "hidden_size": None, "num_hidden_layers": None}
_THREE = {"id2label": {0: "no", 1: "perhaps", 2: "yes"}, "label2id": {"no": 0, "perhaps": 1, "yes": 2}}

# as the first checkpoints are read, by code that comes with them
_JINA = {
    "architectures": ["XLMRobertaModel"], "model_type": "xlm-roberta", "lora_adaptations": ["retrieval.query"],
    "rotary_emb_base": 20000.0, "rope_parameters": None,
}  # fmt: skip
_EURO = _HEADS | {"num_key_value_heads": 2, "pad_token_id": 0, "mask_token_id": 3}

PROOFS = (
    Proof("jina-bert-v3", "JinaEmbeddingsV3Model", _ROBERTA, embeds=True, unsaved="pooler.dense.*", published=_JINA),
    Proof(
        "jina-bert-v3",
        "JinaEmbeddingsV3Model",
        _ROBERTA,
        "in three",
        embeds=True,
        unsaved="pooler.dense.*",
        as_loaded=True,
    ),
    Proof("eurobert", "EuroBertModel", _EURO, embeds=True, published={"classifier_pooling": None}),
    Proof("bert", "BertModel", _HEADS, embeds=True, modules=("Pooling", "Normalize")),
    Proof("bert", "BertForSequenceClassification", _HEADS | _THREE, "classifier", pooling="rank"),
    Proof("roberta", "XLMRobertaModel", _ROBERTA, embeds=True),
    Proof("roberta", "XLMRobertaForSequenceClassification", _ROBERTA | _THREE, "classifier", pooling="rank"),
    Proof("roberta", "RobertaModel", _ROBERTA, "byte level", embeds=True),
    Proof("roberta", "CamembertModel", _ROBERTA, "camembert", embeds=True),
    Proof("distilbert", "DistilBertModel", _DISTIL, embeds=True),
    Proof("nomic-bert", "NomicBertModel", _HEADS, embeds=True, published=_NOMIC),
    Proof("modern-bert", "ModernBertModel", _MODERN, embeds=True, published={"layer_norm_eps": 1e-5}),
    Proof(
        "modern-bert",
        "ModernBertForSequenceClassification",
        _MODERN | _THREE | {"classifier_pooling": "mean"},
        "classifier",
        pooling="rank",
        published={"layer_norm_eps": 1e-5},
    ),
)
