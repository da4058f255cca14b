"""Files and folders of image models become the common model, and come back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from oracles.image_models import flux, save, sd1, wan
from quantmill import convert, read_gguf
from quantmill.formats.diffusion.views import joined, part_of, swapped
from quantmill.formats.errors import FormatError, UnknownArchitecture, UnmatchedTensor
from quantmill.formats.ir import Model

Read = Callable[[Path], tuple[Model, list[str]]]


def values(model: Model, name: str) -> torch.Tensor:
    tensor = next(one for one in model if one.name == name)
    rows = np.ascontiguousarray(tensor.rows(0, tensor.n_rows))
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[tensor.qtype.name]
    return torch.from_numpy(rows.copy()).view(-1).view(dtype).reshape(tensor.shape)


def same(left: Path, right: Path) -> None:
    ours, theirs = load_file(left), load_file(right)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert ours[name].shape == tensor.shape, name
        assert torch.equal(ours[name].view(torch.uint8), tensor.view(torch.uint8)), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("arch", "prefix"), [("flux", "model.diffusion_model."), ("wan", ""), ("sd1", "")])
def test_a_file_comes_back_bit_for_bit(arch: str, prefix: str, dtype: torch.dtype, tmp_path: Path) -> None:
    shapes = {"flux": flux(), "wan": wan(), "sd1": sd1()}[arch]
    path = save(tmp_path / "model.safetensors", shapes, dtype, prefix)
    convert(path, tmp_path / "model.gguf", "F32" if dtype is torch.float32 else "auto")
    convert(tmp_path / "model.gguf", tmp_path / "back.safetensors")
    same(tmp_path / "back.safetensors", path)


def test_mixed_types_come_back(tmp_path: Path) -> None:
    shapes = flux(double=1, single=1)
    tensors = {name: torch.randn(shape).to(torch.bfloat16) for name, shape in shapes.items()}
    tensors["img_in.bias"] = torch.randn(256)
    tensors["double_blocks.0.img_attn.norm.key_norm.scale"] = torch.randn(128).half()
    save_file(tensors, tmp_path / "model.safetensors")
    convert(tmp_path / "model.safetensors", tmp_path / "model.gguf")
    convert(tmp_path / "model.gguf", tmp_path / "back.safetensors")
    same(tmp_path / "back.safetensors", tmp_path / "model.safetensors")


def test_a_quantized_file_comes_back_as_it_decodes(tmp_path: Path) -> None:
    path = save(tmp_path / "model.safetensors", flux())
    convert(path, tmp_path / "model.gguf", "Q8_0")
    convert(tmp_path / "model.gguf", tmp_path / "back.safetensors")
    back, original = load_file(tmp_path / "back.safetensors"), load_file(path)
    name = "double_blocks.0.img_mlp.0.weight"
    assert back[name].dtype == torch.float32
    assert 0 < (back[name] - original[name].float()).abs().max() < 0.01
    assert torch.equal(back["img_in.weight"], original["img_in.weight"])


def test_a_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    """Its F32 vector was BF16 in the checkpoint, and is not any more."""
    from quantmill.formats.errors import WeightError
    from quantmill.formats.gguf.reader import read_header

    convert(save(tmp_path / "model.safetensors", flux()), tmp_path / "model.gguf")
    entry = next(one for one in read_header(tmp_path / "model.gguf").tensors if one.name == "img_in.bias")
    with (tmp_path / "model.gguf").open("r+b") as file:
        file.seek(entry.offset)
        file.write(np.float32(1 + 2**-20).tobytes())
    with pytest.raises(WeightError, match="is not exact in BF16"):
        convert(tmp_path / "model.gguf", tmp_path / "back.safetensors")
    assert not (tmp_path / "back.safetensors").exists()
    convert(tmp_path / "model.gguf", tmp_path / "back.safetensors", "F32")


def test_convolutions_of_unets_are_folded_as_comfyui_gguf_unfolds_them(read: Read, tmp_path: Path) -> None:
    model, _ = read(save(tmp_path / "model.safetensors", sd1(), torch.float16))
    shapes = {tensor.name: tensor.shape for tensor in model}
    assert shapes["input_blocks.3.0.op.weight"] == (64 * 64 * 9 // 256, 256)
    assert shapes["odd.weight"] == (7, 3, 3, 3)
    key = model.metadata["comfy.gguf.orig_shape.input_blocks.3.0.op.weight"]
    assert (key.type.name, key.item and key.item.name, key.items.tolist()) == ("ARRAY", "INT32", [64, 64, 3, 3])  # type: ignore[union-attr]
    stored = load_file(tmp_path / "model.safetensors")["input_blocks.3.0.op.weight"]
    assert torch.equal(values(model, "input_blocks.3.0.op.weight").reshape(64, 64, 3, 3), stored)


def test_gguf_py_reads_five_axes_and_long_names(tmp_path: Path) -> None:
    from gguf import GGUFReader

    shapes = wan(blocks=1) | {"blocks.0." + "x" * 110 + ".bias": (4,)}
    path = save(tmp_path / "model.safetensors", shapes)
    convert(path, tmp_path / "model.gguf", "Q4_K_S")
    reader = GGUFReader(tmp_path / "model.gguf")
    found = {tensor.name: tuple(int(n) for n in reversed(tensor.shape)) for tensor in reader.tensors}
    assert found == {name: tuple(shape) for name, shape in shapes.items()}
    tensor = next(one for one in reader.tensors if one.name == "patch_embedding.weight")
    assert np.array_equal(tensor.data, load_file(path)["patch_embedding.weight"].float().numpy())


def test_what_is_left_aside_is_said(read: Read, tmp_path: Path) -> None:
    tensors = {f"model.diffusion_model.{name}": torch.zeros(shape) for name, shape in flux().items()}
    tensors["first_stage_model.decoder.conv_in.weight"] = torch.zeros(2, 2)
    save_file(tensors, tmp_path / "all.safetensors")
    model, lines = read(tmp_path / "all.safetensors")
    assert len(model.tensors) == len(flux())
    assert lines == [
        f"{tmp_path}/all.safetensors: reads model.diffusion_model.*; 1 tensors of first_stage_model are left aside"
    ]


def fp8(path: Path, factor: float | None, described: bool = False) -> dict[str, torch.Tensor]:
    """A file of FP8 weights; with a factor, as ComfyUI stores it. Returns what it means."""
    torch.manual_seed(5)
    stored, meant = {}, {}
    for name, shape in flux(double=1, single=1).items():
        if name.endswith("weight") and "blocks" in name:
            stored[name] = torch.randn(shape).to(torch.float8_e4m3fn)
            meant[name] = stored[name].float() * (factor or 1)
            if factor is not None:
                stem = name.removesuffix(".weight")
                word = "weight_scale" if described else "scale_weight"
                stored[f"{stem}.{word}"] = torch.tensor(factor)
                if described:
                    text = json.dumps({"format": "float8_e4m3fn"}).encode()
                    stored[f"{stem}.comfy_quant"] = torch.tensor(list(text), dtype=torch.uint8)
                else:
                    stored[f"{stem}.scale_input"] = torch.tensor(1.0)
        else:
            stored[name] = torch.randn(shape).bfloat16()
            meant[name] = stored[name].float()
    if factor is not None and not described:
        stored["scaled_fp8"] = torch.zeros(0).to(torch.float8_e4m3fn)
    save_file(stored, path)
    return meant


@pytest.mark.parametrize(("factor", "described"), [(None, False), (0.37, False), (0.37, True)])
def test_fp8_is_decoded_with_its_factors(factor: float | None, described: bool, read: Read, tmp_path: Path) -> None:
    meant = fp8(tmp_path / "model.safetensors", factor, described)
    model, lines = read(tmp_path / "model.safetensors")
    assert {tensor.name for tensor in model} == set(meant)
    for name, wanted in meant.items():
        assert torch.equal(values(model, name).float(), wanted), name
    count = sum("blocks" in name and name.endswith("weight") for name in meant)
    how = "without factors" if factor is None else f"times their factors ({count})"
    assert lines[0].endswith(f"{count} tensors of FP8 are decoded, {how}")
    assert len(lines) == (2 if factor and not described else 1)
    convert(tmp_path / "model.safetensors", tmp_path / "model.gguf", "Q4_K_S")
    types = {tensor.name: tensor.qtype.name for tensor in read_gguf(tmp_path / "model.gguf")}
    assert types["double_blocks.0.img_attn.qkv.weight"] == "Q4_K"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"img_in.comfy_quant": torch.tensor(list(b'{"format": "mxfp8"}'), dtype=torch.uint8)}, "'mxfp8' is not read"),
        ({"img_in.comfy_quant": torch.tensor(list(b"{"), dtype=torch.uint8)}, "img_in.comfy_quant: not JSON"),
        ({"img_in.scale_weight": torch.ones(2)}, "is not one finite F32 factor"),
        ({"img_in.scale_weight": torch.tensor(float("nan"))}, "is not one finite F32 factor"),
        ({"img_in.weight_scale_2": torch.tensor(1.0)}, "two levels of scales"),
        ({"img_in.weight": torch.ones(2, 2, dtype=torch.int8)}, "dtype I8 cannot be converted"),
    ],
)
def test_other_packed_weights_are_refused(
    change: dict[str, torch.Tensor], line: str, read: Read, tmp_path: Path
) -> None:
    tensors = {name: torch.zeros(shape) for name, shape in flux(double=1, single=1).items()}
    tensors["img_in.weight"] = tensors["img_in.weight"].to(torch.float8_e4m3fn)
    save_file({**tensors, **change}, tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match=line):
        read(tmp_path / "model.safetensors")


def test_factors_of_nothing_are_refused(read: Read, tmp_path: Path) -> None:
    tensors = {name: torch.zeros(shape) for name, shape in flux(double=1, single=1).items()}
    save_file({**tensors, "scaled_fp8": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match="describes FP8 weights, and there are none"):
        read(tmp_path / "model.safetensors")


def folder(path: Path, name: str = "FluxTransformer2DModel") -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"_class_name": name}))
    return path


def test_a_folder_of_another_class_is_refused(read: Read, tmp_path: Path) -> None:
    path = folder(tmp_path / "vae", "AutoencoderKL")
    save_file({"encoder.conv_in.weight": torch.zeros(2)}, path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(UnknownArchitecture, match="is a AutoencoderKL, not a diffusion model"):
        read(path)


def test_a_missing_part_is_named(read: Read, tmp_path: Path) -> None:
    path = folder(tmp_path / "transformer")
    names = [f"transformer_blocks.0.attn.to_{part}.weight" for part in "qv"]
    save_file({name: torch.zeros(2, 2) for name in names}, path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(UnmatchedTensor, match=r"to_k.weight: is missing, a part of double_blocks.0.img_attn.qkv"):
        read(path)


def test_a_folder_without_weights_and_one_with_a_missing_shard(read: Read, tmp_path: Path) -> None:
    path = folder(tmp_path / "transformer")
    with pytest.raises(FormatError, match=r"no diffusion_pytorch_model.safetensors in this folder"):
        read(path)
    index = {"weight_map": {"x": "diffusion_pytorch_model-00001-of-00002.safetensors"}}
    (path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FormatError, match="missing shard diffusion_pytorch_model-00001"):
        read(path)
    index["weight_map"]["x"] = "../x.safetensors"
    (path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FormatError, match="is no file of this folder"):
        read(path)


def test_a_text_model_is_no_safetensors_file(tmp_path: Path) -> None:
    from quantmill import tiny_llama

    with pytest.raises(FormatError, match="is a llama, which makes no images"):
        convert(tiny_llama(), tmp_path / "out.safetensors")


def test_a_file_of_no_folder_makes_no_folder(tmp_path: Path) -> None:
    convert(save(tmp_path / "model.safetensors", flux()), tmp_path / "model.gguf")
    with pytest.raises(FormatError, match=r"holds no config.json of diffusers"):
        convert(tmp_path / "model.gguf", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_views_of_rows_and_vectors() -> None:
    from quantmill.formats.arrays import tensor_from_array

    rng = np.random.default_rng(0)
    for shape in ((4,), (4, 3), (4, 3, 2)):
        array = rng.standard_normal(shape, np.float32)
        tensor = tensor_from_array("x", array)
        for view, wanted in (
            (swapped(tensor), np.concatenate([array[2:], array[:2]])),
            (joined("y", [tensor, tensor, part_of("z", tensor, 1, 3)]), np.concatenate([array, array, array[1:3]])),
        ):
            assert view.shape == wanted.shape
            flat = np.concatenate([view.rows(i, i + 1) for i in range(view.n_rows)])
            assert np.array_equal(flat.view("<f4").reshape(wanted.shape), wanted)
            assert np.array_equal(view.rows(0, view.n_rows), flat)
