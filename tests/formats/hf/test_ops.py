"""Ops by hand, by torch, and by property: lazy row ranges give what the whole gives, and inverses undo."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quantmill.formats.hf.ops import PermuteRope, Stack, Unstack
from quantmill.formats.hf.sizes import Size
from quantmill.formats.ir import Role, Tensor
from quantmill.formats.qtypes import BF16, F16, F32, QType

DTYPES = {F32: np.dtype("<f4"), F16: np.dtype("<f2"), BF16: np.dtype("<u2")}


def tensor_of(array: np.ndarray, qtype: QType = F32) -> Tensor:
    rows = np.ascontiguousarray(array).reshape(-1, array.shape[-1]).view(np.uint8)
    return Tensor("t", Role.OTHER, None, array.shape, qtype, lambda a, b: rows[a:b])


def array_of(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.rows(0, tensor.n_rows)).view(DTYPES[tensor.qtype]).reshape(tensor.shape)


def test_permute_rope_by_hand() -> None:
    """Two heads of six rows: 0 1 2 | 3 4 5 interleave to 0 3 1 4 2 5."""
    rows = np.arange(12, dtype=np.float32).reshape(12, 1)
    (out,) = PermuteRope(Size("n")).apply((tensor_of(rows),), {"n": 2})
    assert array_of(out).ravel().tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


def test_permute_rope_of_a_bias_by_hand() -> None:
    (out,) = PermuteRope(Size("n")).apply((tensor_of(np.arange(8, dtype=np.float32)),), {"n": 2})
    assert array_of(out).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_permute_rope_is_llama_cpp_s_formula() -> None:
    weight = torch.randn(24, 5)
    expected = weight.reshape(3, 2, 4, 5).swapaxes(1, 2).reshape(24, 5)
    (out,) = PermuteRope(Size("n")).apply((tensor_of(weight.numpy()),), {"n": 3})
    assert np.array_equal(array_of(out), expected.numpy())


@given(
    heads=st.integers(1, 5),
    half=st.integers(1, 5),
    width=st.integers(0, 4),
    qtype=st.sampled_from([F32, F16, BF16]),
    data=st.data(),
)
def test_permute_rope_lazily_and_back(heads: int, half: int, width: int, qtype: QType, data: st.DataObject) -> None:
    """``width`` 0 stands for a bias."""
    shape = (heads * half * 2, width) if width else (heads * half * 2,)
    array = np.random.default_rng(0).integers(0, 255, (*shape, qtype.block_bytes), np.uint8)
    source = tensor_of(array.view(DTYPES[qtype])[..., 0], qtype)
    (out,) = PermuteRope(Size("n")).apply((source,), {"n": heads})
    (back,) = PermuteRope(Size("n")).inverse.apply((out,), {"n": heads})
    whole = out.rows(0, out.n_rows)
    assert np.array_equal(back.rows(0, back.n_rows), source.rows(0, source.n_rows))
    a = data.draw(st.integers(0, out.n_rows))
    b = data.draw(st.integers(a, out.n_rows))
    assert np.array_equal(out.rows(a, b), whole[a:b])
    assert np.array_equal(back.rows(a, b), source.rows(a, b))


def test_permute_rope_reads_only_the_heads_it_needs() -> None:
    asked = []
    array = np.arange(32, dtype=np.float32).reshape(32, 1)
    source = tensor_of(array)

    def spy(a: int, b: int) -> np.ndarray:
        asked.append((a, b))
        return source.rows(a, b)

    (out,) = PermuteRope(Size("n")).apply((replace(source, read=spy),), {"n": 4})
    out.rows(9, 15)
    assert asked == [(9, 15)]


@given(experts=st.integers(1, 4), rows=st.integers(1, 5), data=st.data())
def test_stack_lazily_and_back(experts: int, rows: int, data: st.DataObject) -> None:
    arrays = np.random.default_rng(1).normal(size=(experts, rows, 3)).astype(np.float32)
    sources = tuple(tensor_of(array) for array in arrays)
    (out,) = Stack().apply(sources, {})
    assert out.shape == (experts, rows, 3)
    assert np.array_equal(array_of(out), arrays)
    a = data.draw(st.integers(0, out.n_rows))
    b = data.draw(st.integers(a, out.n_rows))
    assert np.array_equal(out.rows(a, b).view("<f4"), arrays.reshape(-1, 3)[a:b])
    back = Stack().inverse.apply((out,), {})
    assert [t.shape for t in back] == [(rows, 3)] * experts
    assert all(np.array_equal(array_of(t), array) for t, array in zip(back, arrays, strict=True))


@pytest.mark.parametrize("op", [PermuteRope(Size("n")), Stack(), Unstack()])
def test_the_inverse_of_the_inverse_is_the_op(op: PermuteRope | Stack | Unstack) -> None:
    assert op.inverse.inverse == op
