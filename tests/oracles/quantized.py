"""Tiny models for GPTQ and AWQ, the commands on them, and the logits of what was written."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner

from oracles.proofs import all_proofs, save_proof
from oracles.tiny import save_tiny_llama
from quantmill.tools import awq, gptq
from quantmill.tools.convert import command as convert

TOKENS = list(range(5, 69))
COMMANDS = {"gptq": gptq.command, "awq": awq.command}


def save(name: str, folder: Path, **config: object) -> Path:
    """A tiny model of a proof in half precision, with a tokenizer."""
    proof = next(proof for proof in all_proofs() if proof.id == name)
    small = {"hidden_size": 64, "head_dim": 16, "moe_intermediate_size": 64, "intermediate_size": 64}
    small |= {} if "layer_types" in proof.config else {"num_hidden_layers": 2}
    model = save_proof(replace(proof, config={**proof.config, **small, **config}), folder)
    model.half().save_pretrained(folder, save_original_format=not name.endswith("-fused"))
    save_tiny_llama(folder / "other", layers=1)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / "other" / file, folder)
    shutil.rmtree(folder / "other")
    return folder


def run(method: str, *args: object) -> Any:
    threads = torch.get_num_threads()
    try:
        done = CliRunner().invoke(COMMANDS[method], [str(arg) for arg in args], catch_exceptions=False)
    finally:
        torch.set_num_threads(threads)
    assert done.exit_code == 0, done.output
    return done


def decoded(folder: Path, target: Path) -> Path:
    """The checkpoint with float weights, by our own reader."""
    done = CliRunner().invoke(convert, [str(folder), str(target), "--outtype", "f32"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return target


def logits(folder: Path, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """In float32, of weights rounded to ``dtype``."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).float().eval()
    with torch.inference_mode():
        return model(torch.tensor([TOKENS])).logits[0]
