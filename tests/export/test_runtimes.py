"""The exported functions, run by their runtimes in a process without the package."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from tiny_models import CONFIG, SMALL_CONFIG, tiny_backbone, token_inputs

from keras_t5gemma2 import T5Gemma2Seq2SeqLM
from keras_t5gemma2.generation import decoding

BACKEND = keras.config.backend()
FORMAT = "torch" if BACKEND == "torch" else "tf_saved_model"
PROMPT, DECODER = 4, 17  # tokens; the window of a layer is passed

# What a user writes, without Keras: greedy text of the arrays in a file.
_RUN = """
import json, sys
import numpy as np
format, path, count, *files = sys.argv[1:]
if format == "tf_saved_model":
    import tensorflow as tf
    model = tf.saved_model.load(path)
    functions = {name: getattr(model, name) for name in ("encode", "prefill", "step")}
elif format == "litert":
    import tensorflow as tf
    interpreter = tf.lite.Interpreter(path)
    def function(name):
        runner = interpreter.get_signature_runner(name)
        names = runner.get_input_details()
        return lambda tensors: runner(**{n: tensors[n] for n in names})
    functions = {name: function(name) for name in ("encode", "prefill", "step")}
else:
    import torch
    def function(name):
        program = torch.export.load(f"{path}/{name}.pt2").module()
        return lambda tensors: program({n: torch.as_tensor(x) for n, x in tensors.items()})
    functions = {name: function(name) for name in ("encode", "prefill", "step")}

def written(file):
    inputs = dict(np.load(file))
    prompt = {name: inputs.pop(name) for name in list(inputs) if name.startswith("decoder")}
    memory = functions["encode"](inputs)
    state = functions["prefill"]({**prompt, **memory})
    new = []
    for _ in range(int(count)):
        new.append(np.argmax(np.asarray(state.pop("logits")), axis=-1).astype("int32"))
        state = functions["step"]({"token_ids": new[-1], **memory, **state})
    return np.stack(new, axis=1).tolist()

tokens = [written(file) for file in files]
print(json.dumps([tokens, "keras_t5gemma2" in sys.modules]))
"""


def run(format, path, batches, count):
    """For each batch, the tokens that the runtime writes."""
    files = [path.with_name(f"{i}.npz") for i in range(len(batches))]
    for file, inputs in zip(files, batches, strict=True):
        np.savez(file, **inputs)
    done = subprocess.run(
        [sys.executable, "-c", _RUN, format, str(path), str(count), *map(str, files)],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        cwd=path.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    tokens, is_there = json.loads(done.stdout.splitlines()[-1])
    assert not is_there
    return tokens


def inputs_of(rng, lengths, prompts, images=0):
    """Encoder's rows padded at the right, and prompts at the left."""
    encoder = token_inputs(rng, lengths, prompts, images=images)
    decoder = token_inputs(rng, lengths, prompts, side="left")
    inputs = {name: x for name, x in encoder.items() if not name.startswith("decoder")}
    return inputs | {name: x for name, x in decoder.items() if name.startswith("decoder")}


def generated(lm, inputs, count):
    outputs = lm.generate(inputs, stop_token_ids=None, max_new_tokens=count, strip_prompt=True)
    return outputs["decoder_token_ids"][:, :count].tolist()


def array_task(config):
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(config))
    # Or the likeliest token would be the one before.
    norm = lm.backbone.decoder.norm
    norm.scale.assign(3.0 * np.random.default_rng(1).normal(size=norm.scale.shape))
    lm.compile(sampler="greedy")
    return lm


@pytest.fixture(scope="module")
def lm():
    return array_task(CONFIG)


@pytest.fixture(scope="module")
def small():
    return array_task(SMALL_CONFIG)


@pytest.mark.slow
@pytest.mark.once
def test_a_runtime_writes_what_generate_writes(lm, rng, tmp_path):
    """Text and images, rows of several lengths, and sizes that are open where they may be."""
    batches = [inputs_of(rng, (13, 11), (4, 2), images=2)]
    text = inputs_of(rng, (13, 9), (1, 3))
    sizes = {"prompt_length": PROMPT, "decoder_length": DECODER}
    if BACKEND == "tensorflow":
        # Another number of rows, of tokens and of images.
        text = inputs_of(rng, (10, 8, 7), (4, 1, 4))
        batches += [text | {"images": np.zeros((3, 0, 28, 28, 3), "float32")}]
    else:
        sizes |= {"encoder_length": 13, "images": 2}
        rows = 2 if BACKEND == "torch" else 1
        text |= {"images": np.zeros((2, 2, 28, 28, 3), "float32")}
        batches += [{name: x[:rows] for name, x in text.items()}]
    if BACKEND == "torch":
        sizes |= {"batch_size": 2}
    for inputs in batches:
        _pad_prompts(inputs)
    lm.export(tmp_path / "model", FORMAT, verbose=False, **sizes)
    count = DECODER - PROMPT
    want = [generated(lm, inputs, count) for inputs in batches]
    assert run(FORMAT, tmp_path / "model", batches, count) == want
    assert len({token for batch in want for row in batch for token in row}) > 3


def _pad_prompts(inputs):
    """At the left, to the length that is exported."""
    for name in ("decoder_token_ids", "decoder_padding_mask"):
        missing = PROMPT - inputs[name].shape[1]
        inputs[name] = np.pad(inputs[name], [(0, 0), (missing, 0)])


# The formats of the other backends are there, and adapters are what they are on torch.
@pytest.mark.slow
def test_adapters_an_int8_cache_and_half_precision(rng, tmp_path):
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG, "bfloat16"), cache_dtype="int8")
    lm.compile(sampler="greedy")
    lm.enable_lora(rank=3)
    for variable in lm.trainable_variables:
        variable.assign(variable + 0.3 * rng.standard_normal(variable.shape))
    inputs = inputs_of(rng, (13, 11), (4, 2))
    sizes = {"batch_size": 2, "encoder_length": 13, "decoder_length": 9, "prompt_length": 4}
    lm.export(tmp_path / "model", FORMAT, verbose=False, **sizes)
    assert run(FORMAT, tmp_path / "model", [inputs], 5) == [generated(lm, inputs, 5)]


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow alone writes this format")
def test_litert(small, rng, tmp_path):
    path = tmp_path / "model.tflite"
    sizes = {"batch_size": 2, "encoder_length": 13, "decoder_length": 9, "prompt_length": 4}
    small.export(path, "litert", verbose=False, **sizes)
    inputs = inputs_of(rng, (13, 11), (4, 2))
    assert run("litert", path, [inputs], 5) == [generated(small, inputs, 5)]


def test_an_export_is_written_whole_or_not_at_all(small, tmp_path, monkeypatch):
    from keras_t5gemma2.kernels.export import saved_model

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("stays")

    def fail(*args):
        raise OSError("no space")

    if BACKEND == "torch":
        from keras_t5gemma2.kernels.export import torch_programs

        monkeypatch.setattr(torch_programs, "programs", lambda *_: {"encode": None})
        monkeypatch.setattr(torch_programs, "save", fail)
    monkeypatch.setattr(saved_model, "write_saved_model", fail)
    with pytest.raises(OSError, match="no space"):
        small.export(tmp_path / "model", FORMAT, **SIZES)
    assert [file.name for file in (tmp_path / "model").iterdir()] == ["mine.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("format", {"tensorflow": [FORMAT, "litert"]}.get(BACKEND, [FORMAT]))
@pytest.mark.once
def test_an_interrupt_leaves_nothing_and_a_model_that_goes_on(small, tmp_path, monkeypatch, format):
    """In the middle of tracing, on every format."""
    inputs = token_inputs(np.random.default_rng(0), (5,), (1,))
    before = generated(small, inputs, 4)
    weights = [keras.ops.convert_to_numpy(v) for v in small.variables]

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(decoding, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            small.export(tmp_path / "model.tflite", format, **SIZES, prompt_length=4)
    assert not list(tmp_path.iterdir())
    assert generated(small, inputs, 4) == before
    small.generate_function = None
    assert generated(small, inputs, 4) == before
    for variable, value in zip(small.variables, weights, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), value)


def test_it_says_that_it_is_done(small, tmp_path, monkeypatch, capsys):
    from keras_t5gemma2.export import runtimes

    monkeypatch.setattr(runtimes, "export", lambda *_: None)
    small.export(tmp_path / "model")
    assert capsys.readouterr().out == f"Saved artifact at '{tmp_path / 'model'}'.\n"
    small.export(tmp_path / "model", verbose=False)
    assert not capsys.readouterr().out


SIZES = {"batch_size": 2, "encoder_length": 13, "decoder_length": 9}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "coreml"}, "format='coreml'"),
        ({"opset_version": 18}, f"format='{FORMAT}'. Received: 'opset_version'"),
        ({"decoder_length": None}, "decoder_length=None"),
        ({"decoder_length": 3, "prompt_length": 3}, "decoder_length=3, prompt_length=3"),
        ({"prompt_length": 0}, "prompt_length=0"),
        ({"batch_size": 2.0}, "batch_size=2.0"),
        ({"images": 1}, "images=1"),
    ],
)
def test_errors(small, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        small.export(tmp_path / "model", **{"format": FORMAT, **SIZES, **options})
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
@pytest.mark.parametrize("format", ["tf_saved_model", "litert", "torch", "jax"])
def test_formats_of_other_backends(small, lm, tmp_path, format):
    if format == FORMAT:
        missing = "images" if BACKEND != "tensorflow" else "decoder_length"
        with pytest.raises(ValueError, match=f"`{missing}` must be .* Received: {missing}=None"):
            lm.export(tmp_path / "model", format, **{**SIZES, missing: None})
    elif (format, BACKEND) == ("jax", "jax"):
        with pytest.raises(ValueError, match="`batch_size` must be .* Received: batch_size=None"):
            small.export(tmp_path / "model", format, **{**SIZES, "batch_size": None})
    elif (format, BACKEND) == ("litert", "tensorflow"):
        with pytest.raises(ValueError, match='must end with ".tflite"'):
            small.export(tmp_path / "model", format, **SIZES)
        half = T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG, "bfloat16"))
        with pytest.raises(ValueError, match="a model of bfloat16"):
            half.export(tmp_path / "model.tflite", format, **SIZES)
    else:
        with pytest.raises(ValueError, match=f"backend {BACKEND} writes.*format='{format}'"):
            small.export(tmp_path / "model", format, **SIZES)
