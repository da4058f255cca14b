"""Where our files are not those of llama.cpp's converter, and why. Everything that is not listed here is equal."""

from __future__ import annotations

from oracles.converter import Difference

_DEFAULT = "llama.cpp takes the same for granted where it is missing"
_PUBLISHED_ID = "llama.cpp's converter writes the id that the published vocabulary has, whatever the folder's says"
_OF_PIECES = ("roberta-camembert",)
_FF = "llama.cpp's converter writes 4 times the width, whatever the weights have"
_GLM = ("glm4", "glm4moe", "glm4v", "glm-ocr", "glm4v_moe", "glm4moelite", "chatglm", "glm-dsa", "glm5-next")

# What only our files have.
MORE = (
    Difference("quantmill.hf.*", "what no standard key holds, for the way back"),
    Difference("tokenizer.ggml.eot_token_id", "the end of a turn, by the rule in tokenizer/special_ids.py"),
    Difference("tokenizer.ggml.add_*_token", "always said: llama.cpp has a default for each pre-tokenizer"),
    Difference(
        "tokenizer.ggml.unknown_token_id",
        "tokenizer.model names it; llama.cpp's converter asks tokenizer.json and config.json",
        (
            "ernie4_5",
            "ernie4_5-moe",
            "gemma",
            "gemma2",
            "gemma3",
            "gemma3n",
            "gemma-embedding",
            "llama",
            "mixtral",
            "arcee",
            "phi3",
            "phimoe",
            "t5",
            "minicpm3",
            "paddleocr",
            "t5encoder",
            "jamba",
        ),
    ),
    Difference("*.attention.key_length", _DEFAULT, ("ernie4_5-moe", "exaone4", "smollm3")),
    Difference("*.attention.value_length", _DEFAULT, ("ernie4_5-moe", "exaone4", "smollm3")),
    Difference("*.expert_weights_norm", _DEFAULT, ("deepseek2",)),
    Difference(
        "*.attention.sliding_window_pattern",
        "the kind of each layer, where llama.cpp knows a rule for all",
        ("modern-bert", "gemma-embedding", "cohere2", "exaone4", "gemma3", "gpt-oss", "afmoe", "laguna"),
    ),
    Difference(
        "*.rope.freq_base",
        "llama.cpp's converter leaves it at the default, and loses what config.json says",
        ("falcon", "gemma", "gemma2", "gptneox", "phi2", "stablelm", "minicpm3"),
    ),
    Difference(
        "*.expert_gating_func",
        "llama.cpp knows GLM-4.7-Flash by its sizes; other models of the class would run with softmax",
        ("glm4moelite",),
    ),
    *(
        Difference(f"*.{key}", "what config.json says; llama.cpp sees it by the tensors", ("hy_v3",))
        for key in ("leading_dense_block_count", "expert_shared_count")
    ),
    Difference("*.expert_group_count", "llama.cpp's converter asks for it under another name", ("kimi-linear",)),
    Difference(
        "*.rope.scaling.attn_factor",
        "YaRN's attention factor, which llama.cpp does not read from the key that its converter writes",
        ("laguna",),
    ),
    Difference(
        "*.attention.temperature_*",
        "llama.cpp's converter writes them for checkpoints in Mistral's own format only; its program reads them",
        ("mistral4",),
    ),
    Difference("general.file_type", "left out there", ("gptneox", "mpt")),
    Difference("tensor:cls.*", "the pooler, which llama.cpp's converter drops", ("bert", "roberta")),
    Difference("quantmill.tokenizer.*", "what no standard key holds, for the way back"),
)
MORE += tuple(
    Difference(f"tokenizer.ggml.{key}", "of a SentencePiece vocabulary, which their converter does not see", _OF_PIECES)
    for key in ("add_space_prefix", "precompiled_charsmap", "remove_extra_whitespaces", "scores")
)
# What only llama.cpp's have.
LESS = (
    Difference("tokenizer.ggml.add_sep_token", _DEFAULT),
    Difference("tokenizer.ggml.unknown_token_id", "llama.cpp's converter looks <|endoftext|> up", _GLM),
    Difference("tokenizer.ggml.unknown_token_id", "llama.cpp's converter looks <unk> up", ("solar-open",)),
    Difference(
        "tokenizer.ggml.eom_token_id",
        "llama.cpp's converter looks <|observation|> up",
        ("glm4moe", "glm4moelite", "glm4v_moe", "glm-dsa", "glm5-next"),
    ),
    Difference("tokenizer.ggml.padding_token_id", _PUBLISHED_ID, ("nemotron",)),
    Difference("*.attention.sliding_window", "llama.cpp ends where no layer has one", ("laguna",)),
)
# What both have, with another value.
_CAMEMBERT = "llama.cpp's converter takes CamemBERT for BERT, with its positions from 0 and its words of WordPiece"
OTHER = (
    *(
        Difference(key, _CAMEMBERT, ("roberta-camembert",))
        for key in (
            "bert.context_length",
            "tensor:position_embd.weight",
            "tokenizer.ggml.model",
            "tokenizer.ggml.token_type",
            "tokenizer.ggml.tokens",
        )
    ),
    Difference(
        "*.compress_ratios",
        "one for each block, that for further tokens too; llama.cpp's converter copies the list of config.json",
        ("deepseek4",),
    ),
    Difference(
        "*.attention.sliding_window_pattern",
        "one for each block, that for further tokens too; llama.cpp's converter copies the list of config.json",
        ("exaone4",),
    ),
    Difference("tokenizer.ggml.eot_token_id", "llama.cpp's converter looks <|endofassistant|> up", ("dots3note",)),
    Difference("tokenizer.ggml.eot_token_id", "llama.cpp's converter looks <|user|> up", _GLM),
    Difference("tokenizer.ggml.eot_token_id", "llama.cpp's converter looks <|endoftext|> up", ("solar-open",)),
    Difference("*.layer_norm_rms_epsilon", "config.json's; llama.cpp's converter writes 1e-5 for any", ("chatglm",)),
    Difference("*.context_length", "config.json's; llama.cpp's converter writes the width", ("chatglm",)),
    Difference("tokenizer.ggml.eot_token_id", _PUBLISHED_ID, ("gemma",)),
    Difference("tokenizer.ggml.unknown_token_id", _PUBLISHED_ID, ("nemotron",)),
    Difference("tokenizer.ggml.tokens", "the names of ids that have no token", ("bert", "nomic-bert", "distilbert")),
    *(
        Difference(
            f"tokenizer.ggml.{key}",
            "<mask> and the ids that have no token: XLM-RoBERTa's pieces are shifted there, but not those",
            ("roberta", "jina-bert-v3"),
        )
        for key in ("tokens", "token_type", "scores")
    ),
    Difference("tokenizer.ggml.pre", "the same, but with it llama.cpp takes the spaces before <mask>", ("roberta",)),
    Difference("tokenizer.ggml.token_type", "<unk> is of the type for unknown tokens, not of control", ("gemma4",)),
    *(
        Difference(
            f"tokenizer.ggml.{key}",
            "the <extra_id_N> that T5's class adds are tokens, not unused ids",
            ("t5", "t5encoder"),
        )
        for key in ("tokens", "token_type", "scores")
    ),
    Difference("*.feed_forward_length", _FF, ("falcon", "gpt2", "phi2", "starcoder")),
    Difference(
        "*.feed_forward_length",
        "where no experts are, the shared one's; published checkpoints have one size for both",
        ("granitehybrid",),
    ),
    Difference(
        "*.expert_shared_feed_forward_length",
        "the width of the weights; llama.cpp's converter divides by the number of key/value heads",
        ("ernie4_5-moe",),
    ),
    Difference("*.context_length", "config.json's; llama.cpp's converter writes 2048 for any", ("falcon",)),
    Difference(
        "*.context_length",
        "config.json's; llama.cpp's converter writes 2^20",
        ("granitehybrid", "nemotron_h", "nemotron_h_moe"),
    ),
    Difference(
        "*.rope.scaling.finetuned",
        "config.json says rope; llama.cpp's converter turns it off in every hybrid but Bamba",
        ("granitehybrid",),
    ),
    Difference("tensor:rope_freqs.weight", "in steps of float32, as Llama 3's; of float64 there", ("step35",)),
    Difference("*.attention.sliding_window_pattern", "flags, as in every other model; numbers there", ("mimo2",)),
    Difference("general.size_label", "the pooler counts", ("bert", "roberta")),
    Difference(
        "tokenizer.chat_template", "llama.cpp's converter writes ChatML, whatever the folder has", ("qwen3asr",)
    ),
    Difference("tensor:*.ffn_gate_inp.weight", "F16 there; a router is F32 in every other model", ("dbrx",)),
    Difference(
        "tensor:*.ssm_a",
        "-exp(x), rounded once; torch's is an ulp beside it here and there",
        ("mamba", "falcon-mamba", "jamba", "falcon-h1"),
    ),
    Difference(
        "tensor:*.attn_[qk].*",
        "the rope turns half of each head, whose rows alone are permuted; llama.cpp's converter permutes all",
        ("bamba",),
    ),
    Difference(
        "order",
        "of the experts' tensors: that in which the checkpoint completes them",
        ("ernie4_5-moe", "afmoe", "laguna", "mimo2", "deepseek4"),
    ),
)

# Proofs without a golden.
# Architectures that llama.cpp runs, so that logits prove them, and that its converter, as of that source distribution,
# does not know.
UNKNOWN = ("cohere2_vision", "gemma-embedding2")
UNCONVERTED = {
    "cohere2_vision": "llama.cpp's converter has no such class",
    "gemma-embedding2": "llama.cpp's converter has no such class yet",
    "jina-bert-v3-in three": "llama.cpp's converter knows the layout of its first checkpoints only",
    "t5encoder-umt5": "llama.cpp's converter has no such class",
    "qwen3-classifier": "llama.cpp's converter has no such class: its rerankers are causal models",
    "stablelm-12b": "llama.cpp's converter collects the norms of q and k, and then drops them: 'Unprocessed norms'",
}


def is_listed(arch: str, key: str, ours: object, theirs: object, proof: str = "") -> bool:
    """Whether a difference is one of those above."""
    kind = MORE if theirs is None else LESS if ours is None else OTHER
    return any(one.covers(arch, key, proof) for one in kind)
