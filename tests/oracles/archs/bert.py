"""BERT and its kin."""

from oracles.proofs import Proof

_HEADS = {"num_attention_heads": 4}
_MODERN = _HEADS | {
    "num_hidden_layers": 4, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 20,
}  # fmt: skip

PROOFS = (
    Proof("bert", "BertModel", _HEADS, embeds=True),
    Proof("nomic-bert", "NomicBertModel", _HEADS, embeds=True),
    Proof("modern-bert", "ModernBertModel", _MODERN, embeds=True),
)
