"""Tensors unpacked from a quantized checkpoint, and how the rules' ops take them: as floats, or as GGML blocks."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...floats import cast
from ...ir import Bytes, Tensor
from ...qtypes import BY_NAME, F32, QType
from .dimensions import Config
from .ops import On, Op, RowOp, Stack, Tensors, Transpose, Unstack

Q4_0, Q4_1, Q5_0, Q8_0, MXFP4, NVFP4 = (BY_NAME[name] for name in ("Q4_0", "Q4_1", "Q5_0", "Q8_0", "MXFP4", "NVFP4"))
BLOCK = 32  # weights in a block of each of these types but NVFP4
OFFSET = {Q4_0: 8, Q5_0: 16, Q8_0: 0}  # what is subtracted from a code


@dataclass(frozen=True)
class UnpackedTensor(Tensor):
    """A tensor that a checkpoint holds in packed parts.

    Args:
        stands_for: the float type that the checkpoint would have without quantization: ``F16``, ``BF16`` or ``F32``.
        fp8: whether its weights are FP8 codes with scales.
    """

    stands_for: str = "F16"
    fp8: bool = False


@dataclass(frozen=True)
class ScaledTensor(UnpackedTensor):
    """A tensor in blocks of NVFP4, whose weights are the blocks' times a factor that GGUF holds beside them.

    Args:
        factors: float32, one for the tensor or one for each matrix of a stack.
        divides: whether scales are divided by the factors rather than multiplied. Weights decode to a code times the
            rounded quotient or product, as the tools that write such checkpoints compute them.
        inputs: float32 factors of the layer's inputs, alike; none if the checkpoint has none.
    """

    factors: tuple[float, ...] = ()
    divides: bool = False
    inputs: tuple[float, ...] = ()

    @property
    def multipliers(self) -> NDArray[np.float32]:
        """What the blocks' values are multiplied with: float32 [1] or [matrices]."""
        factors = np.array(self.factors, np.float32)
        return np.float32(1) / factors if self.divides else factors

    def with_scales(self, scales: NDArray[np.float32], a: int) -> NDArray[np.float32]:
        """Apply the factors to the groups' scales [rows, groups] of the rows from a on."""
        factors = np.array(self.factors, np.float32)
        if factors.size > 1:
            factors = factors[np.arange(a, a + len(scales)) // (self.n_rows // factors.size)]
        found: NDArray[np.float32] = scales / factors[:, None] if self.divides else scales * factors[:, None]
        return found


@dataclass(frozen=True)
class TransposedTensor(UnpackedTensor):
    """A matrix, or a stack of them, whose packed rows are columns in an unpacked checkpoint.

    Args:
        as_packed: the tensor as it is packed, with its last two axes swapped.
    """

    as_packed: Tensor | None = field(default=None, repr=False, compare=False)


def transposed(as_packed: Tensor) -> TransposedTensor:
    """See a packed tensor [out, in] as unpacked checkpoints hold it whose layers are [in, out].

    It decodes to F32 when its rows are read; the op ``Transpose`` gives back ``as_packed``, in its blocks.
    """
    if isinstance(as_packed, TransposedTensor):
        return as_packed
    (tensor,) = Transpose().apply((unpack_blocks(as_packed),), {})
    known = {one.name: getattr(tensor, one.name) for one in fields(UnpackedTensor) if hasattr(tensor, one.name)}
    return TransposedTensor(**known, as_packed=as_packed)


def apply_op(op: Op, tensors: Tensors, config: Config) -> Tensors:
    """Apply an op to tensors that may have been unpacked from parts."""
    if isinstance(op, Transpose):
        packed = [tensor.as_packed for tensor in tensors if isinstance(tensor, TransposedTensor) and tensor.as_packed]
        if len(packed) == len(tensors):
            return tuple(packed)
    prepared = _prepared(op, tensors)
    made = op.apply(prepared, config)
    scaled = [tensor for tensor in prepared if isinstance(tensor, ScaledTensor)]
    if len(scaled) == len(prepared) and isinstance(op, Stack):
        factors, inputs = (sum((getattr(one, name) for one in scaled), ()) for name in ("factors", "inputs"))
        return tuple(_with_factors(one, factors, inputs if len(inputs) == len(factors) else ()) for one in made)
    if scaled and isinstance(op, Unstack) and len(scaled[0].factors) > 1:
        factors, inputs = scaled[0].factors, scaled[0].inputs
        return tuple(_with_factors(one, factors[i : i + 1], inputs[i : i + 1]) for i, one in enumerate(made))
    return made


def _with_factors(tensor: Tensor, factors: tuple[float, ...], inputs: tuple[float, ...]) -> ScaledTensor:
    assert isinstance(tensor, ScaledTensor), tensor
    return replace(tensor, factors=factors, inputs=inputs)


def _prepared(op: Op, tensors: Tensors) -> Tensors:
    """The tensors as the op can take them: as floats if it works on single weights or joins tensors of unlike types.

    Ops that move rows take blocks as they are, unless rows of unlike factors would come together.
    """
    if _moves_rows(op) and len({tensor.qtype for tensor in tensors}) == 1 and _keeps_factors(op, tensors):
        return tensors
    if not any(tensor.qtype.is_quantized or isinstance(tensor, UnpackedTensor) for tensor in tensors):
        return tensors
    return tuple(cast(unpack_blocks(tensor), F32) for tensor in tensors)


def _moves_rows(op: Op) -> bool:
    return _moves_rows(op.op) if isinstance(op, On) else isinstance(op, (RowOp, Stack, Unstack))


def _keeps_factors(op: Op, tensors: Tensors) -> bool:
    """Whether each matrix that an op makes has the factor of every row in it."""
    if isinstance(op, On):
        return all(_keeps_factors(op.op, (tensors[i],)) for i in op.which)
    known = {(one.factors, one.inputs) for one in tensors if isinstance(one, ScaledTensor)}
    if not known or isinstance(op, (Stack, Unstack)):
        return True
    inside = getattr(op, "axis", 0) > 0  # the rows of a matrix stay in it
    return len(known) == 1 and (inside or len(next(iter(known))[0]) == 1)


def unpack_blocks(tensor: Tensor) -> Tensor:
    """Decode a tensor to F32, lazily, if it is of one of the block types above; any other is returned as it is."""
    if tensor.qtype not in (*OFFSET, Q4_1, MXFP4, NVFP4):
        return tensor
    scaled = tensor if isinstance(tensor, ScaledTensor) else None

    def read(a: int, b: int) -> Bytes:
        blocks = np.ascontiguousarray(tensor.rows(a, b)).view(tensor.qtype.block)
        if tensor.qtype is NVFP4:
            return _nvfp4(blocks, scaled, a).reshape(b - a, tensor.width).view(np.uint8)
        return _decode(tensor.qtype, blocks).reshape(b - a, tensor.width).view(np.uint8)

    if scaled is not None:
        return replace(scaled, qtype=F32, read=read, factors=(), inputs=())
    return replace(tensor, qtype=F32, read=read)


def _ue4m3() -> NDArray[np.float32]:
    """The value of each scale, float32 [256]. GGML ignores the top bit and takes 0x7F as zero.

    Its own function gives half of it, for codes that are twice E2M1's values.
    """
    codes = np.arange(256) & 127
    exponent, mantissa = codes >> 3, (codes & 7).astype(np.float32)
    values = np.where(exponent > 0, np.ldexp(1 + mantissa / 8, exponent - 7), np.ldexp(mantissa / 8, -6))
    values[codes == 127] = 0
    return values.astype(np.float32)


_UE4M3 = _ue4m3()


def _nvfp4(blocks: NDArray[Any], scaled: ScaledTensor | None, a: int) -> NDArray[np.float32]:
    """Decode rows of blocks, the first of which is row ``a``: float32 [rows, groups, 16]."""
    n = len(blocks)
    scales = _UE4M3[blocks["d"]].reshape(n, -1)
    if scaled is not None and scaled.factors:
        scales = scaled.with_scales(scales, a)
    decoded: NDArray[np.float32] = _fp4(blocks["qs"].reshape(n, -1, 8)) * scales[..., None]
    return decoded


def _decode(type: QType, blocks: NDArray[Any]) -> NDArray[np.float32]:
    """Decode blocks to float32 [..., 32]."""
    if type is MXFP4:
        return _fp4(blocks["qs"]) * np.ldexp(np.float32(1), blocks["e"].astype(np.int32) - 127)[..., None]
    scales = blocks["d"].astype(np.float32)[..., None]
    if type is Q8_0:
        return blocks["qs"] * scales
    codes = np.concatenate([blocks["qs"] & 15, blocks["qs"] >> 4], axis=-1)
    if type is Q5_0:
        codes |= np.unpackbits(blocks["qh"], axis=-1, bitorder="little") << np.uint8(4)
    if type is Q4_1:
        decoded: NDArray[np.float32] = codes * scales + blocks["m"].astype(np.float32)[..., None]
        return decoded
    steps: NDArray[np.float32] = (codes.astype(np.float32) - OFFSET[type]) * scales
    return steps


def _fp4(qs: NDArray[np.uint8]) -> NDArray[np.float32]:
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    values = np.concatenate([values, -values])
    decoded: NDArray[np.float32] = values[np.concatenate([qs & 15, qs >> 4], axis=-1)]
    return decoded
