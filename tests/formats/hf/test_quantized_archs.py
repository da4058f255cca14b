"""llama.cpp runs quantized files of every proven architecture. A file of its own, which another process can take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from oracles.peer import Peer
from oracles.proofs import Proof, all_proofs, save_proof
from quantmill.formats.hf.load import read_hf
from quantmill.quantize.execute import execute
from quantmill.quantize.plan import make_plan


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@pytest.mark.parametrize("level", ["Q4_K_M", pytest.param("IQ4_XS", marks=pytest.mark.slow)])
@pytest.mark.parametrize("proof", all_proofs(), ids=lambda proof: proof.id)
def test_llama_cpp_runs_quantized_files(proof: Proof, peer: Peer, level: str, tmp_path: Path) -> None:
    save_proof(proof, tmp_path / "hf")
    execute(make_plan(read_hf(tmp_path / "hf"), level), tmp_path / "quantized.gguf", threads=1)
    found = peer.run(tmp_path / "quantized.gguf", proof)
    assert np.isfinite(found).all()
    assert found.std() > 0
