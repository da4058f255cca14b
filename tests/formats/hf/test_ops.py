"""Ops by hand, by torch, and by property: lazy row ranges give what the whole gives, and inverses undo."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quantmill.formats.errors import FormatError
from quantmill.formats.hf.tables.dimensions import Dim, Root
from quantmill.formats.hf.tables.ops import (
    Concat,
    DropRows,
    On,
    Op,
    PermuteRope,
    Regroup,
    RegroupColumns,
    Reshape,
    Split,
    Stack,
    Transpose,
    Ungroup,
    Unstack,
)
from quantmill.formats.hf.tables.tower_ops import BeforeWaves, Roll, TakeRow
from quantmill.formats.hf.tables.values import Add, LogNeg, Multiply, NegExp, Softplus
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
    (out,) = PermuteRope(Dim("n")).apply((tensor_of(rows),), {"n": 2})
    assert array_of(out).ravel().tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


def test_permute_rope_of_a_bias_by_hand() -> None:
    (out,) = PermuteRope(Dim("n")).apply((tensor_of(np.arange(8, dtype=np.float32)),), {"n": 2})
    assert array_of(out).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_regroup_columns_by_hand() -> None:
    """Two key heads with three values of two columns each: the first values of both come first, then the second."""
    columns = np.arange(24, dtype=np.float32).reshape(2, 12)
    op = RegroupColumns((Dim("n"), -1, 2), (1, 0, 2))
    (out,) = op.apply((tensor_of(columns),), {"n": 2})
    assert array_of(out)[0].tolist() == [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]
    assert array_of(out)[1].tolist() == [12 + n for n in array_of(out)[0].tolist()]
    assert np.array_equal(np.ascontiguousarray(out.rows(1, 2)).view("<f4")[0], array_of(out)[1])
    (back,) = op.inverse.apply((out,), {"n": 2})
    assert np.array_equal(array_of(back), columns)


@pytest.mark.parametrize("span", [(0, 5), (0, 2), (1, 4), (2, 5), (3, 3)])
def test_rows_that_are_dropped_come_back_as_zeros(span: tuple[int, int]) -> None:
    rows = np.arange(10, dtype=np.float32).reshape(5, 2) + 1
    (out,) = DropRows(Dim("n")).apply((tensor_of(rows),), {"n": 2})
    assert np.array_equal(array_of(out), rows[2:])
    (back,) = DropRows(Dim("n")).inverse.apply((out,), {"n": 2})
    assert back.shape == (5, 2)
    wanted = np.concatenate([np.zeros((2, 2), np.float32), rows[2:]])
    assert np.array_equal(back.rows(*span).view("<f4").reshape(-1, 2), wanted[slice(*span)])
    with pytest.raises(FormatError, match="nothing is left of 5 rows"):
        DropRows(Dim("n")).apply((tensor_of(rows),), {"n": 5})


def test_permute_rope_is_llama_cpp_s_formula() -> None:
    weight = torch.randn(24, 5)
    expected = weight.reshape(3, 2, 4, 5).swapaxes(1, 2).reshape(24, 5)
    (out,) = PermuteRope(Dim("n")).apply((tensor_of(weight.numpy()),), {"n": 3})
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
    (out,) = PermuteRope(Dim("n")).apply((source,), {"n": heads})
    (back,) = PermuteRope(Dim("n")).inverse.apply((out,), {"n": heads})
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

    (out,) = PermuteRope(Dim("n")).apply((replace(source, read=spy),), {"n": 4})
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


# Each op by a second way of saying it: its config, the shapes of its sources, and NumPy's own words for the result.
H, D, E = Dim("h"), Dim("d"), Dim("e")
NUMBERS = {"h": 3, "d": 4, "e": 2}
WORDS = {
    "regroup_qkv": (
        Regroup((H, 2, D), (1, 0, 2)), [(24, 5)], lambda x: [x.reshape(3, 2, 4, 5).swapaxes(0, 1).reshape(24, 5)]
    ),
    "regroup_vector": (Regroup((H, D), (1, 0)), [(12,)], lambda x: [x.reshape(3, 4).T.reshape(12)]),
    "regroup_inner_axis": (
        Regroup((-1, 2), (1, 0), axis=1), [(2, 6, 3)], lambda x: [x.reshape(2, 3, 2, 3).swapaxes(1, 2).reshape(2, 6, 3)]
    ),
    "deal": (
        Ungroup(H, (2 * D, D)), [(36, 2)],
        lambda x: [np.concatenate([p.reshape(-1, 2) for p in np.split(x.reshape(3, 12, 2), [8], axis=1)])],
    ),
    "deal_vector": (
        Ungroup(E, (1, D)), [(10,)],
        lambda x: [np.concatenate([p.reshape(-1) for p in np.split(x.reshape(2, 5), [1], 1)])]
    ),
    "first_rows_to_pairs": (
        PermuteRope(H, turning=D), [(18, 2)],
        lambda x: [x.reshape(3, 6, 2)[:, [0, 2, 1, 3, 4, 5]].reshape(18, 2)],
    ),
    "first_rows_to_halves": (
        PermuteRope(H, undo=True, turning=Dim(6)), [(24,)],
        lambda x: [x.reshape(3, 8)[:, [0, 2, 4, 1, 3, 5, 6, 7]].reshape(24)],
    ),
    "split": (Split((D, H, 1)), [(8, 3)], lambda x: np.split(x, [4, 7])),
    "split_vector": (Split((D, H)), [(7,)], lambda x: np.split(x, [4])),
    "split_experts": (Split((D, D), axis=1), [(2, 8, 3)], lambda x: np.split(x, 2, axis=1)),
    "concat": (Concat((D, H)), [(4, 3), (3, 3)], lambda x, y: [np.concatenate([x, y])]),
    "concat_vectors": (Concat((D, H)), [(4,), (3,)], lambda x, y: [np.concatenate([x, y])]),
    "concat_experts": (Concat((D, H), axis=1), [(2, 4, 5), (2, 3, 5)], lambda x, y: [np.concatenate([x, y], axis=1)]),
    "transpose": (Transpose(), [(4, 6)], lambda x: [x.T]),
    "transpose_experts": (Transpose(), [(2, 4, 6)], lambda x: [x.swapaxes(1, 2)]),
    "reshape_wider": (Reshape((12, 2), (H, 8)), [(12, 2)], lambda x: [x.reshape(3, 8)]),
    "reshape_narrower": (Reshape((H, 8), (-1, 2)), [(3, 8)], lambda x: [x.reshape(12, 2)]),
    "squeeze": (Reshape((H, 1, D), (H, D)), [(3, 1, 4)], lambda x: [x[:, 0]]),
    "on": (On((1,), Transpose()), [(2, 3), (4, 3)], lambda x, y: [x, y.T]),
}  # fmt: skip


@pytest.mark.parametrize("qtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("case", WORDS)
def test_moving_ops_say_what_numpy_says_lazily_and_back(case: str, qtype: QType) -> None:
    op, shapes, words = WORDS[case]
    arrays = [
        np.random.default_rng(i).integers(0, 1 << 16, shape).astype(DTYPES[qtype]) for i, shape in enumerate(shapes)
    ]
    sources = tuple(tensor_of(array, qtype) for array in arrays)
    out, expected = op.apply(sources, NUMBERS), words(*arrays)
    assert [tensor.shape for tensor in out] == [array.shape for array in expected]
    for tensor, array in zip(out, expected, strict=True):
        assert np.array_equal(array_of(tensor), array)
        whole = tensor.rows(0, tensor.n_rows)
        for a in range(tensor.n_rows + 1):
            for b in range(a, tensor.n_rows + 1):
                assert np.array_equal(tensor.rows(a, b), whole[a:b]), (a, b)
    back = op.inverse.apply(out, NUMBERS)
    assert [tensor.shape for tensor in back] == shapes
    assert all(np.array_equal(array_of(tensor), array) for tensor, array in zip(back, arrays, strict=True))


@pytest.mark.parametrize(
    ("op", "before", "after"),
    [
        (Add(1.0), [0.0, -0.5, 2.0], [1.0, 0.5, 3.0]),
        (Multiply(4.0), [1.0, -2.0, 0.0], [4.0, -8.0, 0.0]),
        (Multiply(D), [1.0, 0.5, 2.0], [4.0, 2.0, 8.0]),
        (Multiply(Root(D, Dim(1))), [1.0, 0.5, -2.0], [2.0, 1.0, -4.0]),
        (NegExp(), [0.0, 1.0, -1.0], [-1.0, -2.7182817, -0.36787945]),
        (Softplus(), [0.0, 1.0, -1.0, 40.0], [0.6931472, 1.3132616, 0.3132617, 40.0]),
    ],
)
def test_computing_ops_by_hand(op: Op, before: list[float], after: list[float]) -> None:
    (out,) = op.apply((tensor_of(np.array(before, np.float32)),), NUMBERS)
    assert (out.qtype, op.exact) == (F32, False)
    assert np.array_equal(array_of(out), np.array(after, np.float32))
    (back,) = op.inverse.apply((out,), NUMBERS)
    assert array_of(back) == pytest.approx(before, abs=1e-7)


def test_computing_from_bf16_is_float32_arithmetic() -> None:
    bits = np.array([0x3F81, 0x0001], np.uint16)  # 1.0078125 and the smallest subnormal
    (out,) = Add(1.0).apply((tensor_of(bits, BF16),), {})
    assert array_of(out).tolist() == [2.0078125, 1.0]


@pytest.mark.parametrize(
    "op",
    [
        PermuteRope(H),
        Stack(),
        Unstack(),
        NegExp(),
        LogNeg(),
        Softplus(),
        Add(1.0),
        *(op for op, _, _ in WORDS.values()),
    ],
)
def test_the_inverse_of_the_inverse_is_the_op(op: Op) -> None:
    assert op.inverse.inverse == op


@pytest.mark.parametrize(
    "op",
    [
        Ungroup(Dim("heads"), (2, -1)),
        Ungroup(Dim(3), (2, 1)),
        Regroup((Dim(3), 5), (1, 0)),
        PermuteRope(Dim(3), turning=Dim(2)),
        PermuteRope(Dim(2), turning=Dim(6)),
        Split((3, 4)),
        Reshape((8, 4), (Dim(3), 4)),
    ],
    ids=str,
)
def test_rows_that_do_not_come_in_the_config_s_groups(op: Op) -> None:
    """Heads of a config that its other numbers do not fit: a line, no assertion of ours."""
    with pytest.raises(FormatError, match="t: its 8 rows do not come in the groups that the config makes of them"):
        op.apply((tensor_of(np.zeros((8, 4), np.float32)),), {"heads": 0})


def test_rows_roll_and_one_is_taken() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    (out,) = Roll(1).apply((tensor_of(rows),), {})
    assert array_of(out)[:, 0].tolist() == [3, 6, 9, 0]
    (back,) = Roll(1).inverse.apply((out,), {})
    assert np.array_equal(array_of(back), rows)
    (row,) = TakeRow(Dim("row")).apply((tensor_of(rows),), {"row": 2})
    assert (row.shape, array_of(row).tolist()) == ((3,), [6, 7, 8])
    with pytest.raises(FormatError, match="t: has 4 rows, and no row 4"):
        TakeRow(Dim(4)).apply((tensor_of(rows),), {})


def test_waves_stand_before_other_tensors_and_are_checked_on_the_way_back() -> None:
    op = BeforeWaves(3, Dim(4))
    bias = tensor_of(np.array([1.0, 2.0], np.float32))
    table, same = op.apply((bias,), {})
    angles = np.array([[0, 0], [1, 1e-4], [2, 2e-4]])
    assert array_of(table) == pytest.approx(np.concatenate([np.sin(angles), np.cos(angles)], axis=1), abs=1e-6)
    (back,) = op.inverse.apply((table, same), {})
    assert np.array_equal(array_of(back), array_of(bias))
    assert op.inverse.inverse == op
    (wrong,) = op.inverse.apply((tensor_of(np.ones((3, 4), np.float32)), bias), {})
    with pytest.raises(FormatError, match="holds other positions"):
        array_of(wrong)
