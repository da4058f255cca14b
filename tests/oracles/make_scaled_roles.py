"""Which weights llama.cpp multiplies with a factor beside them, by architecture: makes formats/gguf/scaled_roles.py.

PYTHONPATH=tests python tests/oracles/make_scaled_roles.py [PART OF A NAME...]  # prints the rows of its table

llama.cpp loads ``X.scale`` for a list of weights, whatever the architecture; whether it multiplies with them depends on
the architecture's graph. Each proof's tiny model runs as it is, with a factor of 2 beside a role's weights, and with
the weights doubled: where the last two agree, the factor counts.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from oracles.llama import Llama, LlamaError
from oracles.proofs import Proof, all_proofs, ask, save_proof
from quantmill.formats.arrays import tensor_from_array
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.hf.load import read_hf
from quantmill.formats.ir import Bytes, Model, Role, Tensor
from quantmill.formats.qtypes import F32
from quantmill.quantize.decode import as_float

# Those that load_tensors of llama-model.cpp looks for, in the order of its source.
LOADED = (
    *(Role.ATTN_Q, Role.ATTN_K, Role.ATTN_V, Role.ATTN_OUTPUT, Role.ATTN_QKV, Role.ATTN_GATE),
    *(Role.FFN_GATE, Role.FFN_DOWN, Role.FFN_UP, Role.FFN_GATE_SHEXP, Role.FFN_DOWN_SHEXP, Role.FFN_UP_SHEXP),
    *(Role.FFN_GATE_EXPS, Role.FFN_DOWN_EXPS, Role.FFN_UP_EXPS),
    *(Role.SSM_IN, Role.SSM_OUT, Role.SSM_ALPHA, Role.SSM_BETA),
)
FACTOR = 1.5


def is_weight(tensor: Tensor, role: Role) -> bool:
    return tensor.role is role and tensor.name.endswith(".weight") and len(tensor.shape) > 1


def beside(model: Model, role: Role) -> Model:
    """The model with a factor beside each weight of a role."""
    out = list(model.tensors)
    for tensor in model.tensors:
        if is_weight(tensor, role):
            n = tensor.shape[0] if len(tensor.shape) == 3 else 1
            name = tensor.name.removesuffix("weight") + "scale"
            if any(other.name == name for other in out):
                raise LlamaError("a tensor of that name is the architecture's own")
            out.append(tensor_from_array(name, np.full(n, FACTOR, np.float32)))
    return replace(model, tensors=tuple(out))


def multiplied(model: Model, role: Role) -> Model:
    """The model with the factor in the weights of a role."""

    def times(tensor: Tensor) -> Tensor:
        def read(a: int, b: int) -> Bytes:
            values = np.ascontiguousarray(tensor.rows(a, b)).view(np.float32) * np.float32(FACTOR)
            return values.view(np.uint8)

        return replace(tensor, read=read)

    return replace(model, tensors=tuple(times(one) if is_weight(one, role) else one for one in model.tensors))


def run(model: Model, proof: Proof, path: Path) -> np.ndarray:
    write_gguf(path, model, force=True)
    with Llama(path, flash=proof.flash) as llama:
        return ask(llama, proof)


def applied(proof: Proof, folder: Path) -> tuple[str, dict[str, bool]]:
    """A proof's architecture, its roles, and whether llama.cpp multiplies with a factor beside their weights.

    A factor of a feed-forward layer with a bias would multiply that too: such a layer is none for the table.
    """
    save_proof(proof, folder / "hf")
    model = as_float(read_hf(folder / "hf", mtp="leave"), F32)
    plain = run(model, proof, folder / "plain.gguf")
    found = {}
    for role in LOADED:
        weights = [tensor.name for tensor in model if is_weight(tensor, role)]
        biases = {name.removesuffix("weight") + "bias" for name in weights}
        if not weights or (role.value.startswith("ffn") and any(tensor.name in biases for tensor in model)):
            continue
        meant = run(multiplied(model, role), proof, folder / "meant.gguf")
        seen = np.abs(meant - plain).max() > 1e-2 * np.abs(plain).max()
        if not seen and role not in (Role.ATTN_Q, Role.ATTN_K):  # a norm follows these two, and undoes any factor
            continue
        try:
            got = run(beside(model, role), proof, folder / "got.gguf")
        except LlamaError:
            found[role.value] = False
        else:
            found[role.value] = bool(np.allclose(got, meant, rtol=1e-3, atol=1e-3 * np.abs(meant).max()))
    return model.arch, found


def main(parts: list[str]) -> None:
    out: dict[str, dict[str, bool]] = {}
    for proof in all_proofs():
        if proof.other_logits or (parts and not any(part in proof.id for part in parts)):
            continue
        with TemporaryDirectory() as folder:
            try:
                arch, found = applied(proof, Path(folder))
            except Exception as error:  # the table then lacks it, and its weights are decoded
                print(proof.id, type(error).__name__, str(error)[:200], file=sys.stderr, flush=True)
                continue
        print(proof.id, found, file=sys.stderr, flush=True)
        known = out.setdefault(arch, {})
        for role, yes in found.items():
            known[role] = known.get(role, True) and yes
    for arch, found in sorted(out.items()):
        names = " ".join(role for role, yes in found.items() if yes)
        print(f'    "{arch}": "{names}",')


if __name__ == "__main__":
    main(sys.argv[1:])
