"""The architectures that are read and written: a module of data for each family, and one line here."""

from __future__ import annotations

from ..tables.rules import Arch
from .afmoe import AFMOE
from .apertus import APERTUS
from .bailing import BAILINGMOE3
from .bamba import BAMBA
from .bert import BERT, DISTILBERT, EUROBERT, JINA_BERT_V3, MODERN_BERT, NOMIC_BERT, ROBERTA
from .bloom import BLOOM
from .cohere import COHERE2, COHERE2_MOE, COHERE2_VISION, COMMAND_R
from .dbrx import DBRX
from .deepseek import DEEPSEEK2, DEEPSEEK3, GLM4_MOE_LITE, YOUTU
from .deepseek4 import DEEPSEEK4
from .dots import DOTS1
from .dots3 import DOTS3_NOTE
from .dsa import DEEPSEEK32, GLM_DSA
from .ernie import ERNIE4_5, ERNIE4_5_MOE, PADDLEOCR
from .exaone import EXAONE4, EXAONE_MOE
from .falcon import FALCON
from .falcon_h1 import FALCON_H1
from .gemma import GEMMA, GEMMA2, GEMMA3, GEMMA_EMBEDDING
from .gemma3n import GEMMA3N
from .gemma4 import GEMMA4
from .gemma_embedding2 import GEMMA_EMBEDDING2
from .glm import GLM, GLM4, GLM4_MOE, SOLAR_OPEN
from .glm_next import GLM5_NEXT
from .glm_vl import GLM4V, GLM4V_MOE, GLM_OCR
from .gpt2 import GPT2
from .gpt_oss import GPT_OSS
from .gptneox import GPTNEOX
from .granite import GRANITE, GRANITE_HYBRID, GRANITE_MOE, GRANITE_SWA
from .hrm import HRM_TEXT
from .hunyuan import HUNYUAN, HUNYUAN_MOE, HUNYUAN_VL, HY_V3
from .hy4 import HY_V4
from .jais import JAIS2
from .jamba import JAMBA
from .kimi import KIMI_LINEAR
from .laguna import LAGUNA
from .lfm2 import LFM2, LFM2_MOE
from .llama import LLAMA, LLAMA4, MISTRAL3, MIXTRAL
from .mamba import FALCON_MAMBA, MAMBA, MAMBA2
from .mellum import MELLUM
from .mimo import MIMO2
from .minicpm import MINICPM3
from .minimax import MINIMAX_M2, MINIMAX_M3
from .mistral4 import MISTRAL4
from .mpt import MPT
from .muse import MUSE_GLIMMER
from .near_llama import ARCEE, SEED_OSS, SMOLLM3
from .nemotron import NEMOTRON
from .nemotron_h import NEMOTRON_H, NEMOTRON_H_MOE
from .olmo import OLMO, OLMO2, OLMO3, OLMOE
from .phi import PHI2, PHI3, PHIMOE
from .qwen import QWEN2, QWEN2_MOE, QWEN3, QWEN3_MOE, QWEN3_NEXT
from .qwen3_5 import QWEN35, QWEN35_MOE
from .qwen4 import QWEN4EXP
from .qwen_vl import QWEN2VL, QWEN3ASR, QWEN3OMNIMOE, QWEN3VL, QWEN3VLMOE
from .stablelm import STABLELM
from .starcoder import STARCODER, STARCODER2
from .step import STEP35
from .t5 import T5, T5_ENCODER

ARCHS: tuple[Arch, ...] = tuple(
    value.with_bare_classes() for value in list(globals().values()) if isinstance(value, Arch)
)

REFUSED = {name: reason for arch in ARCHS for name, reason in arch.refused.items()}
BY_CLASS = {name: arch for arch in ARCHS for name in arch.classes}
# The classes of each ``model_type``, those with a head first, and those of some models of a class last.
BY_MODEL_TYPE: dict[str, tuple[str, ...]] = {}
_CLASSES = [(name, cls) for arch in ARCHS for name, cls in arch.classes.items()]
for _name, _cls in sorted(_CLASSES, key=lambda each: each[1].when is not None):
    for _type in {_cls.model_type: 0, _cls.wraps or _cls.model_type: 0}:
        BY_MODEL_TYPE[_type] = (*BY_MODEL_TYPE.get(_type, ()), _name)
