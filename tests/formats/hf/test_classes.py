"""Which model a config.json is of: transformers' own tables are the reference for classes, prefixes and types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

from quantmill.formats.errors import FormatError, UnknownArchitecture
from quantmill.formats.hf.archs import ARCHS, BY_CLASS
from quantmill.formats.hf.classes import arch_of_config
from quantmill.formats.hf.tables.rules import Arch

PATH = Path("model/config.json")
# Classes of code that came with checkpoints, or of old; transformers has their types under other classes' names.
OTHERS = {"LLaMA", "MPT", "InternLM3", "Mistral3/mistral"}


def heads(arch: Arch) -> list[str]:
    """The classes that transformers has, without wrappers, the bare, and those of a part of the model."""
    return [
        name
        for name, cls in arch.classes.items()
        if not (cls.text_of or cls.bare or name.endswith("EncoderModel")) and hasattr(transformers, name)
    ]


def type_of(arch: Arch, name: str) -> str:
    """The outer ``model_type`` of a class's config.json."""
    return arch.classes[name].wraps or arch.classes[name].model_type


@pytest.mark.parametrize("arch", ARCHS, ids=lambda arch: arch.name)
class TestTransformersSaysSo:
    def test_the_bare_class_of_each(self, arch: Arch) -> None:
        for name in heads(arch):
            bare = MODEL_MAPPING_NAMES[type_of(arch, name)]
            assert bare in arch.classes, name
            assert arch.classes[bare] == arch.classes[name] or arch.classes[bare].bare

    def test_what_the_bare_class_s_names_lack(self, arch: Arch) -> None:
        for name in heads(arch):
            bare = getattr(transformers, MODEL_MAPPING_NAMES[type_of(arch, name)])
            has_part = bare.base_model_prefix + "." == (arch.module or arch.base)
            assert has_part or name == "T5ForConditionalGeneration"  # which is no wrapper of T5Model

    def test_the_class_for_a_type(self, arch: Arch) -> None:
        for name in heads(arch):
            kind = type_of(arch, name)
            found, chosen = arch_of_config({"model_type": kind, "architectures": None}, PATH)
            assert found is arch
            if arch.gguf not in (
                "bert",
                "nomic-bert",
                "modern-bert",
                "jina-bert-v3",
                "eurobert",
                "t5",
            ):  # no causal language models
                unlisted = arch.classes[name].wraps or kind == "mistral4"
                assert chosen == (name if unlisted else MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind])


@pytest.mark.parametrize("none", [{}, {"architectures": None}, {"architectures": []}], ids=str)
def test_without_a_class_the_type_decides_and_this_is_said(none: dict[str, Any]) -> None:
    said: list[str] = []
    arch, name = arch_of_config({"model_type": "qwen3", **none}, PATH, said.append)
    assert (arch.name, name) == ("qwen3", "Qwen3ForCausalLM")
    assert said == [f"{PATH}: names no model class: taken for Qwen3ForCausalLM, by its model_type qwen3"]


@pytest.mark.parametrize(
    ("names", "kind", "chosen", "line"),
    [
        (["LlamaForCausalLM"], "llama", "LlamaForCausalLM", None),
        (["LlamaModel"], "llama", "LlamaModel", None),
        (["InternLM3ForCausalLM"], "internlm3", "InternLM3ForCausalLM", None),
        (["modeling_phi3.Phi3ForCausalLM"], "phi3", "Phi3ForCausalLM", None),
        (["DeepseekV3ForCausalLM"], "kimi_k2", "DeepseekV3ForCausalLM", None),  # a type of code that comes with it
        (["Mistral3ForConditionalGeneration"], "mistral", "Mistral3ForConditionalGeneration/mistral", None),
        (["Mistral3Model"], "ministral3", "Mistral3Model", None),
        (["LlamaForCausalLM", "LlamaModel"], "llama", "LlamaForCausalLM", None),
        (
            ["MyLlama", "LlamaForCausalLM"],
            "llama",
            "LlamaForCausalLM",
            "architectures MyLlama, LlamaForCausalLM, model_type llama: taken for LlamaForCausalLM",
        ),
        (
            ["Qwen2ForCausalLM", "Qwen3ForCausalLM"],
            "qwen3",
            "Qwen3ForCausalLM",
            "architectures Qwen2ForCausalLM, Qwen3ForCausalLM, model_type qwen3: taken for Qwen3ForCausalLM",
        ),
        (  # transformers goes by the type, whose defaults are Mistral's
            ["LlamaForCausalLM"],
            "mistral",
            "MistralForCausalLM",
            "architectures LlamaForCausalLM, model_type mistral: taken for MistralForCausalLM",
        ),
        (
            ["LlamaModel"],
            "mistral",
            "MistralModel",
            "architectures LlamaModel, model_type mistral: taken for MistralModel",
        ),
    ],
)
def test_the_first_class_that_is_of_the_type(names: list[str], kind: str, chosen: str, line: str | None) -> None:
    said: list[str] = []
    assert arch_of_config({"architectures": names, "model_type": kind}, PATH, said.append)[1] == chosen
    assert said == ([f"{PATH}: {line}"] if line else [])


@pytest.mark.parametrize(
    ("names", "kind", "problem"),
    [
        (["LlamaForCausalLM"], "qwen2", "architectures LlamaForCausalLM, model_type qwen2: different models"),
        (["LlamaForCausalLM", "GPT2LMHeadModel"], None, "architectures LlamaForCausalLM, GPT2LMHeadModel: different"),
    ],
)
def test_contradictions(names: list[str], kind: str | None, problem: str) -> None:
    with pytest.raises(FormatError) as error:
        arch_of_config({"architectures": names, "model_type": kind}, PATH)
    assert str(error.value).startswith(f"{PATH}: architectures: {problem}")


@pytest.mark.parametrize(
    ("name", "kind", "near"),
    [
        ("Qwen3TTSForConditionalGeneration", "qwen3_tts", "Qwen3ForCausalLM"),
        ("Qwen3_6ForCausalLM", "qwen3_6", "Qwen3"),
        ("Qwen2_6ForConditionalGeneration", "qwen2_6", "Qwen2ForCausalLM"),
        ("Mistral5ForCausalLM", "mistral5", "MistralForCausalLM"),
        ("DeepseekV5ForCausalLM", "deepseek_v5", "DeepseekV2ForCausalLM"),
        ("InternLM2ForCausalLM", "internlm2", "InternLM3ForCausalLM"),
        ("GemmaXForCausalLM", None, "GemmaForCausalLM"),
        ("XLMRobertaXLModel", "xlm-roberta-xl", "XLMRobertaForSequenceClassification"),
        ("PhiliaForCausalLM", "philia", "PhiForCausalLM"),
        ("GraniteSpeechPlusForConditionalGeneration", "granite_speech_plus", "Granite"),
        ("FalconH2ForCausalLM", "falcon_h2", "FalconH1ForCausalLM"),
        ("MT5ForConditionalGeneration", "mt5", None),
        ("OPTForCausalLM", "opt", None),
        ("XYZ", {"a": 1}, None),
        ("Ž", "", None),
    ],
)
def test_hints_name_the_family_or_nothing(name: str, kind: Any, near: str | None) -> None:
    with pytest.raises(UnknownArchitecture) as error:
        arch_of_config({"architectures": [name], "model_type": kind}, PATH)
    wanted = f"of the same family: {near}" if near else "quantmill archs lists the known"
    assert f"unknown model class {name!r} ({wanted}" in str(error.value)


def test_a_head_that_is_not_supported_names_the_class_of_its_type() -> None:
    code = {"AutoModel": "org/code--modeling_llama.LlamaBidirectionalModel"}
    config = {"architectures": ["LlamaBidirectionalModel"], "model_type": "llama", "auto_map": code}
    with pytest.raises(UnknownArchitecture) as error:
        arch_of_config(config, PATH)
    assert str(error.value) == (
        f"{PATH}: architectures: unknown model class 'LlamaBidirectionalModel', of code that comes with the checkpoint "
        "(its model_type llama is that of LlamaForCausalLM; see docs/adding-an-architecture.md)"
    )


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({}, "architectures: names no model class, nor a model_type"),
        ({"architectures": [], "model_type": 7}, "architectures: names no model class, nor a model_type"),
        ({"architectures": "LlamaForCausalLM"}, "architectures: is not a list of model classes"),
        ({"architectures": [None]}, "architectures: is not a list of model classes"),
        ({"architectures": {"a": 1}}, "architectures: is not a list of model classes"),
        ({"model_type": "qwen9"}, "model_type: unknown model_type 'qwen9', and architectures names no class (of the "),
        ({"model_type": [1]}, "architectures: names no model class, nor a model_type"),
    ],
)
def test_nothing_to_go_by(config: dict[str, Any], problem: str) -> None:
    with pytest.raises(UnknownArchitecture) as error:
        arch_of_config(config, PATH)
    assert str(error.value).startswith(f"{PATH}: {problem}")


def test_every_class_has_one_architecture() -> None:
    assert sum(len(arch.classes) for arch in ARCHS) == len(BY_CLASS)
