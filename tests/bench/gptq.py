"""Perplexity and time of ``quantmill gptq``, of GPTQModel and of rounding to nearest, on the same text.

    python tests/bench/gptq.py MODEL_DIR [--ctx 512] [--chunks 64] [--test-chunks 28] [--group-size 128] [--out FOLDER]
        [--text calibration.txt --test test.txt]

Calibrates on documentation and judges documentation held out (texts.py), or two files of one's own, each window's
second half. Both programs get the same windows of tokens, 4 bits and two threads, and both times are
processor time of a process from start to end, the libraries' imports included: a busy machine does not blur that much.
GPTQModel's environment comes from tests/oracles/make_gptq_client.py. Folders that --out holds are judged as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file
from texts import write_texts
from transformers import AutoModelForCausalLM

from oracles.gptq import decoded
from oracles.make_gptq_client import python_of_client
from quantmill.formats.hf.packed.gptq import pack_columns, pack_rows
from quantmill.formats.hf.packed.save import write_packed
from quantmill.quantize.gptq.layer import round_to_nearest
from quantmill.quantize.gptq.settings import GPTQSettings
from quantmill.tools.api.running import RunOptions, open_text, open_weights

PEER = """
import json, sys
import numpy as np, torch
from gptqmodel import GPTQModel, QuantizeConfig
torch.set_num_threads(2)
model, tokens, out, group = sys.argv[1:]
data = [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in np.load(tokens)]
model = GPTQModel.load(model, QuantizeConfig(bits=4, group_size=int(group)), device="cpu", backend="torch")
model.quantize(data, batch_size=1)
model.save(out)
"""
OURS = "import sys; sys.argv[0] = 'quantmill'; from quantmill.tools.main import run; run()"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=64)
    parser.add_argument("--test-chunks", type=int, default=28)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.out or Path(temporary)
        folder.mkdir(exist_ok=True)
        texts = write_texts(folder).files
        text, test = args.text or texts["docs", "calibration"], args.test or texts["docs", "heldout"]
        weights = open_weights(args.model)
        corpus = open_text(weights, text, RunOptions(args.ctx, args.chunks))
        tokens = folder / "tokens.npy"
        np.save(tokens, corpus.inputs.astype(np.int64))
        base = ["--bits", 4, "--group-size", args.group_size, "-f", text, "-c", args.ctx, "--chunks", args.chunks]
        ours = [sys.executable, "-c", OURS, "gptq", args.model, None, *base, "--threads", 2, "--quiet"]
        peer = [python_of_client(), "-c", PEER, args.model, tokens, None, args.group_size]
        seconds = {
            "quantmill gptq": _timed(ours, folder / "ours"),
            "quantmill gptq --desc-act": _timed([*ours, "--desc-act"], folder / "ours-desc-act"),
            "GPTQModel": _timed(peer, folder / "peer"),
        }
        nearest(args.model, folder / "nearest", args.group_size)
        judged = open_text(weights, test, RunOptions(args.ctx, args.test_chunks))
        held_out = torch.from_numpy(judged.inputs.astype(np.int64))
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
        exact = losses(model, held_out)
        print(f"{'':<28}{'perplexity':>11}{'Δ nats':>10}{'±':>9}{'CPU s':>9}{'wall s':>9}")
        print(f"{'original':<28}{exact.mean().exp().item():>11.4f}")
        names = {"quantmill gptq": "ours", "quantmill gptq --desc-act": "ours-desc-act", "GPTQModel": "peer",
                 "round to nearest": "nearest"}  # fmt: skip
        for name, where in names.items():
            model.load_state_dict(decoded(folder / where), strict=False)
            found = losses(model, held_out)
            worse = found - exact
            error = worse.std() / len(worse) ** 0.5
            times = "".join(f"{value:>9.1f}" for value in seconds.get(name) or ())
            print(f"{name:<28}{found.mean().exp().item():>11.4f}{worse.mean():>10.5f}{error:>9.5f}{times}", flush=True)


def _timed(command: list[object], out: Path) -> tuple[float, float] | None:
    """Processor and wall seconds of a command, whose None stands for the output; None where that is there already."""
    if out.exists():
        return None
    words = [str(out if word is None else word) for word in command]
    env = {**os.environ, "GPTQMODEL_CPU_WORKERS": "2", "HF_HUB_OFFLINE": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(words, check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def nearest(model: Path, out: Path, group_size: int) -> None:
    """The checkpoint with every linear of its blocks rounded to nearest, with the same search for scales."""
    out.mkdir(exist_ok=True)
    how, arrays = GPTQSettings(group_size=group_size), {}
    for file in model.glob("*.safetensors"):
        for name, weight in load_file(file).items():
            if name.endswith("_proj.weight"):
                result, module = round_to_nearest(weight, how), name.removesuffix(".weight")
                arrays[f"{module}.qweight"] = pack_rows(result.codes, 4)
                arrays[f"{module}.qzeros"] = pack_columns(result.zeros - 1, 4)
                arrays[f"{module}.scales"], arrays[f"{module}.g_idx"] = result.scales, result.g_idx
    save_file(arrays, out / "linears")
    write_packed(model, out, [out / "linears"], {"bits": 4, "checkpoint_format": "gptq"})
    (out / "linears").unlink()


def losses(model: torch.nn.Module, windows: torch.Tensor) -> torch.Tensor:
    """float64: -log p of each token of the windows' second halves."""
    half, found = windows.shape[1] // 2, []
    with torch.inference_mode():
        for batch in windows.split(4):
            logits = model(batch, logits_to_keep=windows.shape[1] - half).logits[:, :-1]
            log_p = torch.log_softmax(logits.float(), -1)
            found.append(-log_p.gather(-1, batch[:, half + 1 :, None]).reshape(-1).double())
    return torch.cat(found)


if __name__ == "__main__":
    print(json.dumps({"cpus": os.cpu_count(), "torch": torch.__version__}))
    main()
