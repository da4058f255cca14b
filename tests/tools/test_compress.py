"""``compress``: the bytes of llm-compressor, folders that transformers loads, and one line for each mistake."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

from oracles.compress_models import EXPERTS, write
from oracles.tiny import TEXT, save_tiny_llama, save_tiny_mixtral
from quantmill import CheckpointOptions, RunOptions, compress
from quantmill.formats.floats import cast
from quantmill.formats.hf.files.weights import read_weights
from quantmill.formats.hf.packed import decode_packed
from quantmill.formats.hf.packed.schemes import SCHEMES
from quantmill.formats.hf.tables.packed_tensors import unpack_blocks
from quantmill.formats.ir import Tensor
from quantmill.formats.qtypes import F32
from quantmill.tools.api.running import open_text, open_weights
from quantmill.tools.compress import command

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "compress.json").read_text())
TOKENS = torch.tensor([[1, 5, 9, 33, 60, 7]])


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sources")
    for kind, dtype in {tuple(case.split("/")[:2]) for case in GOLDEN["cases"]}:
        write(root / f"{kind}-{dtype}", kind, dtype)
    return root


def digest(folder: Path) -> str:
    """As ``make_compress_goldens.py`` computes it."""
    found = {name: part for path in folder.glob("*.safetensors") for name, part in load_file(path).items()}
    whole = hashlib.sha256()
    for name, tensor in sorted(found.items()):
        whole.update(f"{name} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n".encode())
        whole.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def test_the_goldens_cover_every_scheme_that_needs_no_text() -> None:
    assert GOLDEN["oracle"] == "llmcompressor 0.14.0.1"
    covered = {case.split("/")[2].split(":")[0].removesuffix("+mse") for case in GOLDEN["cases"]}
    assert covered == set(SCHEMES) - {"nvfp4"}
    assert len(GOLDEN["cases"]) == 54


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_the_bytes_of_llm_compressor(case: str, sources: Path, tmp_path: Path) -> None:
    kind, dtype, scheme = case.split("/")
    scheme, _, observer = scheme.partition("+")
    name, _, size = scheme.partition(":")
    out = tmp_path / "out"
    made = compress(
        sources / f"{kind}-{dtype}", out, scheme=name, group_size=int(size) if size else None,
        observer="mse" if observer == "mse" else "minmax",
    )  # fmt: skip
    wanted = GOLDEN["cases"][case]
    assert digest(out) == wanted["digest"]
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    assert sorted(config["ignore"]) == sorted(wanted["ignore"]) == sorted(made.left)


def decoded(folder: Path) -> dict[str, torch.Tensor]:
    """What our own reader makes of a folder, float32."""
    raw = json.loads((folder / "config.json").read_text())
    found = {}
    for name, stored in decode_packed(read_weights(folder), raw, folder).items():
        tensor = cast(unpack_blocks(stored if isinstance(stored, Tensor) else stored.tensor()), F32)
        values = tensor.rows(0, tensor.n_rows).view(np.float32)
        found[name] = torch.from_numpy(values.reshape(tensor.shape).copy())
    return found


@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - {"nvfp4"}))
def test_transformers_has_the_weights_and_logits_of_our_decode(scheme: str, sources: Path, tmp_path: Path) -> None:
    """compressed-tensors decodes E2M1 to BF16: there our weights are rounded, too."""
    out, source = tmp_path / "out", sources / "llama-float32"
    compress(source, out, scheme=scheme)
    dequantized = CompressedTensorsConfig(dequantize=True)
    theirs = AutoModelForCausalLM.from_pretrained(out, quantization_config=dequantized).float()
    ours = AutoModelForCausalLM.from_pretrained(source)
    weights = decoded(out)
    if SCHEMES[scheme].weights.num_bits == 4 and SCHEMES[scheme].weights.type == "float":
        quantized = {name for name in weights if ".layers." in name and name.endswith("_proj.weight")}
        weights = {name: w.bfloat16().float() if name in quantized else w for name, w in weights.items()}
    ours.load_state_dict(weights)
    for name, parameter in theirs.named_parameters():
        assert torch.equal(parameter, weights[name]), name
    with torch.inference_mode():
        assert torch.allclose(theirs(TOKENS).logits, ours(TOKENS).logits, atol=1e-4)


@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - {"nvfp4", "w4a16-asym"}))
def test_transformers_runs_it(scheme: str, sources: Path, tmp_path: Path) -> None:
    """With activations rounded as the scheme says. (transformers 5.23 loads no zero points of 4 bits this way, not
    those of llm-compressor either: compressed-tensors 0.20.1 gives them another shape until it has weights.)"""
    out, source = tmp_path / "out", sources / "llama-bfloat16"
    compress(source, out, scheme=scheme)
    model = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    plain = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    with torch.inference_mode():
        theirs, wanted = model(TOKENS).logits[0].float(), plain(TOKENS).logits[0].float()
    closeness = torch.nn.functional.cosine_similarity(theirs, wanted).min()
    assert closeness > (0.8 if "4" in scheme else 0.99), float(closeness)


def test_experts_of_mixtral(tmp_path: Path) -> None:
    write(tmp_path / "source", "mixtral", "float32")
    made = compress(tmp_path / "source", tmp_path / "out", scheme="nvfp4a16")
    assert len([name for name in made.layers if ".experts." in name]) == 2 * EXPERTS * 3
    assert [name for name in made.left if name.endswith("block_sparse_moe.gate")]
    parts = load_file(tmp_path / "out" / "model.safetensors")
    at = "model.layers.0.block_sparse_moe.experts.1"
    assert torch.equal(parts[f"{at}.w1.weight_global_scale"], parts[f"{at}.w3.weight_global_scale"])
    assert not torch.equal(parts[f"{at}.w1.weight_global_scale"], parts[f"{at}.w2.weight_global_scale"])


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral"])
@pytest.mark.parametrize("scheme", ["fp8", "w4a16"])
def test_transformers_loads_experts(kind: str, scheme: str, tmp_path: Path) -> None:
    source, out, plain = (tmp_path / name for name in ("source", "out", "plain"))
    write(source, kind, "float32")
    compress(source, out, scheme=scheme)
    plain.mkdir()
    shutil.copy(source / "config.json", plain)
    save_file(decoded(out), plain / "model.safetensors", metadata={"format": "pt"})
    ours = AutoModelForCausalLM.from_pretrained(plain)
    theirs = AutoModelForCausalLM.from_pretrained(out, quantization_config=CompressedTensorsConfig(dequantize=True))
    with torch.inference_mode():
        assert torch.allclose(theirs.float()(TOKENS).logits, ours(TOKENS).logits, atol=1e-4)


def test_experts_in_one_tensor_are_written_one_by_one(sources: Path, tmp_path: Path) -> None:
    """The same bytes as from a checkpoint that holds the experts apart."""
    source, apart = tmp_path / "source", sources / "qwen3_moe-bfloat16"
    shutil.copytree(apart, source)
    tensors = load_file(apart / "model.safetensors")
    for layer in range(2):
        at = f"model.layers.{layer}.mlp.experts"
        rows = {
            name: torch.stack([tensors.pop(f"{at}.{expert}.{name}_proj.weight") for expert in range(EXPERTS)])
            for name in ("gate", "up", "down")
        }
        tensors[f"{at}.gate_up_proj"] = torch.cat([rows["gate"], rows["up"]], 1)
        tensors[f"{at}.down_proj"] = rows["down"]
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    compress(source, tmp_path / "out", scheme="fp8")
    assert digest(tmp_path / "out") == GOLDEN["cases"]["qwen3_moe/bfloat16/fp8"]["digest"]


def test_shards_and_threads_change_no_tensor(sources: Path, tmp_path: Path) -> None:
    for threads, size in ((1, 5e9), (3, 2e5)):
        out = tmp_path / str(threads)
        compress(
            sources / "llama-bfloat16", out, scheme="w4a16-asym", checkpoint=CheckpointOptions(size, threads=threads)
        )
        assert digest(out) == GOLDEN["cases"]["llama/bfloat16/w4a16-asym"]["digest"]
    assert len(list(out.glob("*.safetensors"))) > 2
    assert set(json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]) == set(read_weights(out))


@pytest.mark.parametrize("scheme", ["w4a16", "nvfp4a16", "fp8-block", "mxfp4a16"])
def test_the_search_has_less_error(scheme: str, sources: Path, tmp_path: Path) -> None:
    source = sources / "llama-bfloat16"
    wanted = {name: tensor.float() for name, tensor in load_file(source / "model.safetensors").items()}
    errors = []
    for observer in ("minmax", "mse"):
        out = tmp_path / observer
        compress(source, out, scheme=scheme, observer="mse" if observer == "mse" else "minmax")
        errors.append(sum(float((w - wanted[name]).abs().pow(2.4).sum()) for name, w in decoded(out).items()))
    assert 0 < errors[1] < 0.999 * errors[0]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tiny"), layers=2)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT * 6)
    return path


def test_nvfp4_scales_of_activations(tiny: Path, text: Path, tmp_path: Path) -> None:
    """The greatest input of each layer, as hooks on transformers' model see it."""
    out = tmp_path / "out"
    run = RunOptions(n_ctx=64, chunks=3)
    compress(tiny, out, scheme="nvfp4", text=text, run=run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    model = AutoModelForCausalLM.from_pretrained(tiny)
    most: dict[str, float] = {}

    def hook(name: str) -> Any:
        def see(module: object, args: tuple[torch.Tensor]) -> None:
            most[name] = max(most.get(name, 0.0), float(args[0].abs().max()))

        return see

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            module.register_forward_pre_hook(hook(name))
    corpus = open_text(open_weights(tiny), text, run)
    with torch.inference_mode():
        model(torch.from_numpy(corpus.inputs))
    parts = load_file(out / "model.safetensors")
    found = {name.removesuffix(".input_global_scale"): float(part) for name, part in parts.items() if "input_g" in name}
    assert found.keys() == most.keys()
    for name, scale in found.items():
        assert scale == pytest.approx(448 * 6 / most[name], rel=1e-4), name


def test_experts_without_tokens(tmp_path: Path, text: Path) -> None:
    folder = save_tiny_mixtral(tmp_path / "mixtral")
    notes: list[str] = []

    def progress(event: Any) -> None:
        notes.append(getattr(event, "text", ""))

    run = RunOptions(n_ctx=4, chunks=1)
    made = compress(folder, tmp_path / "out", scheme="nvfp4", text=text, run=run, progress=progress)
    assert any(note.startswith("saw no tokens, given their neighbours' scale: ") for note in notes)
    parts = load_file(tmp_path / "out" / "model.safetensors")
    scales = [float(parts[f"{name}.input_global_scale"]) for name in made.layers]
    assert np.isfinite(scales).all()
    assert min(scales) > 0


def run_command(*args: object) -> Any:
    return CliRunner().invoke(command, [str(arg) for arg in args], catch_exceptions=True)


def test_the_command(sources: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run_command(sources / "llama-bfloat16", out, "--scheme", "mxfp4a16", "--ignore", "re:.*down_proj", "--json")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["scheme"], len(summary["layers"])) == ("mxfp4a16", 12)
    assert [name for name in summary["left"] if name.endswith("mlp.down_proj")]
    assert "left: the head (1), --ignore re:.*down_proj (2)" in done.stderr
    assert "model.layers.0.mlp.down_proj.weight" in read_weights(out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--scheme", "fp9"), "there is no scheme 'fp9'"),
        (("--scheme", "w4a61"), "did you mean w4a16?"),
        (("--ignore", "re:.*nothing"), "--ignore re:.*nothing matches no layer"),
        (("--ignore", "re:("), "--ignore re:( is no regular expression"),
        (("--group-size", 32), "the groups of fp8 have a size of their own"),
        (("--scheme", "w4a16", "--group-size", 48), "groups of 48 weights are not supported"),
        (("-f", "some.txt"), "fp8 needs no text"),
        (("--scheme", "fp8-tensor", "--observer", "mse"), "fp8-tensor has one of the tensor"),
    ],
)
def test_bad_requests(options: tuple[object, ...], message: str, sources: Path, tmp_path: Path) -> None:
    done = run_command(sources / "llama-bfloat16", tmp_path / "out", *options)
    assert message in str(done.exception)
    assert "\n" not in str(done.exception)
    assert not list(tmp_path.iterdir())


def changed(source: Path, folder: Path, name: str, change: Any) -> Path:
    """A copy of a checkpoint with one tensor changed."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = change(tensors[name].clone())
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_weight_that_is_no_number(sources: Path, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"

    def spoil(tensor: torch.Tensor) -> torch.Tensor:
        tensor[3, 4] = float("nan")
        return tensor

    source = changed(sources / "llama-float32", tmp_path / "source", name, spoil)
    for scheme in ("fp8", "nvfp4a16", "fp8-tensor"):
        done = run_command(source, tmp_path / "out", "--scheme", scheme)
        assert f"{name}: weight [3, 4] is nan" in str(done.exception)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_a_width_that_groups_do_not_divide(sources: Path, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    source = changed(sources / "llama-float32", tmp_path / "source", name, lambda tensor: tensor[:, :200].contiguous())
    done = run_command(source, tmp_path / "out", "--scheme", "w4a16")
    assert "groups of 128 do not divide model.layers.1.mlp.down_proj (200 wide)" in str(done.exception)
    done = run_command(source, tmp_path / "out", "--scheme", "w4a16", "--ignore", name.removesuffix(".weight"))
    assert done.exit_code == 0, done.output
    done = run_command(source, tmp_path / "block", "--scheme", "fp8-block")
    assert "widths of 200 are no multiple of 128" in done.stderr


def test_quantized_already_and_there_already(sources: Path, tmp_path: Path) -> None:
    source, out = sources / "llama-bfloat16", tmp_path / "out"
    assert run_command(source, out).exit_code == 0
    assert "is already quantized, by compressed-tensors" in str(run_command(out, tmp_path / "again").exception)
    assert "exists and is not empty" in str(run_command(source, out).exception)
    assert run_command(source, out, "--force", "--scheme", "w8a8").exit_code == 0
    assert digest(out) == GOLDEN["cases"]["llama/bfloat16/w8a8"]["digest"]


def test_layers_with_inputs_in_rows(tmp_path: Path) -> None:
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    done = run_command(tmp_path / "gpt2", tmp_path / "out")
    assert "the layers of gpt2 are Conv1D" in str(done.exception)
