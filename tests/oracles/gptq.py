"""transformers with GPTQModel, in an environment of its own: what a user of our GPTQ (or AWQ) folder gets.

    with Client() as client:
        logits = client.logits(folder, [1, 300, 301], {"bits": 4, "backend": "torch"})

``make_gptq_client.py`` builds the environment, once. A client takes ten seconds to start: use one for many folders.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from oracles.make_gptq_client import python_of_client

if TYPE_CHECKING:
    import torch

# Run with `-c`: as a file it would find this folder's modules beside it. The libraries print, so answers are marked.
_CHILD = """
import json, sys, traceback
import numpy as np, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, AwqConfig, CompressedTensorsConfig, GPTQConfig
torch.set_num_threads(2)
kinds = {"gptq": GPTQConfig, "awq": AwqConfig, "compressed": CompressedTensorsConfig}

def whole(module):
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm
    scales = module.scales.float()
    weight = dequantize_gemm(module.qweight, module.qzeros, scales, module.bits, module.group_size).float().T
    linear = torch.nn.Linear(*weight.shape[::-1], bias=module.bias is not None)
    linear.weight.data = weight.contiguous()
    if module.bias is not None:
        linear.bias.data = module.bias.float()
    return linear

def floats(module):  # as the layer multiplies with it: rounded to half
    if not hasattr(module, "dequantize_weight"):
        return whole(module)
    weight = module.dequantize_weight().T
    linear = torch.nn.Linear(*weight.shape[::-1], bias=False)
    linear.weight.data = weight.float().contiguous()
    return linear

def packed(model):
    return [pair for pair in model.named_modules() if hasattr(pair[1], "qweight")]

def by_gptqmodel(folder):  # which has a module for each expert, where transformers has one tensor for all
    from gptqmodel import BACKEND, GPTQModel
    backend = BACKEND.TORCH if job["kind"] == "gptq" else BACKEND.TORCH_AWQ
    return GPTQModel.load(folder, device="cpu", backend=backend, dtype=torch.float16).model

for line in sys.stdin:
    job = json.loads(line)
    try:
        if job["experts"]:
            model = by_gptqmodel(job["folder"])
            linears, names = sorted({type(m).__name__ for _, m in packed(model)}), [name for name, _ in packed(model)]
            for name, module in packed(model):
                model.set_submodule(name, floats(module))
            with torch.inference_mode():
                logits = model.float().eval()(torch.tensor([job["tokens"]])).logits[0].numpy()
            np.save(job["out"], logits)
            print("\\nANSWER " + json.dumps({"linears": linears, "names": names}), flush=True)
            continue
        options = {"quantization_config": kinds[job["kind"]](**job["config"])} if job["config"] else {}
        model = AutoModelForCausalLM.from_pretrained(job["folder"], device_map="cpu", dtype=torch.float32, **options)
        linears = sorted({type(m).__name__ for m in model.modules() if hasattr(m, "qweight")})
        if job["kind"] == "compressed":  # it leaves experts in the type of their scales, and computes in it
            model.float()
        if job["whole"]:
            for name, module in packed(model):
                model.set_submodule(name, whole(module))
        with torch.inference_mode():
            logits = model.eval()(torch.tensor([job["tokens"]])).logits[0].float().numpy()
        np.save(job["out"], logits)
        answer = {"linears": linears}
    except Exception as error:
        answer = {"error": traceback.format_exc()}
    print("\\nANSWER " + json.dumps(answer), flush=True)
"""


class ClientError(Exception):
    """The client raised; its traceback."""


class Client:
    """A child process that loads checkpoints and runs them."""

    def __init__(self) -> None:
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "GPTQMODEL_CPU_WORKERS": "2", "TOKENIZERS_PARALLELISM": "false",
               "TORCHDYNAMO_DISABLE": "1"}  # fmt: skip
        env.pop("PYTHONPATH", None)
        self._folder = tempfile.TemporaryDirectory(prefix="quantmill-gptq-")
        self._log = (Path(self._folder.name) / "log").open("wb")
        self._child = subprocess.Popen(
            [str(python_of_client()), "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            env=env, cwd=self._folder.name,
        )  # fmt: skip
        self.linears: list[str] = []  # classes of the last model's quantized linears
        self.names: list[str] = []  # their names, of a model with ``experts``

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(60)
        self._log.close()
        self._folder.cleanup()

    def logits(
        self,
        folder: Path,
        tokens: Sequence[int],
        config: Mapping[str, Any] | None = None,
        kind: str = "gptq",
        whole: bool = False,
        experts: bool = False,
    ) -> NDArray[np.float32]:
        """float32 [tokens, vocabulary].

        Args:
            folder: the checkpoint.
            tokens: one sequence.
            config: of ``GPTQConfig``, ``AwqConfig`` or ``CompressedTensorsConfig``; None takes the folder's own.
            kind: ``gptq``, ``awq`` or ``compressed``.
            whole: AWQ linears, which the client computes in half precision, as float32 ones of the weights it unpacks.
            experts: load by GPTQModel itself, which has a module for each expert, and as ``whole``.

        Raises:
            ClientError: it could not load or run it.
        """
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        out = Path(self._folder.name) / "logits.npy"
        job = {
            "folder": str(folder),
            "tokens": list(tokens),
            "config": dict(config or {}),
            "kind": kind,
            "whole": whole,
            "experts": experts,
        }
        self._child.stdin.write((json.dumps({**job, "out": str(out)}) + "\n").encode())
        self._child.stdin.flush()
        for raw in self._child.stdout:
            if raw.startswith(b"ANSWER "):
                answer = json.loads(raw.removeprefix(b"ANSWER "))
                if "error" in answer:
                    raise ClientError(answer["error"])
                self.linears, self.names = answer["linears"], answer.get("names", [])
                result: NDArray[np.float32] = np.load(out)
                return result
        raise ClientError(Path(self._log.name).read_text()[-2000:])


def decoded(folder: Path) -> dict[str, torch.Tensor]:
    """The linears of a GPTQ folder as weights, by the layout's definition and rounded to half as GPTQModel has them.

    Written for this test, bit by bit: it shares no code with the package.
    """
    import torch
    from safetensors.numpy import load_file

    config = json.loads((folder / "quantize_config.json").read_text())
    bits, less_one = config["bits"], config["checkpoint_format"] == "gptq"
    stored = {name: array for path in folder.glob("*.safetensors") for name, array in load_file(path).items()}
    found = {}
    for name in stored:
        if name.endswith(".qweight"):
            module = name.removesuffix(".qweight")
            codes = _stream(stored[name].T, bits).T.astype(np.float32)
            zeros = _stream(stored[f"{module}.qzeros"], bits).astype(np.float32) + less_one
            scales, group = stored[f"{module}.scales"].astype(np.float32), stored[f"{module}.g_idx"]
            weight = (codes - zeros[group]) * scales[group]
            found[f"{module}.weight"] = torch.from_numpy(np.ascontiguousarray(weight.T.astype(np.float16), np.float32))
    return found


def _stream(words: NDArray[np.int32], bits: int) -> NDArray[np.int64]:
    """Codes of rows of words: each row one stream of bits, the lowest first."""
    raw = np.ascontiguousarray(words, "<i4").view(np.uint8)
    stream = np.unpackbits(raw, axis=1, bitorder="little").reshape(len(words), -1, bits)
    return stream.astype(np.int64) @ (1 << np.arange(bits))
