"""A block walked stage by stage gives the same whether its runs go on where they stopped or begin at the first call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from oracles.quantized import save
from oracles.tiny import TEXT, save_tiny_llama
from quantmill.imatrix.block_linears import Group
from quantmill.imatrix.layerwise import walk_block, watch_block
from quantmill.imatrix.partial_runs import PartialRuns
from quantmill.imatrix.runner import Runner
from quantmill.tools.api.running import RunOptions, open_run


class Rounding:
    """Rounds every weight, and keeps what each group was given."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, torch.Tensor]] = []

    def see(self, group: Group, x: torch.Tensor) -> None:
        self.seen.append((group.name, x.clone()))

    def replace(self, layer: int, module: torch.nn.Module, stage: tuple[Group, ...]) -> None:
        for group in stage:
            for linear in group.linears:
                linear.weight.copy_(linear.weight.to(torch.float8_e4m3fn).float())


class Products(TorchFunctionMode):
    """Counts the products that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n += func is torch.nn.functional.linear
        return func(*args, **(kwargs or {}))


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[str], Runner]:
    """Gives a runner at the first block of a small model of six batches."""
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 20)

    def open_it(name: str) -> Runner:
        folder = tmp_path / name
        if not folder.exists():
            _ = save_tiny_llama(folder, layers=1) if name == "llama" else save(name, folder)
        runner = open_run(folder, text, tmp_path / "state", RunOptions(n_ctx=64, chunks=6, batch=1))
        runner.embed()
        return runner

    return open_it


def walked(runner: Runner) -> tuple[list[tuple[str, torch.Tensor]], torch.Tensor, int]:
    """What the groups of the first block saw, what left it, and how many products that took."""
    visitor = Rounding()
    with Products() as products:
        walk_block(runner, visitor)
    return visitor.seen, runner.activations.get(list(range(runner.corpus.n_chunks))), products.n


def assert_same(one: tuple[Any, torch.Tensor, int], other: tuple[Any, torch.Tensor, int]) -> None:
    assert [name for name, _ in one[0]] == [name for name, _ in other[0]]
    for (_, x), (_, y) in zip(one[0], other[0], strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one[1], other[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "mixtral", "qwen35moe-fused"])
@pytest.mark.parametrize("limit", [1 << 30, 20_000])
def test_same_in_memory_in_files_and_from_the_start(
    opened: Callable[[str], Runner], name: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(PartialRuns, "_keep", lambda *_: None)
        plain = walked(opened(name))
    monkeypatch.setattr(PartialRuns.__init__, "__defaults__", (limit,))
    written: list[str] = []
    file = PartialRuns._file
    monkeypatch.setattr(PartialRuns, "_file", lambda self, n: (written.append(str(n)), file(self, n))[1])
    runner = opened(name)
    found = walked(runner)
    assert_same(found, plain)
    assert bool(written) == (limit < 1 << 30)
    assert found[2] < plain[2]
    assert not list(runner.activations.folder.glob("stopped-*"))


def test_each_product_is_computed_once(opened: Callable[[str], Runner]) -> None:
    *_, n = walked(opened("llama"))
    first = 7 + (3 + 4 + 6 + 7)  # the first chunk, to find the stages; and again, to compare
    assert n == 6 * 7 + first


def test_what_is_made_of_a_weight_before_it_changes_is_not_kept(
    opened: Callable[[str], Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be that of the old weight: the first batch shows it, and the others begin at the first call."""
    forward = LlamaDecoderLayer.forward

    def with_sum(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        total = self.mlp.up_proj.weight.abs().sum()
        return forward(self, hidden_states, *args, **kwargs) + total

    monkeypatch.setattr(LlamaDecoderLayer, "forward", with_sum)
    found = walked(opened("llama"))
    monkeypatch.setattr(PartialRuns, "_keep", lambda *_: None)
    assert_same(found, walked(opened("llama")))


def test_results_that_are_no_tensors_are_given_again(tmp_path: Path) -> None:
    """Among them views of one memory, values, and what is changed in place; a call of another kind keeps nothing."""

    def block(x: torch.Tensor, stop: Callable[[], None]) -> torch.Tensor:
        values, places = x.topk(2)
        left, right = (x * 2).chunk(2, -1)
        left += 1
        if x.sum().item() > 0:
            stop()
        return torch.cat([left, right, values, places.to(x)], -1)

    runs, x = PartialRuns(tmp_path, limit=0), torch.arange(8.0).reshape(2, 4)
    outs = []
    with torch.inference_mode():
        for entering in (x, torch.zeros(2, 4)):
            with runs.run(0, torch.nn.Identity(), entering) as (given, stop):
                outs.append(block(given, stop))
        assert torch.equal(*outs)
        with runs.run(1, torch.nn.Identity(), x) as (given, stop):
            given.numpy()
            stop()
    assert 0 in runs
    assert 1 not in runs
    runs.clear()
    assert not list(tmp_path.iterdir())


def test_watched(opened: Callable[[str], Runner]) -> None:
    """Nothing changes, so that one run of each batch is enough."""
    visitor, runner = Rounding(), opened("llama")
    with Products() as products:
        watch_block(runner, visitor.see)
    assert products.n == 7 * (6 + 1)
    assert runner.layer == 1
    assert [name.rpartition(".")[2] for name, _ in visitor.seen[:4]] == ["q_proj", "o_proj", "gate_proj", "down_proj"]
