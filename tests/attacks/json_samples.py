"""Small valid folders with every kind of JSON file that is read, and their readers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from attacks import samples, tower_samples
from attacks.json_keys import Place, Sample
from oracles.proofs import SMALL, Proof, all_proofs
from quantmill.formats.examples import tiny_llama
from quantmill.formats.hf.adapters.read import read_lora
from quantmill.formats.hf.archs import BY_CLASS
from quantmill.formats.hf.classes import arch_of_config
from quantmill.formats.hf.config_types import types_of
from quantmill.formats.hf.files.safetensors import StoredTensor, read_safetensors
from quantmill.formats.hf.files.weights import Stored, read_weights
from quantmill.formats.hf.load import read_hf
from quantmill.formats.hf.packed import decode_packed
from quantmill.formats.hf.save import write_hf
from quantmill.formats.hf.shapes import read_shapes
from quantmill.formats.hf.tables.rules import Arch, HFClass
from quantmill.formats.hf.tokenizer.read import read_tokenizer
from quantmill.formats.ir import Model, Tensor, Value, ValueType
from quantmill.formats.json_text import read_json
from quantmill.imatrix.run_state import RunState
from quantmill.tools.api.releasing.manifest import read_manifest
from quantmill.tools.api.releasing.state import open_state

Json = dict[str, Any]


def archs() -> list[Sample]:
    """The config.json of every proof, read without weights."""
    return [_of_arch(proof) for proof in all_proofs()]


def _of_arch(proof: Proof) -> Sample:
    config = config_of(proof)
    arch, name = arch_of_config(config, Path("config.json"))
    return Sample(
        proof.id,
        {"config.json": config},
        lambda folder: told(read_shapes(folder / "config.json")),
        kind=cache(partial(reader_of, arch, arch.classes[name])),
    )


def reader_of(arch: Arch, cls: HFClass, place: Place) -> object:
    """What reads a key of an architecture's config.json, and as what."""
    key = cls.names.get(str(place[0]), str(place[0]))
    readers = {type(noun).__name__ for noun in arch.nouns if key in noun.reads()}
    of = types_of(arch, cls.defaults).get(key)
    return frozenset(readers), of and of.name, arch.fixed.get(key) is not None, type(cls.defaults.get(key))


def config_of(proof: Proof) -> Json:
    """As transformers saves it."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = CONFIG_MAPPING[BY_CLASS[proof.model].classes[proof.model].model_type]
    blank = kind()
    settings = {key: value for key, value in SMALL.items() if hasattr(blank, key)} | dict(proof.config)
    settings = {key: value for key, value in settings.items() if value is not None} | dict.fromkeys(proof.nulls)
    found: Json = json.loads(kind(**settings).to_json_string(use_diff=False))
    return found | {"architectures": [proof.model]}


_LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 8, "hidden_size": 4,
    "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": False,
    "attention_bias": False, "mlp_bias": False, "bos_token_id": 1, "eos_token_id": [2], "dtype": "float32",
    "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8,
    },
}  # fmt: skip
_SHAPES = {
    "model.embed_tokens": (8, 4), "model.norm": (4,), "lm_head": (8, 4), "model.layers.0.input_layernorm": (4,),
    "model.layers.0.self_attn.q_proj": (4, 4), "model.layers.0.self_attn.k_proj": (2, 4),
    "model.layers.0.self_attn.v_proj": (2, 4), "model.layers.0.self_attn.o_proj": (4, 4),
    "model.layers.0.post_attention_layernorm": (4,), "model.layers.0.mlp.gate_proj": (6, 4),
    "model.layers.0.mlp.up_proj": (6, 4), "model.layers.0.mlp.down_proj": (4, 6),
}  # fmt: skip
_GENERATION = {
    "bos_token_id": 1, "eos_token_id": [2], "pad_token_id": None, "temperature": 0.5, "top_k": 20, "top_p": 0.9,
    "min_p": 0.1, "repetition_penalty": 1.5, "do_sample": True, "transformers_version": "5",
}  # fmt: skip
_CARD = {
    "name": "A Name", "author": "a", "license": ["mit"], "tags": ["a"], "language": ["en"], "version": 1,
    "base_model": ["a/b", {"name": "x", "organization": "y", "repo_url": "z"}], "datasets": "a/c",
    "pipeline_tag": "text-generation", "model-index": [{"name": "a"}],
}  # fmt: skip


def header(shapes: dict[str, tuple[int, ...]]) -> tuple[Json, bytes]:
    """The header of a safetensors file of these tensors, in F32, and its data."""
    out: Json = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * int(np.prod(shape))
        out[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    return out, np.ones(end // 4, "<f4").tobytes()


def checkpoints() -> list[Sample]:
    """A whole checkpoint in two shards, and the header of a shard alone."""
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    shapes = {f"{name}.weight": shape for name, shape in _SHAPES.items()}
    halves = [dict(list(shapes.items())[:6]), dict(list(shapes.items())[6:])]
    shards = [_file(*header(half)) for half in halves]
    index = {
        "metadata": {"total_size": 1},
        "weight_map": {key: name for name, half in zip(names, halves, strict=True) for key in half},
    }
    pooling = {"word_embedding_dimension": 4, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate((("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")))
    ]
    files = {"config.json": _LLAMA, "generation_config.json": _GENERATION, "README.md": _CARD}
    files |= {"modules.json": modules, "1_Pooling/config.json": pooling}
    whole = {**files, **dict(zip(names, shards, strict=True)), "model.safetensors.index.json": index}
    one, data = header({"a": (2, 3), "b": (1,)})
    return [
        Sample("checkpoint", whole, lambda folder: told(read_hf(folder))),
        Sample(
            "header", {"x.safetensors": one}, lambda folder: _rows(read_safetensors(folder / "x.safetensors")), data
        ),
    ]


def _file(header: Json, data: bytes) -> bytes:
    return Sample("", {}, print, data).content("x.safetensors", header)


def told(model: Model) -> object:
    """What a model is, without what is only recorded for the way back."""
    told = {
        key: value.data.tolist() if isinstance(value.data, np.ndarray) else value.data
        for key, value in model.metadata.items()
        if not key.startswith("quantmill.hf.")
    }
    return told, [(tensor.name, tensor.shape, tensor.qtype.name) for tensor in model]


def _rows(stored: Mapping[str, Stored]) -> object:
    """The tensors' names, shapes and content."""
    found = []
    for name, tensor in stored.items():
        if isinstance(tensor, StoredTensor) and tensor.dtype in ("F32", "F16", "BF16"):
            tensor = tensor.tensor()
        content = tensor.rows(0, tensor.n_rows).tobytes() if isinstance(tensor, Tensor) else b""
        found.append((name, tensor.shape, content))
    return found


def wrappers() -> list[Sample]:
    """A text model inside the config of another, and a config that names no class."""
    text = {key: value for key, value in _LLAMA.items() if key not in ("architectures", "rope_parameters")}
    text |= {"model_type": "gemma3_text", "hidden_activation": "gelu_pytorch_tanh", "head_dim": 256}
    outer = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text}
    nameless = {**_LLAMA, "architectures": None}
    return [
        Sample(name, {"config.json": config}, lambda folder: told(read_shapes(folder / "config.json")))
        for name, config in (("wrapper", {**outer, "tie_word_embeddings": True}), ("nameless", nameless))
    ]


def restored() -> Sample:
    """What a GGUF file records of a config.json, for the way back."""

    def read(folder: Path) -> object:
        model, text = tiny_llama(), (folder / "recorded.json").read_text()
        recorded = {"quantmill.hf.config": Value(ValueType.STRING, text)}
        model = replace(model, metadata={**model.metadata, **recorded}, path=folder / "model.gguf")
        write_hf(model, folder / "out")
        return [path.read_bytes() for path in sorted((folder / "out").iterdir())]

    known = {"attention_dropout": 0.5, "use_cache": False, "rope_parameters": {"rope_type": "default"}}
    return Sample("restored", {"recorded.json": {**known, "eos_token_id": [1, 2], "strange": {"a": 1}}}, read)


def adapters() -> list[Sample]:
    """PEFT's config as it saves it."""
    from peft import LoraConfig

    module = "base_model.model.model.layers.0.self_attn.q_proj"
    pair, data = header({f"{module}.lora_A.weight": (2, 4), f"{module}.lora_B.weight": (4, 2)})
    about = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], base_model_name_or_path="a/b").to_dict()
    about |= {"peft_type": "LORA", "target_modules": ["q_proj"], "alpha_pattern": {"q_proj": 3}}
    about |= {"rank_pattern": {"q_proj": 2}, "layers_to_transform": [0], "layers_pattern": ["layers"]}
    files = {"adapter_config.json": about, "adapter_model.safetensors": _file(pair, data), "base/config.json": _LLAMA}
    return [Sample("adapter", files, lambda folder: _adapter(read_lora(folder, folder / "base")))]


def _adapter(model: Model) -> object:
    return told(model), _rows({tensor.name: tensor for tensor in model})


def packed() -> list[Sample]:
    """A layer of each method, with its config in config.json and in the file beside it."""
    import torch
    from safetensors.torch import save

    from oracles import packed as parts

    codes, zeros, scales = parts.random_grid(32, 64, 32, 4, 0)
    shape = torch.tensor([32, 64])
    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True,
            "checkpoint_format": "gptq"}  # fmt: skip
    awq = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}
    int4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    compressed = {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "config_groups": {"group_0": {"weights": int4, "targets": ["Linear"], "input_activations": None}},
        "ignore": ["lm_head"], "sparsity_config": {"format": "dense"},
    }  # fmt: skip
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic", "fmt": "e4m3"}
    layers: dict[str, tuple[Json, dict[str, torch.Tensor]]] = {
        "gptq": (gptq, parts.gptq(codes, zeros, scales, parts.groups(64, 32), 4)),
        "awq": (awq, parts.awq_gemm(codes, zeros, scales)),
        "compressed": (
            compressed,
            {"weight_packed": parts.stream(codes, 4), "weight_scale": scales, "weight_shape": shape},
        ),
        "fp8": (
            fp8,
            {"weight": torch.zeros(32, 64).to(torch.float8_e4m3fn), "weight_scale_inv": torch.ones(1, 1)},
        ),
    }
    for case in ("nf4-64-torch.uint8-True-64", "int8-0.0137"):
        stored, config, _ = parts.golden_layer("bitsandbytes", case)
        config |= {"llm_int8_skip_modules": ["lm_head"], "bnb_4bit_compute_dtype": "bfloat16"}
        layers[case] = (config, {name.removeprefix("m."): part for name, part in stored.items()})
    stored, config, _ = parts.golden_layer("modelopt", "NVFP4_DEFAULT_CFG")
    layers["modelopt"] = (config, {name.removeprefix("m."): part for name, part in stored.items()})
    stored, config, _ = parts.golden_layer("auto_round", "auto_round-4")
    config |= {"extra_config": {"lm_head": {"bits": 16, "group_size": 128}}, "sym": False, "data_type": "int"}
    layers["auto-round"] = (config, {name.removeprefix("m."): part for name, part in stored.items()})
    stored, config, _ = parts.golden_layer("hqq", "4-64-1")
    config |= {"quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}, "skip_modules": ["lm_head"]}
    layers["hqq"] = (config, {name.removeprefix("m."): part for name, part in stored.items()})
    found = []
    for name, (config, layer) in layers.items():
        weights = save({f"m.{part}": tensor.contiguous() for part, tensor in layer.items()})
        files = {"config.json": {"dtype": "float16", "quantization_config": config}, "model.safetensors": weights}
        found.append(Sample(name, files, _read_packed))
    beside = {"config.json": {}, "quantize_config.json": gptq, "model.safetensors": found[0].files["model.safetensors"]}
    old = {"w_bit": 4, "q_group_size": 32, "version": "GEMM", "zero_point": True}
    other = {"config.json": {}, "quant_config.json": old, "model.safetensors": found[1].files["model.safetensors"]}
    mixed = {"quant_algo": "MIXED_PRECISION", "quantized_layers": {"m": {"quant_algo": "NVFP4", "group_size": 16}},
             "exclude_modules": ["lm_head"], "kv_cache_quant_algo": "FP8"}  # fmt: skip
    alone = {"config.json": {}, "hf_quant_config.json": {"producer": {"name": "modelopt"}, "quantization": mixed}}
    alone["model.safetensors"] = next(one for one in found if one.name == "modelopt").files["model.safetensors"]
    found.append(_schemes())
    stored, _, _ = parts.golden_layer("quanto", "qint8-torch.float16")
    modules = {"m": {"weights": "qint8", "activations": "none"}}
    quanto = {"config.json": {}, "quanto_qmap.json": modules, "model.safetensors": save(stored)}
    named = {"quanto beside": quanto, "gptq beside": beside, "awq beside": other, "modelopt beside": alone}
    return [*found, *(Sample(name, files, _read_packed) for name, files in named.items())]


def _schemes() -> Sample:
    """A checkpoint of compressed-tensors with a scheme for each layer, and with all that its config can say beside."""
    import torch
    from safetensors.torch import save

    from oracles.packed import golden_layer

    groups, weights = {}, {}
    targets = {"a": "re:.*a$", "b": "b", "c": "Linear"}
    cases = ("21-nvfp4-pack-quantized", "1-pack-quantized", "9-float-quantized")
    for (name, target), case in zip(targets.items(), cases, strict=True):
        parts, config, _ = golden_layer("compressed", case)
        weights |= {f"{name}{part.removeprefix('m')}": tensor.contiguous() for part, tensor in parts.items()}
        tokens = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True, "symmetric": True}
        group = {**config["config_groups"]["group_0"], "targets": [target], "format": config["format"]}
        groups[name] = {**group, "input_activations": tokens, "output_activations": None}
    weights["lm_head.weight"] = torch.zeros(4, 4)
    rotation = {"type": "hadamard", "apply": [{"targets": ["Linear"], "location": "weight_input", "ignore": []}]}
    about = {
        "quant_method": "compressed-tensors", "format": "mixed-precision", "config_groups": groups,
        "ignore": ["lm_head", "re:.*gate"], "kv_cache_scheme": {"num_bits": 8, "type": "float", "dynamic": False},
        "sparsity_config": {}, "moe_sparsity_config": None, "transform_config": {"config_groups": {"u": rotation}},
        "global_compression_ratio": None, "quantization_status": "compressed", "version": "0.20.1",
    }  # fmt: skip
    files = {"config.json": {"dtype": "bfloat16", "quantization_config": about}, "model.safetensors": save(weights)}
    return Sample("schemes", files, _read_packed)


def _read_packed(folder: Path) -> object:
    return _rows(decode_packed(read_weights(folder), read_json(folder / "config.json"), folder))


_ADDED = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
_SPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False}
_DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}
_PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "a", "b", "▁a", "ab"]
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}


_IDS = {"<s>": 1, "[CLS]": 2, "[SEP]": 3}


def _template(before: str, after: str = "") -> Json:
    def piece(text: str) -> list[Json]:
        return [{"SpecialToken": {"id": text, "type_id": 0}}] if text else []

    single = [*piece(before), {"Sequence": {"id": "A", "type_id": 0}}, *piece(after)]
    special = {text: {"id": text, "ids": [_IDS[text]], "tokens": [text]} for text in (before, after) if text}
    return {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special}


def _document(model: Json, added: dict[int, str], **parts: Any) -> Json:
    tokens = [{"id": i, "content": text, **_ADDED} for i, text in added.items()]
    empty = dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding"))
    return {"version": "1.0", "added_tokens": tokens, **empty, **parts, "model": model}


def tokenizers() -> list[Sample]:
    """The JSON files of a tokenizer of each kind."""
    bpe: Json = {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                 "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                 "vocab": {text: i for i, text in enumerate(_PIECES)}, "merges": [["▁", "a"], ["a", "b"]]}  # fmt: skip
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "c"]
    wordpiece = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                 "max_input_chars_per_word": 100, "vocab": {text: i for i, text in enumerate(words)}}  # fmt: skip
    bert = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
            "lowercase": True}  # fmt: skip
    unigram = {"type": "Unigram", "unk_id": 0, "byte_fallback": False,
               "vocab": [["<unk>", 0.0], ["<s>", 0.0], ["</s>", 0.0], ["▁a", -1.5], ["b", -2]]}  # fmt: skip
    split = {"type": "Split", "pattern": {"Regex": "\n+"}, "behavior": "Isolated", "invert": False}
    special = {0: "<unk>", 1: "<s>", 2: "</s>"}
    llama = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
             "add_bos_token": True, "add_eos_token": False, "chat_template": "{{ messages }}"}  # fmt: skip
    prepend = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, _REPLACE]}
    documents = {
        "pieces": _document(bpe, special, normalizer=prepend, decoder=_DECODER, post_processor=_template("<s>")),
        "gemma": _document(
            bpe, special, normalizer=_REPLACE, pre_tokenizer=split, decoder=_DECODER, post_processor=_template("<s>")
        ),
        "wordpiece": _document(
            wordpiece,
            {i: text for i, text in enumerate(words) if text.startswith("[")},
            normalizer=bert,
            pre_tokenizer={"type": "BertPreTokenizer"},
            post_processor=_template("[CLS]", "[SEP]"),
            decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
        ),
        "unigram": _document(unigram, special, pre_tokenizer=_SPACE, decoder=_SPACE),
    }
    configs = {
        "wordpiece": {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "cls_token": "[CLS]",
                      "sep_token": "[SEP]", "mask_token": {"content": "[MASK]", "lstrip": True}},
        "unigram": {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "unk_token": "<unk>", "extra_ids": 0},
    }  # fmt: skip
    found = [Sample("byte-level", samples.tokenizer_files(), _read_tokenizer)]
    for name, document in documents.items():
        files = {"tokenizer.json": document, "tokenizer_config.json": configs.get(name, llama)}
        found.append(Sample(name, files, _read_tokenizer))
    parts: Json = {"vocab.json": {"a": 0, "b": 1, "ab": 2}, "merges.txt": b"#version: 0.2\na b\n"}
    parts |= {"tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer"}, "added_tokens.json": {"<x>": 3}}
    parts |= {"chat_template.json": {"chat_template": "{{ messages }}"}}
    return [*found, Sample("vocab.json", parts, partial(_read_tokenizer, n=4))]


def _read_tokenizer(folder: Path, n: int = 400) -> object:
    found = read_tokenizer(folder, vocab_size=n, model_ids={"bos_token_id": 1})
    assert found is not None
    told = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(found).items()}
    return {name: value for name, value in told.items() if name != "huggingface_json"}


def releases() -> list[Sample]:
    """Our own: a manifest, and the state of an unfinished release."""
    facts = {"bytes": 3, "sha256": "0" * 64}
    text = {"name": "a.txt", "sha256": "0" * 64}
    targets = {"4GB": {"bytes": 4, "level": "Q4_K_M", "types": {"a": "Q4_K"}}}
    about = {
        "method": "compress",
        "scheme": "w4a16",
        "group_size": 32,
        "folder": "a-W4A16",
        "text": text,
        "context": 512,
    }
    checkpoints = {"W4A16": {**about, "chunks": 3, "files": {"config.json": facts}}}
    manifest = {
        "targets": targets, "checkpoints": checkpoints,
        "refinement": {"width": 256, "moments": {"sha256": "0" * 64, "size": 9, "chunks": 3}},
        "format": 1, "versions": {"quantmill": "1"}, "source": {"name": "a", "files": {"a.bin": facts}},
        "options": {"recipe_set": "current", "tensor_types": [["a", "Q8_0"]], "split_max_size": 9},
        "files": {"a.gguf": {"level": "Q4_K_M", **facts}},
        "imatrix": {"file": "i.gguf", "sha256": "0" * 64, "text": text, "context": 512},
        "evaluation": {"text": text, "base": {"ppl": 1.5}, "files": {"Q4_K_M": {"ppl": 2.5}}},
    }  # fmt: skip
    done = {"text_chunks": 3, "files": {"a.gguf": {"level": "Q4_K_M", **facts}}, "base": {"ppl": 1.5},
            "figures": {"Q4_K_M": {"ppl": 2.5}}, "source": {"a.bin": facts}, "targets": targets, "published": False,
            "checkpoints": checkpoints}  # fmt: skip
    key = {"levels": ["Q4_K_M"]}
    entry = {"layer": 0, "arrays": "0" * 64, "turn": 1, "dropped": {"3": "x"}, "activations": "0" * 64,
             "file": "activations-1.bin", "report": {"names": [], "moments": None}}  # fmt: skip
    head = 'quantmill run 1 {"model": "a"}'
    return [
        Sample("manifest", {"manifest.json": manifest}, lambda folder: read_manifest(folder / "manifest.json")),
        Sample("run", {"journal": entry}, lambda folder: RunState(folder, {"model": "a"}).entries, head=head),
        Sample("release", {".release.json": {"key": key, "done": done}}, partial(_open_state, key)),
    ]


def _open_state(key: Json, folder: Path) -> object:
    return vars(open_state(folder, key, stem="a", restart=False, say=None))


def all_samples() -> list[Sample]:
    return [
        *archs(),
        *tower_samples.towers(),
        *checkpoints(),
        restored(),
        *wrappers(),
        *adapters(),
        *packed(),
        *tokenizers(),
        *releases(),
    ]
