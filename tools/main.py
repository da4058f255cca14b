"""The umbrella ``quantmill``, the commands that also stand alone, and how an error reaches the user.

A command's module is imported when the command is asked for, so ``quantmill --help`` costs no torch, numba or
transformers. Each module offers one ``click.Command`` named ``command``.
"""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from typing import NoReturn

import click

from .. import __version__
from ..formats.errors import QuantmillError, remedy
from .terminal.signals import EXIT_INTERRUPTED, Signals, listening

# name -> (module, one line for `quantmill --help`)
COMMANDS = {
    "convert": ("convert", "Hugging Face checkpoint to GGUF, or back."),
    "quantize": ("quantize", "Quantize a GGUF file."),
    "plan": ("plan", "What a model will weigh at every level, before anything is written."),
    "imatrix": ("imatrix", "Importance matrix of a model, from a text."),
    "gptq": ("gptq", "Quantize a Hugging Face checkpoint by GPTQ."),
    "awq": ("awq", "Quantize a Hugging Face checkpoint by AWQ."),
    "evaluate": ("evaluate", "Perplexity, and KL divergence from a base model."),
    "gguf-set-metadata": ("set_metadata", "Change, add or remove a metadata key of a GGUF file."),
    "inspect": ("inspect", "Show a file's metadata, tensors, types and bits per weight."),
    "verify": ("verify", "Check a file's structure, or its weights against another's."),
    "diff": ("diff", "What differs between two models: metadata, types, weights."),
    "hash": ("hash", "SHA-256 of each tensor and of the model, whatever the file's layout."),
    "split": ("split", "Split a GGUF file into shards, as llama.cpp reads them."),
    "merge": ("merge", "Merge shards into the file that was split."),
    "archs": ("archs", "The architectures that can be converted, and what is proven of each."),
    "release": ("release", "A published set: every level, a model card, checksums, a manifest."),
    "reproduce": ("reproduce", "Make the files of a release again and compare their checksums."),
    "demo": ("demo", "The main job on SmolLM2-135M, from start to end."),
}

EXIT_ERROR = 2


def load_command(name: str) -> click.Command:
    """The command of that name, with ``--debug`` added."""
    command: click.Command = import_module(f".{COMMANDS[name][0]}", __package__).command
    if not any(param.name == "debug" for param in command.params):
        command.params.append(
            click.Option(["--debug"], is_flag=True, expose_value=False, help="Show the traceback of an error.")
        )
    return command


class _Umbrella(click.Group):
    """A group that knows its commands by name and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


_COMPLETION = """\b
Completion in bash: eval "$(_QUANTMILL_COMPLETE=bash_source quantmill)"
zsh and fish have zsh_source and fish_source; `quantize`, `convert` and `imatrix` their own
_QUANTIZE_COMPLETE, _CONVERT_COMPLETE and _IMATRIX_COMPLETE."""


@click.command(cls=_Umbrella, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_COMPLETION)
@click.version_option(__version__, prog_name="quantmill")
def quantmill() -> None:
    """Turn Hugging Face checkpoints into the quantized files people run.

    Example: quantmill convert Meta-Llama-3-8B-Instruct llama3.Q4_K_M.gguf --outtype Q4_K_M
    """


def main(command: click.Command, prog: str) -> NoReturn:
    """Run a command and exit: 0, 1 when a check failed, 2 on an error (one line on stderr), 130 when interrupted."""
    gc.set_threshold(100_000)  # numba and torch make hundreds of thousands of objects as they are imported, no garbage
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
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at exit
        sys.exit(EXIT_ERROR)
    except Exception as error:
        if signals.heard:
            _interrupted(prog)  # it fell into an import, or a callback of another library's
        if not isinstance(error, (QuantmillError, OSError)):
            raise
        if "--debug" in sys.argv:
            raise
        click.echo(f"{prog}: {_one_line(error)}", err=True)
        sys.exit(EXIT_ERROR)
    finally:
        gc.freeze()  # the interpreter's last collections would walk all of numba: a quarter of a second


def _interrupted(prog: str) -> NoReturn:
    click.echo(f"{prog}: interrupted", err=True)
    sys.exit(EXIT_INTERRUPTED)


def _one_line(error: QuantmillError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror:
        line = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        hint = remedy(error)
        return f"{line} ({hint})" if hint else line
    return " ".join(str(error).split())


def run() -> NoReturn:
    """The console script ``quantmill``."""
    main(quantmill, "quantmill")


def run_convert() -> NoReturn:
    """The console script ``convert``."""
    main(load_command("convert"), "convert")


def run_quantize() -> NoReturn:
    """The console script ``quantize``."""
    main(load_command("quantize"), "quantize")


def run_imatrix() -> NoReturn:
    """The console script ``imatrix``."""
    main(load_command("imatrix"), "imatrix")


def run_gguf_set_metadata() -> NoReturn:
    """The console script ``gguf-set-metadata``."""
    main(load_command("gguf-set-metadata"), "gguf-set-metadata")
