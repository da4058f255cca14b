"""Values of another type in config.json: transformers is the oracle of what each key may hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from quantmill.formats.errors import FormatError
from quantmill.formats.hf.archs import ARCHS
from quantmill.formats.hf.config import complete_config
from quantmill.formats.hf.config_types import check_types, types_of
from quantmill.formats.hf.tables.rules import Arch, HFClass
from quantmill.formats.json_types import NUMBER

PATH = Path("config.json")
VALUES: tuple[Any, ...] = (None, True, 0, -1, 1.5, float("inf"), 10**30, "", "x", [], [[]], {}, {"a": {}})


def refusal(arch: Arch, cls: HFClass, key: str, value: Any) -> str | None:
    try:
        theirs = {ours: name for name, ours in cls.names.items()}
        check_types({key: value}, arch, cls.defaults, PATH, ("num_key_value_heads", "head_dim"), theirs)
    except FormatError as error:
        return str(error)
    return None


def accepts(config: Any, key: str, value: Any) -> bool:
    """Whether transformers' strict dataclass takes it."""
    try:
        for validator in type(config).__validators__[key]:
            validator(value)
    except TypeError:
        return False
    except ValueError:  # of the right type, beyond a bound
        return True
    return True


@pytest.mark.parametrize("arch", ARCHS, ids=lambda arch: arch.name)
def test_what_transformers_refuses_is_refused(arch: Arch) -> None:
    """For every key that the architecture reads. Null may stand for what other keys say, and 1 for 1.0."""
    compared = 0
    assert {"hidden_size", "num_hidden_layers"} <= set(types_of(arch, next(iter(arch.classes.values())).defaults))
    for cls in {id(cls): cls for cls in arch.classes.values()}.values():
        try:
            config = AutoConfig.for_model(cls.model_type)
        except ValueError:
            continue  # a class of code that comes with checkpoints
        theirs = {ours: name for name, ours in cls.names.items()}
        for key, of in types_of(arch, cls.defaults).items():
            name = theirs.get(key, key)
            if name not in type(config).__validators__:
                continue  # transformers reads no such key
            for value in VALUES:
                if value is None or (of is NUMBER and type(value) is int) or accepts(config, name, value):
                    continue
                compared += 1
                message = refusal(arch, cls, key, value)
                assert message is not None, (key, value)
                assert message.startswith(f"config.json: {name}: "), (key, value)
            default = cls.defaults.get(key)
            assert default is None or refusal(arch, cls, key, default) is None, key
    assert compared > 40


SMALL = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 96, "vocab_size": 96}
HEADS8 = {"num_attention_heads_per_layer": [8, 8]}
WRONG: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    ("llama", "LlamaForCausalLM", {"rope_scaling": [1]}, "rope_scaling: [1] is not an object or null"),
    ("llama", "LlamaForCausalLM", {"rope_parameters": "x"}, "rope_parameters: 'x' is not an object or null"),
    ("llama", "LlamaForCausalLM", {"rope_theta": 0}, "rope_parameters.rope_theta: 0 is not a positive number"),
    ("llama", "LlamaForCausalLM", {"rms_norm_eps": None}, "rms_norm_eps: None is not a number"),
    ("llama", "LlamaForCausalLM", {"attention_bias": "false"}, "attention_bias: 'false' is not true or false"),
    (
        "llama",
        "LlamaForCausalLM",
        {"max_position_embeddings": 10**30},
        f"max_position_embeddings: {10**30} is not a whole",
    ),
    ("llama", "LlamaForCausalLM", {"eos_token_id": "</s>"}, "eos_token_id: '</s>' is not a whole number or a list of"),
    ("cohere2", "Cohere2ForCausalLM", {"head_dim": [16, 8]}, "head_dim: [16, 8] is not a valid size"),
    ("falcon", "FalconForCausalLM", {"alibi": 1.5}, "alibi: is 1.5; llama.cpp's falcon computes False"),
    ("falcon", "FalconForCausalLM", {"multi_query": "x"}, "multi_query: 'x' is not true or false"),
    ("gpt2", "GPT2LMHeadModel", {"n_head": True}, "n_head: True is not a positive integer"),
    ("mpt", "MPTForCausalLM", {"attn_config": 3}, "attn_config: 3 is not an object"),
    ("llama", "LlamaForCausalLM", {"tie_word_embeddings": None}, "tie_word_embeddings: None is not true or false"),
    ("gemma4", "Gemma4ForCausalLM", {"per_layer_config": {"0": {"head_dim": 0}}}, "per_layer_config.0.head_dim: 0 is"),
    ("gemma4", "Gemma4ForCausalLM", {"per_layer_config": {"0": 5}}, "per_layer_config.0: 5 is not an object"),
    (
        "gemma3",
        "Gemma3ForCausalLM",
        {"rope_local_base_freq": "x"},
        "rope_local_base_freq: 'x' is not a positive number",
    ),
    (
        "gemma3",
        "Gemma3ForCausalLM",
        {"rope_parameters": {"full_attention": "x", "sliding_attention": {}}},
        "rope_parameters.full_attention: 'x' is not an object",
    ),
    ("gemma3", "Gemma3ForCausalLM", {"layer_types": ["x", "x"]}, "layer_types: 'x' has no meaning here (known: full_"),
    ("gemma3", "Gemma3ForCausalLM", {"layer_types": ["full_attention"]}, "layer_types: 1 words for 2 layers"),
    (
        "granitehybrid",
        "GraniteMoeHybridForCausalLM",
        {"position_embedding_type": "x"},
        "position_embedding_type: 'x' has no",
    ),
    (
        "granite_swa",
        "GraniteSWAForCausalLM",
        {"num_attention_heads": 2, "num_key_value_heads": 1, "layer_rope_theta": [1e4, 1e6]},
        "layer_rope_theta: is not 0 or one base for each of 2 layers: [10000.0, 1000000.0]",
    ),
    (
        "laguna",
        "LagunaForCausalLM",
        {"num_attention_heads_per_layer": [8, 12]},
        "num_key_value_heads: 12 heads cannot share 8",
    ),
    (
        "laguna",
        "LagunaForCausalLM",
        {**HEADS8, "gating": False},
        "gating: False is not what llama.cpp's laguna takes for granted",
    ),
    (
        "laguna",
        "LagunaForCausalLM",
        {**HEADS8, "gating": "x"},
        "gating: 'x' is not what llama.cpp's laguna takes for granted",
    ),
    ("mamba2", "Mamba2ForCausalLM", {"num_heads": 0, "head_dim": None}, "num_heads: 0 is not a valid size"),
)


def metadata_of(name: str, cls: str, changes: dict[str, Any]) -> list[Any]:
    arch = next(arch for arch in ARCHS if arch.name == name)
    config = complete_config({**SMALL, **changes}, arch, arch.classes[cls], PATH)
    return [*arch.slots(config), *(pair for row in arch.config for pair in row.to_gguf(config))]


@pytest.mark.parametrize(("name", "cls", "changes", "message"), WRONG, ids=lambda value: json.dumps(value)[:40])
def test_each_message_names_file_and_key(name: str, cls: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError) as error:
        metadata_of(name, cls, changes)
    assert str(error.value).removeprefix("config.json: ").startswith(message)


@pytest.mark.parametrize("gating", [True, "per-head", "per-element"])
def test_a_flag_that_may_be_a_word_is_read_as_both(gating: object) -> None:
    assert metadata_of("laguna", "LagunaForCausalLM", {**HEADS8, "gating": gating})
