"""Each scheme of ``quantmill compress``, and ``gptq`` and ``awq``, beside llm-compressor's: perplexity, bytes, time and
peak memory, in one table.

    python tests/bench/compress.py MODEL_DIR --peer PYTHON [--schemes fp8,w8a8,gptq] [--ctx 512] [--chunks 16] [--json]

PYTHON is one that has llmcompressor 0.14.0.1, in an environment of its own. Both run as processes of two threads; times
are processor time from start to end, the libraries' imports included, and the peak is of the whole process. Perplexity
is of the weights, decoded by compressed-tensors in transformers, on the last windows of a text (``--text``; or the one
that ships with the package), each window's second half. What is calibrated is calibrated by both on the same windows at
the text's start, as many. Where the tensors are the same bytes, they are judged once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

from quantmill.formats.hf.packed.schemes import SCHEMES
from quantmill.tools.api.running import RunOptions, open_text, open_weights

OURS = "import sys; sys.argv[0] = 'quantmill'; from quantmill.tools.main import run; run()"
PEER = """
import json, sys
import torch
torch.set_num_threads(2)
from compressed_tensors.quantization import QuantizationScheme
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from transformers import AutoModelForCausalLM
source, out, method, group, windows = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
how = {"config_groups": {"group_0": QuantizationScheme(**json.loads(group))}, "ignore": ["lm_head"]}
recipe, data = QuantizationModifier(**how), {}
if method == "gptq":
    from llmcompressor.modifiers.gptq import GPTQModifier
    recipe = GPTQModifier(**how)
if method == "awq":
    from llmcompressor.modifiers.transform.awq import AWQModifier
    recipe = [AWQModifier(), recipe]
if method in ("gptq", "awq", "nvfp4"):
    from datasets import Dataset
    ids = json.load(open(windows))
    rows = {"input_ids": ids, "attention_mask": [[1] * len(one) for one in ids]}
    data = {"dataset": Dataset.from_dict(rows), "num_calibration_samples": len(ids), "max_seq_length": len(ids[0])}
oneshot(model=model, recipe=recipe, **data)
model.save_pretrained(out, save_compressed=True)
"""
# By a text, and which scheme each writes; the rest is data-free.
CALIBRATED = {"nvfp4": "nvfp4", "gptq": "w4a16", "awq": "w4a16-asym"}
# Runs a command and prints what its process took.
MEASURED = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, done.returncode, done.stderr[-1000:]]))
"""


@dataclass(frozen=True)
class Row:
    """One scheme: processor seconds and peak megabytes of both, bytes of the folder, perplexity of both."""

    scheme: str
    seconds: float
    peak_mb: float
    their_seconds: float
    their_peak_mb: float
    nbytes: int
    same_bytes: bool
    perplexity: float
    their_perplexity: float

    def line(self) -> str:
        """Under the table's head."""
        return (
            f"{self.scheme:11s} {self.seconds:12.1f} {self.peak_mb:8.0f} {self.their_seconds:23.1f} "
            f"{self.their_peak_mb:8.0f} {self.perplexity:12.3f} {self.their_perplexity:7.3f}  "
            f"{'the same' if self.same_bytes else 'others'}"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--schemes", default=",".join(dict.fromkeys([*SCHEMES, *CALIBRATED])))
    parser.add_argument("--group-size", type=int, default=64, help="of w4a16 and w8a16; SmolLM2 is 576 wide")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(2)
    whole = torch.from_numpy(
        open_text(open_weights(given.model), given.text, RunOptions(n_ctx=given.ctx)).inputs
    ).long()
    if len(whole) < 2 * given.chunks:
        raise SystemExit(f"the text has {len(whole)} windows of {given.ctx}, and twice {given.chunks} are needed")
    tokens = whole[-given.chunks :]
    plain, rows = perplexity(given.model, tokens, quantized=False), []
    if not given.json:
        print(f"{given.model.name}: perplexity {plain:.3f} before, {len(tokens)} windows of {given.ctx}")
        print(
            "scheme       ours: CPU s  peak MB   llm-compressor: CPU s  peak MB   perplexity  theirs  bytes", flush=True
        )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "windows.json").write_text(json.dumps(whole[: given.chunks].tolist()))
        measured([sys.executable, "-c", OURS, "compress", str(given.model), f"{folder}/warm", "--quiet"])
        for scheme in given.schemes.split(","):
            rows.append(row := compared(scheme, given, tokens, Path(folder)))
            if not given.json:
                print(row.line(), flush=True)
    if given.json:
        print(json.dumps({"unquantized": plain, "schemes": [asdict(row) for row in rows]}))


def compared(scheme: str, given: argparse.Namespace, tokens: torch.Tensor, folder: Path) -> Row:
    from quantmill.formats.hf.packed.schemes import quantization_config
    from quantmill.formats.hf.packed.schemes import scheme as named

    name = CALIBRATED.get(scheme, scheme)
    size = given.group_size if SCHEMES[name].format == "pack-quantized" else None
    ours, theirs = folder / f"{scheme}-ours", folder / f"{scheme}-theirs"
    by_itself = scheme in ("gptq", "awq")
    options = ["--format", "compressed-tensors"] if by_itself else ["--scheme", scheme]
    options += [] if size is None else ["--group-size", str(size)]
    options += ["--static-groups"] if scheme == "gptq" else []  # GPTQModifier's default
    if scheme in CALIBRATED:
        text = [] if given.text is None else ["-f", str(given.text)]
        options += [*text, "-c", str(given.ctx), "--chunks", str(given.chunks)]
    command = [scheme if by_itself else "compress", str(given.model), str(ours), "--threads", "2", "--quiet", *options]
    seconds, peak = measured([sys.executable, "-c", OURS, *command])
    group = quantization_config(named(name, size), [])["config_groups"]["group_0"]
    words = [given.peer, "-c", PEER, str(given.model), str(theirs), scheme, json.dumps(group), f"{folder}/windows.json"]
    their_seconds, their_peak = measured(words, cwd=folder)
    same = tensors(ours).keys() == tensors(theirs).keys() and all(
        torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))
        for one, other in zip(tensors(ours).values(), tensors(theirs).values(), strict=True)
    )
    found = perplexity(ours, tokens)
    nbytes = sum(path.stat().st_size for path in ours.glob("*.safetensors"))
    other = found if same else perplexity(theirs, tokens)
    return Row(scheme, seconds, peak, their_seconds, their_peak, nbytes, same, found, other)


def measured(words: list[str], cwd: Path | None = None) -> tuple[float, float]:
    """Processor seconds and peak megabytes of a command."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
    if cwd is not None:
        env.pop("PYTHONPATH", None)
    done = subprocess.run([sys.executable, "-c", MEASURED, *words], capture_output=True, text=True, env=env, cwd=cwd)
    seconds, peak, code, said = json.loads(done.stdout)
    if code:
        raise SystemExit(said)
    return seconds, peak


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found = {name: part for path in folder.glob("*.safetensors") for name, part in load_file(path).items()}
    return dict(sorted(found.items()))


@torch.inference_mode()
def perplexity(folder: Path, tokens: torch.Tensor, *, quantized: bool = True) -> float:
    how = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if quantized else {}
    model = AutoModelForCausalLM.from_pretrained(folder, **how).float().eval()
    half = tokens.shape[1] // 2
    total, count = 0.0, 0
    for window in tokens:
        logits = model(window[None]).logits[0, half:-1]
        total += float(torch.nn.functional.cross_entropy(logits, window[half + 1 :], reduction="sum"))
        count += len(logits)
    return float(torch.tensor(total / count).exp())


if __name__ == "__main__":
    main()
