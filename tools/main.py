"""The program ``quantmill``, its commands that are also installed as programs, and how errors reach the user.

A command's module is imported only when the command is run, so ``quantmill --help`` does not load torch, numba or
transformers. Each module defines one ``click.Command`` named ``command``.
"""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from io import StringIO
from typing import NoReturn

import click

from ..formats.errors import QuantmillError, remedy
from ..formats.version import __version__
from .terminal.lines import print_line
from .terminal.signals import EXIT_INTERRUPTED, Signals, listening

# Name -> the module, and the line that `quantmill --help` shows.
COMMANDS = {
    "convert": ("convert", "Convert a Hugging Face checkpoint to GGUF or GGML, or back."),
    "quantize": ("quantize", "Quantize a GGUF file."),
    "plan": ("plan", "Show the size of a model at every level, before anything is written."),
    "imatrix": ("imatrix", "Make the importance matrix of a model from a text."),
    "gptq": ("gptq", "Quantize a Hugging Face checkpoint by GPTQ."),
    "awq": ("awq", "Quantize a Hugging Face checkpoint by AWQ."),
    "compress": ("compress", "Round a Hugging Face checkpoint to FP8, NVFP4, INT8, ... for vLLM and transformers."),
    "evaluate": ("evaluate", "Measure perplexity, and KL divergence from a base model."),
    "compare": ("compare", "Compare files of a model by their divergence from one base: table and plot."),
    "gguf-set-metadata": ("set_metadata", "Change, add or remove a metadata key of a GGUF file."),
    "inspect": ("inspect", "Show a file's metadata, tensors, types and bits per weight."),
    "verify": ("verify", "Check a file's structure, or compare its weights with another's."),
    "diff": ("diff", "Show what differs between two models: metadata, types, weights."),
    "hash": ("hash", "Print the SHA-256 of each tensor and of the model, whatever the file's layout."),
    "split": ("split", "Split a GGUF file into shards, as llama.cpp reads them."),
    "merge": ("merge", "Merge shards into the file that was split."),
    "merge-lora": ("merge_lora", "Merge a LoRA adapter into the model that it was trained on."),
    "archs": ("archs", "List the architectures that can be converted, and what is proven of each."),
    "release": ("release", "Make a release: every level, a model card, checksums, a manifest."),
    "push": ("push", "Upload a release to the Hugging Face Hub, or what of it is not there."),
    "reproduce": ("reproduce", "Make the files of a release again and compare their checksums."),
    "demo": ("demo", "Convert, quantize and measure SmolLM2-135M, from start to end."),
}

EXIT_ERROR = 2


def load_command(name: str) -> click.Command:
    """Import a command by its name, and add the option ``--debug`` to it."""
    command: click.Command = import_module(f".{COMMANDS[name][0]}", __package__).command
    if not any(param.name == "debug" for param in command.params):
        command.params.append(
            click.Option(["--debug"], is_flag=True, expose_value=False, help="Show the traceback of an error.")
        )
    return command


class _LazyGroup(click.Group):
    """A group that lists its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


_COMPLETION = """\b
Completion in bash: eval "$(_QUANTMILL_COMPLETE=bash_source quantmill)"
For zsh and fish, use zsh_source and fish_source. The programs `quantize`, `convert` and
`imatrix` use _QUANTIZE_COMPLETE, _CONVERT_COMPLETE and _IMATRIX_COMPLETE."""


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_COMPLETION)
@click.version_option(__version__, prog_name="quantmill")
def quantmill() -> None:
    """Convert and quantize language models: Hugging Face checkpoints, GGUF, GPTQ and AWQ.

    Example: quantmill convert Meta-Llama-3-8B-Instruct llama3.Q4_K_M.gguf --outtype Q4_K_M
    """


def main(command: click.Command, prog: str) -> NoReturn:
    """Run a command and exit: 0, 1 when a check failed, 2 on an error (one line on stderr), 130 when interrupted."""
    gc.set_threshold(100_000)  # importing numba and torch makes hundreds of thousands of objects, none of them garbage
    with listening(prog) as signals:
        _run(command, prog, signals)


def _run(command: click.Command, prog: str, signals: Signals) -> NoReturn:
    try:
        outcome = command.main(prog_name=prog, standalone_mode=False)
        sys.stdout.flush()
        sys.exit(outcome if isinstance(outcome, int) else 0)
    except (click.Abort, KeyboardInterrupt):
        _interrupted(prog)
    except click.ClickException as error:
        _show(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise the interpreter complains at exit
        sys.exit(EXIT_ERROR)
    except Exception as error:
        if signals.heard:
            _interrupted(prog)  # the signal came during an import, or in a callback of another library
        if not isinstance(error, (QuantmillError, OSError)):
            raise
        if "--debug" in sys.argv:
            raise
        print_line(f"{prog}: {_one_line(error)}", err=True)
        sys.exit(EXIT_ERROR)
    finally:
        gc.freeze()  # the interpreter's last collections would visit every object of numba: a quarter of a second


def _show(error: click.ClickException) -> None:
    """What click says of a wrong command line, which may repeat the names of files."""
    text = StringIO()
    error.show(text)
    for line in text.getvalue().rstrip("\n").split("\n"):
        print_line(line, err=True)


def _interrupted(prog: str) -> NoReturn:
    print_line(f"{prog}: interrupted", err=True)
    sys.exit(EXIT_INTERRUPTED)


def _one_line(error: QuantmillError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror:
        line = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        hint = remedy(error)
        return f"{line} ({hint})" if hint else line
    return " ".join(str(error).split())


def run() -> NoReturn:
    """Run the program ``quantmill``."""
    main(quantmill, "quantmill")


def run_convert() -> NoReturn:
    """Run the program ``convert``."""
    main(load_command("convert"), "convert")


def run_quantize() -> NoReturn:
    """Run the program ``quantize``."""
    main(load_command("quantize"), "quantize")


def run_imatrix() -> NoReturn:
    """Run the program ``imatrix``."""
    main(load_command("imatrix"), "imatrix")


def run_gguf_set_metadata() -> NoReturn:
    """Run the program ``gguf-set-metadata``."""
    main(load_command("gguf-set-metadata"), "gguf-set-metadata")
