"""Two models in one folder: the one that transformers loads, or an error, and a line about what was left aside.

Every folder holds the weights of A and B, two tiny models that differ in each tensor. transformers itself says which
one it loads, or that it loads none.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

from quantmill.formats.errors import FormatError
from quantmill.formats.hf.load import read_hf

State = dict[str, torch.Tensor]
NAME = "model.layers.0.self_attn.v_proj.weight"
SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def model_state(seed: int) -> State:
    torch.manual_seed(seed)
    return dict(transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).state_dict())


A, B = model_state(1), model_state(2)


class Folder:
    """A checkpoint's folder that is being filled."""

    def __init__(self, path: Path) -> None:
        self.path = path
        transformers.LlamaConfig(**SIZES, architectures=["LlamaForCausalLM"]).save_pretrained(path)

    def one(self, state: State, name: str = "model.safetensors") -> None:
        if name.endswith(".bin"):
            torch.save(state, self.path / name)
        else:
            save_file(state, self.path / name, metadata={"format": "pt"})

    def series(
        self, state: State, count: int = 2, stem: str = "model", kind: str = "safetensors", *, index: bool = True
    ) -> list[Path]:
        names: dict[str, str] = {}
        for i in range(count):
            name = f"{stem}-{i + 1:05d}-of-{count:05d}.{kind}"
            part = dict(list(state.items())[i::count])
            self.one(part, name)
            names |= dict.fromkeys(part, name)
        if index:
            content = json.dumps({"metadata": {}, "weight_map": names})
            (self.path / f"{stem}.{kind}.index.json").write_text(content)
        return [self.path / name for name in sorted(set(names.values()))]

    def config(self, **changes: Any) -> None:
        path = self.path / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def single_and_series(folder: Folder) -> None:
    folder.one(A)
    folder.series(B, index=False)


def single_and_index(folder: Folder) -> None:
    folder.one(A)
    folder.series(B)


def index_without_shards(folder: Folder) -> None:
    folder.one(A)
    for shard in folder.series(B):
        shard.unlink()


def index_without_shards_and_bin(folder: Folder) -> None:
    folder.one(A, "pytorch_model.bin")
    for shard in folder.series(B):
        shard.unlink()


def two_series(folder: Folder) -> None:
    folder.series(A, 2, index=False)
    folder.series(B, 3, index=False)


def two_kinds(folder: Folder) -> None:
    folder.one(A)
    folder.one(B, "pytorch_model.bin")


def index_and_bin(folder: Folder) -> None:
    folder.series(A)
    folder.one(B, "pytorch_model.bin")


def shards_and_bin(folder: Folder) -> None:
    folder.series(A, index=False)
    folder.one(B, "pytorch_model.bin")


def shards_and_bin_index(folder: Folder) -> None:
    folder.series(A, index=False)
    folder.series(B, stem="pytorch_model", kind="bin")


def bin_and_bin_index(folder: Folder) -> None:
    folder.one(A, "pytorch_model.bin")
    folder.series(B, stem="pytorch_model", kind="bin")


def consolidated_beside(folder: Folder) -> None:
    folder.one(A)
    folder.one(B, "consolidated.safetensors")


def stale_shards(folder: Folder) -> None:
    folder.series(A)
    folder.series(B, 3, index=False)


def variant_beside(folder: Folder) -> None:
    folder.one(A)
    folder.one(B, "model.fp16.safetensors")


def variant_and_bin(folder: Folder) -> None:
    folder.one(A, "pytorch_model.bin")
    folder.one(B, "model.fp16.safetensors")


def named_by_the_config(folder: Folder) -> None:
    folder.one(A)
    folder.one(B, "other.safetensors")
    folder.config(transformers_weights="other.safetensors")


def link_to_nothing(folder: Folder) -> None:
    folder.one(A, "pytorch_model.bin")
    (folder.path / "model.safetensors").symlink_to("nowhere")


def of_other_programs(folder: Folder) -> None:
    folder.one(A)
    for name in ("tf_model.h5", "consolidated.00.pth", "training_args.bin", "optimizer.pt", ".x.safetensors"):
        (folder.path / name).write_bytes(b"...")


LINES: list[tuple[Callable[[Folder], None], State, str]] = [
    (single_and_series, A, "model.safetensors; left aside: model-*-of-00002.safetensors"),
    (single_and_index, A, "model.safetensors; left aside: model-*-of-00002.safetensors, model.safetensors.index.json"),
    (index_without_shards, A, "model.safetensors; left aside: model.safetensors.index.json"),
    (two_kinds, A, "model.safetensors; left aside: pytorch_model.bin"),
    (index_and_bin, A, "model.safetensors.index.json; left aside: pytorch_model.bin"),
    (shards_and_bin, B, "pytorch_model.bin; left aside: model-*-of-00002.safetensors"),
    (shards_and_bin_index, B, "pytorch_model.bin.index.json; left aside: model-*-of-00002.safetensors"),
    (bin_and_bin_index, A, "pytorch_model.bin; left aside: pytorch_model-*-of-00002.bin, pytorch_model.bin.index.json"),
    (consolidated_beside, A, "model.safetensors; left aside: consolidated.safetensors"),
    (stale_shards, A, "model.safetensors.index.json; left aside: model-*-of-00003.safetensors"),
    (variant_beside, A, "model.safetensors; left aside: model.fp16.safetensors"),
    (variant_and_bin, A, "pytorch_model.bin; left aside: model.fp16.safetensors"),
    (named_by_the_config, B, "other.safetensors, which config.json names; left aside: model.safetensors"),
    (link_to_nothing, A, "pytorch_model.bin; left aside: model.safetensors (links to nothing among them)"),
    (of_other_programs, A, "model.safetensors; left aside: consolidated.00.pth, tf_model.h5"),
]  # fmt: skip


def transformers_loads(folder: Path, **options: Any) -> torch.Tensor:
    model = transformers.LlamaForCausalLM.from_pretrained(folder, **options)
    return model.state_dict()[NAME]


def ours(folder: Path, lines: list[str]) -> np.ndarray[Any, Any]:
    model = read_hf(folder, say=lines.append)
    (tensor,) = (tensor for tensor in model.tensors if tensor.name == "blk.0.attn_v.weight")
    return tensor.rows(0, tensor.n_rows).view(np.float32)


@pytest.mark.parametrize(("make", "expected", "line"), LINES, ids=lambda value: getattr(value, "__name__", ""))
def test_the_model_is_the_one_that_transformers_loads(
    make: Callable[[Folder], None], expected: State, line: str, tmp_path: Path
) -> None:
    make(Folder(tmp_path))
    lines: list[str] = []
    assert torch.equal(transformers_loads(tmp_path), expected[NAME])
    assert np.array_equal(ours(tmp_path, lines), expected[NAME].numpy())
    assert lines == [f"{tmp_path}: reads {line}"]


def variant_alone(folder: Folder) -> None:
    folder.one(B, "model.fp16.safetensors")


def variant_in_shards(folder: Folder) -> None:
    shards = folder.series(B, stem="model.fp16", index=False)
    names = {name: shards[i % 2].name for i, name in enumerate(B)}
    content = json.dumps({"metadata": {}, "weight_map": names})
    (folder.path / "model.safetensors.index.fp16.json").write_text(content)


@pytest.mark.parametrize("make", [variant_alone, variant_in_shards])
def test_a_variant_alone_is_read(make: Callable[[Folder], None], tmp_path: Path) -> None:
    """transformers wants to be asked for it; nothing else can be meant."""
    make(Folder(tmp_path))
    with pytest.raises(OSError, match="no file named"):
        transformers_loads(tmp_path)
    lines: list[str] = []
    assert torch.equal(transformers_loads(tmp_path, variant="fp16"), B[NAME])
    assert np.array_equal(ours(tmp_path, lines), B[NAME].numpy())
    (line,) = lines
    assert "the variant fp16, which transformers reads when asked for it" in line


def test_shards_without_an_index_are_read(tmp_path: Path) -> None:
    """transformers refuses them; one series holds one model."""
    Folder(tmp_path).series(A, index=False)
    with pytest.raises(OSError, match="no file named"):
        transformers_loads(tmp_path)
    lines: list[str] = []
    assert np.array_equal(ours(tmp_path, lines), A[NAME].numpy())
    names = "model-*-of-00002.safetensors"
    assert lines == [f"{tmp_path}: reads {names}, shards without an index"]


def test_an_adapter_beside_the_weights_is_named(tmp_path: Path) -> None:
    """transformers adds it where PEFT is installed."""
    folder = Folder(tmp_path)
    folder.one(A)
    folder.one({"x": A[NAME]}, "adapter_model.safetensors")
    lines: list[str] = []
    assert np.array_equal(ours(tmp_path, lines), A[NAME].numpy())
    reason = "(an adapter, which PEFT adds on loading: merge it first, or convert it by itself)"
    assert lines == [f"{tmp_path}: reads model.safetensors; left aside: adapter_model.safetensors {reason}"]


def two_variants(folder: Folder) -> None:
    folder.one(A, "model.fp16.safetensors")
    folder.one(B, "model.bf16.safetensors")


def series_of_two_variants(folder: Folder) -> None:
    folder.series(A, index=False)
    folder.series(B, stem="model.fp16", index=False)


def consolidated_alone(folder: Folder) -> None:
    folder.one(A, "consolidated.safetensors")


def named_but_gone(folder: Folder) -> None:
    folder.one(A)
    folder.config(transformers_weights="other.safetensors")


HINT = "(get model.safetensors.index.json, or move what you do not want out of the folder)"
WHICH = f"and nothing says which to read {HINT}"
ERRORS: list[tuple[Callable[[Folder], None], str]] = [
    (two_series, f": 2 series of shards, model-*-of-00002.safetensors, model-*-of-00003.safetensors, {WHICH}"),
    (
        two_variants,
        ": 2 variants, model.bf16.safetensors, model.fp16.safetensors, and nothing says which to read "
        "(move what you do not want out of the folder)",
    ),
    (
        series_of_two_variants,
        f": 2 series of shards, model-*-of-00002.safetensors, model.fp16-*-of-00002.safetensors, {WHICH}",
    ),
    (
        index_without_shards_and_bin,
        ": missing shard model-00001-of-00002.safetensors and 1 more, of the 2 that model.safetensors.index.json names "
        "(download what is missing into this folder)",
    ),
    (
        consolidated_alone,
        ": no weights found, but consolidated.safetensors "
        "(model.safetensors, its shards, or pytorch_model.bin must be in the folder)",
    ),
    (
        named_but_gone,
        "/config.json: transformers_weights: other.safetensors is not there (download it into this folder)",
    ),
]


@pytest.mark.parametrize(("make", "expected"), ERRORS, ids=lambda value: getattr(value, "__name__", ""))
def test_where_nothing_says_which_model_it_is(make: Callable[[Folder], None], expected: str, tmp_path: Path) -> None:
    """transformers refuses each of these folders too."""
    make(Folder(tmp_path))
    with pytest.raises(OSError, match=r"no file named|No such file"):
        transformers_loads(tmp_path)
    with pytest.raises(FormatError) as error:
        read_hf(tmp_path)
    assert str(error.value) == f"{tmp_path}{expected}"


def test_a_distributed_checkpoint_is_refused(tmp_path: Path) -> None:
    """transformers reads its files before all others; we say what they are."""
    folder = Folder(tmp_path)
    folder.one(A)
    folder.one(B, "shard-00001-model-00001-of-00001.safetensors")
    with pytest.raises(FormatError, match=r"shard-00001-model-00001-of-00001.safetensors is part of a distributed"):
        read_hf(tmp_path)


@pytest.mark.parametrize("name", [3, [], "other.bin", "../model.safetensors", "x" * 300 + ".safetensors"])
def test_a_config_that_names_no_file_of_the_folder(name: Any, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.one(A)
    folder.config(transformers_weights=name)
    with pytest.raises(FormatError, match=r"config.json: transformers_weights: "):
        read_hf(tmp_path)
