"""``quantmill push``: upload a finished release to the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .terminal.lines import print_json, print_line
from .terminal.progress import ProgressDisplay

if TYPE_CHECKING:
    from .api.releasing.push import Pushed


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("repository", metavar="ORG/NAME")
@click.option("--public", is_flag=True, help="Make the repository public, if it is made.  [default: private]")
@click.option("--dry-run", is_flag=True, help="Say what would be uploaded, and upload nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print what was uploaded as JSON.")
@click.option("--quiet", is_flag=True, help="Print no progress and no summary.")
def command(folder: Path, repository: str, public: bool, dry_run: bool, as_json: bool, quiet: bool) -> None:
    """Upload the release in FOLDER to the repository ORG/NAME on the Hugging Face Hub.

    Each file is a commit of its own. Files that are there already are left alone, and nothing is deleted, so the same
    command goes on after an interruption. The token is huggingface_hub's: `hf auth login`, or HF_TOKEN.

    \b
    Example: quantmill push llama3-gguf me/Meta-Llama-3-8B-Instruct-GGUF --dry-run
    """
    from .api.releasing.push import push

    with ProgressDisplay(quiet=quiet) as progress:
        done = push(folder, repository, public=public, dry_run=dry_run, progress=progress)
    if as_json:
        print_json({**_told(done), "dry_run": dry_run, "beside": [_told(one) for one in done.beside]})
    elif not quiet:
        for one in (done, *done.beside):
            if dry_run:
                what = "exists" if not one.made else f"would be made, {'public' if public else 'private'}"
                print_line(f"{one.repository} {what}; would upload: {', '.join(one.uploaded) or 'nothing'}")
            else:
                print_line(f"{one.repository}: {len(one.uploaded)} files uploaded, {len(one.kept)} were there")


def _told(done: Pushed) -> dict[str, object]:
    return {
        "repository": done.repository, "made": done.made, "uploaded": list(done.uploaded), "kept": list(done.kept),
        "others": list(done.others),
    }  # fmt: skip
