"""What files are told to be, and the one line about those that are no diffusion model."""

from __future__ import annotations

from pathlib import Path

import pytest

from oracles import comfyui_gguf as comfy
from oracles.image_models import flux, sd1, wan
from quantmill.formats.diffusion.layouts import LAYOUTS
from quantmill.formats.diffusion.naming import diffusers_moves, original_moves, rows_of
from quantmill.formats.diffusion.naming_rows import ROWS
from quantmill.formats.diffusion.recognize import check_packed, recognize
from quantmill.formats.errors import FormatError, UnknownArchitecture
from quantmill.formats.gguf.image_archs import IMAGE_ARCHS

PATH = Path("model.safetensors")


def test_the_tables_are_those_of_comfyui_gguf() -> None:
    assert set(comfy.IMAGE_ARCHS) == IMAGE_ARCHS
    assert {layout.arch for layout in LAYOUTS} == IMAGE_ARCHS
    ours = {layout.arch: [list(signs) for signs in layout.comfy] for layout in LAYOUTS if layout.comfy}
    assert ours == dict(comfy.DETECT)
    assert {one.arch: list(one.whole) for one in LAYOUTS if one.whole} == comfy.HIPREC


@pytest.mark.parametrize(("arch", "sets"), comfy.DETECT)
def test_what_comfyui_gguf_detects_is_recognized_as_the_same(arch: str, sets: list[list[str]]) -> None:
    for names in sets:
        assert comfy.detected(names) == arch
        found = recognize(names, PATH)
        assert (found.layout.arch, found.prefix, found.diffusers) == (arch, "", False)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_each_set_of_signs_is_of_its_layout(layout: object) -> None:
    for signs in layout.signs:  # type: ignore[attr-defined]
        assert recognize(signs, PATH).layout is layout


@pytest.mark.parametrize(
    ("prefix", "shapes", "name"),
    [
        ("model.diffusion_model.", flux(), "flux"), ("net.", wan(), "wan"), ("", sd1(), "sd1"),
        ("model.", wan(), "wan"), ("diffusion_model.", flux(), "flux"),
    ],
)  # fmt: skip
def test_prefixes(prefix: str, shapes: dict[str, tuple[int, ...]], name: str) -> None:
    found = recognize([prefix + one for one in shapes], PATH)
    assert (found.layout.name, found.prefix) == (name, prefix)
    assert len(found.names) == len(shapes)


def test_other_parts_of_a_whole_checkpoint_are_not_the_model() -> None:
    others = ["first_stage_model.decoder.conv_in.weight", "cond_stage_model.transformer.text_model.final.weight"]
    found = recognize([*others, *(f"model.diffusion_model.{name}" for name in flux())], PATH)
    assert (found.layout.name, len(found.names)) == ("flux", len(flux()))


@pytest.mark.parametrize("layout", ROWS)
def test_names_go_there_and_back(layout: str) -> None:
    """For each row, in the first of two blocks and in the last."""
    for block in ("0", "1"):
        fill = lambda text, n=block: text.replace("*", n).replace("@", "weight")  # noqa: E731
        originals = [fill(row.original) for row in rows_of(layout)]
        moves, unknown = diffusers_moves(layout, originals)
        assert (len(moves), unknown) == (len(originals), [])
        parts = [part for move in moves for part in move.parts]
        assert len(set(parts)) == len(parts)
        assert original_moves(layout, parts) == (moves, [])
        assert recognize(parts, PATH).layout.name == layout


def test_the_last_block_alone_has_its_halves_swapped() -> None:
    names = [f"joint_blocks.{i}.context_block.adaLN_modulation.1.weight" for i in range(3)]
    moves, _ = diffusers_moves("sd3", names)
    assert [move.swapped for move in moves] == [False, False, True]


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["lora_unet_double_blocks_0_img_attn_proj.lora_down.weight"], "is a LoRA, not a diffusion model (load"),
        (["transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"], "is a LoRA"),
        (["diffusion_model.blocks.0.self_attn.q.lora_B.weight"], "is a LoRA"),
        (["lora_unet_blocks_0.hada_w1_a"], "is a LoHa or LoKr adapter"),
        (["encoder.conv_in.weight", "decoder.mid_block.resnets.0.conv1.weight"], "is a VAE, not a diffusion model"),
        (["decoder.middle.0.residual.0.gamma", "encoder.conv1.weight"], "is a VAE"),
        (["first_stage_model.decoder.conv_in.weight"], "is a VAE"),
        (["encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight"], "is a T5 text encoder"),
        (["text_model.encoder.layers.0.self_attn.q_proj.weight"], "is a CLIP text encoder"),
        (["transformer.resblocks.0.attn.in_proj_weight"], "is a CLIP text encoder"),
        (["model.layers.0.self_attn.q_proj.weight"], "is a text model"),
        (["controlnet_blocks.0.weight", "transformer_blocks.0.attn.to_q.weight"], "is a ControlNet"),
        (["image_proj.latents"], "is an IP-Adapter"),
        ([], "its tensors are none (looked for Chroma, FLUX.2, FLUX.1,"),
        (["a", "b"], "its tensors are a, b (looked for"),
        (
            ["blocks.0.self_attn.norm_q.weight", "head.modulation"],
            "the nearest is Wan 2.1 and 2.2, but this lacks: text_embedding.2.weight (looked for",
        ),
        (
            ["transformer_blocks.0.attn.to_q.weight", "transformer_blocks.0.attn.to_k.weight", "proj_out.bias", "new"],
            "but this has tensors that it does not have: new (looked for",
        ),
    ],
)  # fmt: skip
def test_what_is_no_diffusion_model_is_named(names: list[str], line: str) -> None:
    with pytest.raises(UnknownArchitecture) as error:
        recognize(names, PATH)
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("model.safetensors: ")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("img_in.weight.quant_state.bitsandbytes__nf4", "bitsandbytes blocks"),
        ("transformer_blocks.0.qkv.wscales", "SVDQuant"),
        ("blocks.0.q.qweight", "GPTQ or AWQ"),
        ("img_in.weight_scale_2", "NVFP4"),
    ],
)
def test_packed_weights_are_named(name: str, what: str) -> None:
    with pytest.raises(FormatError, match="which are not read") as error:
        check_packed([*flux(), name], PATH)
    assert what in str(error.value)
