"""Images of compiled kernels: the same bytes without numba, and nothing trusted that is not exactly what was saved."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Encodes rows of each type, keeps the images, and tells the digest and whether numba was needed.
PROGRAM = """
import hashlib, sys
import numpy as np
from quantmill.formats.qtypes import BF16, BY_NAME, F16, F32
from quantmill.quantize.kernels import keep, kernel_for
rng = np.random.default_rng(0)
x = rng.standard_normal((37, 512)).astype(np.float32)
importance = rng.random(512).astype(np.float32)
digest = hashlib.sha256()
for name in sys.argv[2:]:
    kernel = kernel_for(BY_NAME[name])
    out = np.zeros((37, kernel.qtype.row_bytes(512)), np.uint8)
    bf16 = (x.view(np.uint32) >> 16).astype(np.uint16)
    for source, rows in ((F32, x), (F16, x.astype(np.float16)), (BF16, bf16)):
        for weights in (None, importance):
            kernel.encode(rows.view(np.uint8), source, weights, out)
            digest.update(out)
    keep([kernel.qtype])
digest.update(repr([(kernel.uses_importance, kernel.requires_importance)]).encode())
numba = "numba" in sys.modules
if sys.argv[1] == "decode":
    kernel.decode(out, x)
    digest.update(x)
print(digest.hexdigest(), numba)
"""


def encoded(folder: Path, *names: str, then: str = "end") -> list[str]:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    words = [sys.executable, "-c", PROGRAM, then, *names]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout.split()


def test_the_same_bytes_without_numba(tmp_path: Path) -> None:
    digest, numba = encoded(tmp_path, "Q8_0", "Q4_K", then="decode")
    assert numba == "True"
    assert len(list(tmp_path.glob("*.image"))) == 2
    assert encoded(tmp_path, "Q8_0", "Q4_K", then="decode") == [digest, "False"]


def test_a_damaged_image_is_not_run(tmp_path: Path) -> None:
    first = encoded(tmp_path, "Q8_0")
    (image,) = tmp_path.glob("Q8_0.*.image")
    good = image.read_bytes()
    flipped = good[:-100] + bytes([good[-100] ^ 1]) + good[-99:]
    for bad in (flipped, good[: len(good) // 2], b"", b"\n", b"{}\n", b"[]\n" + good):
        image.write_bytes(bad)
        assert encoded(tmp_path, "Q8_0") == first
    image.unlink()
    assert encoded(tmp_path, "Q8_0") == first  # from numba's cache, where the image then comes from
    assert image.read_bytes() == good
    assert encoded(tmp_path, "Q8_0") == [first[0], "False"]


def test_other_settings_have_other_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest, _ = encoded(tmp_path, "Q8_0")
    monkeypatch.setenv("NUMBA_CPU_NAME", "haswell")
    assert encoded(tmp_path, "Q8_0") == [digest, "True"]
    assert len(list(tmp_path.glob("*.image"))) == 2


def test_symbols_an_object_wants(tmp_path: Path) -> None:
    import llvmlite.binding as llvm

    from quantmill.quantize.kernels.images import _undefined

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    source = "declare i32 @wanted(i32)\ndefine i32 @f(i32 %x) {\n %y = call i32 @wanted(i32 %x)\n ret i32 %y\n}"
    machine = llvm.Target.from_triple("x86_64-unknown-linux-gnu").create_target_machine()
    assert _undefined(machine.emit_object(llvm.parse_assembly(source))) == {"wanted"}
    with pytest.raises(ValueError, match="ELF"):
        _undefined(b"MZ" + bytes(100))
