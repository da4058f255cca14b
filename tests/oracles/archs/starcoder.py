"""StarCoder and StarCoder2."""

from oracles.proofs import Proof

_BIGCODE = {"n_embd": 256, "n_layer": 3, "n_head": 4, "n_positions": 128, "n_inner": 512}
_HEADS = {"num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 384}

PROOFS = (
    Proof("starcoder", "GPTBigCodeForCausalLM", _BIGCODE),
    Proof("starcoder2", "Starcoder2ForCausalLM", _HEADS | {"tie_word_embeddings": False}),
    Proof("starcoder2", "Starcoder2ForCausalLM", {"num_attention_heads": 4, "num_key_value_heads": 1}, "tied"),
)
