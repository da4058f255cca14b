"""A release in progress: its folder, what is done already, and the steps, each of which can be run again."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ....formats.errors import FormatError, OutputError, WeightError
from ....formats.storage.durable import partial_name, sha256_of_file
from ..models import read_model
from .manifest import NAME, source_files, write_json

if TYPE_CHECKING:
    from ....formats.ir import Model
    from ....quantize.plan import Plan

_STATE = ".release.json"
_BASE = ".base.npz"
_EVALUATION_SHARE = 4  # of the text that ships with us, a quarter is kept for judging


@dataclass
class Work:
    """One release.

    Args:
        model: the checkpoint's folder or a GGUF file.
        folder: where the set goes.
        options: the command's.
        done: by step, what later steps and later runs need to know.
    """

    model: Path
    folder: Path
    options: Mapping[str, Any]
    done: dict[str, Any] = field(default_factory=dict)

    @property
    def quiet(self) -> bool:
        return bool(self.options["quiet"])

    def say(self, text: str) -> None:
        if not self.quiet:
            click.echo(text, err=True)

    def cut_off(self) -> None:
        """Say what an interrupt leaves."""
        if (self.folder / _STATE).is_file():
            self.say(f"{self.folder}: what is done is kept; the same command goes on with it")

    # The folder

    def open(self, key: Mapping[str, Any]) -> None:
        """Begin, or go on where an earlier run of the same release stopped.

        Raises:
            OutputError: the folder holds something else, or a finished release.
        """
        state = self.folder / _STATE
        if self.options["restart"]:
            self._discard()
        if state.is_file():
            try:
                saved = json.loads(state.read_text(encoding="utf-8"))
                differs = [name for name in key if saved["key"].get(name) != key[name]]
                self.done = saved["done"]
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                raise FormatError("is damaged", path=state, hint="--restart begins anew") from None
            if differs:
                problem = f"holds an unfinished release with other settings ({', '.join(differs)})"
                raise OutputError(problem, path=self.folder, hint="--restart discards it, or choose another folder")
            self.say(f"{self.folder}: going on where an earlier run stopped; --restart begins anew")
        elif (self.folder / NAME).is_file():
            raise OutputError("holds a finished release", path=self.folder, hint="--restart makes it anew")
        elif self.folder.exists() and (not self.folder.is_dir() or {*self.folder.iterdir()} - {partial_name(state)}):
            raise OutputError("exists and is not an empty folder", path=self.folder, hint="choose another")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.key = dict(key)
        self.save()

    def _discard(self) -> None:
        """What a release put into the folder: nothing that it does not know."""
        known = self.folder / _STATE, self.folder / NAME
        if not any(path.is_file() for path in known):
            return
        for pattern in (f"{self.stem}.*.gguf", f".{self.stem}.*", "*.state", "README.md", "SHA256SUMS", "*.png"):
            for path in self.folder.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in (*known, self.folder / _BASE):
            path.unlink(missing_ok=True)

    def save(self) -> None:
        write_json(self.folder / _STATE, {"key": self.key, "done": self.done})

    def close(self) -> None:
        """Nothing is left to do."""
        for name in (_BASE, _STATE):
            (self.folder / name).unlink(missing_ok=True)

    # Names

    @cached_property
    def source(self) -> Model:
        return read_model(self.model)

    @cached_property
    def stem(self) -> str:
        """What the files' names begin with."""
        if self.options["name"]:
            return re.sub(r"[^\w.+-]+", "-", str(self.options["name"])).strip("-.") or "model"
        name = self.model.resolve().name
        return re.sub(r"[-._](?:bf16|fp?16|fp?32)\Z", "", name.removesuffix(".gguf"), flags=re.IGNORECASE)

    def file(self, level: str) -> Path:
        return self.folder / f"{self.stem}.{level}.gguf"

    # Steps

    @property
    def imatrix(self) -> Path | None:
        """The importance matrix's file."""
        wish = self.options["imatrix"]
        if wish == "none":
            return None
        return self.folder / f"{self.stem}.imatrix.gguf" if wish == "auto" else Path(wish)

    def make_imatrix(self) -> None:
        """Collect importance, unless it was given or is there."""
        path = self.imatrix
        if self.options["imatrix"] != "auto" or path is None or path.exists():
            return
        from ...imatrix import command

        words = ["-m", str(self.model), "-o", str(path), "-c", str(self.options["n_ctx"])]
        words += self._text_words(self.options["text"], calibrate=True) + (["--quiet"] if self.quiet else [])
        words += ["--cluster", self.options["cluster"]] if self.options["cluster"] else []
        command.main(words, prog_name="imatrix", standalone_mode=False)

    def _text_words(self, text: Path | None, calibrate: bool) -> list[str]:
        """Options that pick the text; ours is shared between calibration and judgement, without overlap."""
        if text is not None:
            return ["-f", str(text), "--chunks", str(self.options["chunks"])]
        kept = self._own_chunks() // _EVALUATION_SHARE if self.options["evaluate"] else 0
        first = self._own_chunks() - kept
        return ["--chunks", str(first)] if calibrate else ["--from-chunk", str(first)]

    def _own_chunks(self) -> int:
        from ..running import RunOptions, open_text, open_weights

        if "own_chunks" not in self.done:
            run = RunOptions(n_ctx=self.options["n_ctx"])
            self.done["own_chunks"] = open_text(open_weights(self.model), None, run).n_chunks
            self.save()
        return int(self.done["own_chunks"])

    def plans(self, levels: Sequence[str]) -> dict[str, Plan]:
        """The plan of each level. Nothing is written before all of them are known to be possible."""
        from ....quantize.plan import PlanOptions, make_plan
        from ..planning import with_imatrix

        options = PlanOptions(recipe_set=self.options["recipe_set"])
        # The imatrix's folder is another one on every machine: its name alone is noted in the files.
        name = None if self.imatrix is None else self.imatrix.name
        options, _ = with_imatrix(options, self.source, self.imatrix, name=name)
        return {level: make_plan(self.source, level, options) for level in levels}

    def quantize(self, plans: Mapping[str, Plan]) -> None:
        """Every file that is not there yet, from one reading of the weights."""
        from ....quantize.execute import Job
        from ...terminal.options import cluster_from
        from ...terminal.progress import ProgressDisplay
        from ..options import WriteOptions
        from ..planning import write_plans

        jobs = [Job(plan, self.file(level)) for level, plan in plans.items() if not self.file(level).exists()]
        if not jobs:
            return
        with ProgressDisplay(quiet=self.quiet) as progress:
            write_plans(
                jobs,
                options=WriteOptions(threads=self.options["threads"]),
                inputs=[self.imatrix] if self.imatrix else [],
                cluster=cluster_from(self.options["cluster"], self.options["workers"]),
                progress=progress,
            )

    def verify(self, levels: Sequence[str]) -> None:
        """Read every file back: its structure, and that each weight decodes to a finite number."""
        from ....formats.gguf.reader import read_gguf
        from ....quantize.compare import compare

        files = self.done.setdefault("files", {})
        for level in levels:
            path = self.file(level)
            if path.name in files:
                continue
            bad = [report.name for report in compare(read_gguf(path)) if report.non_finite]
            if bad:
                raise WeightError("decodes to NaN or Inf", path=path, where=bad[0], hint="this is a fault of ours")
            files[path.name] = {"level": level, "bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
            self.save()
            self.say(f"{path.name}: verified")

    def evaluate(self, levels: Sequence[str]) -> None:
        """Perplexity of the original, then perplexity and divergence of each file."""
        if not self.options["evaluate"]:
            return
        base = self.folder / _BASE
        figures = self.done.setdefault("figures", {})
        text = self.options["evaluation_text"]
        measure = partial(self._measure, text)
        for level in levels:
            if level in figures:
                continue
            if "base" not in self.done or not base.exists():
                base.unlink(missing_ok=True)
                self.done["base"] = measure(self.model, None, save_base=base)
                self.save()
            figures[level] = measure(self.file(level), base)
            self.save()
            self.say(f"{level}: perplexity {figures[level]['perplexity']:.4f}, KLD {figures[level]['kld_mean']:.5f}")

    def _measure(
        self, text: Path | None, model: Path, base: Path | None, save_base: Path | None = None
    ) -> dict[str, Any]:
        from ...terminal.progress import ProgressDisplay
        from ..evaluation import evaluate
        from ..running import RunOptions

        words = self._text_words(text, calibrate=False)
        given = {flag: int(words[words.index(flag) + 1]) for flag in ("--chunks", "--from-chunk") if flag in words}
        run = RunOptions(
            n_ctx=self.options["n_ctx"], chunks=given.get("--chunks"), first_chunk=given.get("--from-chunk", 0)
        )
        with ProgressDisplay(quiet=self.quiet) as progress:
            return asdict(evaluate(model, text, base=base, save_base=save_base, run=run, progress=progress))


def identity(model: Path) -> list[tuple[str, int, int]]:
    """Which files a model is, without reading them."""
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in source_files(model)]
