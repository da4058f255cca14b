"""``--device``: the same path wherever torch computes. The bytes on a second device are those of the processor."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from oracles.second_device import SecondDevice
from oracles.tiny import TEXT, save_tiny_llama, save_tiny_mixtral
from quantmill import (
    AWQSettings,
    ClusterOptions,
    GPTQSettings,
    Note,
    QuantmillError,
    RunOptions,
    awq,
    collect_imatrix,
    compress,
    convert,
    evaluate,
    gptq,
)
from quantmill.formats.progress import Event
from quantmill.imatrix import devices, runner
from quantmill.quantize.gptq import layer

Work = Callable[[Path, Path, Path, RunOptions], object]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT * 8)
    return path


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("llama"), layers=2, attention_bias=True)


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_mixtral(tmp_path_factory.mktemp("mixtral"))


def by_gptq(settings: GPTQSettings) -> Work:
    return lambda model, out, text, run: gptq(model, out / "made", settings=settings, text=text, run=run).linears


def by_compress(model: Path, out: Path, text: Path, run: RunOptions) -> object:
    return compress(model, out / "made", scheme="nvfp4", text=text, run=run).layers


def by_awq(settings: AWQSettings) -> Work:
    return lambda model, out, text, run: awq(model, out / "made", settings=settings, text=text, run=run).linears


def importance(model: Path, out: Path, text: Path, run: RunOptions) -> object:
    made = collect_imatrix(model, out / "made.gguf", text=text, run=run, second_moments=True, process_output=True)
    return made.perplexity


def judged(model: Path, out: Path, text: Path, run: RunOptions) -> object:
    convert(model, out / "q4.gguf", "Q4_0")
    alone = evaluate(model, text, run=run, save_base=out / "base.npz")
    against = [evaluate(out / "q4.gguf", text, base=base, run=run) for base in (model, out / "base.npz")]
    (out / "base.npz").unlink()  # its archive holds the time
    return alone, against


WORK: dict[str, Work] = {
    "imatrix": importance,
    "evaluate": judged,
    "gptq": by_gptq(GPTQSettings(group_size=32)),
    "gptq of whole rows": by_gptq(GPTQSettings(group_size=-1, sym=False)),
    "gptq in another order": by_gptq(GPTQSettings(group_size=32, desc_act=True)),
    "gptq of static groups": by_gptq(GPTQSettings(group_size=32, static_groups=True)),
    "gptq to compressed-tensors": lambda model, out, text, run: (
        gptq(
            model,
            out / "made",
            settings=GPTQSettings(group_size=32),
            checkpoint_format="compressed-tensors",
            text=text,
            run=run,
        ).linears
    ),
    "awq": by_awq(AWQSettings(group_size=32)),
    "compress": by_compress,
}


def outcome(work: Work, model: Path, folder: Path, text: Path, device: str) -> tuple[object, dict[str, bytes]]:
    """What a function returned, and the files that it wrote."""
    out = folder / "out"  # of one name, which files repeat
    out.mkdir()
    found = work(model, out, text, RunOptions(n_ctx=32, chunks=6, device=device))
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    out.rename(folder / device)
    return found, files


@pytest.mark.parametrize("what", WORK)
def test_a_second_device_gives_the_same_bytes(llama: Path, text: Path, tmp_path: Path, what: str) -> None:
    on_cpu = outcome(WORK[what], llama, tmp_path, text, "cpu")
    with SecondDevice() as device:
        assert outcome(WORK[what], llama, tmp_path, text, "cuda") == on_cpu
    assert device.n_operations > 300
    assert on_cpu[1]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["imatrix", "gptq", "awq"])
def test_experts_on_a_second_device(mixtral: Path, text: Path, tmp_path: Path, what: str) -> None:
    on_cpu = outcome(WORK[what], mixtral, tmp_path, text, "cpu")
    with SecondDevice():
        assert outcome(WORK[what], mixtral, tmp_path, text, "cuda") == on_cpu


@pytest.mark.parametrize("what", ["imatrix", "evaluate", "gptq", "awq"])
def test_a_device_without_float64(
    llama: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """No step needs it there: GPTQ's factors are then found on the processor."""
    monkeypatch.setattr(layer, "_WITHOUT_FLOAT64", ("cuda",))
    with SecondDevice(without=torch.float64):
        outcome(WORK[what], llama, tmp_path, text, "cuda")


def test_the_second_device_refuses_what_a_gpu_refuses() -> None:
    here = torch.arange(6.0).reshape(2, 3)
    with SecondDevice():
        there = here.to("cuda")
        assert [str(each.device) for each in (here, there, there[0] * 2, there.cpu())] == [
            "cpu", "cuda:0", "cuda:0", "cpu"
        ]  # fmt: skip
        for mixed in (lambda: here + there, lambda: there @ here.T, lambda: torch.cat([here, there])):
            with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
                mixed()
        with pytest.raises(TypeError, match="cannot convert a cuda tensor to numpy"):
            there.numpy()
    with SecondDevice(without=torch.float64), pytest.raises(TypeError, match=r"no torch\.float64"):
        here.to("cuda").double()


@pytest.mark.parametrize("name", ["teapot", "meta", "cuda:77", "mps", ""])
def test_no_such_device(llama: Path, text: Path, tmp_path: Path, refused: Callable[..., str], name: str) -> None:
    problem = f"no device {name!r} here (available: {', '.join(devices.available())})"
    run = ("-f", text, "--device", name)
    out = tmp_path / "out.gguf"
    for words in (
        ("imatrix", "-m", llama, "-o", out), ("evaluate", llama), ("gptq", llama, out), ("awq", llama, out),
    ):  # fmt: skip
        assert problem in refused(*words, *run)


@pytest.mark.parametrize(("units", "dtype", "has"), [({"amx_bf16": True}, "bf16", "has"), ({}, "f32", "has no")])
def test_dtype_by_the_processor(
    llama: Path, text: Path, monkeypatch: pytest.MonkeyPatch, units: dict[str, bool], dtype: str, has: str
) -> None:
    from quantmill.tools.api.running import on_device

    said: list[str] = []
    monkeypatch.setattr(devices, "_processor", lambda: units)
    with on_device(RunOptions(dtype="auto"), lambda event: said.append(str(getattr(event, "text", "")))) as run:
        assert run.dtype == dtype
    assert said == [f"--dtype auto: {dtype} (cpu {has} units for bf16)"]
    with on_device(RunOptions(dtype="bf16"), None) as run:
        assert run.dtype == "bf16"


def test_auto(llama: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []
    run = RunOptions(n_ctx=32, chunks=2, device="auto")
    for found, device in ((None, "cpu"), (torch.device("cuda"), "cuda")):
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available, found=found: found)
        with SecondDevice() if found else nullcontext():
            evaluate(llama, text, run=run, progress=events.append)
        assert Note(f"--device auto: {device}", important=False) in events
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert devices.available() == ("cpu", "cuda:0", "cuda:1")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("MPS backend out of memory"),
    ],
    ids=["cuda", "mps"],
)
def test_a_device_that_is_full(
    llama: Path,
    text: Path,
    tmp_path: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(runner.Skeleton, "run_block", full)
    run = ("-f", text, "-c", 32, "--quiet", "--device", "cpu")
    out = tmp_path / "out"
    for words in (
        ("imatrix", "-m", llama, "-o", f"{out}.gguf"),
        ("evaluate", llama),
        ("gptq", llama, out),
        ("awq", llama, out, "--group-size", 32),
    ):
        assert refused(*words, *run).endswith("cpu: out of memory (a smaller --batch or --ctx-size, or --device cpu)")
    with pytest.raises(RuntimeError, match="another"), devices.memory_explained("cuda"):
        raise RuntimeError("another fault")


def test_the_cluster_takes_no_device(llama: Path, text: Path, tmp_path: Path) -> None:
    run = RunOptions(device="cuda")
    with pytest.raises(QuantmillError, match="--device: cannot be combined with --cluster"):
        collect_imatrix(llama, tmp_path / "made.gguf", text=text, run=run, cluster=ClusterOptions("local"))
