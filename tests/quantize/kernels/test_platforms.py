"""The same bytes without AVX-512, and where neither the package nor the home can be written."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import quantmill
from oracles.kernel_checks import encode, mixed_rows

# One of each family of searches, a lattice among them.
TYPES = ("F16", "Q8_0", "Q4_0", "Q4_K", "Q6_K", "IQ4_XS", "IQ3_XXS", "IQ1_S", "MXFP4")
CODE = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from oracles.kernel_checks import encode, mixed_rows
import numpy as np
rows, importance = mixed_rows(96, 768, 1), np.random.default_rng(2).random(768, np.float32)
for name in sys.argv[2:]:
    print(name, hashlib.sha256(encode(name, rows, importance)).hexdigest())
from quantmill.quantize.kernels import q8_0
print("zmm", any("zmm" in asm for asm in q8_0.encode_q8_0.inspect_asm().values()))
"""


def digests(types: tuple[str, ...], **environment: str) -> dict[str, str]:
    """What another process with these environment variables encodes, and whether its code has 512-bit registers."""
    kept = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    words = [sys.executable, "-c", CODE, str(Path(__file__).parents[2]), *types]
    done = subprocess.run(words, env=kept | environment, check=True, stdout=subprocess.PIPE, text=True)
    return dict(line.split() for line in done.stdout.splitlines())


def our_digests(types: tuple[str, ...]) -> dict[str, str]:
    rows, importance = mixed_rows(96, 768, 1), np.random.default_rng(2).random(768, np.float32)
    return {name: hashlib.sha256(encode(name, rows, importance)).hexdigest() for name in types}


@pytest.mark.slow
def test_the_same_bytes_with_avx2_only(tmp_path: Path):
    # The name alone leaves the features of the host.
    environment = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "-avx512f"}
    found = digests(TYPES, **environment, NUMBA_CACHE_DIR=str(tmp_path))
    assert found.pop("zmm") == "False"
    assert found == our_digests(TYPES)


def test_read_only_home_and_package(tmp_path: Path):
    """Compiled code and neighbour lists go to the temporary directory, and nothing into the package."""
    (tmp_path / "file").touch()
    nowhere, temporary = str(tmp_path / "file" / "home"), tmp_path / "tmp"
    temporary.mkdir()
    found = digests(("Q8_0", "MXFP4"), HOME=nowhere, XDG_CACHE_HOME=nowhere, QUANTMILL_CACHE="", TMPDIR=str(temporary))
    assert found.items() >= our_digests(("Q8_0", "MXFP4")).items()
    assert list(temporary.glob("quantmill-*/kernels-*/**/*.nbc"))
    assert not list(Path(quantmill.__file__).parent.glob("quantize/**/*.nbc"))


def test_nothing_crashes_on_numbers_without_a_meaning():
    """In another process, which a wild read would end. The encoders' callers let none of these through."""
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from oracles.kernel_checks import encode
from quantmill.quantize.kernels import ENCODABLE
x = np.random.default_rng(0).standard_normal((8, 768), np.float32)
x[0, 3], x[1, :], x[2, ::2], x[3], x[5], x[6, 100] = np.nan, np.inf, -np.inf, np.nan, 3e38, 1e38
x[4] *= 1e20
for name in sorted(ENCODABLE):
    for importance in (1, np.nan, -1, 1e38):
        encode(name, x, np.full(768, importance, np.float32))
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(Path(__file__).parents[2])], check=True)
