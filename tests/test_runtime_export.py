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
    return outputs["decoder_token_ids"].tolist()


def array_task(config):
    lm = T5Gemma2Seq2SeqLM(tiny_backbone(config))
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
