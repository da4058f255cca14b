"""The towers that are read and written: a module of data for each family, and one line here."""

from __future__ import annotations

from ..tables.tower import Tower
from .cohere import COHERE2_VISION
from .exaone import EXAONE_4_5
from .gemma4 import GEMMA4_AUDIO, GEMMA4_UNIFIED_AUDIO, GEMMA4_UNIFIED_VISION, GEMMA4_VISION
from .glm_vl import GLM4V, GLM_OCR
from .internvl import INTERNVL
from .kimi import KIMI_K25
from .llama4 import LLAMA4
from .paddleocr import PADDLEOCR
from .pixtral import LIGHTON_OCR, PIXTRAL
from .qwen_vl import QWEN2_VL, QWEN3_VL, QWEN25_VL
from .siglip import GEMMA3, IDEFICS3, JANUS, LFM2_VL
from .whisper import AUDIO_FLAMINGO3, QWEN2_AUDIO, QWEN3_AUDIO

TOWERS: tuple[Tower, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Tower))

# The towers of each model class, those that see first.
BY_CLASS: dict[str, tuple[Tower, ...]] = {}
for _tower in sorted(TOWERS, key=lambda tower: tower.modality == "audio"):
    for _name in _tower.classes:
        BY_CLASS[_name] = (*BY_CLASS.get(_name, ()), _tower)

# Classes around encoders that llama.cpp does not compute, and why.
REFUSED = {
    ("LlavaForConditionalGeneration", "clip_vision_model"): (
        "llama.cpp drops the first patch in place of CLIP's class token: no file makes it compute LLaVA 1.5"
    ),
    ("VoxtralForConditionalGeneration", "voxtral_encoder"): (
        "llama.cpp expects 187 tokens of 30 seconds, and ends where its graph makes 188: no file makes it hear Voxtral"
    ),
}
