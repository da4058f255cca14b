"""The types of image models: those that ComfyUI-GGUF's converter and its patched llama-quantize give."""

from __future__ import annotations

import pytest

from oracles import comfyui_gguf as comfy
from oracles.image_models import Shapes, flux, sd1, shapes_only, wan
from quantmill.formats.errors import PlanError
from quantmill.formats.gguf.image_archs import DECODED
from quantmill.quantize.plan import PlanOptions, make_plan
from quantmill.quantize.recipes import recipes_of


def plain(names: str, width: int = 256) -> Shapes:
    return {f"{name}.weight": (width, width) for name in names.split()}


# Names of each architecture: of every kind that the rules tell apart. Two are too narrow for a super-block.
MODELS: dict[str, Shapes] = {
    "flux": flux(),
    "wan": wan(),
    "sd1": {name: shape for name, shape in sd1().items() if len(shape) < 3},
    "sd3": plain(
        "final_layer.linear y_embedder.mlp.0 joint_blocks.0.x_block.attn.qkv joint_blocks.0.context_block.attn.qkv "
        "joint_blocks.0.x_block.mlp.fc2 context_embedder joint_blocks.1.x_block.adaLN_modulation.1"
    )
    | {"pos_embed": (1, 64, 256), "joint_blocks.1.x_block.attn.qkv.weight": (96, 32)},
    "aura": plain(
        "modF.1 cond_seq_linear final_linear t_embedder.mlp.0 double_layers.0.attn.w1v double_layers.0.attn.w2v "
        "double_layers.1.attn.w1v double_layers.1.attn.w2v double_layers.2.attn.w1v double_layers.0.mlpX.c_proj"
    )
    | {"register_tokens": (1, 8, 256)},
    "ltxv": plain(
        "patchify_proj adaln_single.linear caption_projection.linear_1 transformer_blocks.0.attn1.to_v "
        "transformer_blocks.0.attn2.to_v transformer_blocks.0.ff.net.2 transformer_blocks.0.ff.net.0.proj proj_out"
    )
    | {"scale_shift_table": (2, 1024), "transformer_blocks.0.scale_shift_table": (6, 256)},
    "hyvid": plain(
        "txt_in.individual_token_refiner.blocks.0.self_attn_qkv double_blocks.0.img_attn_qkv img_in.proj "
        "double_blocks.0.txt_attn_qkv double_blocks.0.img_mlp.fc2 single_blocks.0.linear1"
    ),
    "hidream": plain(
        "caption_projection.0.linear double_stream_blocks.0.block.ff_i.experts.0.w2 p_embedder.mlp.0 "
        "double_stream_blocks.0.block.ff_i.gate double_stream_blocks.0.block.ff_i.experts.0.w1 "
        "single_stream_blocks.0.block.attn1.to_v"
    ),
    "cosmos": plain(
        "blocks.0.self_attn.v_proj blocks.0.cross_attn.v_proj blocks.0.mlp.layer2 blocks.0.mlp.layer1 "
        "blocks.0.adaln_modulation_mlp.2 x_embedder.proj.1 t_embedding_norm"
    ),
    "lumina2": plain(
        "cap_embedder.1 context_refiner.0.attention.qkv layers.0.attention.qkv layers.0.feed_forward.w2 "
        "layers.0.feed_forward.w1 layers.0.adaLN_modulation.1 noise_refiner.0.attention.qkv x_embedder"
    ),
}


@pytest.mark.parametrize("arch", MODELS)
def test_types_are_those_of_the_patched_llama_quantize(arch: str) -> None:
    shapes = MODELS[arch]
    for level in comfy.TYPES:
        plan = make_plan(shapes_only(arch, shapes), level)
        found = {step.tensor.name: step.type.name for step in plan.steps}
        # Neither loader decodes BF16 outside linear layers, which its converter leaves there: F32 instead.
        wanted = {
            name: "F32" if type == "BF16" and (len(shapes[name]) != 2 or not name.endswith(".weight")) else type
            for name, type in comfy.types_at(level, arch, shapes).items()
        }
        assert found == wanted, level
        assert list(found) == list(shapes), "the checkpoint's order"


def test_every_axis_stays() -> None:
    plan = make_plan(shapes_only("wan", wan()), "Q4_K_S")
    shapes = {info.name: info.shape for info in plan.infos(plan.steps)}
    assert shapes["patch_embedding.weight"] == (256, 16, 1, 2, 2)
    assert shapes["head.modulation"] == (1, 2, 256)


def test_reasons_are_said() -> None:
    reasons = {step.tensor.name: step.reason for step in make_plan(shapes_only("wan", wan()), "Q4_K_S").steps}
    assert reasons["blocks.0.self_attn.v.weight"] == "attention v, the first 4 of them"
    assert reasons["blocks.5.ffn.2.weight"] == "ffn down"
    assert reasons["head.head.weight"] == "kept whole"


def test_levels_have_types_that_both_loaders_decode() -> None:
    for recipe in recipes_of("comfyui-gguf").values():
        assert {recipe.default, *(row.type for row in recipe.overrides)} <= DECODED, recipe.level


@pytest.mark.parametrize(("arch", "recipe_set"), [("flux", "current"), ("llama", "comfyui-gguf")])
def test_recipes_of_the_other_kind_of_model_are_refused(arch: str, recipe_set: str) -> None:
    model = shapes_only(arch, plain("blk.0.ffn_up"))
    with pytest.raises(PlanError, match="--recipe-set: the recipes of"):
        make_plan(model, "Q8_0", PlanOptions(recipe_set=recipe_set))


def test_levels_that_the_loaders_do_not_decode_are_refused() -> None:
    with pytest.raises(PlanError, match="unknown level 'IQ3_S' in recipe set comfyui-gguf"):
        make_plan(shapes_only("flux", flux()), "IQ3_S")


def test_tensor_types_come_before_the_recipe() -> None:
    options = PlanOptions(tensor_types=[(r"\.img_mod\.", "Q6_K"), (r"single_blocks\.1\.", "Q8_0")])
    found = {
        step.tensor.name: step.type.name for step in make_plan(shapes_only("flux", flux()), "Q4_K_S", options).steps
    }
    assert found["double_blocks.0.img_mod.lin.weight"] == "Q6_K"
    assert found["single_blocks.1.linear1.weight"] == "Q8_0"
    assert found["single_blocks.0.linear1.weight"] == "Q4_K"


def test_qwen_image_has_rows_of_our_own() -> None:
    block = "transformer_blocks.0"
    shapes = plain(f"img_in txt_in proj_out {block}.attn.add_v_proj {block}.img_mlp.net.2 {block}.img_mod.1")
    found = {s.tensor.name: s.type.name for s in make_plan(shapes_only("qwen_image", shapes), "Q4_K_M").steps}
    assert found == {
        "img_in.weight": "BF16", "txt_in.weight": "BF16", "proj_out.weight": "BF16",
        f"{block}.attn.add_v_proj.weight": "Q6_K", f"{block}.img_mlp.net.2.weight": "Q6_K",
        f"{block}.img_mod.1.weight": "Q4_K",
    }  # fmt: skip
