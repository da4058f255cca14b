"""Heads and embeddings that the config ties: the bytes decide, as in transformers, which is asked by logits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from oracles.llama import Llama, LlamaError
from oracles.proofs import Proof, all_proofs, run_proof, save_proof, text_weights, tokens_of
from quantmill.formats.errors import FormatError, UnmatchedTensor
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.hf.archs import ARCHS
from quantmill.formats.hf.load import read_hf
from quantmill.formats.hf.names import our_name
from quantmill.formats.hf.save import write_hf
from quantmill.formats.hf.settle import copies, is_needed, rule_of
from quantmill.formats.hf.tables.extras import Copy
from quantmill.formats.hf.tables.rules import Arch
from quantmill.formats.ir import Model, Role, Tensor

ARCH = {arch.name: arch for arch in ARCHS}
# transformers refuses to tie them, or leaves them untied
NEVER_TIED = [arch.name for arch in ARCHS if arch.fixed.get("tie_word_embeddings") is False]
UNTIED = (*NEVER_TIED, "kimi-linear")
# One proof of each architecture that has a head.
PROOFS = list({proof.arch: proof for proof in all_proofs() if proof.predicts and proof.arch not in UNTIED}.values())
LOW_LIMIT = 2e-3


def head_of(arch: Arch) -> Copy:
    return next(copy for copy in copies(arch) if "embed_tokens" not in copy.name)


class Tied:
    """A tiny checkpoint, whose head and tie flag a test sets."""

    def __init__(self, proof: Proof, folder: Path) -> None:
        folder.mkdir()
        save_proof(proof, folder)
        self.proof, self.folder, self.arch = proof, folder, ARCH[proof.arch]
        self.head, self.embedding = head_of(self.arch).name, head_of(self.arch).of
        self.config = json.loads((folder / "config.json").read_text())
        weights = text_weights(proof, folder)
        self.at = next(name for name in weights if our_name(name, self.arch, {self.embedding}))
        self.weights = {name: weight for name, weight in weights.items() if name != self.head}
        generator = torch.Generator().manual_seed(5)
        self.other = torch.empty_like(weights[self.at]).normal_(0, 0.05, generator=generator)

    def write(self, tied: bool, head: torch.Tensor | None = None, *, without: str = "") -> Path:
        config = self.config | {"tie_word_embeddings": tied}
        if self.arch.name == "t5":
            config["scale_decoder_outputs"] = False
        if "tie_word_embeddings" in (text := config.get("text_config", {})):
            config["text_config"] = text | {"tie_word_embeddings": tied}
        (self.folder / "config.json").write_text(json.dumps(config))
        weights = self.weights if head is None else {**self.weights, self.head: head.clone()}
        weights = {name: weight for name, weight in weights.items() if name != without}
        save_file(weights, self.folder / "model.safetensors", metadata={"format": "pt"})
        return self.folder

    @property
    def equal(self) -> torch.Tensor:
        return self.weights[self.at]

    def logits(self) -> np.ndarray:
        model = getattr(transformers, self.proof.model).from_pretrained(self.folder)
        return run_proof(self.proof, model.eval())


def tied_of(arch: str, folder: Path) -> Tied:
    return Tied(next(proof for proof in PROOFS if proof.arch == arch), folder / arch)


@pytest.fixture(scope="module", params=PROOFS, ids=lambda proof: proof.arch)
def tied(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tied:
    torch.set_num_threads(1)
    return Tied(request.param, tmp_path_factory.mktemp("tied") / request.param.arch)


class Peer:
    """llama.cpp in one child for all models; a new one after a model that it does not load."""

    def __init__(self) -> None:
        self.child: Llama | None = None

    def run(self, path: Path, proof: Proof) -> np.ndarray:
        tokens = tokens_of(proof)
        try:
            if self.child is None:
                self.child = Llama(path, flash=proof.flash)
            else:
                self.child.open(path, flash=proof.flash)
            return self.child.decoded(tokens, tokens[::-1]) if proof.encodes else self.child.logits(tokens)
        except LlamaError:
            self.close()
            raise

    def close(self) -> None:
        if self.child is not None:
            self.child.close()
        self.child = None


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


def names(model: Model) -> set[str]:
    return {tensor.name for tensor in model}


def read(folder: Path) -> tuple[Model, list[str]]:
    said: list[str] = []
    model = read_hf(folder, say=said.append)
    usual = ("proven by llama.cpp's own converter alone", "(--mtp-only)")  # of architectures, whatever the head
    return model, [line for line in said if not any(part in line for part in usual)]


def alike(found: np.ndarray, want: np.ndarray, proof: Proof) -> bool:
    """Whether llama.cpp computes what transformers does, or another model of a kind of which that is known."""
    return bool(np.abs(found - want).max() / np.ptp(want) < LOW_LIMIT) is not proof.other_logits


def test_a_head_that_differs(tied: Tied, peer: Peer, tmp_path: Path) -> None:
    """Written, said, and in llama.cpp what transformers computes; refused where llama.cpp loads no such file."""
    folder = tied.write(True, tied.other)
    if rule_of(tied.arch, head_of(tied.arch)) is None:
        with pytest.raises(FormatError, match=f"{tied.head}: differs from {tied.embedding}, which llama.cpp's"):
            read_hf(folder)
        model = read_hf(tied.write(True))
        head = next(t for t in model if t.role is Role.TOKEN_EMBD)
        added = replace(model, tensors=(*model.tensors, replace(head, name="output.weight", role=Role.OUTPUT)))
        write_gguf(tmp_path / "with.gguf", added)
        with pytest.raises(LlamaError):
            peer.run(tmp_path / "with.gguf", tied.proof)
        return
    model, said = read(folder)
    assert said == [f"{folder}: {tied.head} differs from {tied.embedding}: kept, although the config ties them"]
    write_gguf(tmp_path / "model.gguf", model)
    want = tied.logits()
    found = peer.run(tmp_path / "model.gguf", tied.proof)
    assert alike(found, want, tied.proof)
    write_hf(read_gguf(tmp_path / "model.gguf"), tmp_path / "back")
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    if tied.arch.name != "t5":  # where the flag says how the output is scaled
        assert config["tie_word_embeddings"] is False
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert torch.equal(back[tied.head], tied.other)
    assert torch.equal(back[tied.at], tied.equal)


def test_a_tied_head_that_is_missing(tied: Tied, peer: Peer, tmp_path: Path) -> None:
    """The embedding is written in its place, too, where llama.cpp loads no file without."""
    folder = tied.write(True)
    model, said = read(folder)
    rule = rule_of(tied.arch, head_of(tied.arch))
    needed = is_needed(rule)
    assert ("output.weight" in names(model)) == needed
    twice = f"{tied.embedding} is written as {tied.head}, too: llama.cpp's {tied.arch.gguf} does not tie them"
    assert said == ([f"{folder}: {twice}"] if needed else [])
    if needed:
        write_gguf(tmp_path / "less.gguf", without(model, "output.weight"))
        with pytest.raises(LlamaError):
            peer.run(tmp_path / "less.gguf", tied.proof)
        write_gguf(tmp_path / "model.gguf", model)
        want = tied.logits()
        assert alike(peer.run(tmp_path / "model.gguf", tied.proof), want, tied.proof)


def without(model: Model, name: str) -> Model:
    return replace(model, tensors=tuple(tensor for tensor in model if tensor.name != name))


def test_a_head_that_is_equal(tied: Tied) -> None:
    """Left out where the table lists it; else written as the checkpoint has it, and the config stays tied."""
    model, said = read(tied.write(True, tied.equal))
    assert said == []
    assert ("output.weight" in names(model)) == head_of(tied.arch).kept


def test_a_checkpoint_with_the_head_alone(tied: Tied) -> None:
    """transformers ties in both directions: the head is the embedding."""
    model, _ = read(tied.write(True, tied.other, without=tied.at))
    embedding = next(tensor for tensor in model if tensor.name == "token_embd.weight")
    assert embedding.rows(0, embedding.n_rows).tobytes() == tied.other.numpy().tobytes()


def test_a_head_that_the_config_wants(tied: Tied) -> None:
    if tied.arch.name == "t5":
        return  # always tied
    with pytest.raises(UnmatchedTensor, match=f"missing {tied.head}"):
        read_hf(tied.write(False))
    tied.write(False, tied.other)
    if rule_of(tied.arch, head_of(tied.arch)) is None:
        with pytest.raises(FormatError, match="differs from"):
            read_hf(tied.folder)
        model, said = read(tied.write(False, tied.equal))
        assert ("output.weight" in names(model), said) == (False, [])
    else:
        model, said = read(tied.folder)
        assert ("output.weight" in names(model), said) == (True, [])


@pytest.mark.parametrize("arch", NEVER_TIED)
def test_what_transformers_never_ties(arch: str, tmp_path: Path) -> None:
    save_proof(next(proof for proof in all_proofs() if proof.arch == arch), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": True}))
    with pytest.raises(FormatError, match="tie_word_embeddings: is True"):
        read_hf(tmp_path)


def test_the_copies_are_those_that_transformers_ties() -> None:
    for arch in ARCHS:
        for name in arch.classes:
            cls, own = getattr(transformers, name, None), arch.classes[name]
            if cls is None or own.text_of or own.bare or own.without_head or not cls._tied_weights_keys:
                continue
            ours = {name for copy in copies(arch) for name in (copy.name, copy.of)}
            known = {tuple(our_name(name, arch, ours) for name in pair) for pair in cls._tied_weights_keys.items()}
            assert known == {(copy.name, copy.of) for copy in copies(arch)}, name


def test_one_value_is_enough_and_types_may_differ(tmp_path: Path) -> None:
    tied = tied_of("gemma2", tmp_path)
    last = tied.equal.clone()
    last[-1, -1] += 0.5
    with pytest.raises(FormatError, match="differs"):
        read_hf(tied.write(True, last))
    tied.weights[tied.embedding] = tied.equal.bfloat16()
    assert "output.weight" not in names(read_hf(tied.write(True, tied.equal.float())))
    with pytest.raises(FormatError, match="differs"):
        read_hf(tied.write(True, last))
    with pytest.raises(FormatError, match="differs"):
        read_hf(tied.write(True, tied.equal[:-1]))


def test_a_head_is_compared_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tied = tied_of("gemma2", tmp_path)
    seen: list[int] = []
    rows = Tensor.rows
    monkeypatch.setattr("quantmill.formats.hf.settle.CHUNK", 10 * 1024)

    def watched(tensor: Tensor, a: int, b: int) -> Any:
        if tensor.name in (tied.head, tied.embedding):
            seen.append(b - a)
        return rows(tensor, a, b)

    monkeypatch.setattr(Tensor, "rows", watched)
    read_hf(tied.write(True, tied.equal))
    assert (max(seen), sum(seen)) == (10, 2 * 320)
    seen.clear()
    with pytest.raises(FormatError, match="differs"):
        read_hf(tied.write(True, tied.other))
    assert sum(seen) == 2 * 10


def test_t5_has_one_embedding(tmp_path: Path) -> None:
    tied = tied_of("t5", tmp_path)
    both = {f"{stack}.embed_tokens.weight": tied.equal.clone() for stack in ("encoder", "decoder")}
    tied.weights |= both
    model, said = read(tied.write(False, tied.other))
    assert said == []  # so every published one is, and the flag is false
    assert "output.weight" in names(model)
    alone = {name: weight for name, weight in tied.weights.items() if name != "shared.weight"}
    tied.weights = alone
    assert names(read_hf(tied.write(False, tied.other))) == names(model)
    tied.weights = {**alone, "decoder.embed_tokens.weight": tied.other}
    with pytest.raises(FormatError, match=r"decoder\.embed_tokens\.weight: differs from shared\.weight"):
        read_hf(tied.write(False, tied.other))


def test_the_tensors_of_a_file_decide_on_the_way_back(tmp_path: Path) -> None:
    """Files of other converters have the head of a tied checkpoint twice, or a flag that is no longer true."""
    tied = tied_of("qwen2", tmp_path)
    model, _ = read(tied.write(True, tied.equal))
    assert '"tie_word_embeddings": true' in str(model.get("quantmill.hf.config"))
    write_hf(model, tmp_path / "equal")
    assert json.loads((tmp_path / "equal" / "config.json").read_text())["tie_word_embeddings"] is True
    other = next(t for t in read_hf(tied.write(True, tied.other)) if t.name == "output.weight")
    write_hf(
        replace(without(model, "output.weight"), tensors=(*without(model, "output.weight"), other)), tmp_path / "o"
    )
    assert json.loads((tmp_path / "o" / "config.json").read_text())["tie_word_embeddings"] is False
    write_hf(without(model, "output.weight"), tmp_path / "less")
    assert json.loads((tmp_path / "less" / "config.json").read_text())["tie_word_embeddings"] is True
