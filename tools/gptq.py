"""``quantmill gptq``: a checkpoint's linear layers by GPTQ, in the folder that transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .library.calibrated import Method, calibration_options, mean_errors, quantize_checkpoint

if TYPE_CHECKING:
    import torch

    from ..imatrix.layerwise import Linear
    from ..quantize.gptq.layer import Settings


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", metavar="MODEL_DIR", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUT_DIR", type=click.Path(path_type=Path))
@click.option("--bits", type=int, default=4, show_default=True, help="Of a weight: 2, 3, 4 or 8.")
@click.option("--group-size", type=int, default=128, show_default=True, help="Weights that share a scale; -1: a row.")
@click.option(
    "--desc-act/--no-desc-act", help="Groups of inputs of like activation: better, slower to run.  [default: no]"
)
@click.option("--static-groups", is_flag=True, help="Scales from the original weights, whatever the order.")
@click.option("--sym/--asym", default=True, show_default=True, help="Zero in the middle of the codes, or anywhere.")
@click.option("--damp", type=float, default=0.01, show_default=True, help="Of the Hessian, in its diagonal's mean.")
@click.option(
    "--checkpoint-format", type=click.Choice(["gptq", "gptq_v2"]), default="gptq", show_default=True,
    help="How zero points are stored: less one, or as they are.",
)  # fmt: skip
@calibration_options
def command(model: Path, output: Path, **options: Any) -> None:
    """Quantize the linear layers of MODEL_DIR by GPTQ, with what a text makes of their inputs.

    One decoder layer is in memory at a time. A run that was interrupted goes on where it was when it is started again.

    \b
    Example: quantmill gptq Llama-2-13b Llama-2-13b-GPTQ --bits 4 --group-size 128 -f calibration.txt
             quantmill gptq Llama-2-13b Llama-2-13b-GPTQ-8bit --bits 8 --group-size 32 --desc-act
    """
    from ..quantize.gptq.layer import Settings

    names = ("bits", "group_size", "desc_act", "static_groups", "sym", "damp")
    settings = Settings(**{name: options.pop(name) for name in names})
    settings.check()
    checkpoint_format = options.pop("checkpoint_format")
    quantize_checkpoint(model, output, lambda: _method(settings, checkpoint_format), options)


def _method(settings: Settings, checkpoint_format: str) -> Method:
    import torch

    short: set[int] = set()  # widths that are no multiple of the group size

    def check(module: torch.nn.Module, linear: Linear) -> None:
        settings.check_shape(linear.name, *linear.weight.shape)
        width = linear.weight.shape[1]
        if settings.group_size > 0 and width % settings.group_size:
            short.add(width)

    def remark() -> str | None:
        widths = ", ".join(map(str, sorted(short)))
        said = f"the last group of {widths} inputs is smaller than {settings.group_size}; not all programs run that"
        return said if short else None

    return Method(
        settings={**vars(settings), "checkpoint_format": checkpoint_format},
        check=check,
        visitor=lambda runner: _Quantizer(settings, checkpoint_format == "gptq", torch.get_num_threads()),
        quantization_config=_config(settings, checkpoint_format),
        beside="quantize_config.json",
        losses=mean_errors,
        remark=remark,
    )


class _Quantizer:
    """A ``layerwise.Visitor``: one block's linears, each replaced by what a reader will make of it."""

    def __init__(self, settings: Settings, less_one: bool, threads: int) -> None:
        self.settings, self.less_one, self.threads = settings, less_one, threads
        self.hessians: dict[Any, Any] = {}
        self.arrays: dict[str, Any] = {}
        self.report: list[dict[str, Any]] = []
        self.remarks: list[str] = []

    def see(self, group: Any, x: Any) -> None:
        from ..quantize.gptq.layer import Hessian

        if group not in self.hessians:
            self.hessians[group] = Hessian(group.width)
        self.hessians[group].add(x)

    def replace(self, layer: int, module: Any, stage: Any) -> None:
        import torch

        from ..formats.hf.packed.gptq import pack_columns, pack_rows
        from ..quantize.gptq.layer import factorize, quantize, round_to_nearest

        bits = self.settings.bits
        for group in stage:
            hessian = self.hessians.pop(group, None)
            factor = None if hessian is None else factorize(hessian, self.settings, group.name)
            self._remark(group, factor)
            for linear in group.linears:
                if factor is None:
                    result = round_to_nearest(linear.weight, self.settings, linear.name)
                else:
                    result = quantize(linear.weight, factor, self.settings, self.threads, linear.name)
                linear.weight.copy_(torch.from_numpy(result.weight()))
                self.arrays |= {
                    f"{linear.name}.qweight": pack_rows(result.codes, bits),
                    f"{linear.name}.qzeros": pack_columns(result.zeros - self.less_one, bits),
                    f"{linear.name}.scales": result.scales,
                    f"{linear.name}.g_idx": result.g_idx,
                }
                self.report.append({
                    "name": linear.name, "role": linear.role.value, "tokens": hessian.tokens if hessian else 0,
                    "loss": result.loss, "relative": result.relative, "damp": result.damp,
                })  # fmt: skip

    def _remark(self, group: Any, factor: Any) -> None:
        if factor is None:
            self.remarks.append(f"{group.name}: saw no tokens, rounded to nearest")
            return
        if factor.damp > self.settings.damp:
            self.remarks.append(f"{group.name}: its inputs depend on each other, damping raised to {factor.damp:g}")
        if factor.dead:
            self.remarks.append(f"{group.name}: {factor.dead} inputs are always zero, rounded to nearest")


def _config(settings: Settings, checkpoint_format: str) -> dict[str, Any]:
    from .. import __version__

    return {
        "quant_method": "gptq",
        "bits": settings.bits,
        "group_size": settings.group_size,
        "desc_act": settings.desc_act,
        "static_groups": settings.static_groups,
        "sym": settings.sym,
        "damp_percent": settings.damp,
        "true_sequential": True,
        "lm_head": False,
        "checkpoint_format": checkpoint_format,
        "pack_dtype": "int32",
        "meta": {"quantizer": [f"quantmill:{__version__}"]},
    }
