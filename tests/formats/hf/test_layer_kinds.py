"""Kinds of layers that GGUF has a number for, or nothing: what the number cannot say is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import GlmMoeDsaConfig, HYV4Config, Mistral4Config

from quantmill.formats.errors import FormatError
from quantmill.formats.hf.archs import BY_CLASS
from quantmill.formats.hf.config import complete_config
from quantmill.formats.hf.tables.dimensions import Dim, LeadingLayers, Share
from quantmill.formats.hf.tables.layer_rows import Limits
from quantmill.formats.hf.tables.layer_words import ListedLayers
from quantmill.formats.hf.tables.rows import LeadingDense

D, S = "dense", "sparse"


@pytest.mark.parametrize("words", [[S, S], [D, S], [D, D]])
def test_leading_dense_layers_are_counted_and_read_back(words: list[str]) -> None:
    written = dict(LeadingDense().to_gguf({"mlp_layer_types": words, "num_hidden_layers": 2}))
    assert written == {"leading_dense_block_count": words.count(D)}

    def get(suffix: str, *, each: bool = False) -> Any:
        return {**written, "block_count": 2}.get(suffix)

    assert LeadingDense().to_hf(get) == {"mlp_layer_types": words}


@pytest.mark.parametrize("words", [[S, D], [D, S, D], [D], [D, S, S, S], [D, S, "other"], "dense"])
def test_what_no_count_says_is_refused(words: Any) -> None:
    with pytest.raises(FormatError, match="mlp_layer_types"):
        dict(LeadingDense().to_gguf({"mlp_layer_types": words, "num_hidden_layers": 3 if len(words) != 2 else 2}))


def test_parts_and_leading_layers() -> None:
    assert Share("rotary_dim", Dim("head_dim"))({"rotary_dim": 32, "head_dim": 128}) == 0.25
    assert Share("rotary_dim", Dim("head_dim"))({"head_dim": 128}) is None
    assert LeadingLayers(D, S, Dim(2))({"num_hidden_layers": 3}) == [D, D, S]


@pytest.mark.parametrize(
    "given", [{}, {"index_topk_freq": 4, "index_skip_topk_offset": 3}, {"index_topk_freq": 3}, {"index_topk_freq": 0}]
)
@pytest.mark.parametrize("pattern", [None, "FSSFSSFF", ["full", "full", *["shared"] * 6]], ids=str)
def test_the_layers_that_have_an_indexer_are_those_of_transformers(given: dict[str, Any], pattern: Any) -> None:
    given = given | ({} if pattern is None else {"index_topk_pattern": pattern})
    words = BY_CLASS["GlmMoeDsaForCausalLM"].implied["indexer_types"]({"num_hidden_layers": 8, **given})
    assert words == GlmMoeDsaConfig(num_hidden_layers=8, **given).indexer_types


def test_hy4_s_indexers_are_those_of_transformers() -> None:
    words = BY_CLASS["HYV4ForCausalLM"].implied["indexer_types"]({"num_hidden_layers": 11})
    assert words == HYV4Config(num_hidden_layers=11).indexer_types


_SIZES = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 32, "head_dim": 16}


@pytest.mark.parametrize("name", ["AfmoeForCausalLM", "ExaoneMoeForCausalLM"])
def test_windows_that_llama_cpp_has_elsewhere_are_refused(name: str) -> None:
    arch = BY_CLASS[name]
    usual = ["sliding_attention"] * 3 + ["full_attention"]
    config = _SIZES | {"num_key_value_heads": 4, "mup_enabled": True, "layer_types": usual}
    assert complete_config(config, arch, arch.classes[name], Path("config.json"))["layer_types"] == usual
    with pytest.raises(FormatError, match="layer_types"):
        complete_config(config | {"layer_types": usual[::-1]}, arch, arch.classes[name], Path("config.json"))


_FULL, _SLIDING = "full_attention", "sliding_attention"
_YARN, _ALIKE = {"rope_type": "yarn", "factor": 4.0}, {"mscale": 0.7, "mscale_all_dim": 0.7}
_MIXED = [_FULL, _SLIDING, _SLIDING, _FULL]
_ALSO = {
    "AfmoeForCausalLM": {"mup_enabled": True},
    "Dots3NoteForCausalLM": {"layer_types": ["indexed_attention", *[_SLIDING] * 3]},
    "MiMoV2FlashForCausalLM": {"num_key_value_heads": 2},
    "Step3p5ForCausalLM": {"layer_types": _MIXED, "partial_rotary_factors": [0.5, 1.0, 1.0, 0.5], "pad_token_id": 0},
}
_SCALED = {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("AfmoeForCausalLM", {"mup_enabled": False}),
        ("DeepseekV3ForCausalLM", {"n_group": 7}),
        ("DeepseekV3ForCausalLM", {"topk_group": 9}),
        ("DeepseekV3ForCausalLM", {"rope_parameters": _YARN | {"mscale": 0.7}}),
        ("DeepseekV3ForCausalLM", {"rope_parameters": _YARN}),
        ("DeepseekV3ForCausalLM", {"rope_parameters": _YARN | _ALIKE | {"attention_factor": 2.0}}),
        ("DeepseekV32ForCausalLM", {"rope_parameters": _YARN | _ALIKE}),
        ("DeepseekV32ForCausalLM", {"layer_types": ["full_attention"] * 4}),
        ("DeepseekV32ForCausalLM", {"index_head_dim": 96}),
        ("DeepseekV32ForCausalLM", {"qk_rope_head_dim": 192, "index_head_dim": 128}),
        ("Cohere2MoeForCausalLM", {"norm_topk_prob": False}),
        ("Cohere2MoeForCausalLM", {"num_shared_experts": 1, "shared_expert_combination_strategy": "sum"}),
        ("Cohere2MoeForCausalLM", {"first_k_dense_replace": 4, "prefix_dense_sliding_window_pattern": 2}),
        ("Cohere2MoeForCausalLM", {"layer_types": [_FULL] * 4}),
        ("GraniteSWAForCausalLM", {"head_dim": 32}),
        ("GraniteSWAForCausalLM", {"layer_types": [_FULL] * 4}),
        ("LagunaForCausalLM", {"moe_router_logit_softcapping": 30.0}),
        ("LagunaForCausalLM", {"layer_types": [*_MIXED[1:], _FULL]}),
        ("LagunaForCausalLM", {"layer_types": _MIXED, "rope_parameters": {_SLIDING: _SCALED}}),
        ("Step3p5ForCausalLM", {"partial_rotary_factors": [0.5] * 4, "layer_types": [_FULL] * 4}),
        ("Step3p5ForCausalLM", {"partial_rotary_factors": [1.0] * 4}),
        ("Step3p5ForCausalLM", {"rope_theta": [1e4, 1e4, 1e5, 1e4]}),
        ("Step3p5ForCausalLM", {"moe_layers_enum": "1,x"}),
        ("Step3p5ForCausalLM", {"norm_expert_weight": False}),
        ("Step3p5ForCausalLM", {"attention_other_setting": {"num_attention_groups": 2}}),
        ("MellumForCausalLM", {"mlp_layer_types": [D, S, S, S]}),
        ("MellumForCausalLM", {"layer_types": _MIXED, "rope_parameters": {_FULL: {"rope_theta": 5e5}}}),
        ("MiMoV2FlashForCausalLM", {"hybrid_layer_pattern": [0, 1]}),
        ("MiMoV2FlashForCausalLM", {"hybrid_layer_pattern": [0, 1, 1, 1], "layer_types": _MIXED}),
        ("MiMoV2FlashForCausalLM", {"moe_layer_freq": [0, 1, 1, 1], "mlp_layer_types": [S, S, S, S]}),
        ("MiMoV2FlashForCausalLM", {"layer_types": _MIXED, "rope_parameters": {_FULL: _SCALED}}),
        ("MiMoV2FlashForCausalLM", {"routed_scaling_factor": 2.5}),
        ("MiMoV2FlashForCausalLM", {"swa_num_key_value_heads": 2}),
        ("MiMoV2FlashForCausalLM", {"add_full_attention_sink_bias": True}),
        ("Dots1ForCausalLM", {"num_key_value_heads": 2}),
        ("GlmForCausalLM", {"head_dim": 32}),
        ("Dots3NoteForCausalLM", {"layer_types": [_SLIDING] * 3 + ["indexed_attention"], "use_dsa": False}),
        ("Dots3NoteForCausalLM", {"use_dsa": None, "apply_mla_qkv_lora_rescale": False}),
        ("Dots3NoteForCausalLM", {"moe_layer_freq": 2}),
        ("Dots3NoteForCausalLM", {"shared_experts_intermediate_size": 512}),
        ("Dots3NoteForCausalLM", {"swa_q_lora_rank": 512, "q_lora_rank": 1024}),
        ("Dots3NoteForCausalLM", {"layer_types": ["indexed_attention"] * 4}),
        ("Dots3NoteForCausalLM", {"layer_types": ["linear_attention", *[_SLIDING] * 3]}),
        ("GlmMoeDsaForCausalLM", {"indexer_types": ["shared", "full", "full", "full"]}),
        ("GlmMoeDsaForCausalLM", {"indexer_types": ["full", "shared"]}),
        ("GlmMoeDsaForCausalLM", {"indexer_types": ["full", "half", "full", "full"]}),
        ("GlmMoeDsaForCausalLM", {"index_topk_pattern": "FFS"}),
        ("GlmMoeDsaForCausalLM", {"index_topk_pattern": "FFSX"}),
        ("GlmMoeDsaForCausalLM", {"index_topk_pattern": 4}),
        ("HYV3ForCausalLM", {"route_norm": False}),
        ("HYV4ForCausalLM", {"indexer_types": ["shared", "full", "full", "full"]}),
        ("HYV4ForCausalLM", {"layer_types": ["full_attention"] * 4}),
        ("HYV4ForCausalLM", {"swiglu_limit": 0}),
        ("HrmTextForCausalLM", {"num_layers_per_stack": 3}),  # neither the layers nor all runs of them
        ("HrmTextForCausalLM", {"num_key_value_heads": 2}),
        ("HrmTextForCausalLM", {"mlp_bias": True}),
        ("MuseGlimmerForConditionalGeneration", {"layer_rope_theta": [1e4] * 4}),
        ("MuseGlimmerForConditionalGeneration", {"layer_rope_theta": [5e5, 5e5, 5e5, 0]}),  # the rope has 1e4
        ("MuseGlimmerForConditionalGeneration", {"layer_rope_theta": [1e4, 0, 1e4]}),
        ("MuseGlimmerForConditionalGeneration", {"post_norm_eps": 1e-5}),
        ("MiniMaxM2ForCausalLM", {"scoring_func": "softmax"}),
        ("MiniCPM3ForCausalLM", {"scale_emb": 1}),
        ("SolarOpenForCausalLM", {"use_qk_norm": True}),
        ("YoutuForCausalLM", {"q_lora_rank": None}),
    ],
)
def test_other_models_of_the_classes_are_refused(name: str, wrong: dict[str, Any]) -> None:
    arch = BY_CLASS[name]
    config = _SIZES | {"num_key_value_heads": 4} | _ALSO.get(name, {})
    complete_config(config, arch, arch.classes[name], Path("config.json"))
    with pytest.raises(FormatError, match=list(wrong)[-1]):
        complete_config(config | wrong, arch, arch.classes[name], Path("config.json"))


def test_scales_of_yarn_that_llama_cpp_computes() -> None:
    for name, alike in (("DeepseekV3", 0.7), ("DeepseekV3", 1.0), ("DeepseekV32", 1.0), ("Mistral4", 1.0)):
        arch = BY_CLASS[f"{name}ForCausalLM"]
        rope = _YARN | {"mscale": alike, "mscale_all_dim": alike}
        config = _SIZES | {"num_key_value_heads": 4, "rope_scaling": rope}
        found = complete_config(config, arch, arch.classes[f"{name}ForCausalLM"], Path("config.json"))
        assert found["rope_parameters"]["mscale"] == alike


def test_the_rope_of_mistral_4_without_one() -> None:
    arch = BY_CLASS["Mistral4ForCausalLM"]
    given = _SIZES | {"num_key_value_heads": 4}
    found = complete_config(given, arch, arch.classes["Mistral4ForCausalLM"], Path("config.json"))
    assert {"type": "yarn", **found["rope_parameters"]} == Mistral4Config().rope_parameters


LISTED = ListedLayers({"linear": "kda", "full": "attn"})


@pytest.mark.parametrize(
    ("kda", "attn", "words"),
    [([1, 2], [3], ["linear", "linear", "full"]), ([], [3, 2, 1], ["full"] * 3), (None, None, None)],
)
def test_layers_by_lists(kda: list[int] | None, attn: list[int] | None, words: list[str] | None) -> None:
    assert LISTED({"num_hidden_layers": 3, "kda": kda, "attn": attn}) == words


@pytest.mark.parametrize(
    ("kda", "attn"), [([1], [3]), ([1, 2], [2, 3]), ([1, 2, 3], [3]), ([0, 1], [2]), ([1, 2], None), ([1, 2, 4], [3])]
)
def test_lists_that_contradict_each_other_are_refused(kda: list[int], attn: list[int] | None) -> None:
    with pytest.raises(FormatError, match="not each of the layers 1 to 3 once: "):
        LISTED({"num_hidden_layers": 3, "kda": kda, "attn": attn})


def test_lists_and_words_that_contradict_each_other_are_refused() -> None:
    arch, name = BY_CLASS["KimiLinearForCausalLM"], "KimiLinearForCausalLM"
    lists = {"kda_layers": [1, 2, 4], "full_attn_layers": [3], "head_dim": 16, "num_heads": 4}
    config = _SIZES | {"linear_attn_config": lists, "num_key_value_heads": 4}
    words = ["linear_attention", "linear_attention", "full_attention", "linear_attention"]
    assert complete_config(config, arch, arch.classes[name], Path("config.json"))["layer_types"] == words
    assert complete_config(config | {"layer_types": words}, arch, arch.classes[name], Path("config.json"))
    with pytest.raises(FormatError, match="layer_types"):
        complete_config(config | {"layer_types": words[::-1]}, arch, arch.classes[name], Path("config.json"))


def test_deepseek_4_s_kinds_of_layers() -> None:
    """The numbers of published configs, one more for a layer that predicts further tokens."""
    name = "DeepseekV4ForCausalLM"
    arch = BY_CLASS[name]
    config = _SIZES | {"num_key_value_heads": 1, "o_groups": 2, "compress_ratios": [0, 4, 128, 4, 0]}
    config |= {"num_hash_layers": 3, "qk_rope_head_dim": 8}

    def complete(**more: Any) -> dict[str, Any]:
        return complete_config(config | more, arch, arch.classes[name], Path("config.json"))

    found = complete()
    words = ["sliding", "compressed_sparse", "heavily_compressed", "compressed_sparse"]
    assert found["layer_types"] == [f"{word}_attention" for word in words]
    assert found["mlp_layer_types"] == ["hash_moe"] * 3 + ["moe"]
    assert {key: rope["rope_theta"] for key, rope in found["rope_parameters"].items()} == {
        "main": 10000.0, "compress": 160000.0,
    }  # fmt: skip
    assert found["rope_parameters"]["main"]["partial_rotary_factor"] == 0.5
    for key, wrong in (
        ("compress_ratios", [0, 4, 128]),
        ("compress_ratios", [0, 4, 64, 4]),
        ("layer_types", found["layer_types"][::-1]),
        ("o_groups", 3),
        ("scoring_func", "sigmoid"),
        ("compress_rate_csa", 8),
        ("compress_rates", {"compressed_sparse_attention": 8, "heavily_compressed_attention": 128}),
    ):
        with pytest.raises(FormatError, match=key):
            complete(**{key: wrong})
    for rope in ({"rope_type": "linear", "factor": 2.0}, {"rope_type": "yarn", "factor": 2.0, "attention_factor": 2.0}):
        with pytest.raises(FormatError, match=r"rope_scaling: .* is not what llama.cpp's deepseek4 computes"):
            complete(rope_scaling=rope)
    made = dict(LeadingDense(gguf="hash_layer_count", first="hash_moe", rest="moe").to_gguf(found))
    assert made == {"hash_layer_count": 3}
    with pytest.raises(FormatError, match="a hash_moe layer follows a moe one"):
        dict(
            LeadingDense(first="hash_moe", rest="moe").to_gguf(found | {"mlp_layer_types": ["moe"] * 3 + ["hash_moe"]})
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"mlp_layer_types": ["dense"] * 3 + ["sparse"]},
        {"n_group": 5},
        {"linear_num_heads": 2},
        {"q_lora_rank": 64},
        {"no_kda_lora": False},
        {"moe_shared_expert_intermediate_size": 512},
        {"kda_safe_gate": False},
        {"tie_word_embeddings": True},
        {"expert_swiglu_limit_list": [None, "7"]},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_other_models_than_ling_3_are_refused(wrong: dict[str, Any]) -> None:
    arch, cls = BY_CLASS["BailingMoeV3ForCausalLM"], "BailingMoeV3ForCausalLM"
    config = _SIZES | {"num_key_value_heads": 4, "layer_group_size": 2, "num_experts": 16}
    found = complete_config(config, arch, arch.classes[cls], Path("config.json"))
    assert found["layer_types"] == ["linear_attention", "full_attention"] * 2
    assert (found["linear_head_dim"], found["mlp_layer_types"][2:]) == (16, ["sparse"] * 2)
    with pytest.raises(FormatError, match=next(iter(wrong))):
        complete_config(config | wrong, arch, arch.classes[cls], Path("config.json"))


def test_ling_3_with_a_scaled_rope_is_refused() -> None:
    arch, cls = BY_CLASS["BailingMoeV3ForCausalLM"], "BailingMoeV3ForCausalLM"
    config = _SIZES | {"num_key_value_heads": 4, "rope_scaling": {"type": "yarn", "factor": 4.0}}
    with pytest.raises(FormatError, match="rope_parameters"):
        complete_config(config, arch, arch.classes[cls], Path("config.json"))


def test_limits_of_layers() -> None:
    row = Limits("limits", "swiglu_clamp_exp")
    made = dict(row.to_gguf({"limits": [None, 7.5], "num_hidden_layers": 3}))
    assert made == {"swiglu_clamp_exp": [0.0, 7.5, 0.0]}
    assert row.to_hf(lambda suffix, each=False: made[suffix]) == {"limits": [None, 7.5, None]}
    assert dict(row.to_gguf({"num_hidden_layers": 3})) == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"layer_types": ["linear_attention"] * 3},
        {"mlp_layer_types": ["dense", "sparse", "dense", "sparse"]},
        {"index_kpool": 6},
        {"n_group": 5},
        {"hc_mult": 2},
        {"qk_rope_head_dim": 16},
        {"mla_use_nope": False},
        {"scoring_func": "softmax"},
        {"linear_attn_config": {"num_heads": 2}},
        {"linear_attn_config": {"num_heads": 4, "gate_lower_bound": None}},
    ],
    ids=str,
)
def test_other_models_than_glm_5_next_are_refused(wrong: dict[str, Any]) -> None:
    arch, cls = BY_CLASS["Glm5NextForConditionalGeneration"], "Glm5NextForConditionalGeneration"
    config = {key: size for key, size in _SIZES.items() if key != "head_dim"} | {"num_key_value_heads": 4}
    config |= {"linear_attn_config": {"head_dim": 16, "num_heads": 4, "gate_lower_bound": -5.0}, "n_routed_experts": 8}
    found = complete_config(config | {"head_dim": 0}, arch, arch.classes[cls], Path("config.json"))
    assert found["layer_types"] == ["linear_attention"] * 3 + ["indexed_attention"]
    assert (found["linear_head_dim"], found["mlp_layer_types"]) == (16, ["dense"] * 3 + ["sparse"])

    def keys(config: dict[str, Any]) -> dict[str, Any]:
        return dict(LeadingDense().to_gguf(complete_config(config, arch, arch.classes[cls], Path("config.json"))))

    assert keys(config) == {"leading_dense_block_count": 3}
    with pytest.raises(FormatError):
        keys(config | wrong)
