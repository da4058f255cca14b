"""What llama.cpp knows by name: a file that names another architecture, tokenizer or pre-tokenizer is not loaded.

Source: ``LLM_ARCH_NAMES`` in llama-arch.cpp, ``llama_vocab::impl::load`` in llama-vocab.cpp and
``LLAMA_ROPE_SCALING_TYPES`` in llama-model.cpp, of October 2026 (b11549). Later releases know more.
"""

from __future__ import annotations

_ARCHITECTURES_WORDS = """
    afmoe apertus arcee arctic arwkv7 baichuan bailingmoe bailingmoe2 bailingmoe3 bert bitnet bloom chameleon chatglm
    clip codeshell cogvlm cohere2 cohere2moe command-r dbrx deci deepseek deepseek2 deepseek2-ocr deepseek32 deepseek4
    dflash dots1 dots3note dream eagle3 ernie4_5 ernie4_5-moe eurobert exaone exaone-moe exaone4 falcon falcon-h1
    gemma-embedding2
    gemma gemma-embedding gemma2 gemma3 gemma3n gemma4 gemma4-assistant glm-dsa glm4 glm4moe glm5-next gpt-oss gpt2
    gptj gptneox granite granite_swa granitehybrid granitemoe graniteswitch grok grovemoe hrm_text hunyuan-dense
    hunyuan-moe hunyuan_vl hy_v3 hy_v4 internlm2 jais jais2 jamba jina-bert-v2 jina-bert-v3 kimi-k3 kimi-linear laguna
    lfm2 lfm2moe llada llada-moe llama llama-embed llama4 maincoder mamba mamba2 maple mellum mimo2 minicpm minicpm3
    minimax-01 minimax-m2 minimax-m3 mistral3 mistral4 modern-bert mpt muse-glimmer nanbeige nemotron nemotron_h
    nemotron_h_moe neo-bert nomic-bert nomic-bert-moe olmo olmo2 olmoe openelm orion paddleocr pangu-embedded phi2
    phi3 phimoe plamo plamo2 plamo3 plm pockettts qwen qwen2 qwen2moe qwen2vl qwen3 qwen35 qwen35moe qwen3moe
    qwen3next qwen3tts qwen3vl qwen3vlmoe qwen4exp refact rnd1 rwkv6 rwkv6qwen2 rwkv7 seed_oss smallthinker smollm3
    spark2_5 stablelm starcoder starcoder2 step35 t5 t5encoder talkie wavtokenizer-dec xverse
"""
ARCHITECTURES = frozenset(_ARCHITECTURES_WORDS.split())

# tokenizer.ggml.model. Those of BPE read merges and have a pre-tokenizer; the last two stand for no vocabulary.
BPE_TOKENIZERS = frozenset({"gpt2", "hybriddna", "whitespace", "gemma4"})
NO_TOKENIZER = frozenset({"none", "no_vocab"})
TOKENIZERS = BPE_TOKENIZERS | NO_TOKENIZER | {"llama", "bert", "t5", "rwkv", "plamo2", "test"}

# tokenizer.ggml.pre
_PRE_TOKENIZERS_WORDS = """
    a.x-4.0 afmoe bailingmoe bailingmoe2 bloom chameleon chatglm-bpe codeshell cohere2moe command-r dbrx
    deepseek-coder deepseek-llm deepseek-r1-qwen deepseek-v3 default exaone exaone-moe exaone4 f2llmv2 falcon
    falcon-h1 falcon3 gemma4 gigachat glm4 glm5 gpt-2 gpt-4o gpt3-finnish granite-docling granite-embed-multi-311m
    granite-embed-multi-97m grok-2 hunyuan hunyuan-dense hy_v4 jais jais-2 jina-de jina-es jina-v1-en jina-v2-code
    jina-v2-de jina-v2-es jina-v5-nano joyai-llm kanana2 kimi-k2 kormo laguna lfm2 llada-moe llama-bpe llama-v3 llama3
    llama4 megrez mellum mellum2 midm-2.0 minerva-7b minicpm5 minimax-m2 modern-bert mpt olmo phi-2 pixtral poro-chat
    qwen2 qwen35 refact roberta-bpe sarvam-moe seed-coder smaug-bpe smollm solar-open spark2_5 stablelm2 starcoder
    superbpe talkie tekken tiny_aya trillion ufakzeka viking whitespace youtu
"""
PRE_TOKENIZERS = frozenset(_PRE_TOKENIZERS_WORDS.split())

# {arch}.rope.scaling.type
ROPE_SCALINGS = frozenset({"none", "linear", "yarn", "longrope"})

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS, llama-hparams.h
MAX_EXPERTS = 1024  # LLAMA_MAX_EXPERTS

# Of mmproj files (PROJECTOR_TYPE_NAMES in llama.cpp's tools/mtmd/clip-impl.h).
_PROJECTORS_WORDS = """
    adapter cogvlm cohere2v d1omni_a d1omni_v deepseek4v deepseekocr deepseekocr2 dots3note_a dots3note_v dots_ocr
    exaone4_5 gemma3 gemma3na gemma3nv gemma4a gemma4ua gemma4uv gemma4v glm4v glm5v glma granite4_vision
    granite_speech hunyuanvl idefics3 internvl janus_pro kimik25 kimivl ldp ldpv2 lfm2 lfm2a lightonocr ling3vl
    llama4 meralion mimo_audio mimovl minicpmv4_6 minimax_m3 mlp muse-glimmer musicflamingo nemotron_v2_vl paddleocr
    parakeet phi4 pixtral pockettts_gen pockettts_spkenc qwen2.5o qwen2.5vl_merger qwen2a qwen2vl_merger qwen3a
    qwen3tts_gen qwen3tts_spkenc qwen3vl_merger resampler step3vl ultravox voxtral yasa2 youtuvl
"""
PROJECTORS = frozenset(_PROJECTORS_WORDS.split())
