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

PROOFS = (
    Proof("bert", "BertModel", _HEADS, embeds=True),
    Proof("nomic-bert", "NomicBertModel", _HEADS, embeds=True, published=_NOMIC),
    Proof("modern-bert", "ModernBertModel", _MODERN, embeds=True, published={"layer_norm_eps": 1e-5}),
)
