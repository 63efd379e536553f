"""What other people's files and programs rely on stays as it is: names, formats and numbers.

`golden.json` beside this file holds the list. To write it again:

    KERAS_BACKEND=torch PYTHONPATH=tests/helpers python tests/whole/test_golden.py

This is for a change that is meant to be seen: review the difference with the change.
"""

import dataclasses
import functools
import inspect
import json
import pathlib
import tempfile
import zipfile
import zlib

import h5py
import keras
import numpy as np
import pytest
from safetensors import safe_open

import keras_t5gemma2
from keras_t5gemma2 import (
    AttentionConfig,
    BackboneConfig,
    StackConfig,
    T5Gemma2Backbone,
    T5Gemma2ImageConverter,
    T5Gemma2Seq2SeqLM,
    T5Gemma2Seq2SeqLMPreprocessor,
    T5Gemma2Tokenizer,
    TrainingCheckpoint,
    VisionConfig,
)

FILE = pathlib.Path(__file__).parent / "golden.json"

# Public names that a document, an issue or a docstring of a public class tells of.
OF_MODELS = ["count_params", "from_config", "get_config", "presets", "summary"]
OF_WEIGHTS = ["load_weights", "save", "save_to_preset", "save_weights"]
PUBLIC = {
    "AttentionConfig": ["from_dict"],
    "StackConfig": ["from_dict"],
    "VisionConfig": ["from_dict"],
    "BackboneConfig": ["from_dict", "hidden_dim", "to_dict"],
    "BeamSearch": ["get_config"],
    "Distillation": ["source"],
    "EvaluateGeneration": [],
    "ImageFeatures": [],
    "TeacherSamples": ["load", "of_row", "save"],
    "TrainingCheckpoint": [],
    "T5Gemma2Backbone": [
        *OF_MODELS,
        *OF_WEIGHTS,
        *("enable_lora", "encode", "export_to_transformers", "from_preset", "get_layout_map"),
        *("gradient_checkpointing", "load_lora_weights", "quantize", "quantized_layers"),
        *("rounds_activations", "save_lora_weights", "save_to_keras_hub_preset"),
    ],
    "T5Gemma2Seq2SeqLM": [
        *OF_MODELS,
        *OF_WEIGHTS,
        *("active_adapter", "adapters", "attention", "backbone_cls", "cache_dtype", "compile"),
        *("compile_from_config", "cross_attention_cache", "enable_lora", "encode", "evaluate"),
        *("export", "export_to_transformers", "fit", "from_gemma3", "from_preset", "generate"),
        *("generate_step", "get_compile_config", "infill", "load_adapter", "load_peft_adapter"),
        *("logits", "merge_adapter", "metrics", "precompute", "predict", "preprocessor"),
        *(
            "probe",
            "preprocessor_cls",
            "push_to_hub",
            "quantize",
            "remove_adapter",
            "sample_logits",
        ),
        *("sampler", "save_adapter", "save_peft_adapter", "save_to_keras_hub_preset", "score"),
        *("set_adapter", "stream", "train_on_batch", "unmerge_adapter", "warmup"),
    ],
    "T5Gemma2Seq2SeqLMPreprocessor": [
        *("call", "decoder_sequence_length", "encoder_sequence_length", "from_config"),
        *("from_preset", "generate_postprocess", "generate_preprocess", "get_config"),
        *("image_converter_cls", "presets", "save_to_preset", "tokenizer_cls"),
    ],
    "T5Gemma2DenoisingPreprocessor": ["call", "from_preset", "get_config", "sentinels"],
    "T5Gemma2ImageConverter": [
        *("from_config", "from_preset", "get_config", "image_size", "original_and_crops"),
        *("presets", "save_to_preset"),
    ],
    "T5Gemma2Tokenizer": [
        *("detokenize", "export_to_transformers", "from_config", "from_preset", "get_config"),
        *("get_vocabulary", "id_to_token", "presets", "save_to_preset", "set_proto"),
        *("to_tokenizer_json", "token_to_id", "tokenize", "unk_token", "vocabulary_size"),
    ],
}
FUNCTIONS = ["enable_compilation_cache", "evaluate_generation", "interleave", "show_attention"]

# What instances have beside the names of their class.
TOKENS = ("start", "end", "pad", "start_of_image", "end_of_image", "image")
ATTRIBUTES = {
    "lm": ["backbone", "preprocessor", "sampler", "optimizer"],
    "lm.backbone": [
        *("config", "decoder", "embedder", "encoder", "source", "token_embedding", "vision"),
        "vision.tower",
    ],
    "lm.preprocessor": ["image_converter", "tokenizer", "tokens_per_image", "truncate"],
    "lm.preprocessor.image_converter": [
        *("max_num_crops", "max_pixels", "min_crop_size", "min_ratio_to_activate"),
        "pan_and_scan",
    ],
    "lm.preprocessor.tokenizer": [
        *(f"{token}_token" for token in (*TOKENS, "start_of_turn", "end_of_turn")),
        *(f"{token}_token_id" for token in (*TOKENS, "start_of_turn", "end_of_turn")),
        "special_tokens",
    ],
    "encoded": ["dtype", "kind", "nbytes", "rows", "tokens"],
    "samples": ["lengths", "probabilities", "source", "token_ids"],
    "features": ["values"],
}


# A model with every option --------------------------------------------------------------------


def new_task(dtype=None):
    """A small task of both kinds of layers in both stacks and a tower, its weights all random."""
    local = AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=8, window=5)
    full = dataclasses.replace(local, window=None, rope_theta=1e6, rope_factor=8.0)
    stack = StackConfig(hidden_dim=32, mlp_dim=48, layers=(local, full))
    tokenizer = T5Gemma2Tokenizer.from_preset("t5gemma2_tiny")
    config = BackboneConfig(
        vocabulary_size=tokenizer.vocabulary_size(),
        encoder=stack,
        decoder=dataclasses.replace(stack, mlp_dim=40),
        vision=VisionConfig(
            image_size=28,
            patch_size=7,
            hidden_dim=24,
            mlp_dim=40,
            num_layers=1,
            num_heads=3,
            tokens_per_image=4,
        ),
        end_of_image_token_id=tokenizer.end_of_image_token_id,
        image_token_id=tokenizer.image_token_id,
        final_logit_soft_cap=30.0,
    )
    preprocessor = T5Gemma2Seq2SeqLMPreprocessor(
        tokenizer,
        T5Gemma2ImageConverter((28, 28)),
        encoder_sequence_length=40,
        decoder_sequence_length=12,
        tokens_per_image=4,
    )
    lm = T5Gemma2Seq2SeqLM(T5Gemma2Backbone(config, dtype, source="unknown"), preprocessor)
    assign(lm.weights)
    lm.compile(optimizer=keras.optimizers.SGD(0.1), sampler="greedy")
    return lm


def assign(weights):
    """Values that hang on the path and the shape of a weight alone."""
    for weight in weights:
        rng = np.random.default_rng(zlib.crc32(weight.path.encode()))
        scale = 0.2 if len(weight.shape) == 1 else weight.shape[0] ** -0.5
        usual = 1.0 if weight.path.endswith("gamma") else 0.0
        weight.assign(usual + scale * rng.normal(size=weight.shape))


@functools.cache
def embedded():
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    lm.compile(sampler="greedy", optimizer="sgd")
    return lm


@functools.cache
def task(name):
    """One of each kind for all tests, which leave it as it is."""
    if name == "int4 columns":
        lm = new_task()
        lm.quantize(keras.quantizers.Int4QuantizationConfig(block_size=None))
        return lm
    lm = new_task(dtype="bfloat16") if name == "bfloat16" else new_task()
    if name.startswith("int"):
        lm.quantize(name.split()[0])
    if name == "int8 and an adapter":
        lm.enable_lora(2, name="qlora")
    if name == "two adapters":
        lm.enable_lora(2, name="plain")
        lm.enable_lora(3, alpha=4, dropout=0.1, use_rslora=True, use_dora=True, name="all_rules")
        assign(weight for weight in lm.weights if "lora" in weight.path)
    return lm


def picture(size=28, shift=0):
    rows, columns = np.mgrid[:size, :size]
    channels = [rows * 7 + shift, columns * 5, rows * columns]
    return np.stack(channels, axis=-1).astype("uint8")


ROWS = {
    "encoder_text": ["Spell 7 in Dutch.", "<start_of_image>Which number is this?"],
    "images": [None, picture()],
    "decoder_text": ["zeven", "8"],
}


# What is in the list ---------------------------------------------------------------------------


def facts_of_weights():
    usual = _weights(task("every option"))
    kinds = ("two adapters", "bfloat16", "int8", "int4", "int4 columns", "int8 and an adapter")
    return {
        "t5gemma2_tiny": _weights(embedded()),
        "every option": usual,
        **{kind: _beyond(usual, _weights(task(kind))) for kind in kinds},
    }


def facts_of_registration():
    """What a name finds in a file, and the name that is written for it."""
    classes = {
        name: cls
        for name, cls in sorted(keras.saving.get_custom_objects().items())
        if cls.__module__.partition(".")[0] == "keras_t5gemma2"
    }
    return {
        name: f"{cls.__name__}, written {keras.saving.get_registered_name(cls)}"
        for name, cls in classes.items()
    }


def facts_of_files():
    facts = {}

    def written(name, save):
        with tempfile.TemporaryDirectory() as place:
            target = pathlib.Path(place) / "saved"
            save(target)
            facts[name] = contents(pathlib.Path(place))

    lm, adapted = task("every option"), task("two adapters")
    written("preset", lm.save_to_preset)
    written("backbone.preset", lm.backbone.save_to_preset)
    written("weights", lambda path: lm.save_weights(f"{path}.weights.h5"))
    written("transformers", lm.export_to_transformers)
    written("keras_hub", lm.save_to_keras_hub_preset)
    written("teacher samples", lambda path: lm.sample_logits(ROWS, 3).save(f"{path}.npz"))
    lm = new_task()
    lm.compile(optimizer=keras.optimizers.AdamW(1e-3), sampler="greedy")
    saving = {"batch_size": 2, "epochs": 1, "verbose": 0}

    def train(path):
        lm.fit(ROWS, callbacks=[TrainingCheckpoint(path, delete_checkpoint=False)], **saving)

    written("checkpoint", train)
    written("keras, trained", lambda path: lm.save(f"{path}.keras"))
    written("adapters.preset", adapted.save_to_preset)
    written("adapter", lambda path: adapted.save_adapter(f"{path}.safetensors", "all_rules"))
    written("peft", lambda path: adapted.save_peft_adapter(path, "plain"))
    for mode in ("int8", "int4"):
        written(f"{mode}.preset", task(mode).save_to_preset)
    usual = facts["preset"]
    for name, files in facts.items():
        if name != "preset":
            facts[name] = {file: _beyond(usual.get(file), names) for file, names in files.items()}
    return facts


def _beyond(usual, names):
    """Names that differ from those of a usual file, or all where that is shorter."""
    if not usual or usual == "a file":
        return names
    others = {name: what for name, what in names.items() if usual.get(name) != what}
    changes = {**others, **dict.fromkeys(sorted(set(usual) - set(names)), "missing")}
    return changes if len(changes) < len(names) else names


def facts_of_public_names():
    facts = {"__all__": sorted(keras_t5gemma2.__all__), "presets": list(keras_t5gemma2.presets)}
    for name, members in PUBLIC.items():
        cls = getattr(keras_t5gemma2, name)
        facts[name] = {"()": _signature(cls)}
        facts[name].update((member, _kind(cls, member)) for member in members)
    for name in FUNCTIONS:
        facts[name] = _signature(getattr(keras_t5gemma2, name))
    from keras_t5gemma2 import distribution

    facts["distribution.distribute"] = _signature(distribution.distribute)
    return facts


def facts_of_attributes():
    lm = embedded()
    values = {
        "lm": lm,
        "lm.backbone": lm.backbone,
        "lm.preprocessor": lm.preprocessor,
        "lm.preprocessor.image_converter": lm.preprocessor.image_converter,
        "lm.preprocessor.tokenizer": lm.preprocessor.tokenizer,
        "encoded": lm.encode("Spell 7 in Dutch."),
        "samples": lm.sample_logits({"encoder_text": ["a"], "decoder_text": ["b"]}, 2),
        "features": lm.precompute([{"encoder_text": "<start_of_image>", "images": picture()}])[0][
            "images"
        ][0],
    }
    return {
        name: {attribute: _shown(values[name], attribute) for attribute in attributes}
        for name, attributes in ATTRIBUTES.items()
    }


def values_of_the_embedded_preset():
    """Texts and logits: the same on every backend."""
    lm = embedded()
    texts = {
        "encoder_text": [
            "Spell 4268 in German.",
            "Write 2026-12-17 in Hindi.",
            "<start_of_image>Which number is this?",
        ],
        "images": [None, None, picture(32)],
    }
    rows = {**texts, "decoder_text": ["viertausendzwei", "17 दिसंबर 2026", "3"]}
    logits = lm.predict(rows, verbose=0)
    return {
        "texts": lm.generate(texts, max_new_tokens=32, verbose=0),
        "logits": _rounded(logits[:, :2, :300:60]),
        "sum of absolute logits": _rounded(np.abs(logits[0, :4]).sum(dtype="float64")),
    }


def values_of_scores():
    """Log-probabilities of targets, by each kind of model."""
    kinds = ("every option", "two adapters", "int8", "int4")
    facts = {kind: _rounded(task(kind).score(ROWS)) for kind in kinds}
    facts["t5gemma2_tiny"] = _rounded(embedded().score(ROWS))
    return {**facts, "bfloat16": _rounded(task("bfloat16").score(ROWS), 3)}


def values_of_training():
    lm = new_task()
    rows = {"encoder_text": ["Spell 7 in Dutch.", "Spell 8."], "decoder_text": ["zeven", "8"]}
    result = lm.fit(rows, batch_size=2, epochs=3, verbose=0).history
    return {name: _rounded(result[name]) for name in ("loss", "perplexity", "accuracy")}


# How it is written -----------------------------------------------------------------------------


def _weights(lm):
    def text(weight):
        frozen = "" if weight.trainable else " frozen"
        return f"{_sizes(weight.shape)} {keras.backend.standardize_dtype(weight.dtype)}{frozen}"

    return {weight.path: text(weight) for weight in sorted(lm.weights, key=lambda w: w.path)}


def _sizes(shape):
    return "x".join(map(str, shape)) or "scalar"


def _signature(function):
    """Names, kinds and defaults: annotations are for readers."""
    signature = inspect.signature(function)
    parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=signature.empty))


def _kind(cls, name):
    found = inspect.getattr_static(cls, name)
    if isinstance(found, property):
        return "property" if found.fset is None else "property, settable"
    value = getattr(cls, name)
    if inspect.isclass(value):
        return value.__name__
    return _signature(value) if callable(value) else type(value).__name__


def _shown(owner, path):
    for name in path.split("."):
        owner = getattr(owner, name)
    is_plain = owner is None or isinstance(owner, (bool, int, float, str))
    return owner if is_plain else type(owner).__name__


def _rounded(values, digits=6):
    return np.asarray(values, "float64").round(digits).tolist()


def contents(directory, prefix=""):
    """What readers of the files below a directory look up by name."""
    found = {}
    for file in sorted(file for file in directory.rglob("*") if file.is_file()):
        name = prefix + file.relative_to(directory).as_posix()
        if file.suffix == ".keras":
            with tempfile.TemporaryDirectory() as place, zipfile.ZipFile(file) as archive:
                archive.extractall(place)
                found.update(contents(pathlib.Path(place), f"{name} > "))
        else:
            found[name] = _names_in(file)
    return found


def _names_in(file):
    if file.suffix == ".json":
        return dict.fromkeys(_keys(json.loads(file.read_text(encoding="utf-8"))), "key")
    if file.suffix == ".h5":
        return _datasets(file)
    if file.suffix == ".npz":
        with np.load(file) as arrays:
            return {name: f"{_sizes(arrays[name].shape)} {arrays[name].dtype}" for name in arrays}
    if file.suffix == ".safetensors":
        return _tensors(file)
    return "a file"


# Layers of one list have the same keys, and a vocabulary has too many to be one by one.
LISTED = 64


def _keys(value, path=""):
    """Paths of all keys, and the names of classes, which are keys too."""
    found = set()
    if isinstance(value, dict) and len(value) <= LISTED:
        for key, inner in value.items():
            is_name = key in ("class_name", "registered_name")
            found.add(f"{path}/{key}" + (f"={inner}" if is_name else ""))
            found.update(_keys(inner, f"{path}/{key}"))
    elif isinstance(value, list):
        for inner in value:
            found.update(_keys(inner, f"{path}/*"))
    return sorted(found)


def _datasets(file):
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = f"{_sizes(item.shape)} {item.dtype}"

    with h5py.File(file) as content:
        content.visititems(visit)
    return dict(sorted(found.items()))


def _tensors(file):
    with safe_open(file, "numpy") as content:
        found = {}
        for name in sorted(content.keys()):
            tensor = content.get_slice(name)
            found[name] = f"{_sizes(tensor.get_shape())} {tensor.get_dtype()}"
        for key in sorted(content.metadata() or {}):
            found[f"metadata {key}"] = "text"
    return found


# The tests -------------------------------------------------------------------------------------

NAMES = {
    "weights": facts_of_weights,
    "registered names": facts_of_registration,
    "files": facts_of_files,
    "public names": facts_of_public_names,
    "attributes": facts_of_attributes,
}
VALUES = {
    "the embedded preset": values_of_the_embedded_preset,
    "training": values_of_training,
    "scores": values_of_scores,
}


@pytest.fixture(scope="module")
def golden():
    return json.loads(FILE.read_text(encoding="utf-8"))


@pytest.mark.once
@pytest.mark.parametrize("name", NAMES)
def test_names(name, golden):
    found, expected = _flat(NAMES[name]()), _flat(golden[name])
    changes = [
        f"{path[3:]}: {expected.get(path, 'not there')!r} became {found.get(path, 'missing')!r}"
        for path in sorted(set(found) | set(expected))
        if path not in found or path not in expected or found[path] != expected[path]
    ]
    assert not changes, "\n".join(changes)


def _flat(facts, path=""):
    if not isinstance(facts, dict) or not facts:
        return {path: facts}
    flat = {}
    for name, inner in facts.items():
        flat.update(_flat(inner, f"{path} > {name}"))
    return flat


@pytest.mark.parametrize(
    "name", [*list(VALUES)[:-1], pytest.param("scores", marks=pytest.mark.once)]
)
def test_values(name, golden):
    found, expected = VALUES[name](), golden[name]
    assert set(found) == set(expected)
    for key, value in expected.items():
        if key == "texts":
            assert found[key] == value
        else:
            tolerance = 2e-2 if key == "bfloat16" else 2e-4
            np.testing.assert_allclose(
                found[key], value, rtol=tolerance, atol=tolerance, err_msg=key
            )


def write():
    golden = {name: make() for name, make in {**NAMES, **VALUES}.items()}
    FILE.write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
