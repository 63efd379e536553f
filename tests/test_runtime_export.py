"""The exported functions, run by their runtimes in a process without the package."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from tasks import tiny_task
from tiny_models import CONFIG, TEXT_CONFIG, tiny_backbone, token_inputs

from keras_t5gemma2 import T5Gemma2Seq2SeqLM

BACKEND = keras.config.backend()
FORMAT = "torch" if BACKEND == "torch" else "tf_saved_model"
PROMPT, DECODER = 4, 17  # tokens; the window of a layer is passed

# What a user writes, without Keras: greedy text of the arrays in a file.
_RUN = """
import json, sys
import numpy as np
format, path, arrays, count = sys.argv[1:]
inputs = dict(np.load(arrays))
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

def taken(prefix):
    return {name: x for name, x in inputs.items() if name.startswith(prefix)}

memory = functions["encode"](taken(("encoder", "images")))
state = functions["prefill"]({**taken("decoder"), **memory})
new = []
for _ in range(int(count)):
    new.append(np.argmax(np.asarray(state.pop("logits")), axis=-1).astype("int32"))
    state = functions["step"]({"token_ids": new[-1], **memory, **state})
used = {name.split(".")[0] for name in sys.modules}
print(json.dumps([np.stack(new, 1).tolist(), sorted(used & {"keras_t5gemma2", "keras"})]))
"""


def run(format, path, inputs, count, tmp_path):
    """The tokens that the runtime writes, of which none is Keras."""
    np.savez(tmp_path / "inputs.npz", **inputs)
    done = subprocess.run(
        [sys.executable, "-c", _RUN, format, str(path), str(tmp_path / "inputs.npz"), str(count)],
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    tokens, used = json.loads(done.stdout.splitlines()[-1])
    assert "keras_t5gemma2" not in used
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


@pytest.mark.parametrize("images", [0, 2])
def test_a_runtime_writes_what_generate_writes(lm, rng, tmp_path, images):
    inputs = inputs_of(rng, (13, 11), (4, 2), images)
    sizes = {"batch_size": 2, "encoder_length": 13, "images": images}
    sizes |= {"prompt_length": PROMPT, "decoder_length": DECODER}
    lm.export(tmp_path / "model", FORMAT, verbose=False, **sizes)
    count = DECODER - PROMPT
    tokens = run(FORMAT, tmp_path / "model", inputs, count, tmp_path)
    assert tokens == generated(lm, inputs, count)


@pytest.mark.skipif(BACKEND == "torch", reason="torch exports programs of fixed sizes")
def test_sizes_that_stay_open(lm, rng, tmp_path):
    """One artifact serves any batch, and from TensorFlow any encoder length and images."""
    fixed = {"encoder_length": 13, "images": 2} if BACKEND == "jax" else {}
    lm.export(tmp_path / "model", verbose=False, prompt_length=PROMPT, decoder_length=9, **fixed)
    for lengths, images in [((13, 10, 12), 2), ((9,), 0 if not fixed else 2)]:
        lengths = lengths if not fixed else (13,) * len(lengths)
        inputs = inputs_of(rng, lengths, (PROMPT,) * len(lengths), images)
        inputs.setdefault("images", np.zeros((len(lengths), 0, 28, 28, 3), "float32"))
        assert run(FORMAT, tmp_path / "model", inputs, 5, tmp_path) == generated(lm, inputs, 5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_an_int8_cache_and_half_precision(rng, tmp_path, dtype):
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(SMALL_CONFIG, dtype), cache_dtype="int8")
    lm.compile(sampler="greedy")
    lm.enable_lora(rank=3)
    for variable in lm.trainable_variables:
        variable.assign(variable + 0.3 * rng.standard_normal(variable.shape))
    inputs = inputs_of(rng, (13, 11), (4, 2))
    sizes = {"batch_size": 2, "encoder_length": 13, "decoder_length": 9, "prompt_length": 4}
    lm.export(tmp_path / "model", FORMAT, verbose=False, **sizes)
    assert run(FORMAT, tmp_path / "model", inputs, 5, tmp_path) == generated(lm, inputs, 5)
