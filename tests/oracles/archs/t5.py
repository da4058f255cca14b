"""T5."""

from oracles.proofs import Proof

_SIZES = {
    "d_model": 256, "d_ff": 512, "d_kv": 48, "num_heads": 4, "num_layers": 3, "num_decoder_layers": 2,
    "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_hidden_layers": None,
    "hidden_size": None,
}  # fmt: skip

# GGML computes GELU in half precision, and attention without a scale makes much of little: weights are smaller here.
PROOFS = (
    Proof(
        "t5",
        "T5ForConditionalGeneration",
        _SIZES,
        encodes=True,
        spread=0.03,
        published={"decoder_start_token_id": 0, "eos_token_id": 1},
    ),
    Proof("t5encoder", "UMT5EncoderModel", _SIZES | {"num_decoder_layers": None}, "umt5", embeds=True, spread=0.03),
    Proof("t5encoder", "T5EncoderModel", _SIZES, embeds=True, spread=0.03, published={"eos_token_id": 1}),
)
