"""A script as a user might write it, with every public name of quantmill once. It is type-checked, not run."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import quantmill
from quantmill import (
    AWQReport,
    AWQSettings,
    BaseComparison,
    BudgetedPlan,
    CheckpointOptions,
    ClusterOptions,
    CollectedImatrix,
    ComparedModel,
    CompressedCheckpoint,
    Conversion,
    Description,
    Evaluation,
    Event,
    GGMLSettings,
    GPTQReport,
    GPTQSettings,
    Imatrix,
    ImportanceFit,
    LevelSize,
    MmprojOptions,
    Model,
    ModelComparison,
    ModelDifferences,
    ModelSize,
    Note,
    PairedDifference,
    Plan,
    PlannedFile,
    PlanOptions,
    QType,
    QuantizedCheckpoint,
    ReadOptions,
    Release,
    ReleaseOptions,
    ReleasePlan,
    Reproduction,
    Role,
    RowsDone,
    RunOptions,
    RunStarted,
    SizeTable,
    SizeTarget,
    Step,
    StepDone,
    Tensor,
    TextRefinement,
    Tokenizer,
    Value,
    ValueType,
    Verification,
    WorkEnded,
    WorkStarted,
    WriteOptions,
)


def show(event: Event) -> None:
    if isinstance(event, Note):
        print(event.text, file=sys.stderr)
    elif isinstance(event, (WorkStarted, RunStarted, WorkEnded)):
        print(event)
    elif isinstance(event, RowsDone):
        print(event.nbytes)
    elif isinstance(event, StepDone):
        print(f"{event.stage}: {event.done / event.total:.0%}")


def publish(checkpoint: Path, folder: Path) -> list[Path]:
    """A float file, its importance, two levels and a file of a given size."""
    f16 = quantmill.convert(checkpoint, folder / "model-f16.gguf", "F16", write=WriteOptions(force=True), progress=show)
    collected: CollectedImatrix = quantmill.collect_imatrix(
        f16.paths[0], folder / "imatrix.gguf", run=RunOptions(n_ctx=512, chunks=32), second_moments=True, progress=show
    )
    seeing = quantmill.convert(checkpoint, folder / "seeing.gguf", mmproj=MmprojOptions(level="Q8_0"))
    print(seeing.mmproj)
    assert collected.path is not None
    made: list[Conversion] = [f16]
    for level in ("Q4_K_M", "IQ3_XXS"):
        options = PlanOptions(output_type="Q8_0", tensor_types=[("attn_v", "Q6_K")])
        made.append(
            quantmill.convert(
                f16.paths[0], None, level, imatrix=collected.path, refine=True, options=options,
                cluster=ClusterOptions("local", workers=2), read=ReadOptions(kind="gguf"), progress=show,
            )
        )  # fmt: skip
    made.append(quantmill.convert(f16.paths[0], folder / "small.gguf", target=SizeTarget(bpw=3.5)))
    made.append(
        quantmill.convert(f16.paths[0], None, "Q2_K", refine=True, text=folder / "text.txt", run=RunOptions(chunks=40))
    )
    refinement: TextRefinement = quantmill.open_refinement(quantmill.read_model(checkpoint), run=RunOptions(chunks=8))
    plan = quantmill.make_plan(refinement.model, "Q3_K_M", refinement.plan_options(PlanOptions()))
    with refinement.refined(plan, folder / "by-hand.gguf", progress=show) as (encoded, _):
        quantmill.execute(encoded, folder / "by-hand.gguf")
    return [path for done in made for path in done.paths]


def beside(base: Path, files: list[Path]) -> bool:
    found: ModelComparison = quantmill.compare_models(base, files, run=RunOptions(chunks=4))
    first: ComparedModel = found.models[0]
    size: ModelSize = first.size
    pair: PairedDifference = found.differences[0]
    return size.bpw < 5 and first.figures.kld_mean < 0.1 and abs(pair.kld) < 2 * pair.kld_error


def measure(path: Path, base: Path, text: Path) -> float:
    found: Evaluation = quantmill.evaluate(path, text, run=RunOptions(chunks=4))
    against: BaseComparison = quantmill.evaluate(path, text, base=base)
    checked: Verification = quantmill.verify(path, base, min_cosine=0.99)
    if not checked.ok or quantmill.verify_strict(path):
        raise SystemExit("\n".join(checked.failures))
    worst = min(
        report.cosine or 0.0 for report in quantmill.compare(quantmill.read_gguf(path), quantmill.read_gguf(base))
    )
    differences: ModelDifferences = quantmill.diff(path, base, values=True)
    print(quantmill.digest(path), quantmill.describe(path).bpw, worst, differences.equal)
    return against.kld_mean + found.perplexity


def step_by_step(folder: Path, out: Path) -> None:
    images: Model = quantmill.read_diffusion(folder / "flux1-dev.safetensors")
    assert images.arch == "flux"
    model: Model = quantmill.read_hf(folder)
    plan: Plan = quantmill.make_plan(model, "Q4_K_M", PlanOptions(pure=True))
    fit: ImportanceFit | None = plan.importance_fit
    print(fit, plan.remarks)
    step: Step
    for step in plan.steps:
        tensor: Tensor = step.tensor
        kind: QType = step.type
        print(tensor.name, tensor.role is Role.ATTN_V, kind.bpw, step.reason)
    quantmill.execute(plan, out, threads=4, progress=show)
    back = quantmill.as_float(quantmill.read_model(out))
    quantmill.write_hf(back, folder.with_name("back"))
    quantmill.write_gguf(out, back, version=3, force=True)
    quantmill.write_ggml(out.with_suffix(".bin"), quantmill.read_ggml("old.bin", GGMLSettings(gqa=8)))


def sizes(model: Path) -> dict[str, int]:
    table: SizeTable = quantmill.plan(model, ["Q4_K_M", "Q8_0"], ctx=8192)
    level: LevelSize
    for level in table.levels:
        print(level.level, level.nbytes)
    chosen: BudgetedPlan | None = quantmill.convert(model, target=SizeTarget(nbytes=4_000_000_000), dry_run=True).budget
    return {level.level: level.nbytes for level in table.levels} | {"chosen": chosen.plan.size if chosen else 0}


def checkpoints(model: Path, out: Path) -> int:
    options = CheckpointOptions(force=True)
    made: QuantizedCheckpoint[GPTQReport] = quantmill.gptq(
        model, out, settings=GPTQSettings(bits=4), checkpoint=options
    )
    other: QuantizedCheckpoint[AWQReport] = quantmill.awq(
        model, out, settings=AWQSettings(group_size=64), checkpoint=options
    )
    print([(linear.name, linear.relative) for linear in (*made.linears, *other.linears)])
    return made.nbytes + other.nbytes


def matrices(paths: list[Path]) -> Imatrix:
    merged = quantmill.merge_imatrices(paths, "merged.gguf")
    print([row.tensor for row in quantmill.imatrix_statistics("merged.gguf")])
    quantmill.write_imatrix("copy.gguf", merged.imatrix, force=True)
    return quantmill.read_imatrix("copy.gguf")


def released(model: Path, folder: Path) -> bool:
    planned: ReleasePlan = quantmill.plan_release(model, folder, ReleaseOptions(levels=["Q4_K_M"], evaluate=True))
    first: PlannedFile = planned.files[0]
    print(first.name, first.nbytes, planned.disk <= planned.free)
    made: Release = quantmill.release(model, folder, ReleaseOptions(levels=["Q4_K_M"], evaluate=True), progress=show)
    again: Reproduction = quantmill.reproduce(folder / "manifest.json", model)
    about: Description = quantmill.describe(made.files[0])
    return again.ok and about.bpw < 6


def tiny() -> float:
    return quantmill.make_plan(quantmill.tiny_llama(layers=2), "Q8_0").bpw


def arrays() -> NDArray[np.float32]:
    rows = np.random.default_rng(0).standard_normal((8, 256)).astype(np.float32)
    blocks: NDArray[np.uint8] = quantmill.encode(rows, "Q4_K", importance=np.ones(256, np.float32))
    tensor = quantmill.tensor_from_array("blk.0.ffn_up.weight", rows)
    model = quantmill.model_from_arrays("llama", {tensor.name: rows}, {"llama.block_count": 1})
    value: Value = model.metadata["llama.block_count"]
    print(value.type is ValueType.UINT32, value.data)
    return quantmill.decode(blocks, "Q4_K")


def edit(path: Path) -> None:
    quantmill.set_metadata(path, "eos_token_id", 128009)
    quantmill.remove_metadata(path, "general.url", force=True)
    shards = quantmill.split(path, path.with_suffix(""), max_size=2_000_000_000)
    print(shards)
    quantmill.merge("model-00001-of-00002.gguf", "whole.gguf")


def converts(path: Path) -> bool:
    found: quantmill.CheckedCheckpoint = quantmill.check_checkpoint(path)
    return found.proof == "logits" and not found.one_way and not found.said


def tokenizer_size(tokenizer: Tokenizer) -> int:
    return len(tokenizer.tokens)


def for_vllm(path: Path, output: Path) -> tuple[str, ...]:
    made: CompressedCheckpoint = quantmill.compress(path, output, scheme="nvfp4a16", ignore=["re:.*down_proj"])
    return made.left


def to_the_hub(name: str, folder: Path) -> quantmill.Pushed:
    quantmill.release(quantmill.local_path(name), folder)
    return quantmill.push(folder, f"{name}-GGUF", dry_run=True)


def mixed(base: Path, out: Path) -> quantmill.SplitOptions:
    """The mix of a published file, an adapter merged, and other keys."""
    found: quantmill.FoundRecipe = quantmill.find_recipe(base)
    (out / "mix.txt").write_text("\n".join(found.lines))
    rules = [*quantmill.read_recipe(out / "mix.txt"), quantmill.TypeRule("attn_v", "Q8_0")]
    key, value = quantmill.parse_override("general.version=str:v2")
    shards = quantmill.SplitOptions(max_tensors=64)
    options = quantmill.PlanOptions(tensor_types=rules, overrides={key: value}, prune_layers=(1,))
    summed = quantmill.merge_lora(base, out / "adapter.gguf", scale=0.5)
    done = quantmill.convert(summed, out / "mixed.gguf", found.level or "Q4_K_M", options=options, split=shards)
    edit = quantmill.set_vocabulary(done.paths[0], {"eos": "</s>"}, chat_template=out / "chat.jinja")
    print(edit.in_place, found.beyond)
    return shards


def main() -> int:
    print(quantmill.__version__, [arch.name for arch in quantmill.architectures("llama")])
    try:
        publish(Path(sys.argv[1]), Path(sys.argv[2]))
    except quantmill.ImportanceMissing as error:
        print(error.tensors)
    except (
        quantmill.SourceError,
        quantmill.UnknownArchitecture,
        quantmill.UnmatchedTensor,
        quantmill.TokenizerError,
    ) as error:
        print(error.path, error.where)
    except (quantmill.FormatError, quantmill.PlanError, quantmill.WeightError, quantmill.OutputError) as error:
        print(error.problem, error.hint)
    except quantmill.QuantmillError:
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
