"""quantmill converts Hugging Face checkpoints into the quantized files that people run.

Example:
    >>> import quantmill
    >>> quantmill.PlanOptions(pure=True).pure
    True
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .formats.version import __version__ as __version__

# What type checkers and editors see; ``_MODULES`` says the same at run time.
if TYPE_CHECKING:
    from .formats.arrays import model_from_arrays as model_from_arrays
    from .formats.arrays import tensor_from_array as tensor_from_array
    from .formats.diffusion.read import read_diffusion as read_diffusion
    from .formats.errors import FormatError as FormatError
    from .formats.errors import ImportanceMissing as ImportanceMissing
    from .formats.errors import OutputError as OutputError
    from .formats.errors import PlanError as PlanError
    from .formats.errors import QuantmillError as QuantmillError
    from .formats.errors import SourceError as SourceError
    from .formats.errors import TokenizerError as TokenizerError
    from .formats.errors import UnknownArchitecture as UnknownArchitecture
    from .formats.errors import UnmatchedTensor as UnmatchedTensor
    from .formats.errors import WeightError as WeightError
    from .formats.examples import tiny_llama as tiny_llama
    from .formats.ggml.reader import GGMLSettings as GGMLSettings
    from .formats.ggml.reader import read_ggml as read_ggml
    from .formats.ggml.writer import write_ggml as write_ggml
    from .formats.gguf.overrides import parse_override as parse_override
    from .formats.gguf.reader import read_gguf as read_gguf
    from .formats.gguf.writer import write_gguf as write_gguf
    from .formats.hf.load import read_hf as read_hf
    from .formats.hf.save import write_hf as write_hf
    from .formats.imatrix_file import Imatrix as Imatrix
    from .formats.imatrix_file import read_imatrix as read_imatrix
    from .formats.imatrix_file import write_imatrix as write_imatrix
    from .formats.ir import Model as Model
    from .formats.ir import Role as Role
    from .formats.ir import Tensor as Tensor
    from .formats.ir import Tokenizer as Tokenizer
    from .formats.ir import Value as Value
    from .formats.ir import ValueType as ValueType
    from .formats.progress import Event as Event
    from .formats.progress import Note as Note
    from .formats.progress import RowsDone as RowsDone
    from .formats.progress import RunStarted as RunStarted
    from .formats.progress import StepDone as StepDone
    from .formats.progress import WorkEnded as WorkEnded
    from .formats.progress import WorkStarted as WorkStarted
    from .formats.qtypes import QType as QType
    from .imatrix.evaluate import BaseComparison as BaseComparison
    from .imatrix.evaluate import Evaluation as Evaluation
    from .quantize.awq.block import AWQReport as AWQReport
    from .quantize.awq.settings import AWQSettings as AWQSettings
    from .quantize.budget.plans import BudgetedPlan as BudgetedPlan
    from .quantize.compare import compare as compare
    from .quantize.decode import as_float as as_float
    from .quantize.decode import decode as decode
    from .quantize.encode import encode as encode
    from .quantize.estimate.levels import LevelSize as LevelSize
    from .quantize.execute import execute as execute
    from .quantize.gptq.block import GPTQReport as GPTQReport
    from .quantize.gptq.settings import GPTQSettings as GPTQSettings
    from .quantize.importance import ImportanceFit as ImportanceFit
    from .quantize.patterns import TypeRule as TypeRule
    from .quantize.plan import Plan as Plan
    from .quantize.plan import Step as Step
    from .quantize.plan import make_plan as make_plan
    from .quantize.plan_options import PlanOptions as PlanOptions
    from .tools.api.architectures import architectures as architectures
    from .tools.api.awq import awq as awq
    from .tools.api.blockwise import CheckpointOptions as CheckpointOptions
    from .tools.api.blockwise import QuantizedCheckpoint as QuantizedCheckpoint
    from .tools.api.checking import CheckedCheckpoint as CheckedCheckpoint
    from .tools.api.checking import check_checkpoint as check_checkpoint
    from .tools.api.comparison import ComparedModel as ComparedModel
    from .tools.api.comparison import ModelComparison as ModelComparison
    from .tools.api.comparison import ModelSize as ModelSize
    from .tools.api.comparison import PairedDifference as PairedDifference
    from .tools.api.comparison import compare_models as compare_models
    from .tools.api.compress import CompressedCheckpoint as CompressedCheckpoint
    from .tools.api.compress import compress as compress
    from .tools.api.conversion import Conversion as Conversion
    from .tools.api.convert import convert as convert
    from .tools.api.description import Description as Description
    from .tools.api.description import describe as describe
    from .tools.api.differences import ModelDifferences as ModelDifferences
    from .tools.api.differences import diff as diff
    from .tools.api.digest import digest as digest
    from .tools.api.evaluation import evaluate as evaluate
    from .tools.api.gptq import gptq as gptq
    from .tools.api.hub import local_path as local_path
    from .tools.api.importance import CollectedImatrix as CollectedImatrix
    from .tools.api.importance import collect_imatrix as collect_imatrix
    from .tools.api.importance import imatrix_statistics as imatrix_statistics
    from .tools.api.importance import merge_imatrices as merge_imatrices
    from .tools.api.merging import merge_lora as merge_lora
    from .tools.api.metadata import remove_metadata as remove_metadata
    from .tools.api.metadata import set_metadata as set_metadata
    from .tools.api.metadata import set_vocabulary as set_vocabulary
    from .tools.api.models import read_model as read_model
    from .tools.api.options import MmprojOptions as MmprojOptions
    from .tools.api.options import ReadOptions as ReadOptions
    from .tools.api.options import SizeTarget as SizeTarget
    from .tools.api.options import SplitOptions as SplitOptions
    from .tools.api.options import WriteOptions as WriteOptions
    from .tools.api.ray_pool import ClusterOptions as ClusterOptions
    from .tools.api.recipe_files import FoundRecipe as FoundRecipe
    from .tools.api.recipe_files import find_recipe as find_recipe
    from .tools.api.recipe_files import read_recipe as read_recipe
    from .tools.api.refining import TextRefinement as TextRefinement
    from .tools.api.refining import open_refinement as open_refinement
    from .tools.api.releasing.dry_run import PlannedFile as PlannedFile
    from .tools.api.releasing.dry_run import ReleasePlan as ReleasePlan
    from .tools.api.releasing.dry_run import plan_release as plan_release
    from .tools.api.releasing.options import ReleaseOptions as ReleaseOptions
    from .tools.api.releasing.push import Pushed as Pushed
    from .tools.api.releasing.push import push as push
    from .tools.api.releasing.release import Release as Release
    from .tools.api.releasing.release import release as release
    from .tools.api.releasing.reproduce import Reproduction as Reproduction
    from .tools.api.releasing.reproduce import reproduce as reproduce
    from .tools.api.running import RunOptions as RunOptions
    from .tools.api.shards import merge as merge
    from .tools.api.shards import split as split
    from .tools.api.sizes import SizeTable as SizeTable
    from .tools.api.sizes import plan as plan
    from .tools.api.verify import Verification as Verification
    from .tools.api.verify import verify as verify
    from .tools.api.verify import verify_strict as verify_strict

# The public names and the modules that define them. A module is imported when one of its names is asked for (PEP 562),
# so that ``import quantmill`` is light.
_MODULES = {
    "AWQReport": "quantize.awq.block",
    "AWQSettings": "quantize.awq.settings",
    "BaseComparison": "imatrix.evaluate",
    "BudgetedPlan": "quantize.budget.plans",
    "CheckedCheckpoint": "tools.api.checking",
    "CheckpointOptions": "tools.api.blockwise",
    "ClusterOptions": "tools.api.ray_pool",
    "CollectedImatrix": "tools.api.importance",
    "ComparedModel": "tools.api.comparison",
    "CompressedCheckpoint": "tools.api.compress",
    "Conversion": "tools.api.conversion",
    "Description": "tools.api.description",
    "Evaluation": "imatrix.evaluate",
    "Event": "formats.progress",
    "FormatError": "formats.errors",
    "GGMLSettings": "formats.ggml.reader",
    "GPTQReport": "quantize.gptq.block",
    "GPTQSettings": "quantize.gptq.settings",
    "Imatrix": "formats.imatrix_file",
    "ImportanceFit": "quantize.importance",
    "ImportanceMissing": "formats.errors",
    "LevelSize": "quantize.estimate.levels",
    "Model": "formats.ir",
    "ModelComparison": "tools.api.comparison",
    "ModelDifferences": "tools.api.differences",
    "ModelSize": "tools.api.comparison",
    "Note": "formats.progress",
    "OutputError": "formats.errors",
    "PairedDifference": "tools.api.comparison",
    "Plan": "quantize.plan",
    "PlanError": "formats.errors",
    "PlanOptions": "quantize.plan_options",
    "TextRefinement": "tools.api.refining",
    "PlannedFile": "tools.api.releasing.dry_run",
    "TypeRule": "quantize.patterns",
    "QType": "formats.qtypes",
    "QuantizedCheckpoint": "tools.api.blockwise",
    "QuantmillError": "formats.errors",
    "MmprojOptions": "tools.api.options",
    "ReadOptions": "tools.api.options",
    "Pushed": "tools.api.releasing.push",
    "Release": "tools.api.releasing.release",
    "ReleaseOptions": "tools.api.releasing.options",
    "ReleasePlan": "tools.api.releasing.dry_run",
    "Reproduction": "tools.api.releasing.reproduce",
    "Role": "formats.ir",
    "RowsDone": "formats.progress",
    "RunOptions": "tools.api.running",
    "RunStarted": "formats.progress",
    "SizeTable": "tools.api.sizes",
    "SizeTarget": "tools.api.options",
    "SplitOptions": "tools.api.options",
    "SourceError": "formats.errors",
    "Step": "quantize.plan",
    "StepDone": "formats.progress",
    "Tensor": "formats.ir",
    "Tokenizer": "formats.ir",
    "TokenizerError": "formats.errors",
    "UnknownArchitecture": "formats.errors",
    "UnmatchedTensor": "formats.errors",
    "Value": "formats.ir",
    "ValueType": "formats.ir",
    "Verification": "tools.api.verify",
    "WeightError": "formats.errors",
    "WorkEnded": "formats.progress",
    "WorkStarted": "formats.progress",
    "WriteOptions": "tools.api.options",
    "architectures": "tools.api.architectures",
    "as_float": "quantize.decode",
    "awq": "tools.api.awq",
    "check_checkpoint": "tools.api.checking",
    "collect_imatrix": "tools.api.importance",
    "compare": "quantize.compare",
    "compare_models": "tools.api.comparison",
    "compress": "tools.api.compress",
    "convert": "tools.api.convert",
    "decode": "quantize.decode",
    "describe": "tools.api.description",
    "diff": "tools.api.differences",
    "digest": "tools.api.digest",
    "encode": "quantize.encode",
    "evaluate": "tools.api.evaluation",
    "execute": "quantize.execute",
    "gptq": "tools.api.gptq",
    "imatrix_statistics": "tools.api.importance",
    "make_plan": "quantize.plan",
    "local_path": "tools.api.hub",
    "merge": "tools.api.shards",
    "merge_imatrices": "tools.api.importance",
    "FoundRecipe": "tools.api.recipe_files",
    "find_recipe": "tools.api.recipe_files",
    "open_refinement": "tools.api.refining",
    "read_recipe": "tools.api.recipe_files",
    "model_from_arrays": "formats.arrays",
    "plan": "tools.api.sizes",
    "plan_release": "tools.api.releasing.dry_run",
    "push": "tools.api.releasing.push",
    "read_ggml": "formats.ggml.reader",
    "parse_override": "formats.gguf.overrides",
    "read_gguf": "formats.gguf.reader",
    "read_diffusion": "formats.diffusion.read",
    "read_hf": "formats.hf.load",
    "read_imatrix": "formats.imatrix_file",
    "read_model": "tools.api.models",
    "release": "tools.api.releasing.release",
    "remove_metadata": "tools.api.metadata",
    "reproduce": "tools.api.releasing.reproduce",
    "merge_lora": "tools.api.merging",
    "set_metadata": "tools.api.metadata",
    "set_vocabulary": "tools.api.metadata",
    "split": "tools.api.shards",
    "tensor_from_array": "formats.arrays",
    "tiny_llama": "formats.examples",
    "verify": "tools.api.verify",
    "verify_strict": "tools.api.verify",
    "write_ggml": "formats.ggml.writer",
    "write_gguf": "formats.gguf.writer",
    "write_hf": "formats.hf.save",
    "write_imatrix": "formats.imatrix_file",
}

__all__ = ["__version__", *_MODULES]


if not TYPE_CHECKING:  # or a name that is not there would be an object to type checkers

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return getattr(import_module(f".{_MODULES[name]}", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
