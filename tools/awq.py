"""``quantmill awq``: a checkpoint's linear layers by AWQ, 4 bit, in the folder that transformers loads."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .library.calibrated import Method, calibration_options, mean_errors, quantize_checkpoint

if TYPE_CHECKING:
    from ..quantize.awq.grid import Settings


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", metavar="MODEL_DIR", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUT_DIR", type=click.Path(path_type=Path))
@click.option(
    "--group-size", type=int, default=128, show_default=True,
    help="Weights that share a scale: 32, 64, 128, or -1 for a row.",
)  # fmt: skip
@click.option("--no-scales", is_flag=True, help="Do not search scales for the inputs.")
@click.option("--no-clip", is_flag=True, help="Do not search smaller ranges. With --no-scales: round to nearest.")
@calibration_options
def command(model: Path, output: Path, group_size: int, no_scales: bool, no_clip: bool, **options: Any) -> None:
    """Quantize the linear layers of MODEL_DIR by AWQ: 4 bits, and inputs spread by what a text makes of them.

    One decoder layer is in memory at a time. A run that was interrupted goes on where it was when it is started again.

    \b
    Example: quantmill awq Llama-2-13b Llama-2-13b-AWQ -f calibration.txt
             quantmill awq Qwen2.5-0.5B Qwen2.5-0.5B-AWQ --group-size 64 --chunks 64 -c 512
    """
    from ..quantize.awq.grid import Settings

    settings = Settings(group_size, not no_scales, not no_clip)
    settings.check()
    quantize_checkpoint(model, output, lambda: _method(model, settings), options)


def _method(model: Path, settings: Settings) -> Method:
    from ..formats.hf.weights import read_weights
    from ..formats.ir import Tensor
    from .library.awq_block import Quantizer, check_linear

    stored = read_weights(model)

    @cache
    def dtype_of(name: str) -> str:
        found = stored[name]
        return found.qtype.name if isinstance(found, Tensor) else found.dtype

    return Method(
        settings={"bits": 4, **vars(settings)},
        check=lambda module, linear: check_linear(module, linear, settings),
        visitor=lambda runner: Quantizer(runner, settings, dtype_of),
        quantization_config={
            "quant_method": "awq", "bits": 4, "group_size": settings.group_size, "zero_point": True,
            "version": "gemm", "modules_to_not_convert": None,
        },
        beside="quant_config.json",
        losses=mean_errors,
        # one stage: scales are settled for the whole block before any of it is rounded
        walk={"sequential": False, "stage_bytes": 1 << 62},
    )  # fmt: skip
